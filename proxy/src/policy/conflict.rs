//! Who wins where two policies meet: on one target (GEP-1897, GEP-713), or on one address of two Services.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use super::BackendTlsPolicy;
use super::service::Scope;
use super::snapshot::{ObjectName, Refusal, Target};
use super::status::{Reason, listed};

/// All policies, the one with the highest precedence first: oldest, then by namespace/name. Without a
/// creationTimestamp (files) comes last.
pub(super) fn by_precedence(
    policies: &BTreeMap<ObjectName, BackendTlsPolicy>,
) -> Vec<(&ObjectName, &BackendTlsPolicy)> {
    let mut sorted: Vec<_> = policies.iter().collect();
    // A stable sort of what is sorted by name already.
    sorted.sort_by_key(|(_, policy)| {
        let created = policy
            .metadata
            .creation_timestamp
            .as_ref()
            .map(|time| time.0);
        (created.is_none(), created)
    });
    sorted
}

/// The winning policy of each target that has one, valid or not. Services and policies go by their places.
#[derive(Default)]
pub(super) struct Winners(BTreeMap<(usize, Scope), usize>);

impl Winners {
    /// Enters a policy for a target. The first one stays: call in order of precedence.
    pub(super) fn claim(&mut self, service: usize, scope: Scope, policy: usize) {
        self.0.entry((service, scope)).or_insert(policy);
    }

    /// The policy that won this very target.
    pub(super) fn of(&self, service: usize, scope: Scope) -> Option<usize> {
        self.0.get(&(service, scope)).copied()
    }

    /// The policy that is in force on a port: its own before the Service's.
    pub(super) fn in_force(&self, service: usize, port: usize) -> Option<usize> {
        self.of(service, Scope::Port(port))
            .or_else(|| self.of(service, Scope::Service))
    }
}

/// One target for each address. Two Services can share an external address; where they want different things of it,
/// nobody can tell which one a client means, so it is refused.
pub(super) fn settle(
    claims: BTreeMap<SocketAddr, Vec<Arc<Target>>>,
) -> BTreeMap<SocketAddr, Arc<Target>> {
    let settled = claims.into_iter().filter_map(|(address, mut targets)| {
        targets.sort_by(|a, b| a.service.cmp(&b.service));
        let disagreement = disagreement(address, &targets);
        let mut target = targets.into_iter().next()?;
        if let Some(refusal) = disagreement {
            Arc::make_mut(&mut target).plan = Err(refusal);
        }
        Some((address, target))
    });
    settled.collect()
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
