//! The policy compiler: Kubernetes objects in, what the data plane does and what to tell the authors out.
//!
//! Pure: no I/O, no clock; equal objects give equal results. What it can't accept becomes a refused target, so that
//! a mistake in a policy never means plaintext. Rules: GEP-1897 (BackendTLSPolicy) and GEP-713 (policy attachment).

mod api;
mod asked;
mod attach;
mod ca;
mod ca_object;
mod changes;
mod compiler;
mod conflict;
mod endpoints;
mod external;
mod fields;
mod objects;
mod options;
mod parallel;
mod rows;
mod rules;
mod service;
mod snapshot;
mod status;
#[cfg(test)]
mod tests;
mod unknown;
mod validate;

use std::mem;
use std::sync::{Arc, Mutex, PoisonError};

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
use fields::Problems;
use validate::{CaRef, TargetRef, Trust};

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
    targets: Vec<TargetRef>,
    validation_mode: ValidationMode,
    /// What is wrong with its spec.
    problems: Problems,
    /// What its author should know of the spec, although it is no mistake.
    warnings: Vec<String>,
    /// The TLS it asks for; or condition `Accepted`, which is False.
    plan: Result<Arc<Origination>, Condition>,
    /// Condition `ResolvedRefs`.
    resolved_refs: Option<Condition>,
    /// The CA objects that it names, whether or not they exist.
    cas: Vec<CaName>,
}

impl Policy {
    /// Reads it, and the CA objects that it names.
    fn new(
        name: &ObjectName,
        policy: &BackendTlsPolicy,
        authorities: &Mutex<Authorities>,
        objects: &Objects,
        installation: &Installation,
    ) -> Self {
        let mut spec = validate::read(&name.namespace, &policy.spec);
        if !installation.insecure_validation {
            spec.forbid_insecure_validation();
        }
        let invalid = || Condition::new(Reason::Invalid, spec.problems.join("; "));
        let mut cas = Vec::new();
        let Resolved { roots, condition } = match &spec.trust {
            Some(Trust::Refs(refs)) => {
                let named = |ca_ref: &CaRef| ca_ref.named_in(&name.namespace);
                cas.extend(refs.iter().filter_map(named));
                let authorities = authorities.lock();
                let mut authorities = authorities.unwrap_or_else(PoisonError::into_inner);
                authorities.resolve(&name.namespace, refs, objects)
            }
            Some(Trust::System) => ca::resolve_system(installation.system_roots.as_ref()),
            None => Resolved {
                roots: Err(invalid()),
                condition: None,
            },
        };
        let roots = if spec.problems.is_empty() {
            roots
        } else {
            Err(invalid())
        };
        let created = policy.metadata.creation_timestamp.as_ref();
        Self {
            name: name.clone(),
            uid: policy.metadata.uid.clone(),
            generation: policy.metadata.generation,
            created: created.map(|time| time.0),
            cas,
            targets: mem::take(&mut spec.targets),
            validation_mode: spec.options.validation_mode,
            problems: mem::take(&mut spec.problems),
            warnings: warnings(policy),
            plan: roots.map(|roots| Arc::new(spec.origination(roots))),
            resolved_refs: condition,
        }
    }
}

/// What of a policy is no mistake but has no effect.
fn warnings(policy: &BackendTlsPolicy) -> Vec<String> {
    let mut warnings = unknown::unknown_fields(&policy.spec);
    if let Some(value) = policy.redirect().filter(|value| *value != ENABLED) {
        let value = status::quoted(value);
        warnings.push(format!(
            "annotation {REDIRECT}: {value} has no meaning, and no effect: write disabled to have this policy left \
             alone"
        ));
    }
    warnings
}
