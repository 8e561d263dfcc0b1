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
pub use objects::Objects;
pub use options::Options;
pub(crate) use service::is_special;
pub use snapshot::{
    CaBundle, ObjectName, Origination, Refusal, Snapshot, SubjectAltName, Target, Upstream,
};
pub use status::{AncestorStatus, Condition, PolicyStatus, Reason};

use attach::Attached;
use ca::{Authorities, Resolved};
use validate::Spec;

/// What [`compile`] makes of the objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compiled {
    /// For the data plane.
    pub snapshot: Snapshot,
    /// One for each policy, by name.
    pub statuses: Vec<PolicyStatus>,
}

/// Compiles `objects`. `system` is the node's trust store, which `wellKnownCACertificates: System` names.
pub fn compile(objects: &Objects, system: Option<&Arc<CaBundle>>) -> Compiled {
    let mut authorities = Authorities::new(objects, system);
    let policies: Vec<Policy> = conflict::by_precedence(&objects.policies)
        .into_iter()
        .map(|(name, policy)| Policy::new(name, policy, &mut authorities))
        .collect();
    let attached = Attached::new(objects, &policies);
    let snapshot = attached.snapshot(&objects.endpoint_slices);
    let mut statuses = attached.statuses(&snapshot);
    statuses.sort_by(|a, b| a.policy.cmp(&b.policy));
    Compiled { snapshot, statuses }
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
    fn new(name: &'a ObjectName, policy: &BackendTlsPolicy, authorities: &mut Authorities) -> Self {
        let spec = validate::read(&policy.spec);
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
            let (hostname, subject_alt_names) =
                (spec.hostname.clone(), spec.subject_alt_names.clone());
            let options = spec.options.clone();
            roots.map(|roots| {
                Arc::new(Origination {
                    hostname,
                    subject_alt_names,
                    roots,
                    options,
                })
            })
        } else {
            Err(invalid())
        };
        Self {
            name,
            uid: policy.metadata.uid.clone(),
            generation,
            spec,
            warnings: unknown::unknown_fields(&policy.spec),
            plan,
            resolved_refs: condition,
        }
    }
}
