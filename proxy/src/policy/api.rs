//! BackendTLSPolicy (`gateway.networking.k8s.io/v1`; `v1alpha3` has the same schema) as it was written, valid or not.
//!
//! A policy that can't be read must become a refused target, never a skipped policy; so nothing here rejects: `spec`
//! stays JSON until [`super::validate`] reads it, and a metadata field of the wrong type counts as absent.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::pods::decide::{DISABLED, REDIRECT};

/// A BackendTLSPolicy. Its status is not ours to read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BackendTlsPolicy {
    /// Name, namespace, generation, creationTimestamp (a file has none) and annotations.
    #[serde(default, deserialize_with = "readable_metadata")]
    pub metadata: ObjectMeta,
    /// `spec` as written; null where it is missing.
    #[serde(default)]
    pub spec: Value,
}

impl BackendTlsPolicy {
    /// The value of the annotation [`REDIRECT`].
    pub(super) fn redirect(&self) -> Option<&str> {
        let annotations = self.metadata.annotations.as_ref()?;
        annotations.get(REDIRECT).map(String::as_str)
    }

    /// Whether its author left it to other implementations, such as a gateway.
    pub(super) fn is_opted_out(&self) -> bool {
        self.redirect() == Some(DISABLED)
    }
}

/// Reads the metadata fields that have the right type, and leaves out the others.
fn readable_metadata<'de, D: Deserializer<'de>>(from: D) -> Result<ObjectMeta, D::Error> {
    let Value::Object(mut fields) = Value::deserialize(from)? else {
        return Ok(ObjectMeta::default());
    };
    fields.retain(|name, value| {
        let alone = Map::from_iter([(name.clone(), value.clone())]);
        serde_json::from_value::<ObjectMeta>(Value::Object(alone)).is_ok()
    });
    Ok(serde_json::from_value(Value::Object(fields)).unwrap_or_default())
}
