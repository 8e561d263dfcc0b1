//! What the data plane needs to know, compiled from Kubernetes objects: for every address a client may dial, what to
//! do with the connection. Immutable once built; compared and shared by value.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use super::Options;

/// `namespace/name` of a Kubernetes object. Cheap to clone, as many things go by names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectName {
    /// The object's namespace, never empty (`default` where a manifest leaves it out).
    pub namespace: Arc<str>,
    /// The object's name.
    pub name: Arc<str>,
}

impl ObjectName {
    /// Joins a namespace and a name.
    pub fn new(namespace: impl AsRef<str>, name: impl AsRef<str>) -> Self {
        Self {
            namespace: namespace.as_ref().into(),
            name: name.as_ref().into(),
        }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [&self.namespace, "/", &self.name];
        parts.into_iter().try_for_each(|part| f.write_str(part))
    }
}

/// Every address that a policy targets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// By the address the client dials: a ClusterIP (external or load-balancer IP) and the Service's port, or an endpoint
    /// of a headless Service. Endpoints of one port share a value.
    pub targets: BTreeMap<SocketAddr, Arc<Target>>,
}

impl Snapshot {
    /// What there is in `targets`, each value once: endpoints by the thousand share one.
    pub fn distinct(&self) -> impl Iterator<Item = &Arc<Target>> {
        let mut seen = HashSet::new();
        let targets = self.targets.values();
        targets.filter(move |target| seen.insert(Arc::as_ptr(target)))
    }
}

/// One port of one Service, and what its policy asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The Service.
    pub service: ObjectName,
    /// The Service's port number.
    pub port: u16,
    /// The winning BackendTLSPolicy.
    pub policy: ObjectName,
    /// Its `metadata.uid`, which tells it from an earlier one of the same name; `None` in files.
    pub policy_uid: Option<String>,
    /// How to originate TLS; or why not, in which case every plaintext connection is refused (fail closed).
    pub plan: Result<Arc<Origination>, Refusal>,
    /// Where to dial.
    pub upstream: Upstream,
    /// Its addresses are endpoints, which belong to pods.
    pub headless: bool,
    /// The other namespaces with a Service that claims this address.
    pub contested_by: Vec<Arc<str>>,
}

/// The TLS that a policy asks for. Two equal values may share TLS sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origination {
    /// `spec.validation.hostname`: always the SNI; the identity unless `subject_alt_names` is not empty.
    pub hostname: String,
    /// `spec.validation.subjectAltNames`: when not empty the server must present one of these, `hostname` aside.
    pub subject_alt_names: Vec<SubjectAltName>,
    /// The trust anchors.
    pub roots: Arc<CaBundle>,
    /// `spec.options`.
    pub options: Options,
}

/// An entry of `spec.validation.subjectAltNames`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SubjectAltName {
    /// A DNS name; a leading `*.` stands for exactly one label.
    Hostname(String),
    /// A URI, compared byte for byte.
    Uri(String),
}

/// Parsed CA certificates (DER), without duplicates, in the order found. Never empty.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct CaBundle {
    /// The certificates.
    pub certificates: Vec<CertificateDer<'static>>,
}

/// Why a targeted port gets no TLS from us: its policy is invalid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// A condition reason of the BackendTLSPolicy API, such as `NoValidCACertificate`.
    pub reason: &'static str,
    /// A sentence that names the object, the cause and the cure.
    pub message: String,
}

/// Where the proxy dials for a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upstream {
    /// The address the client dialled; kube-proxy (or its replacement) picks the endpoint.
    ServiceAddress,
    /// One of these, picked here because nothing else on this machine does. Empty: no endpoint is ready.
    Endpoints(Vec<SocketAddr>),
    /// A host outside of the cluster, which the proxy resolves by DNS.
    Host {
        /// Its DNS name, always absolute, written without the final dot.
        name: String,
        /// The port to dial.
        port: u16,
    },
}
