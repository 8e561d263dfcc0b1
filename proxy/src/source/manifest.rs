//! One file of Kubernetes manifests, as `kubectl apply -f` takes it: YAML or JSON, many documents, `kind: List`.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1beta1::ClusterTrustBundle;
use k8s_openapi::api::core::v1::ConfigMap;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::identity::TlsSecret;
use crate::policy::{CA_KEY, CaKind, CaName, CaObject, ObjectName, Objects};

/// What a file holds.
#[derive(Debug, Default)]
pub(crate) struct Manifest {
    /// The objects that could be read.
    pub(crate) objects: Objects,
    /// What Secrets have for client certificates; apart, since it is secret.
    pub(crate) secrets: BTreeMap<ObjectName, TlsSecret>,
    /// The documents that could not.
    pub(crate) problems: Vec<Problem>,
}

/// Why a document (or an item of a List) was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// From 1; empty documents don't count.
    pub(crate) document: usize,
    /// `Kind namespace/name`, as far as known.
    pub(crate) object: Option<String>,
    /// What is wrong.
    pub(crate) cause: String,
}

/// Reads a file. Never fails as a whole: what is good is in `objects`, the rest in `problems`.
pub(crate) fn parse(mut bytes: &[u8]) -> Manifest {
    let mut manifest = Manifest::default();
    // No snippets: an error must not quote a Secret that stands in the same file.
    let options = serde_saphyr::options! { with_snippet: false };
    let documents = serde_saphyr::read_with_options::<_, Value>(&mut bytes, options);
    for (document, value) in (1..).zip(documents) {
        match value {
            Ok(value) => manifest.add(document, value),
            Err(error) => manifest.refuse(document, None, error.to_string()),
        }
    }
    manifest
}

impl Manifest {
    fn refuse(&mut self, document: usize, object: Option<String>, cause: String) {
        self.problems.push(Problem {
            document,
            object,
            cause,
        });
    }

    fn add(&mut self, document: usize, mut value: Value) {
        let text = |field: &str| value[field].as_str().unwrap_or_default().to_owned();
        let (api_version, kind) = (text("apiVersion"), text("kind"));
        if api_version.is_empty() || kind.is_empty() {
            let cause = "apiVersion and kind must be strings; this is not a Kubernetes object";
            return self.refuse(document, None, cause.to_owned());
        }
        if (api_version.as_str(), kind.as_str()) == ("v1", "List") {
            return self.add_items(document, value["items"].take());
        }
        let Some(store) = store(&api_version, &kind) else {
            return tracing::debug!(document, api_version, kind, "not a kind that matters here");
        };
        match name(&mut value) {
            Err(cause) => self.refuse(document, Some(kind), cause.to_owned()),
            Ok(name) => {
                let object = format!("{kind} {name}");
                let secret = (kind == CaKind::Secret.as_str())
                    .then(|| (name.clone(), TlsSecret::of_manifest(&value)));
                match store(&mut self.objects, name, value) {
                    Ok(()) => self.secrets.extend(secret),
                    Err(cause) => self.refuse(document, Some(object), cause),
                }
            }
        }
    }

    fn add_items(&mut self, document: usize, items: Value) {
        match items {
            // The parser bounds the depth, so Lists of Lists end.
            Value::Array(items) => items.into_iter().for_each(|item| self.add(document, item)),
            Value::Null => {}
            _ => {
                let cause = "items must be a list of objects";
                self.refuse(document, Some("List".to_owned()), cause.to_owned());
            }
        }
    }
}

/// How an object gets from a document into its place.
type Store = fn(&mut Objects, ObjectName, Value) -> Result<(), String>;

/// `None` for a kind that does not matter here.
fn store(api_version: &str, kind: &str) -> Option<Store> {
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    match (api_version, kind) {
        ("v1", "Service") => Some(|to, name, value| insert(&mut to.services, name, value)),
        ("v1", "ConfigMap") => Some(|to, name, value| {
            let config_map: ConfigMap = read(value)?;
            insert_ca(to, CaKind::ConfigMap, name, config_map.into())
        }),
        ("v1", "Secret") => {
            Some(|to, name, value| insert_ca(to, CaKind::Secret, name, secret(&value)?))
        }
        ("certificates.k8s.io/v1beta1", "ClusterTrustBundle") => Some(|to, name, value| {
            let bundle: ClusterTrustBundle = read(value)?;
            let name = ObjectName::new("", name.name);
            insert_ca(to, CaKind::ClusterTrustBundle, name, bundle.into())
        }),
        ("discovery.k8s.io/v1", "EndpointSlice") => {
            Some(|to, name, value| insert(&mut to.endpoint_slices, name, value))
        }
        (
            "gateway.networking.k8s.io/v1" | "gateway.networking.k8s.io/v1alpha3",
            "BackendTLSPolicy",
        ) => Some(|to, name, value| insert(&mut to.policies, name, value)),
        // To skip a policy because of a slip in its head would be plaintext.
        _ if kind.eq_ignore_ascii_case("BackendTLSPolicy") => {
            Some(|_, _, _| wrong_head("gateway.networking.k8s.io/v1", "BackendTLSPolicy"))
        }
        (_, "EndpointSlice") => Some(|_, _, _| wrong_head("discovery.k8s.io/v1", "EndpointSlice")),
        (_, "ClusterTrustBundle") => {
            Some(|_, _, _| wrong_head("certificates.k8s.io/v1beta1", "ClusterTrustBundle"))
        }
        (_, "Service") if group.is_empty() => Some(|_, _, _| wrong_head("v1", "Service")),
        (_, "ConfigMap") if group.is_empty() => Some(|_, _, _| wrong_head("v1", "ConfigMap")),
        (_, "Secret") if group.is_empty() => Some(|_, _, _| wrong_head("v1", "Secret")),
        _ => None,
    }
}

fn wrong_head(api_version: &str, kind: &str) -> Result<(), String> {
    Err(format!(
        "its apiVersion or kind is unknown; write apiVersion: {api_version}, kind: {kind}"
    ))
}

/// Reads the name, and writes the default namespace into the object where it has none.
fn name(value: &mut Value) -> Result<ObjectName, &'static str> {
    let metadata = &mut value["metadata"];
    let name = match metadata["name"].as_str() {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => return Err("metadata.name must be a string that is not empty"),
    };
    if matches!(metadata["namespace"].as_str(), None | Some("")) {
        if !matches!(&metadata["namespace"], Value::Null | Value::String(_)) {
            return Err("metadata.namespace must be a string");
        }
        metadata["namespace"] = json!("default");
    }
    let namespace = metadata["namespace"].as_str().unwrap_or_default();
    Ok(ObjectName::new(namespace, name))
}

fn insert<T: DeserializeOwned>(
    objects: &mut BTreeMap<ObjectName, Arc<T>>,
    name: ObjectName,
    value: Value,
) -> Result<(), String> {
    put(objects, name, Arc::new(read(value)?))
}

fn insert_ca(
    to: &mut Objects,
    kind: CaKind,
    object: ObjectName,
    ca: CaObject,
) -> Result<(), String> {
    put(&mut to.ca_objects, CaName { kind, object }, ca)
}

fn put<K: Ord, T>(objects: &mut BTreeMap<K, T>, name: K, object: T) -> Result<(), String> {
    if objects.contains_key(&name) {
        return Err("stands twice in this file; remove one".to_owned());
    }
    objects.insert(name, object);
    Ok(())
}

fn read<T: DeserializeOwned>(value: Value) -> Result<T, String> {
    serde_path_to_error::deserialize(value).map_err(|error| error.to_string())
}

/// Looks at `ca.crt` alone: the rest is in a repository often encrypted, which the API would refuse.
fn secret(value: &Value) -> Result<CaObject, String> {
    let (data, texts) = (&value["data"], &value["stringData"]);
    // Errors don't quote: it is secret.
    if [data, texts]
        .iter()
        .any(|map| !map.is_object() && !map.is_null())
    {
        return Err("data and stringData must be maps of strings".to_owned());
    }
    // As the API server does: stringData wins.
    let pem = match (&texts[CA_KEY], &data[CA_KEY]) {
        (Value::String(text), _) => Some(ByteString(text.clone().into_bytes())),
        (Value::Null, Value::Null) => None,
        (Value::Null, Value::String(base64)) => Some(decoded(base64)?),
        _ => return Err(format!("{CA_KEY} must be a string")),
    };
    Ok(CaObject {
        pem,
        ..CaObject::default()
    })
}

/// Line breaks are allowed, as `base64` makes them.
fn decoded(base64: &str) -> Result<ByteString, String> {
    let base64 = base64.replace(['\r', '\n'], "");
    serde_json::from_value(Value::String(base64)).map_err(|_| {
        format!("data: {CA_KEY} is not base64: encode it, or put the PEM under stringData")
    })
}

#[cfg(test)]
mod tests;
