//! What is taken of a Secret.

use std::fmt;
use std::sync::Arc;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use serde_json::Value;

const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";

/// Certificate chain and private key of a Secret (PEM, as those of type `kubernetes.io/tls` hold them), not looked at yet.
/// It can't be printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct TlsSecret {
    /// `tls.crt`.
    pub certificate: Option<Arc<[u8]>>,
    /// `tls.key`.
    pub key: Option<Arc<[u8]>>,
}

impl From<Secret> for TlsSecret {
    /// As the API server shows it, without `stringData`.
    fn from(secret: Secret) -> Self {
        let mut data = secret.data.unwrap_or_default();
        let mut value = |key| data.remove(key).map(|ByteString(bytes)| bytes.into());
        Self {
            certificate: value(CERTIFICATE),
            key: value(KEY),
        }
    }
}

impl TlsSecret {
    /// Of a manifest. What is not base64 is taken as it is: it may never be asked for.
    pub(crate) fn of_manifest(manifest: &Value) -> Self {
        let value = |key| {
            let text = manifest["stringData"][key].as_str();
            let decoded = || {
                let base64 = manifest["data"][key].as_str()?.replace(['\r', '\n'], "");
                let decoded = serde_json::from_value(Value::String(base64.clone()));
                Some(decoded.map_or(base64.into_bytes(), |ByteString(bytes)| bytes))
            };
            let bytes = text.map(|text| text.as_bytes().to_vec()).or_else(decoded);
            bytes.map(Arc::from)
        };
        Self {
            certificate: value(CERTIFICATE),
            key: value(KEY),
        }
    }
}

impl fmt::Debug for TlsSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsSecret").finish_non_exhaustive()
    }
}
