//! The CA mirror: copies of `ca.crt` of the ConfigMaps and Secrets that policies name, in nodetls' own namespace, so that
//! agents need not read those of the cluster. Pure.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use pem::{EncodeConfig, LineEnding, Pem};

use crate::policy::{CA_KEY, CaKind, CaName, CaObject, certificates};
use crate::source::kube::{
    MIRROR_LABEL, SOURCE_KEYS, SOURCE_KIND, SOURCE_NAME, SOURCE_NAMESPACE, mirror_name,
    mirror_source, mirrored_object,
};

/// Names of keys that are told: an author needs no more to find his mistake, and annotations have a limit.
const MAX_KEYS: usize = 32;

/// The mirror of an object. Without data when that, or its `ca.crt`, does not exist, so that an agent can tell missing
/// from not mirrored yet; with an annotation, so that it can tell which of the two is missing.
pub(super) fn mirror(namespace: &str, source: &CaName, object: Option<&CaObject>) -> ConfigMap {
    let annotations = [
        (SOURCE_KIND, source.kind.as_str()),
        (SOURCE_NAMESPACE, &source.object.namespace),
        (SOURCE_NAME, &source.object.name),
    ];
    let annotations = annotations.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let mut annotations = BTreeMap::from(annotations);
    let pem = object.and_then(|object| object.pem.clone());
    let pem = match source.kind {
        CaKind::ConfigMap | CaKind::ClusterTrustBundle => pem,
        CaKind::Secret => pem.and_then(certificates_alone),
    };
    let (mut data, mut binary_data) = (None, None);
    match pem.map(|pem| String::from_utf8(pem.0)) {
        Some(Ok(text)) => data = Some(BTreeMap::from([(CA_KEY.to_owned(), text)])),
        Some(Err(other)) => {
            let bytes = ByteString(other.into_bytes());
            binary_data = Some(BTreeMap::from([(CA_KEY.to_owned(), bytes)]));
        }
        None => {
            let keys = object.map(|object| &object.keys[..object.keys.len().min(MAX_KEYS)]);
            annotations.extend(keys.map(|keys| (SOURCE_KEYS.to_owned(), keys.join(","))));
        }
    }
    ConfigMap {
        metadata: ObjectMeta {
            namespace: Some(namespace.to_owned()),
            name: Some(mirror_name(source)),
            labels: Some(BTreeMap::from([(
                MIRROR_LABEL.to_owned(),
                "true".to_owned(),
            )])),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        },
        data,
        binary_data,
        immutable: None,
    }
}

/// What may leave a Secret: certificates, written anew, without what stands between them. If it isn't certain that all
/// of it are some, nothing.
fn certificates_alone(pem: ByteString) -> Option<ByteString> {
    let bundle = certificates(&pem.0).ok()?;
    let blocks = bundle.certificates.iter();
    let blocks: Vec<Pem> = blocks
        .map(|certificate| Pem::new("CERTIFICATE", certificate.to_vec()))
        .collect();
    let config = EncodeConfig::new().set_line_ending(LineEnding::LF);
    Some(ByteString(
        pem::encode_many_config(&blocks, config).into_bytes(),
    ))
}

/// What it takes to make the mirrors what they should be.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Diff {
    /// To be applied whole.
    pub(super) apply: Vec<ConfigMap>,
    /// Names of those that no policy needs any more.
    pub(super) delete: Vec<String>,
}

/// Compares the mirrors as they should be with those that exist. `wanted` has, by the mirror's name, every object that
/// policies name; `None` while it is not known what is in it, which leaves its mirror alone.
pub(super) fn diff<'a>(
    wanted: BTreeMap<String, Option<ConfigMap>>,
    existing: impl IntoIterator<Item = &'a ConfigMap>,
) -> Diff {
    let existing: BTreeMap<&str, &ConfigMap> = existing
        .into_iter()
        .filter_map(|mirror| Some((mirror.metadata.name.as_deref()?, mirror)))
        .collect();
    let gone = existing
        .iter()
        .filter(|(name, mirror)| !wanted.contains_key(**name) && is_ours(mirror));
    let delete = gone.map(|(name, _)| (*name).to_owned()).collect();
    let apply = wanted
        .into_iter()
        .filter_map(|(name, mirror)| {
            let mirror = mirror?;
            let same = existing
                .get(name.as_str())
                .is_some_and(|existing| same(existing, &mirror));
            (!same).then_some(mirror)
        })
        .collect();
    Diff { apply, delete }
}

/// A label alone may be a mistake, and would be a bad reason to delete.
fn is_ours(mirror: &ConfigMap) -> bool {
    mirror_source(&mirror.metadata).is_some()
}

/// Nothing of a mirror but what we write into it.
fn same(existing: &ConfigMap, wanted: &ConfigMap) -> bool {
    let label = |mirror: &ConfigMap| mirror.metadata.labels.as_ref()?.get(MIRROR_LABEL).cloned();
    let content = |mirror: &ConfigMap| mirrored_object(mirror.clone());
    content(existing) == content(wanted)
        && label(existing) == label(wanted)
        && mirror_source(&existing.metadata) == mirror_source(&wanted.metadata)
}

#[cfg(test)]
mod tests;
