//! The compiler's input: every Kubernetes object that can matter to a policy.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::{BackendTlsPolicy, ObjectName};

/// The objects as a source has them now. The map's key is an object's name; its metadata is not asked for it again.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Objects {
    /// Services: the targets, and the owners of the addresses.
    pub services: BTreeMap<ObjectName, Service>,
    /// EndpointSlices; none for a Service means that somebody else (kube-proxy) picks its endpoints.
    pub endpoint_slices: BTreeMap<ObjectName, EndpointSlice>,
    /// ConfigMaps that hold CA certificates.
    pub config_maps: BTreeMap<ObjectName, ConfigMap>,
    /// The policies, valid or not.
    pub policies: BTreeMap<ObjectName, BackendTlsPolicy>,
}
