//! The definition (CRD) of BackendTLSPolicy: which version is to be watched, and whether a policy's removal can be
//! believed. Whoever deletes the CRD deletes every policy with it, which nobody means as "send plaintext".

use std::fmt;

use kube::api::{ApiResource, DynamicObject};
use serde_json::Value;

/// Name of the CRD.
pub(super) const NAME: &str = "backendtlspolicies.gateway.networking.k8s.io";

/// What can be read, the best first. They have the same schema.
pub(crate) const VERSIONS: [&str; 2] = ["v1", "v1alpha3"];

/// How CRDs are asked for.
pub(super) fn definitions() -> ApiResource {
    resource(
        "apiextensions.k8s.io",
        "v1",
        "CustomResourceDefinition",
        "customresourcedefinitions",
    )
}

/// How policies are asked for.
pub(crate) fn policies(version: &str) -> ApiResource {
    resource(
        "gateway.networking.k8s.io",
        version,
        "BackendTLSPolicy",
        "backendtlspolicies",
    )
}

fn resource(group: &str, version: &str, kind: &str, plural: &str) -> ApiResource {
    ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: format!("{group}/{version}"),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    }
}

/// What the API server knows of BackendTLSPolicy. Display is one line that names the cure, if one is needed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Crd {
    /// It is not installed, or not yet established.
    #[default]
    Absent,
    /// Policies are read in this version.
    Served {
        /// `v1`, or `v1alpha3` where only that is served.
        version: &'static str,
    },
    /// It is installed, but in versions that are not known here.
    Unsupported {
        /// The served ones.
        served: Vec<String>,
    },
    /// It is being deleted, and every policy with it.
    Terminating {
        /// In which policies can still be read.
        version: Option<&'static str>,
    },
}

impl Crd {
    /// Reads a CustomResourceDefinition (`apiextensions.k8s.io/v1`).
    pub(super) fn of(object: &DynamicObject) -> Self {
        let served = served(&object.data);
        let version = VERSIONS.into_iter().find(|known| served.contains(known));
        if object.metadata.deletion_timestamp.is_some() {
            return Self::Terminating { version };
        }
        match version {
            _ if !established(&object.data) => Self::Absent,
            Some(version) => Self::Served { version },
            None => Self::Unsupported {
                served: served.into_iter().map(str::to_owned).collect(),
            },
        }
    }

    /// The version to watch policies in, if they can be.
    pub(crate) fn version(&self) -> Option<&'static str> {
        match self {
            Self::Served { version } => Some(version),
            Self::Terminating { version } => *version,
            Self::Absent | Self::Unsupported { .. } => None,
        }
    }

    /// As a metric's label.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Served { .. } => "served",
            Self::Unsupported { .. } => "unsupported",
            Self::Terminating { .. } => "terminating",
        }
    }

    /// Whether a policy that is gone was removed for its own sake.
    pub(super) fn vouches(&self) -> bool {
        matches!(self, Self::Served { .. })
    }
}

fn served(crd: &Value) -> Vec<&str> {
    let versions = crd["spec"]["versions"].as_array().into_iter().flatten();
    versions
        .filter(|version| version["served"] == true)
        .filter_map(|version| version["name"].as_str())
        .collect()
}

fn established(crd: &Value) -> bool {
    let mut conditions = crd["status"]["conditions"].as_array().into_iter().flatten();
    conditions.any(|condition| condition["type"] == "Established" && condition["status"] == "True")
}

impl fmt::Display for Crd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => write!(
                f,
                "BackendTLSPolicy is not installed: install the CRDs of Gateway API 1.4 or newer"
            ),
            Self::Served { version } => write!(f, "BackendTLSPolicy {version} is served"),
            Self::Unsupported { served } => write!(
                f,
                "BackendTLSPolicy is served as {} only, not as v1 or v1alpha3: install the CRDs of Gateway API 1.4 or \
                 newer",
                served.join(", ")
            ),
            Self::Terminating { .. } => write!(
                f,
                "the CRD of BackendTLSPolicy is being deleted: install it again, and its policies"
            ),
        }
    }
}
