//! What is kept of an object in memory and in the cache: nothing that the compiler does not read.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace as KubeNamespace, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DynamicObject, PartialObjectMeta};
use serde::{Deserialize, Serialize};

use super::mirror::{SOURCE_KIND, SOURCE_NAME, SOURCE_NAMESPACE, mirror_source, mirrored_object};
use crate::pods::decide::{ANNOTATIONS, PodInfo, cgroup_uid};
use crate::policy::{BackendTlsPolicy, CaName, CaObject, HEADLESS, SERVICE_NAME};

/// What a Namespace says about its pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its `nodetls.io/` annotations: others may hold anything.
    pub annotations: BTreeMap<String, String>,
    /// Whether it is being deleted, with all that is in it.
    #[serde(skip)]
    pub terminating: bool,
}

pub(super) fn policy(object: DynamicObject) -> Option<Arc<BackendTlsPolicy>> {
    Some(Arc::new(read_policy(object)))
}

/// With its version, which changes when anybody writes its status.
pub(super) fn policy_and_version(mut object: DynamicObject) -> Option<Arc<BackendTlsPolicy>> {
    let resource_version = object.metadata.resource_version.take();
    let mut policy = read_policy(object);
    policy.metadata.resource_version = resource_version;
    Some(Arc::new(policy))
}

fn read_policy(mut object: DynamicObject) -> BackendTlsPolicy {
    BackendTlsPolicy {
        metadata: metadata(object.metadata),
        spec: object
            .data
            .get_mut("spec")
            .map(serde_json::Value::take)
            .unwrap_or_default(),
    }
}

pub(super) fn service(mut service: Service) -> Option<Arc<Service>> {
    service.metadata = metadata(service.metadata);
    if let Some(status) = &mut service.status {
        status.conditions = None;
    }
    Some(Arc::new(service))
}

/// Of a headless Service: whether an endpoint is ready is nothing to us, and no reason to compile again.
pub(super) fn endpoint_slice(slice: EndpointSlice) -> Option<Arc<EndpointSlice>> {
    let mut labels = slice.metadata.labels.unwrap_or_default();
    labels.retain(|key, _| [SERVICE_NAME, HEADLESS].contains(&key.as_str()));
    let endpoint = |endpoint: Endpoint| Endpoint {
        addresses: endpoint.addresses,
        ..Endpoint::default()
    };
    let port = |port: EndpointPort| EndpointPort {
        app_protocol: None,
        ..port
    };
    let ports = slice.ports.unwrap_or_default().into_iter();
    Some(Arc::new(EndpointSlice {
        metadata: ObjectMeta {
            namespace: slice.metadata.namespace,
            name: slice.metadata.name,
            labels: Some(labels),
            ..ObjectMeta::default()
        },
        address_type: slice.address_type,
        endpoints: slice.endpoints.into_iter().map(endpoint).collect(),
        ports: Some(ports.map(port).collect()),
    }))
}

pub(super) fn namespace(object: PartialObjectMeta<KubeNamespace>) -> Option<Namespace> {
    let mut annotations = object.metadata.annotations.unwrap_or_default();
    annotations.retain(|key, _| key.starts_with("nodetls.io/"));
    let labels = object.metadata.labels.unwrap_or_default();
    Some(Namespace {
        labels,
        annotations,
        terminating: object.metadata.deletion_timestamp.is_some(),
    })
}

/// What is known of a pod, and under which uid its cgroup is found. The labels of its Namespace come later.
pub(super) fn pod(pod: Pod) -> Option<(String, PodInfo)> {
    let (metadata, spec) = (pod.metadata, pod.spec.unwrap_or_default());
    let mut annotations = metadata.annotations.unwrap_or_default();
    annotations.retain(|key, _| ANNOTATIONS.contains(&key.as_str()));
    let uid = metadata.uid?;
    let uid = cgroup_uid(&uid, &annotations).to_owned();
    let containers = spec.containers.into_iter();
    let containers = containers.chain(spec.init_containers.unwrap_or_default());
    let info = PodInfo {
        namespace: metadata.namespace.unwrap_or_default(),
        name: metadata.name.unwrap_or_default(),
        namespace_labels: BTreeMap::new(),
        labels: metadata.labels.unwrap_or_default(),
        annotations,
        host_network: spec.host_network.unwrap_or_default(),
        containers: containers.map(|container| container.name).collect(),
        runtime_class: spec.runtime_class_name,
    };
    Some((uid, info))
}

/// What a mirrored ConfigMap is a copy of, and what it holds.
pub(super) fn mirror(mirror: ConfigMap) -> Option<(CaName, CaObject)> {
    let Some(source) = mirror_source(&mirror.metadata) else {
        let name = mirror.metadata.name.unwrap_or_default();
        tracing::warn!(
            name,
            "this ConfigMap is no mirror: its name does not fit its annotations {SOURCE_KIND}, {SOURCE_NAMESPACE} \
             and {SOURCE_NAME}; remove it"
        );
        return None;
    };
    Some((source, mirrored_object(mirror)))
}

/// The compiler orders policies by their age; `nodetls.io/` annotations are for us.
fn metadata(from: ObjectMeta) -> ObjectMeta {
    let annotations = from.annotations.map(|mut annotations| {
        annotations.retain(|key, _| key.starts_with("nodetls.io/"));
        annotations
    });
    ObjectMeta {
        namespace: from.namespace,
        name: from.name,
        uid: from.uid,
        generation: from.generation,
        creation_timestamp: from.creation_timestamp,
        annotations: annotations.filter(|annotations| !annotations.is_empty()),
        ..ObjectMeta::default()
    }
}
