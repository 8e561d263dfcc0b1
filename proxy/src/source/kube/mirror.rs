//! The contract between the controller, which copies CA certificates into nodetls' own namespace, and the agents, which
//! can't read them anywhere else.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::digest::{hex, sha256};
use crate::policy::{CaKind, CaName, CaObject, ObjectName, Objects};

/// Label of a mirrored ConfigMap; its value is `true`.
pub const MIRROR_LABEL: &str = "nodetls.io/mirror";

/// Annotation of a mirrored ConfigMap: the kind of the object it is a copy of, `ConfigMap` or `Secret`.
pub const SOURCE_KIND: &str = "nodetls.io/source-kind";

/// Annotation of a mirrored ConfigMap: the namespace of the object it is a copy of.
pub const SOURCE_NAMESPACE: &str = "nodetls.io/source-namespace";

/// Annotation of a mirrored ConfigMap: the name of the object it is a copy of.
pub const SOURCE_NAME: &str = "nodetls.io/source-name";

/// Annotation of a mirrored ConfigMap without data: the names of the keys of the object it is a copy of, separated by
/// commas; of a Secret none. Without it that object does not exist.
pub const SOURCE_KEYS: &str = "nodetls.io/source-keys";

/// The name of the mirrored ConfigMap: `ca-` and the first 16 hex digits of SHA-256 of `KIND namespace/name`.
pub fn mirror_name(source: &CaName) -> String {
    let hash = hex(&sha256(source.to_string().as_bytes()));
    format!("ca-{}", &hash[..16])
}

/// The compiler's input, as far as mirrors tell. Where Secrets are allowed the controller mirrors each that is named,
/// existing or not; so the first mirror of one says that they are.
pub(super) fn mirrored(mirrors: impl IntoIterator<Item = (CaName, CaObject)>) -> Objects {
    let ca_objects: BTreeMap<CaName, CaObject> = mirrors.into_iter().collect();
    Objects {
        ca_secrets: ca_objects.keys().any(|name| name.kind == CaKind::Secret),
        ca_objects,
        ..Objects::default()
    }
}

/// What a mirror holds.
pub(crate) fn mirrored_object(mirror: ConfigMap) -> CaObject {
    let annotations = mirror.metadata.annotations.as_ref();
    let keys = annotations.and_then(|annotations| annotations.get(SOURCE_KEYS).cloned());
    let mut object = CaObject::from(mirror);
    object.absent = object.pem.is_none() && keys.is_none();
    if let Some(keys) = keys {
        object.keys = keys.split_terminator(',').map(str::to_owned).collect();
    }
    object
}

/// What the ConfigMap is a mirror of; `None` when its annotations or its name are not those of a mirror: a label alone
/// may be a mistake.
pub(crate) fn mirror_source(mirror: &ObjectMeta) -> Option<CaName> {
    let annotations = mirror.annotations.as_ref()?;
    let [kind, namespace, name] =
        [SOURCE_KIND, SOURCE_NAMESPACE, SOURCE_NAME].map(|key| annotations.get(key));
    let source = CaName {
        kind: CaKind::named(kind?)?,
        object: ObjectName::new(namespace?, name?),
    };
    (mirror.name == Some(mirror_name(&source))).then_some(source)
}
