//! The compiler's memory: what was made of each object, so that a change costs what hangs on it, not the whole.
//!
//! What a policy asks for hangs on the policy and the CA objects that it names ([`Policy`]); which policy is in force on
//! a Service's ports, on the Service, its slices, others' ClusterIPs, and the policies that name it ([`Attached`]); what
//! is in effect on an address, on the Services that have it; a status, on all of these.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::Service;

use super::attach::{Attached, without_service};
use super::ca::Authorities;
use super::changes::{Change, changes, extend, same};
use super::conflict::Addresses;
use super::endpoints::{self, Slices};
use super::rows::{Id, Rows};
use super::service::{ClusterIps, View};
use super::snapshot::{ObjectName, Snapshot};
use super::status::PolicyStatus;
use super::{BackendTlsPolicy, Compiled, Installation, Objects, Policy, opted_out, parallel};

/// Compiles again and again, at the cost of what has changed. Each result is what [`compile`](super::compile) gives for
/// the same objects.
#[derive(Default)]
pub struct Compiler {
    pub(super) seen: Objects,
    installation: Installation,
    /// Shared by the threads that read policies.
    authorities: Mutex<Authorities>,
    cluster_ips: ClusterIps,
    services: Rows<Named>,
    /// Those that did not opt out.
    policies: Rows<Option<Arc<Policy>>>,
    addresses: Addresses,
    statuses: BTreeMap<ObjectName, Arc<PolicyStatus>>,
}

/// What goes by the name of a Service, whether or not it exists.
#[derive(Default)]
struct Named {
    service: Option<Arc<Service>>,
    slices: Slices,
    /// The policies that name it.
    claimants: BTreeSet<Id>,
    /// If it exists and is named.
    attached: Option<Attached>,
}

/// What is to be made anew: some of it twice, until it is put in order.
#[derive(Default)]
struct Due {
    services: Vec<Id>,
    policies: Vec<Id>,
}

impl Compiler {
    /// Compiles `objects`; fast when most of them are the very ones (by pointer) of the last time.
    pub fn compile(&mut self, objects: &Objects, installation: &Installation) -> Compiled {
        if self.installation != *installation || self.seen.ca_secrets != objects.ca_secrets {
            *self = Self::default();
            self.installation = installation.clone();
            self.seen.ca_secrets = objects.ca_secrets;
        }
        let mut due = Due::default();
        self.follow_policies(objects, &mut due);
        self.follow_services(objects, &mut due);
        self.follow_slices(objects, &mut due);
        self.attach(&mut due);
        self.settle(&mut due);
        self.tell(&mut due);
        self.authorities().forget_unused();
        Compiled {
            snapshot: Snapshot {
                targets: self.addresses.in_effect().clone(),
            },
            statuses: self.statuses.values().cloned().collect(),
        }
    }

    /// Reads again the policies that have changed, or whose CA objects have. One that opted out takes part in nothing.
    fn follow_policies(&mut self, objects: &Objects, due: &mut Due) {
        let changed = self.changed_policies(objects);
        let read = parallel::map(&changed, |(name, policy)| {
            let policy = policy.as_ref().filter(|policy| !policy.is_opted_out())?;
            let (authorities, installation) = (&self.authorities, &self.installation);
            let policy = Policy::new(name, policy, authorities, objects, installation);
            Some(Arc::new(policy))
        });
        self.policies.reserve(objects.policies.len());
        self.services.reserve(objects.services.len());
        for ((name, object), policy) in changed.iter().zip(read) {
            let id = self.policies.find_or_add(name);
            for target in self.policies[id].iter().flat_map(|before| &before.targets) {
                let service = self.services.find_or_add(&target.service);
                self.services[service].claimants.remove(&id);
                due.services.push(service);
            }
            for target in policy.iter().flat_map(|policy| &policy.targets) {
                let service = self.services.find_or_add(&target.service);
                self.services[service].claimants.insert(id);
                due.services.push(service);
            }
            match (policy, object) {
                (Some(policy), _) => {
                    self.policies[id] = Some(policy);
                    due.policies.push(id);
                    continue;
                }
                (None, Some(left_alone)) => {
                    let status = Arc::new(opted_out(name, left_alone));
                    self.statuses.insert(name.clone(), status);
                }
                (None, None) => _ = self.statuses.remove(name),
            }
            self.policies.remove(id);
        }
    }

    /// The policies to read again, by name; those that are gone, too.
    fn changed_policies(
        &mut self,
        objects: &Objects,
    ) -> Vec<(ObjectName, Option<Arc<BackendTlsPolicy>>)> {
        let cas = changes(&mut self.seen.ca_objects, &objects.ca_objects, |a, b| {
            a == b
        });
        let cas: BTreeSet<_> = cas.into_iter().map(|change| change.name).collect();
        self.authorities().forget(&cas);
        let changed = changes(&mut self.seen.policies, &objects.policies, same);
        let mut changed: Vec<_> = changed
            .into_iter()
            .map(|change| (change.name, change.now))
            .collect();
        if !cas.is_empty() {
            let policies = self.policies.iter().flat_map(|(_, policy)| policy);
            let naming = policies.filter(|policy| policy.cas.iter().any(|ca| cas.contains(ca)));
            let naming = naming.map(|policy| &policy.name);
            changed.extend(naming.map(|name| (name.clone(), objects.policies.get(name).cloned())));
            changed.sort_by(|(a, _), (b, _)| a.cmp(b));
            changed.dedup_by(|(a, _), (b, _)| a == b);
        }
        changed
    }

    fn authorities(&mut self) -> &mut Authorities {
        let authorities = self.authorities.get_mut();
        authorities.unwrap_or_else(PoisonError::into_inner)
    }

    fn follow_services(&mut self, objects: &Objects, due: &mut Due) {
        let mut moved = Vec::new();
        for change in changes(&mut self.seen.services, &objects.services, same) {
            let (before, now) = (change.before.as_deref(), change.now.as_deref());
            moved.extend(self.cluster_ips.replace(&change.name, before, now));
            let id = self.services.find_or_add(&change.name);
            self.services[id].service = change.now;
            due.services.push(id);
        }
        if !moved.is_empty() {
            let minds = |named: &Named| {
                let attached = named.attached.as_ref();
                attached.is_some_and(|one| moved.iter().any(|ip| one.view.chosen.contains(ip)))
            };
            let minding = self.services.iter().filter(|(_, named)| minds(named));
            due.services.extend(minding.map(|(id, _)| id));
        }
    }

    fn follow_slices(&mut self, objects: &Objects, due: &mut Due) {
        let (seen, now) = (&mut self.seen.endpoint_slices, &objects.endpoint_slices);
        for Change { name, before, now } in changes(seen, now, same) {
            if let Some(service) = before.and_then(|slice| endpoints::owner(&name, &slice)) {
                self.slices_of(&service, due).remove(&name);
            }
            if let Some(now) = now
                && let Some(service) = endpoints::owner(&name, &now)
            {
                self.slices_of(&service, due).insert(name, now);
            }
        }
    }

    /// The slices of a Service, which are other than they were.
    fn slices_of(&mut self, service: &ObjectName, due: &mut Due) -> &mut Slices {
        let service = self.services.find_or_add(service);
        due.services.push(service);
        &mut self.services[service].slices
    }

    /// Brings Services and the policies that name them together.
    fn attach(&mut self, due: &mut Due) {
        order(&mut due.services);
        let attached = parallel::map(&due.services, |id| {
            let named = &self.services[*id];
            let service = named.service.as_ref()?;
            let claimants = named.claimants.iter();
            let claimants: Vec<_> = claimants.flat_map(|id| &self.policies[*id]).collect();
            if claimants.is_empty() {
                return None;
            }
            let name = self.services.name(*id);
            let view = View::new(name, service, &self.cluster_ips, &named.slices);
            Some(Attached::new(view, claimants, &named.slices))
        });
        let mut claims = Vec::new();
        for (id, attached) in due.services.iter().zip(attached) {
            let named = &mut self.services[*id];
            due.policies.extend(&named.claimants);
            let before = named.attached.take().map(|before| before.targets);
            for (address, target) in before.into_iter().flatten() {
                self.addresses.withdraw(address, &target);
            }
            claims.extend(
                attached
                    .iter()
                    .flat_map(|attached| attached.targets.iter().cloned()),
            );
            named.attached = attached;
            if named.service.is_none() && named.claimants.is_empty() && named.slices.is_empty() {
                self.services.remove(*id);
            }
        }
        self.addresses.claim(claims);
    }

    /// Decides what is in effect on addresses that several Services have, or had. Another Service may be refused now, or
    /// not any more: that changes the statuses of its policies.
    fn settle(&mut self, due: &mut Due) {
        for service in self.addresses.settle() {
            let service = self.services.find(&service);
            let claimants = service.map(|service| &self.services[service].claimants);
            due.policies.extend(claimants.into_iter().flatten());
        }
    }

    /// Makes the statuses of policies anew.
    fn tell(&mut self, due: &mut Due) {
        order(&mut due.policies);
        let statuses = parallel::map(&due.policies, |id| {
            let policy = self.policies[*id].as_ref()?;
            Some((policy.name.clone(), Arc::new(self.status(policy))))
        });
        extend(&mut self.statuses, statuses.flatten().collect());
    }

    fn status(&self, policy: &Policy) -> PolicyStatus {
        let ancestors = policy.targets.iter().map(|target| {
            let service = self.services.find(&target.service);
            match service.and_then(|id| self.services[id].attached.as_ref()) {
                Some(attached) => attached.ancestor(policy, target, &self.addresses),
                None => without_service(policy, target),
            }
        });
        PolicyStatus {
            policy: policy.name.clone(),
            generation: policy.generation,
            ancestors: ancestors.collect(),
            problems: policy.problems.clone(),
            opted_out: false,
            warnings: policy.warnings.clone(),
        }
    }
}

/// Each once, and in the order in which rows lie in memory.
fn order(ids: &mut Vec<Id>) {
    ids.sort_unstable();
    ids.dedup();
}
