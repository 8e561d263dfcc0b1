//! The contract between the controller, which copies CA certificates into nodetls' own namespace, and the agents, which
//! can't read them anywhere else.

use aws_lc_rs::digest::{SHA256, digest};

use crate::policy::ObjectName;

/// Label of a mirrored ConfigMap; its value is `true`.
pub(super) const MIRROR_LABEL: &str = "nodetls.io/mirror";

/// Annotation of a mirrored ConfigMap: the namespace of the ConfigMap it is a copy of.
pub(super) const SOURCE_NAMESPACE: &str = "nodetls.io/source-namespace";

/// Annotation of a mirrored ConfigMap: the name of the ConfigMap it is a copy of.
pub(super) const SOURCE_NAME: &str = "nodetls.io/source-name";

/// The key of the CA certificates (PEM), in a mirrored ConfigMap and in its source.
pub(super) const CA_KEY: &str = "ca.crt";

/// The name of the mirrored ConfigMap: `ca-` and the first 16 hex digits of SHA-256 of `namespace/name`.
pub(super) fn mirror_name(source: &ObjectName) -> String {
    let hash = digest(&SHA256, source.to_string().as_bytes());
    let hex = hash.as_ref().iter().take(8).map(|b| format!("{b:02x}"));
    format!("ca-{}", hex.collect::<String>())
}
