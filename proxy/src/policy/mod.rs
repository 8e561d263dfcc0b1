//! The policy compiler: Kubernetes objects in, what the data plane does and what to tell the authors out.
//!
//! Pure: no I/O, no clock; equal objects give equal results. What it can't accept becomes a refused target, so that
//! a mistake in a policy never means plaintext. Rules: GEP-1897 (BackendTLSPolicy) and GEP-713 (policy attachment).

mod api;
mod attach;
mod ca;
mod ca_object;
mod conflict;
mod endpoints;
mod external;
mod fields;
mod objects;
mod options;
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
pub use objects::{Installation, Objects};
pub(crate) use options::CLIENT_CERTIFICATE;
pub use options::{ClientTls, Options, Pin, TlsVersion, ValidationMode};
pub(crate) use service::is_special;
pub use snapshot::{
    CaBundle, ObjectName, Origination, Refusal, Snapshot, SubjectAltName, Target, Upstream,
};
pub use status::{AncestorStatus, Condition, PolicyStatus, Reason};

use attach::Attached;
use ca::{Authorities, Resolved};
use validate::Spec;

use crate::pods::decide::{ENABLED, REDIRECT};

/// What [`compile`] makes of the objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compiled {
    /// For the data plane.
    pub snapshot: Snapshot,
    /// One for each policy, by name.
    pub statuses: Vec<PolicyStatus>,
}

/// Compiles `objects`.
pub fn compile(objects: &Objects, installation: &Installation) -> Compiled {
    let mut authorities = Authorities::new(objects, installation.system_roots.as_ref());
    let (out, policies): (Vec<_>, Vec<_>) = conflict::by_precedence(&objects.policies)
        .into_iter()
        .partition(|(_, policy)| policy.is_opted_out());
    let policies: Vec<Policy> = policies
        .into_iter()
        .map(|(name, policy)| {
            let insecure = installation.insecure_validation;
            Policy::new(name, policy, &mut authorities, insecure)
        })
        .collect();
    let attached = Attached::new(objects, &policies);
    let snapshot = attached.snapshot(&objects.endpoint_slices);
    let mut statuses = attached.statuses(&snapshot);
    statuses.extend(
        out.into_iter()
            .map(|(name, policy)| opted_out(name, policy)),
    );
    statuses.sort_by(|a, b| a.policy.cmp(&b.policy));
    Compiled { snapshot, statuses }
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
struct Policy<'a> {
    name: &'a ObjectName,
    uid: Option<String>,
    generation: Option<i64>,
    spec: Spec,
    /// What its author should know of the spec, although it is no mistake.
    warnings: Vec<String>,
    /// The TLS it asks for; or condition `Accepted`, which is False.
    plan: Result<Arc<Origination>, Condition>,
    /// Condition `ResolvedRefs`.
    resolved_refs: Option<Condition>,
}

impl<'a> Policy<'a> {
    fn new(
        name: &'a ObjectName,
        policy: &BackendTlsPolicy,
        authorities: &mut Authorities,
        insecure_validation: bool,
    ) -> Self {
        let mut spec = validate::read(&policy.spec);
        if !insecure_validation {
            spec.forbid_insecure_validation();
        }
        let generation = policy.metadata.generation;
        let invalid = || Condition::new(Reason::Invalid, spec.problems.join("; "));
        let Resolved { roots, condition } = match &spec.trust {
            Some(trust) => authorities.resolve(&name.namespace, trust),
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
        Self {
            name,
            uid: policy.metadata.uid.clone(),
            generation,
            spec,
            warnings: warnings(policy),
            plan,
            resolved_refs: condition,
        }
    }
}

/// What is no mistake in the spec, but has no effect.
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
