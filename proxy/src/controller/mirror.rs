//! The CA mirror: copies of `ca.crt` of the ConfigMaps that policies name, in nodetls' own namespace, so that agents
//! need not read the ConfigMaps of the cluster. Pure.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::policy::ObjectName;
use crate::source::kube::{CA_KEY, MIRROR_LABEL, SOURCE_NAME, SOURCE_NAMESPACE, mirror_name};

/// The mirror of a ConfigMap. Without data when that, or its `ca.crt`, does not exist: so that an agent can tell
/// missing from not mirrored yet.
pub(super) fn mirror(
    namespace: &str,
    source: &ObjectName,
    config_map: Option<&ConfigMap>,
) -> ConfigMap {
    let annotations = [
        (SOURCE_NAMESPACE, &source.namespace),
        (SOURCE_NAME, &source.name),
    ];
    let annotations = annotations.map(|(key, value)| (key.to_owned(), value.clone()));
    let only = |value: String| BTreeMap::from([(CA_KEY.to_owned(), value)]);
    let only_binary = |value: ByteString| BTreeMap::from([(CA_KEY.to_owned(), value)]);
    ConfigMap {
        metadata: ObjectMeta {
            namespace: Some(namespace.to_owned()),
            name: Some(mirror_name(source)),
            labels: Some(BTreeMap::from([(
                MIRROR_LABEL.to_owned(),
                "true".to_owned(),
            )])),
            annotations: Some(BTreeMap::from(annotations)),
            ..ObjectMeta::default()
        },
        data: config_map.and_then(text).cloned().map(only),
        binary_data: config_map.and_then(binary).cloned().map(only_binary),
        immutable: None,
    }
}

/// What it takes to make the mirrors what they should be.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Diff {
    /// To be applied whole.
    pub(super) apply: Vec<ConfigMap>,
    /// Names of those that no policy needs any more.
    pub(super) delete: Vec<String>,
}

/// Compares the mirrors as they should be with those that exist. `wanted` has, by the mirror's name, every ConfigMap
/// that policies name; `None` while it is not known what is in it, which leaves its mirror alone.
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
        .filter(|(name, mirror)| !wanted.contains_key(**name) && is_ours(name, mirror));
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

/// Whether we made it: a label alone may be a mistake, and would be a bad reason to delete.
fn is_ours(name: &str, mirror: &ConfigMap) -> bool {
    let Some(annotations) = &mirror.metadata.annotations else {
        return false;
    };
    let source = annotations
        .get(SOURCE_NAMESPACE)
        .zip(annotations.get(SOURCE_NAME));
    source
        .is_some_and(|(namespace, source)| mirror_name(&ObjectName::new(namespace, source)) == name)
}

fn same(existing: &ConfigMap, wanted: &ConfigMap) -> bool {
    let label = |mirror: &ConfigMap| mirror.metadata.labels.as_ref()?.get(MIRROR_LABEL).cloned();
    let source = |mirror: &ConfigMap| {
        let annotations = mirror.metadata.annotations.as_ref()?;
        Some([SOURCE_NAMESPACE, SOURCE_NAME].map(|key| annotations.get(key).cloned()))
    };
    text(existing) == text(wanted)
        && binary(existing) == binary(wanted)
        && label(existing) == label(wanted)
        && source(existing) == source(wanted)
}

fn text(config_map: &ConfigMap) -> Option<&String> {
    config_map.data.as_ref()?.get(CA_KEY)
}

/// kubectl puts a file that isn't UTF-8 (a comment in Latin-1) here.
fn binary(config_map: &ConfigMap) -> Option<&ByteString> {
    config_map.binary_data.as_ref()?.get(CA_KEY)
}

/// Leaves out what nobody here reads: the values of other keys, whose names the compiler tells, and managedFields.
pub(super) fn slim(config_map: &mut ConfigMap) {
    for (key, value) in config_map.data.iter_mut().flatten() {
        if key != CA_KEY {
            *value = String::new();
        }
    }
    for (key, value) in config_map.binary_data.iter_mut().flatten() {
        if key != CA_KEY {
            value.0 = Vec::new();
        }
    }
    config_map.metadata.managed_fields = None;
}

#[cfg(test)]
mod tests;
