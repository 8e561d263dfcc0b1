//! What a CA reference can name, and the little that is kept of it.

use std::fmt;

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1beta1::ClusterTrustBundle;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use serde::{Deserialize, Serialize};

use super::ObjectName;

/// The key of the CA certificates (PEM). The API prescribes it for a ConfigMap; cert-manager uses it in Secrets.
pub const CA_KEY: &str = "ca.crt";

/// The kind of an object that can hold CA certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum CaKind {
    /// Core support of the API.
    ConfigMap,
    /// Implementation-specific; only where [`Objects::ca_secrets`](super::Objects::ca_secrets) says so.
    Secret,
    /// Implementation-specific (GEP-5075); of the whole cluster.
    ClusterTrustBundle,
}

impl CaKind {
    /// As it stands in a manifest.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
            Self::ClusterTrustBundle => "ClusterTrustBundle",
        }
    }

    /// Its API group.
    fn group(self) -> &'static str {
        match self {
            Self::ConfigMap | Self::Secret => "",
            Self::ClusterTrustBundle => "certificates.k8s.io",
        }
    }

    /// Whether its objects have no namespace.
    pub(crate) fn is_cluster_scoped(self) -> bool {
        self == Self::ClusterTrustBundle
    }

    /// Where in an object the certificates are.
    pub(super) fn place(self) -> &'static str {
        match self {
            Self::ConfigMap | Self::Secret => CA_KEY,
            Self::ClusterTrustBundle => "spec.trustBundle",
        }
    }

    /// The kind of this name.
    pub(crate) fn named(kind: &str) -> Option<Self> {
        [Self::ConfigMap, Self::Secret, Self::ClusterTrustBundle]
            .into_iter()
            .find(|known| known.as_str() == kind)
    }

    /// The kind that a reference means.
    pub(super) fn referenced(group: &str, kind: &str) -> Option<Self> {
        Self::named(kind).filter(|known| known.group() == group)
    }
}

/// `Kind namespace/name`: a ConfigMap and a Secret of one name are two.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CaName {
    /// The object's kind.
    pub kind: CaKind,
    /// Its namespace (empty for a kind of the whole cluster) and name.
    pub object: ObjectName,
}

impl CaName {
    /// A ConfigMap's.
    pub fn config_map(namespace: impl AsRef<str>, name: impl AsRef<str>) -> Self {
        Self {
            kind: CaKind::ConfigMap,
            object: ObjectName::new(namespace, name),
        }
    }

    /// A Secret's.
    pub fn secret(namespace: impl AsRef<str>, name: impl AsRef<str>) -> Self {
        Self {
            kind: CaKind::Secret,
            object: ObjectName::new(namespace, name),
        }
    }
}

impl fmt::Display for CaName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind.as_str();
        if self.kind.is_cluster_scoped() {
            return write!(f, "{kind} {}", self.object.name);
        }
        write!(f, "{kind} {}", self.object)
    }
}

/// A ConfigMap or Secret without all that is none of our business: there is no place for a private key's value.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CaObject {
    /// The value of [`CA_KEY`].
    pub pem: Option<ByteString>,
    /// The names of all keys, to tell an author who chose another; of a Secret none, as even they are not for everybody.
    pub keys: Vec<String>,
    /// It does not exist: so says its mirror.
    #[serde(default)]
    pub absent: bool,
}

impl From<ConfigMap> for CaObject {
    /// kubectl puts a file that isn't UTF-8 (a comment in Latin-1) under `binaryData`.
    fn from(config_map: ConfigMap) -> Self {
        let data = config_map.data.unwrap_or_default().into_iter();
        let data = data.map(|(key, text)| (key, ByteString(text.into_bytes())));
        let mut all = config_map.binary_data.unwrap_or_default();
        all.extend(data);
        Self {
            keys: all.keys().cloned().collect(),
            pem: all.remove(CA_KEY),
            absent: false,
        }
    }
}

impl From<Secret> for CaObject {
    /// As the API server shows it, without `stringData`.
    fn from(secret: Secret) -> Self {
        Self {
            pem: secret.data.and_then(|mut data| data.remove(CA_KEY)),
            ..Self::default()
        }
    }
}

impl From<ClusterTrustBundle> for CaObject {
    fn from(bundle: ClusterTrustBundle) -> Self {
        Self {
            pem: Some(ByteString(bundle.spec.trust_bundle.into_bytes())),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn no_value_but_the_certificates_is_kept() {
        let secret: Secret =
            from_value(json!({"data": {"ca.crt": "UEVN", "tls.key": "S0VZ"}})).unwrap();
        let kept = serde_json::to_value(CaObject::from(secret)).unwrap();
        assert_eq!(kept, json!({"pem": "UEVN", "keys": [], "absent": false}));

        let config_map = json!({"data": {"ca.crt": "PEM", "a": "x"}, "binaryData": {"b": "/w=="}});
        let config_map: ConfigMap = from_value(config_map).unwrap();
        let kept = serde_json::to_value(CaObject::from(config_map)).unwrap();
        assert_eq!(
            kept,
            json!({"pem": "UEVN", "keys": ["a", "b", "ca.crt"], "absent": false})
        );
    }
}
