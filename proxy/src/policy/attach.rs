//! Brings policies and Services together: which policy is in force on which port, and what its author should know.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::conflict::{self, Winners};
use super::endpoints::Slices;
use super::service::{self, Port, Scope, View};
use super::snapshot::{ObjectName, Origination, Refusal, Snapshot, Target};
use super::status::{AncestorStatus, Condition, PolicyStatus, Reason, quoted};
use super::validate::TargetRef;
use super::{Objects, Policy};

/// The policies in order of precedence, the Services that they target, and who won what.
pub(super) struct Attached<'a> {
    policies: &'a [Policy<'a>],
    views: Vec<View<'a>>,
    /// For each policy and each of its targets: the place in `views` and the ports; or why there are none.
    found: Vec<Vec<Result<(usize, Scope), String>>>,
    winners: Winners,
}

impl<'a> Attached<'a> {
    /// `policies` come in order of precedence.
    pub(super) fn new(objects: &'a Objects, policies: &'a [Policy<'a>]) -> Self {
        let mut services = Services::new(objects);
        let mut winners = Winners::default();
        let mut found = Vec::with_capacity(policies.len());
        for (place, policy) in policies.iter().enumerate() {
            let targets = policy.spec.targets.iter();
            let targets: Vec<_> = targets
                .map(|target| services.find(policy, target))
                .collect();
            for (service, scope) in targets.iter().flatten() {
                winners.claim(*service, *scope, place);
            }
            found.push(targets);
        }
        Self {
            policies,
            views: services.views,
            found,
            winners,
        }
    }

    /// Every address of every port on which a policy is in force.
    pub(super) fn snapshot(&self, slices: &BTreeMap<ObjectName, EndpointSlice>) -> Snapshot {
        let slices = Slices::new(slices);
        let mut claims: BTreeMap<SocketAddr, Vec<Target>> = BTreeMap::new();
        for (service, view) in self.views.iter().enumerate() {
            for (port, policy) in self.in_force(service, Scope::Service) {
                let policy = &self.policies[policy];
                let plan = plan_for(policy, view).map_err(|condition| refusal(policy, condition));
                for ip in &view.addresses {
                    claims
                        .entry(SocketAddr::new(*ip, port.number))
                        .or_default()
                        .push(Target {
                            service: view.name.clone(),
                            port: port.number,
                            policy: policy.name.clone(),
                            policy_uid: policy.uid.clone(),
                            plan: plan.clone(),
                            upstream: view
                                .external_upstream(port)
                                .unwrap_or_else(|| slices.upstream(view.name, port.name, *ip)),
                        });
                }
            }
        }
        Snapshot {
            targets: conflict::settle(claims),
        }
    }

    /// The TCP ports of a scope that have a policy, each with its place.
    fn in_force(&self, service: usize, scope: Scope) -> impl Iterator<Item = (&Port<'a>, usize)> {
        let tcp = self.views[service]
            .ports_in(scope)
            .filter(|(_, port)| port.is_tcp());
        tcp.filter_map(move |(place, port)| Some((port, self.winners.in_force(service, place)?)))
    }

    /// What became of each policy, given what became of all.
    pub(super) fn statuses(&self, snapshot: &Snapshot) -> Vec<PolicyStatus> {
        let status = |(place, policy): (usize, &Policy)| {
            let targets = policy.spec.targets.iter().zip(&self.found[place]);
            let ancestor = |(target, found)| self.ancestor(place, target, found, snapshot);
            PolicyStatus {
                policy: policy.name.clone(),
                generation: policy.generation,
                ancestors: targets.map(ancestor).collect(),
                problems: policy.spec.problems.clone(),
                opted_out: false,
                warnings: policy.warnings.clone(),
            }
        };
        self.policies.iter().enumerate().map(status).collect()
    }

    fn ancestor(
        &self,
        place: usize,
        target: &TargetRef,
        found: &Result<(usize, Scope), String>,
        snapshot: &Snapshot,
    ) -> AncestorStatus {
        let policy = &self.policies[place];
        let (refused, warnings) = match *found {
            Ok((service, scope)) if self.winners.of(service, scope) == Some(place) => (
                self.refused_addresses(place, service, scope, snapshot),
                self.warnings(place, service, scope),
            ),
            _ => Default::default(),
        };
        let accepted = self.accepted(place, found, &refused);
        AncestorStatus {
            service: target.service.clone(),
            section_name: target.section.clone(),
            refused_addresses: if accepted.status { refused } else { Vec::new() },
            accepted,
            resolved_refs: policy.resolved_refs.clone(),
            warnings,
        }
    }

    /// Condition `Accepted` for one target. The API demands Conflicted of every loser and Invalid of every policy on
    /// UDP, so these come before what else is wrong.
    fn accepted(
        &self,
        policy: usize,
        found: &Result<(usize, Scope), String>,
        refused: &[String],
    ) -> Condition {
        let plan = &self.policies[policy].plan;
        let (service, scope) = match (found, plan) {
            (Ok(found), _) => *found,
            (Err(_), Err(invalid)) if invalid.reason == Reason::Invalid => return invalid.clone(),
            (Err(message), _) => return Condition::new(Reason::TargetNotFound, message),
        };
        let view = &self.views[service];
        if let Some(winner) = self.winners.of(service, scope)
            && winner != policy
        {
            let message = format!(
                "BackendTLSPolicy {} has the same target ({}) and precedence, as the older or \
                 else the first by name: remove one of the two",
                self.policies[winner].name,
                view.describe(scope)
            );
            return Condition::new(Reason::Conflicted, message);
        }
        if let Some(message) = view.without_tcp(scope) {
            return Condition::new(Reason::Invalid, message);
        }
        if let Err(condition) = plan_for(&self.policies[policy], view) {
            return condition;
        }
        let mut sentences = vec![view.describe(scope)];
        sentences.extend(view.notes.iter().cloned());
        sentences.extend(view.other_protocols(scope));
        let mode = self.policies[policy].spec.options.validation_mode;
        sentences.extend(
            mode.warning()
                .map(|warning| format!("{}: {warning}", mode.as_str())),
        );
        sentences.extend(refused.iter().cloned());
        Condition::new(Reason::Accepted, sentences.join("; "))
    }

    /// The TCP ports of a scope on which this very policy is in force.
    fn own_ports(
        &self,
        policy: usize,
        service: usize,
        scope: Scope,
    ) -> impl Iterator<Item = &Port<'a>> {
        let in_force = self.in_force(service, scope);
        in_force.filter_map(move |(port, winner)| (winner == policy).then_some(port))
    }

    /// What the author of a policy that won its target may not have meant.
    fn warnings(&self, policy: usize, service: usize, scope: Scope) -> Vec<String> {
        let view = &self.views[service];
        let mut warnings = view.notes.clone();
        let mode = self.policies[policy].spec.options.validation_mode;
        warnings.extend(
            mode.warning()
                .map(|warning| format!("validation-mode {}: {warning}", mode.as_str())),
        );
        let tcp = view.ports_in(scope).any(|(_, port)| port.is_tcp());
        if tcp && self.own_ports(policy, service, scope).next().is_none() {
            warnings.push(format!(
                "every TCP port of Service {} has a policy of its own: this one is in force on none",
                view.name
            ));
        }
        if tcp && let Some(others) = view.other_protocols(scope) {
            warnings.push(format!("Service {}: {others}", view.name));
        }
        for port in self.own_ports(policy, service, scope) {
            if let Some(protocol) = port.plaintext_protocol() {
                warnings.push(format!(
                    "Service {}, port {port}: appProtocol {} says plaintext: if the server speaks TLS, write https or \
                     kubernetes.io/wss, or leave it out; if not, don't target this port",
                    view.name,
                    quoted(protocol)
                ));
            }
        }
        warnings
    }

    /// Why a valid policy is not in effect on some of its addresses: another Service has them too.
    fn refused_addresses(
        &self,
        policy: usize,
        service: usize,
        scope: Scope,
        snapshot: &Snapshot,
    ) -> Vec<String> {
        let own = self.own_ports(policy, service, scope);
        let addresses = own.flat_map(move |port| {
            let ips = self.views[service].addresses.iter();
            ips.map(|ip| SocketAddr::new(*ip, port.number))
        });
        let targets = addresses.filter_map(|address| snapshot.targets.get(&address));
        targets
            .filter_map(|target| Some(target.plan.as_ref().err()?.message.clone()))
            .collect()
    }
}

/// The Services in demand; each is read once.
struct Services<'a> {
    objects: &'a Objects,
    owners: service::ClusterIps<'a>,
    views: Vec<View<'a>>,
    places: HashMap<&'a ObjectName, usize>,
}

impl<'a> Services<'a> {
    fn new(objects: &'a Objects) -> Self {
        let owners = service::cluster_ips(&objects.services);
        Self {
            objects,
            owners,
            views: Vec::new(),
            places: HashMap::new(),
        }
    }

    /// The place of the Service (of the policy's own namespace) and the ports that a targetRef means.
    fn find(&mut self, policy: &Policy, target: &TargetRef) -> Result<(usize, Scope), String> {
        let name = ObjectName::new(&policy.name.namespace, &target.service);
        let Some((name, service)) = self.objects.services.get_key_value(&name) else {
            return Err(format!(
                "Service {name} does not exist: create it, or correct spec.targetRefs"
            ));
        };
        let place = *self.places.entry(name).or_insert_with(|| {
            self.views.push(View::new(name, service, &self.owners));
            self.views.len() - 1
        });
        Ok((place, self.views[place].scope(target.section.as_deref())?))
    }
}

/// The TLS for a policy's target; or condition `Accepted`, which is False because of the policy or of this Service.
fn plan_for(policy: &Policy, view: &View) -> Result<Arc<Origination>, Condition> {
    let plan = policy.plan.clone()?;
    match &view.external {
        Some(Err(message)) => Err(Condition::new(Reason::Invalid, message)),
        _ => Ok(plan),
    }
}

/// The condition as the data plane tells it, where the policy is not in sight.
fn refusal(policy: &Policy, condition: Condition) -> Refusal {
    Refusal {
        reason: condition.reason.as_str(),
        message: format!("BackendTLSPolicy {}: {}", policy.name, condition.message),
    }
}
