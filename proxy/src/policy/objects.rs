//! The compiler's input: every Kubernetes object that can matter to a policy.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::{BackendTlsPolicy, CaBundle, CaName, CaObject, ObjectName};

/// The objects as a source has them now. The map's key is an object's name; its metadata is not asked for it again.
/// What is shared with an earlier value has not changed since, nor has its name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Objects {
    /// Services: the targets, and the owners of the addresses.
    pub services: BTreeMap<ObjectName, Arc<Service>>,
    /// EndpointSlices: what clients of a headless Service dial. Of another Service, where we dial; none means that
    /// somebody else (kube-proxy) picks its endpoints.
    pub endpoint_slices: BTreeMap<ObjectName, Arc<EndpointSlice>>,
    /// ConfigMaps and Secrets that CA references may name.
    pub ca_objects: BTreeMap<CaName, CaObject>,
    /// Whether a CA reference may name a Secret.
    pub ca_secrets: bool,
    /// The policies, valid or not.
    pub policies: BTreeMap<ObjectName, Arc<BackendTlsPolicy>>,
}

/// What the compiler knows of where it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Installation {
    /// The node's trust store, which `wellKnownCACertificates: System` names.
    pub system_roots: Option<Arc<CaBundle>>,
    /// Whether a policy may ask for less than the verification of chain, dates and names.
    pub insecure_validation: bool,
}
