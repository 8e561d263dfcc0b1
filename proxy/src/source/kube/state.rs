//! How well the source is in step with the API server, for readiness, metrics and `status`.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::time::SystemTime;

use super::Crd;

/// The cure of HTTP status 401.
pub(crate) const UNAUTHORIZED: &str =
    "see that the pod's ServiceAccount exists and its token is mounted";
/// The cure of HTTP status 403.
pub(crate) const FORBIDDEN: &str = "apply the RBAC rules of nodetls' manifests again";

/// The state of the source. Compared to tell whether anything is worth a log line.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// Where the objects in force come from.
    pub synced: Synced,
    /// `None` before the API server was asked.
    pub crd: Option<Crd>,
    /// Policies are in force that the API server may not have any more, because of the CRD's state.
    pub frozen: bool,
    /// Every watch is open: what the API server has is here within moments.
    pub in_step: bool,
    /// When it was last so; `None` if it is now, or never was.
    pub left_step: Option<SystemTime>,
    /// What can't be watched now.
    pub failures: BTreeMap<Resource, WatchFailure>,
    /// Why the last objects can't be kept for the next start.
    pub cache_failure: Option<String>,
}

/// Where the objects in force come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Synced {
    /// There are none yet.
    #[default]
    No,
    /// From the last run, since the API server can't be asked.
    Cached {
        /// When they were in force.
        written: SystemTime,
    },
    /// From the API server; possibly a while ago, see [`State::in_step`].
    Live,
}

/// Something that is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// The CRD of BackendTLSPolicy.
    Crd,
    /// BackendTLSPolicies.
    Policies,
    /// Services.
    Services,
    /// EndpointSlices of headless Services.
    EndpointSlices,
    /// Namespaces (metadata only).
    Namespaces,
    /// Mirrored CA certificates in nodetls' own namespace.
    ConfigMaps,
    /// The node's pods.
    Pods,
}

/// Why a resource can't be watched. Display is one line that names the cure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchFailure {
    /// What can't be watched.
    pub resource: Resource,
    /// The HTTP status; `None` when there was no answer.
    pub status: Option<u16>,
    /// What was said.
    pub cause: String,
}

impl State {
    /// When the objects in force were last known to be the API server's; `None` if they never were.
    pub fn last_sync(&self, now: SystemTime) -> Option<SystemTime> {
        match self.synced {
            Synced::No => None,
            Synced::Cached { written } => Some(written),
            Synced::Live if self.in_step => Some(now),
            Synced::Live => self.left_step,
        }
    }

    /// What a user must act on, a line each; empty when all is well. An absent CRD is among it, although a node can be
    /// ready without.
    pub fn problems(&self) -> Vec<String> {
        let crd = self.crd.iter().filter(|crd| !crd.vouches());
        let frozen = if self.frozen {
            "; the policies of before stay in force"
        } else {
            ""
        };
        let crd = crd.map(|crd| format!("{crd}{frozen}"));
        let failures = self.failures.values().map(WatchFailure::to_string);
        crd.chain(failures)
            .chain(self.cache_failure.clone())
            .collect()
    }
}

impl Resource {
    /// Plural, as in RBAC rules and metrics' labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Crd => "customresourcedefinitions",
            Self::Policies => "backendtlspolicies",
            Self::Services => "services",
            Self::EndpointSlices => "endpointslices",
            Self::Namespaces => "namespaces",
            Self::ConfigMaps => "configmaps",
            Self::Pods => "pods",
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl WatchFailure {
    pub(super) fn new(resource: Resource, error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self {
                resource,
                status: Some(status.code),
                cause: status.message.clone(),
            },
            other => Self::unanswered(resource, chain(other)),
        }
    }

    pub(super) fn unanswered(resource: Resource, cause: impl Into<String>) -> Self {
        let cause = cause.into();
        Self {
            resource,
            status: None,
            cause,
        }
    }

    fn cure(&self) -> &'static str {
        match self.status {
            Some(401) => UNAUTHORIZED,
            Some(403) => FORBIDDEN,
            Some(404) => "wait, or see that the API server serves this resource",
            Some(429 | 500..) => "see why the API server is overloaded or starting; tried again",
            _ => "see that the API server is up and can be reached from this node; tried again",
        }
    }
}

impl fmt::Display for WatchFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} can't be watched: ", self.resource)?;
        if let Some(status) = self.status {
            write!(f, "HTTP {status}: ")?;
        }
        write!(f, "{}; {}", self.cause, self.cure())
    }
}

impl Error for WatchFailure {}

/// The errors below an error say what really happened; each only once.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let inner = error.to_string();
        if !text.contains(&inner) {
            text = format!("{text}: {inner}");
        }
        source = error.source();
    }
    text
}
