//! The compiler's memory: what was made of each object, so that a change costs what hangs on it, not the whole.
//!
//! What a policy asks for hangs on the policy and the CA objects that it names ([`Policy`]); which policy is in force on
//! a Service's ports, on the Service, its slices, others' ClusterIPs, and the policies that name it ([`Attached`]); what
//! is in effect on an address, on the Services that have it; a status, on all of these.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use super::attach::{Attached, without_service};
use super::ca::Authorities;
use super::endpoints::Slices;
use super::service::{ClusterIps, View};
use super::snapshot::{ObjectName, Snapshot, Target};
use super::status::PolicyStatus;
use super::{Compiled, Installation, Objects, Policy, conflict, opted_out, parallel, read};

/// Compiles again and again, at the cost of what has changed. Each result is what [`compile`](super::compile) gives for
/// the same objects.
#[derive(Default)]
pub struct Compiler {
    pub(super) seen: Objects,
    installation: Installation,
    authorities: Authorities,
    cluster_ips: ClusterIps,
    slices: Slices,
    /// Those that did not opt out.
    policies: HashMap<ObjectName, Arc<Policy>>,
    /// Service → policies that name it, whether or not it exists.
    claimants: HashMap<ObjectName, HashSet<ObjectName>>,
    /// The Services that exist and are named.
    attached: HashMap<ObjectName, Attached>,
    /// What each of the Services that have an address makes of it.
    claims: HashMap<SocketAddr, Vec<Arc<Target>>>,
    in_effect: BTreeMap<SocketAddr, Arc<Target>>,
    statuses: BTreeMap<ObjectName, Arc<PolicyStatus>>,
}

impl Compiler {
    /// Compiles `objects`; fast when most of them are the very ones (by pointer) of the last time.
    pub fn compile(&mut self, objects: &Objects, installation: &Installation) -> Compiled {
        if self.installation != *installation || self.seen.ca_secrets != objects.ca_secrets {
            *self = Self::default();
            self.installation = installation.clone();
            self.seen.ca_secrets = objects.ca_secrets;
        }
        let (mut services, mut policies) = (Vec::new(), Vec::new());
        self.follow_policies(objects, &mut services, &mut policies);
        self.follow_services(objects, &mut services);
        self.follow_slices(objects, &mut services);
        order(&mut services);
        let addresses = self.attach(&services, &mut policies);
        self.settle(addresses, &services, &mut policies);
        order(&mut policies);
        let statuses = parallel::map(&policies, |name| {
            match (self.policies.get(name), self.seen.policies.get(name)) {
                (Some(policy), _) => Some(self.status(policy)),
                (None, Some(left_alone)) => Some(opted_out(name, left_alone)),
                (None, None) => None,
            }
        });
        for (name, status) in policies.into_iter().zip(statuses) {
            match status {
                Some(status) => _ = self.statuses.insert(name, Arc::new(status)),
                None => _ = self.statuses.remove(&name),
            }
        }
        self.authorities.forget_unused();
        Compiled {
            snapshot: Snapshot {
                targets: self.in_effect.clone(),
            },
            statuses: self.statuses.values().cloned().collect(),
        }
    }

    /// Reads again the policies that have changed, or whose CA objects have. One that opted out takes part in nothing.
    fn follow_policies(
        &mut self,
        objects: &Objects,
        services: &mut Vec<ObjectName>,
        policies: &mut Vec<ObjectName>,
    ) {
        let cas = changes(&mut self.seen.ca_objects, &objects.ca_objects, |a, b| {
            a == b
        });
        let cas: BTreeSet<_> = cas.into_iter().map(|change| change.name).collect();
        self.authorities.forget(&cas);
        let changed = changes(&mut self.seen.policies, &objects.policies, same);
        policies.extend(changed.into_iter().map(|change| change.name));
        if !cas.is_empty() {
            let named = |policy: &Policy| policy.cas.iter().any(|ca| cas.contains(ca));
            let naming = self.policies.values().filter(|policy| named(policy));
            policies.extend(naming.map(|policy| policy.name.clone()));
            order(policies);
        }
        let all = parallel::map(policies, |name| {
            let policy = objects.policies.get(name);
            let policy = policy.filter(|policy| !policy.is_opted_out())?;
            Some((policy, read(policy)))
        });
        for (name, read) in policies.iter().zip(all) {
            if let Some(before) = self.policies.remove(name) {
                for service in &before.services {
                    if let Some(claimants) = self.claimants.get_mut(service) {
                        claimants.remove(name);
                    }
                }
                services.extend(before.services.iter().cloned());
            }
            let Some((policy, read)) = read else {
                continue;
            };
            let (authorities, installation) = (&mut self.authorities, &self.installation);
            let policy = Policy::new(name, policy, read, authorities, objects, installation);
            for service in &policy.services {
                let claimants = self.claimants.entry(service.clone()).or_default();
                claimants.insert(name.clone());
            }
            services.extend(policy.services.iter().cloned());
            self.policies.insert(name.clone(), Arc::new(policy));
        }
    }

    fn follow_services(&mut self, objects: &Objects, services: &mut Vec<ObjectName>) {
        let changed = changes(&mut self.seen.services, &objects.services, same);
        let mut moved = false;
        for change in changed {
            let (before, now) = (change.before.as_deref(), change.now.as_deref());
            moved |= self.cluster_ips.replace(&change.name, before, now);
            services.push(change.name);
        }
        if moved {
            let all = self.attached.values().map(|attached| &attached.view);
            let minding = all.filter(|view| view.minds_cluster_ips);
            services.extend(minding.map(|view| view.name.clone()));
        }
    }

    fn follow_slices(&mut self, objects: &Objects, services: &mut Vec<ObjectName>) {
        let (seen, now) = (&mut self.seen.endpoint_slices, &objects.endpoint_slices);
        for change in changes(seen, now, same) {
            if let Some(before) = &change.before {
                services.extend(self.slices.remove(&change.name, before));
            }
            if let Some(now) = change.now {
                services.extend(self.slices.insert(&change.name, now));
            }
        }
    }

    /// Brings these Services and the policies that name them together. The addresses that they have, or had.
    fn attach(
        &mut self,
        services: &[ObjectName],
        policies: &mut Vec<ObjectName>,
    ) -> Vec<SocketAddr> {
        let attached = parallel::map(services, |name| {
            let service = self.seen.services.get(name)?;
            let claimants = self.claimants_of(name).collect::<Vec<_>>();
            if claimants.is_empty() {
                return None;
            }
            let view = View::new(name, service, &self.cluster_ips, &self.slices);
            Some(Attached::new(view, claimants, &self.slices))
        });
        let mut addresses = Vec::new();
        for (name, attached) in services.iter().zip(attached) {
            let before = self.attached.remove(name).map(|before| before.targets);
            for (address, target) in before.into_iter().flatten() {
                addresses.push(address);
                if let Some(claims) = self.claims.get_mut(&address) {
                    claims.retain(|claim| !Arc::ptr_eq(claim, &target));
                }
            }
            policies.extend(self.claimants_of(name).map(|policy| policy.name.clone()));
            if self.claimants.get(name).is_some_and(HashSet::is_empty) {
                self.claimants.remove(name);
            }
            let Some(attached) = attached else {
                continue;
            };
            for (address, target) in &attached.targets {
                addresses.push(*address);
                let claims = self.claims.entry(*address).or_default();
                claims.push(Arc::clone(target));
            }
            self.attached.insert(name.clone(), attached);
        }
        addresses
    }

    /// The policies that name a Service.
    fn claimants_of(&self, service: &ObjectName) -> impl Iterator<Item = &Arc<Policy>> {
        let claimants = self.claimants.get(service).into_iter().flatten();
        claimants.filter_map(|policy| self.policies.get(policy))
    }

    /// Decides what is in effect on these addresses. Another Service that has one of them may be refused now, or not any
    /// more: that changes the statuses of its policies.
    fn settle(
        &mut self,
        addresses: Vec<SocketAddr>,
        services: &[ObjectName],
        policies: &mut Vec<ObjectName>,
    ) {
        for address in addresses {
            let claims = self.claims.get(&address).map(Vec::as_slice);
            let Some(target) = conflict::settle(address, claims.unwrap_or_default()) else {
                self.claims.remove(&address);
                self.in_effect.remove(&address);
                continue;
            };
            let others = claims.into_iter().flatten().map(|claim| &claim.service);
            for other in others.filter(|other| services.binary_search(other).is_err()) {
                policies.extend(self.claimants.get(other).into_iter().flatten().cloned());
            }
            self.in_effect.insert(address, target);
        }
    }

    fn status(&self, policy: &Policy) -> PolicyStatus {
        let targets = policy.spec.targets.iter().zip(&policy.services);
        let ancestors = targets.map(|(target, service)| match self.attached.get(service) {
            Some(attached) => attached.ancestor(policy, target, &self.in_effect),
            None => without_service(policy, target, service),
        });
        PolicyStatus {
            policy: policy.name.clone(),
            generation: policy.generation,
            ancestors: ancestors.collect(),
            problems: policy.spec.problems.clone(),
            opted_out: false,
            warnings: policy.warnings.clone(),
        }
    }
}

/// Each once; in order, since objects whose names are beside each other are beside each other in memory.
fn order(names: &mut Vec<ObjectName>) {
    names.sort();
    names.dedup();
}

/// An object that is not what it was.
struct Change<K, V> {
    name: K,
    before: Option<V>,
    now: Option<V>,
}

type Entry<'a, K, V> = (&'a K, &'a V);

/// An object, by pointer, has one name: that need not be looked at.
fn same<K, T>(before: Entry<K, Arc<T>>, now: Entry<K, Arc<T>>) -> bool {
    Arc::ptr_eq(before.1, now.1)
}

/// What is other in `now` than in `seen`, which is brought up to date. What is the `same` is not compared.
fn changes<K: Clone + Ord, V: Clone + PartialEq>(
    seen: &mut BTreeMap<K, V>,
    now: &BTreeMap<K, V>,
    same: fn(Entry<K, V>, Entry<K, V>) -> bool,
) -> Vec<Change<K, V>> {
    let mut differing = Vec::new();
    let (mut before, mut after) = (seen.iter().peekable(), now.iter().peekable());
    loop {
        // Both are sorted by name.
        let order = match (before.peek(), after.peek()) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(before), Some(after)) if same(*before, *after) => Ordering::Equal,
            (Some(before), Some(after)) => before.0.cmp(after.0),
        };
        let before = before.next_if(|_| order.is_le());
        let now = after.next_if(|_| order.is_ge());
        if let (Some(before), Some(now)) = (before, now)
            && same(before, now)
        {
            continue;
        }
        let Some((name, _)) = before.or(now) else {
            break;
        };
        differing.push(Change {
            name: name.clone(),
            before: before.map(|(_, before)| before.clone()),
            now: now.map(|(_, now)| now.clone()),
        });
    }
    if differing.len() > now.len() / 8 {
        seen.clone_from(now); // of many, the faster way
    } else {
        for change in &differing {
            match &change.now {
                Some(now) => _ = seen.insert(change.name.clone(), now.clone()),
                None => _ = seen.remove(&change.name),
            }
        }
    }
    differing.retain(|change| change.before != change.now);
    differing
}
