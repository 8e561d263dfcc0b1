//! The policy compiler: Kubernetes objects in, what the data plane does and what to tell the authors out.
//!
//! Pure: no I/O, no clock; equal objects give equal results. What it can't accept becomes a refused target, so that
//! a mistake in a policy never means plaintext. Rules: GEP-1897 (BackendTLSPolicy) and GEP-713 (policy attachment).

mod api;
mod asked;
mod attach;
mod ca;
mod ca_object;
mod compiler;
mod conflict;
mod endpoints;
mod external;
mod fields;
mod objects;
mod options;
mod parallel;
mod rules;
mod service;
mod snapshot;
mod status;
#[cfg(test)]
mod tests;
mod unknown;
mod validate;

use std::sync::Arc;

pub use api::BackendTlsPolicy;
pub(crate) use ca::{ALLOW_SECRETS, ca_bundles, ca_names, certificates};
pub use ca_object::{CA_KEY, CaKind, CaName, CaObject};
pub use compiler::Compiler;
pub(crate) use endpoints::{HEADLESS, SERVICE_NAME};
pub use objects::{Installation, Objects};
pub(crate) use options::CLIENT_CERTIFICATE;
pub use options::{AccessLog, ClientTls, Options, Pin, TlsVersion, ValidationMode};
pub(crate) use service::{addresses, is_special};
pub use snapshot::{
    CaBundle, ObjectName, Origination, Refusal, Snapshot, SubjectAltName, Target, Upstream,
};
pub use status::{AncestorStatus, Condition, PolicyStatus, Reason};

use k8s_openapi::jiff::Timestamp;

use ca::{Authorities, Resolved};
use validate::{Spec, Trust};

use crate::pods::decide::{ENABLED, REDIRECT};

/// What [`compile`] makes of the objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compiled {
    /// For the data plane.
    pub snapshot: Snapshot,
    /// One for each policy, by name.
    pub statuses: Vec<Arc<PolicyStatus>>,
}

/// Compiles `objects`.
pub fn compile(objects: &Objects, installation: &Installation) -> Compiled {
    Compiler::default().compile(objects, installation)
}

/// A policy that its author left to other implementations, such as a gateway.
fn opted_out(name: &ObjectName, policy: &BackendTlsPolicy) -> PolicyStatus {
    PolicyStatus {
        policy: name.clone(),
        generation: policy.metadata.generation,
        ancestors: Vec::new(),
        problems: Vec::new(),
        opted_out: true,
        warnings: vec![format!(
            "annotation {REDIRECT}: disabled: nodetls leaves this policy alone, and pods' connections to its targets \
             as they are"
        )],
    }
}

/// A policy, read: what it asks for, whatever its targets are.
struct Policy {
    name: ObjectName,
    uid: Option<String>,
    generation: Option<i64>,
    created: Option<Timestamp>,
    spec: Spec,
    /// What its author should know of the spec, although it is no mistake.
    warnings: Vec<String>,
    /// The TLS it asks for; or condition `Accepted`, which is False.
    plan: Result<Arc<Origination>, Condition>,
    /// Condition `ResolvedRefs`.
    resolved_refs: Option<Condition>,
    /// The CA objects that it names, whether or not they exist.
    cas: Vec<CaName>,
    /// The Service of each of its targets, whether or not it exists.
    services: Vec<ObjectName>,
}

impl Policy {
    /// `spec` and `warnings` are what [`read`] gives.
    fn new(
        name: &ObjectName,
        policy: &BackendTlsPolicy,
        (mut spec, warnings): (Spec, Vec<String>),
        authorities: &mut Authorities,
        objects: &Objects,
        installation: &Installation,
    ) -> Self {
        if !installation.insecure_validation {
            spec.forbid_insecure_validation();
        }
        let generation = policy.metadata.generation;
        let invalid = || Condition::new(Reason::Invalid, spec.problems.join("; "));
        let Resolved { roots, condition } = match &spec.trust {
            Some(trust) => {
                let system = installation.system_roots.as_ref();
                authorities.resolve(&name.namespace, trust, objects, system)
            }
            None => Resolved {
                roots: Err(invalid()),
                condition: None,
            },
        };
        let plan = if spec.problems.is_empty() {
            roots.map(|roots| Arc::new(spec.origination(roots)))
        } else {
            Err(invalid())
        };
        let refs = match &spec.trust {
            Some(Trust::Refs(refs)) => refs.as_slice(),
            Some(Trust::System) | None => &[],
        };
        let cas = refs
            .iter()
            .filter_map(|ca_ref| ca_ref.named_in(&name.namespace));
        let services = spec.targets.iter().map(|target| ObjectName {
            namespace: Arc::clone(&name.namespace),
            name: target.service.as_str().into(),
        });
        let created = policy.metadata.creation_timestamp.as_ref();
        Self {
            name: name.clone(),
            uid: policy.metadata.uid.clone(),
            generation,
            created: created.map(|time| time.0),
            cas: cas.collect(),
            services: services.collect(),
            spec,
            warnings,
            plan,
            resolved_refs: condition,
        }
    }
}

/// What a policy says, and what of it is no mistake but has no effect.
fn read(policy: &BackendTlsPolicy) -> (Spec, Vec<String>) {
    let mut warnings = unknown::unknown_fields(&policy.spec);
    if let Some(value) = policy.redirect().filter(|value| *value != ENABLED) {
        let value = status::quoted(value);
        warnings.push(format!(
            "annotation {REDIRECT}: {value} has no meaning, and no effect: write disabled to have this policy left \
             alone"
        ));
    }
    (validate::read(&policy.spec), warnings)
}
