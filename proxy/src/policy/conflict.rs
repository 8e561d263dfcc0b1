//! Who wins where two policies meet: on one target (GEP-1897, GEP-713), or on one address of two Services.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use super::Policy;
use super::service::Scope;
use super::snapshot::{ObjectName, Refusal, Target};
use super::status::{Reason, listed};

impl Policy {
    /// The policy with the least has the highest precedence: oldest, then by namespace/name. Without a
    /// creationTimestamp (files) comes last.
    pub(super) fn precedence(&self) -> impl Ord {
        (self.created.is_none(), self.created, &self.name)
    }
}

/// The winning policy of each target of a Service that has one, valid or not.
#[derive(Default)]
pub(super) struct Winners(BTreeMap<Scope, Arc<Policy>>);

impl Winners {
    /// Enters a policy for a target. The first one stays: call in order of precedence.
    pub(super) fn claim(&mut self, scope: Scope, policy: &Arc<Policy>) {
        self.0.entry(scope).or_insert_with(|| Arc::clone(policy));
    }

    /// The policy that won this very target.
    pub(super) fn of(&self, scope: Scope) -> Option<&Arc<Policy>> {
        self.0.get(&scope)
    }

    /// The policy that is in force on a port: its own before the Service's.
    pub(super) fn in_force(&self, port: usize) -> Option<&Arc<Policy>> {
        self.of(Scope::Port(port))
            .or_else(|| self.of(Scope::Service))
    }
}

/// One target for an address. Two Services can share an external address, or a pod; where they want different things of
/// it, nobody can tell which one a client means, so it is refused.
pub(super) fn settle(address: SocketAddr, claims: &[Arc<Target>]) -> Option<Arc<Target>> {
    // Of equals the first stays.
    let mut first = Arc::clone(
        claims
            .iter()
            .min_by_key(|claim| (&claim.service, claim.port))?,
    );
    if let Some(refusal) = disagreement(address, claims) {
        Arc::make_mut(&mut first).plan = Err(refusal);
    }
    Some(first)
}

fn disagreement(address: SocketAddr, targets: &[Arc<Target>]) -> Option<Refusal> {
    let (first, others) = targets.split_first()?;
    if others
        .iter()
        .all(|other| other.plan == first.plan && other.upstream == first.upstream)
    {
        return None;
    }
    let services: BTreeSet<&ObjectName> = targets.iter().map(|target| &target.service).collect();
    let services = listed(services.into_iter());
    Some(Refusal {
        reason: Reason::Conflicted.as_str(),
        message: format!(
            "{address} belongs to several Services ({services}) with different policies or \
             endpoints, and is refused: give each its own address"
        ),
    })
}
