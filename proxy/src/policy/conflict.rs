//! Who wins where two policies meet: on one target (GEP-1897, GEP-713), or on one address of two Services.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use super::Policy;
use super::changes::extend;
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
pub(super) struct Winners {
    service: Option<Arc<Policy>>,
    /// By a port's place.
    ports: Vec<Option<Arc<Policy>>>,
}

impl Winners {
    /// For a Service with so many ports: none yet.
    pub(super) fn new(ports: usize) -> Self {
        Self {
            service: None,
            ports: vec![None; ports],
        }
    }

    /// Enters a policy for a target. The first one stays: call in order of precedence.
    pub(super) fn claim(&mut self, scope: Scope, policy: &Arc<Policy>) {
        let winner = match scope {
            Scope::Service => &mut self.service,
            Scope::Port(port) => &mut self.ports[port],
        };
        winner.get_or_insert_with(|| Arc::clone(policy));
    }

    /// The policy that won this very target.
    pub(super) fn of(&self, scope: Scope) -> Option<&Arc<Policy>> {
        let winner = match scope {
            Scope::Service => &self.service,
            Scope::Port(port) => &self.ports[port],
        };
        winner.as_ref()
    }

    /// The policy that is in force on a port: its own before the Service's.
    pub(super) fn in_force(&self, port: usize) -> Option<&Arc<Policy>> {
        self.of(Scope::Port(port))
            .or_else(|| self.of(Scope::Service))
    }
}

/// What is in effect on every address that some Service claims.
#[derive(Default)]
pub(super) struct Addresses {
    in_effect: BTreeMap<SocketAddr, Arc<Target>>,
    /// The claims to an address, where there are several.
    contested: HashMap<SocketAddr, Vec<Arc<Target>>>,
    /// Those of the contested that were claimed or withdrawn since they were settled.
    unsettled: BTreeSet<SocketAddr>,
}

impl Addresses {
    pub(super) fn in_effect(&self) -> &BTreeMap<SocketAddr, Arc<Target>> {
        &self.in_effect
    }

    /// Why a contested address is refused.
    pub(super) fn refusal(&self, address: &SocketAddr) -> Option<&Refusal> {
        if !self.contested.contains_key(address) {
            return None;
        }
        self.in_effect.get(address)?.plan.as_ref().err()
    }

    /// Enters claims of Services. Where an address has several, that is to be settled.
    pub(super) fn claim(&mut self, mut claims: Vec<(SocketAddr, Arc<Target>)>) {
        claims.sort_by_key(|(address, _)| *address);
        let mut free = Vec::new();
        for same in claims.chunk_by(|(a, _), (b, _)| a == b) {
            match same {
                [claim] if !self.in_effect.contains_key(&claim.0) => free.push(claim.clone()),
                _ => same.iter().for_each(|claim| self.contest(claim)),
            }
        }
        extend(&mut self.in_effect, free);
    }

    fn contest(&mut self, (address, target): &(SocketAddr, Arc<Target>)) {
        if let Some(claims) = self.contested.get_mut(address) {
            claims.push(Arc::clone(target));
        } else if let Some(other) = self.in_effect.insert(*address, Arc::clone(target)) {
            self.contested
                .insert(*address, vec![other, Arc::clone(target)]);
        }
        self.unsettled.insert(*address);
    }

    /// Takes back what was claimed; then as for [`Self::claim`].
    pub(super) fn withdraw(&mut self, address: SocketAddr, target: &Arc<Target>) {
        if let Some(claims) = self.contested.get_mut(&address) {
            claims.retain(|claim| !Arc::ptr_eq(claim, target));
            self.unsettled.insert(address);
        } else {
            self.in_effect.remove(&address);
        }
    }

    /// Decides what is in effect where several Services claim an address, or did. Those that claim it.
    pub(super) fn settle(&mut self) -> BTreeSet<ObjectName> {
        let mut services = BTreeSet::new();
        for address in std::mem::take(&mut self.unsettled) {
            let Some(claims) = self.contested.get(&address) else {
                continue;
            };
            services.extend(claims.iter().map(|claim| claim.service.clone()));
            match settle(address, claims) {
                Some(target) => _ = self.in_effect.insert(address, target),
                None => _ = self.in_effect.remove(&address),
            }
            if claims.len() < 2 {
                self.contested.remove(&address);
            }
        }
        services
    }
}

/// One target for an address. Two Services can share an external address, or a pod; where they want different things of
/// it, nobody can tell which one a client means, so it is refused.
fn settle(address: SocketAddr, claims: &[Arc<Target>]) -> Option<Arc<Target>> {
    // Of equals the first stays.
    let mut first = Arc::clone(
        claims
            .iter()
            .min_by_key(|claim| (&claim.service, claim.port))?,
    );
    if let Some(refusal) = disagreement(address, claims) {
        Arc::make_mut(&mut first).plan = Err(refusal);
    }
    let mut namespaces: BTreeSet<_> = claims
        .iter()
        .map(|claim| &claim.service.namespace)
        .collect();
    namespaces.remove(&first.service.namespace);
    if !namespaces.is_empty() {
        let others = namespaces.into_iter().map(Arc::clone).collect();
        Arc::make_mut(&mut first).contested_by = others;
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
