//! Brings a Service and the policies that name it together: which is in force on which port, and what its author should
//! know.

use std::net::SocketAddr;
use std::sync::Arc;

use super::Policy;
use super::conflict::{Addresses, Winners};
use super::endpoints::Slices;
use super::service::{Port, Scope, View};
use super::snapshot::{Origination, Refusal, Target, Upstream};
use super::status::{AncestorStatus, Condition, Reason, quoted};
use super::validate::TargetRef;

/// A Service that policies target, and who won what of it.
pub(super) struct Attached {
    pub(super) view: View,
    winners: Winners,
    /// Every address of every port on which a policy is in force.
    pub(super) targets: Vec<(SocketAddr, Arc<Target>)>,
}

impl Attached {
    /// `policies` are those that name the Service.
    pub(super) fn new(view: View, mut policies: Vec<&Arc<Policy>>, slices: &Slices) -> Self {
        policies.sort_by(|a, b| a.precedence().cmp(&b.precedence()));
        let mut winners = Winners::new(view.ports.len());
        for policy in policies {
            for target in &policy.targets {
                if target.service == view.name
                    && let Ok(scope) = view.scope(target.section.as_deref())
                {
                    winners.claim(scope, policy);
                }
            }
        }
        let mut attached = Self {
            view,
            winners,
            targets: Vec::new(),
        };
        attached.targets = attached.all_targets(slices);
        attached
    }

    fn all_targets(&self, slices: &Slices) -> Vec<(SocketAddr, Arc<Target>)> {
        let mut all = Vec::new();
        for (port, policy) in self.in_force(Scope::Service) {
            let target = |dialled: SocketAddr| {
                let plan = plan_for(policy, &self.view);
                Arc::new(Target {
                    service: self.view.name.clone(),
                    port: port.number,
                    policy: policy.name.clone(),
                    policy_uid: policy.uid.clone(),
                    plan: plan.map_err(|condition| refusal(policy, condition)),
                    upstream: self.upstream(port, dialled, slices),
                    headless: self.view.headless,
                    contested_by: Vec::new(),
                })
            };
            // There may be thousands of addresses; what they share depends on the family alone.
            let mut of_family = [None, None];
            for dialled in &port.addresses {
                let target = of_family[usize::from(dialled.is_ipv6())]
                    .get_or_insert_with(|| target(*dialled));
                all.push((*dialled, Arc::clone(target)));
            }
        }
        all
    }

    fn upstream(&self, port: &Port, dialled: SocketAddr, slices: &Slices) -> Upstream {
        if let Some(host) = self.view.external_upstream(port) {
            return host;
        }
        if self.view.headless {
            return Upstream::ServiceAddress;
        }
        slices.upstream(&port.name, dialled.ip())
    }

    /// The TCP ports of a scope that have a policy.
    fn in_force(&self, scope: Scope) -> impl Iterator<Item = (&Port, &Arc<Policy>)> {
        let tcp = self.view.ports_in(scope).filter(|(_, port)| port.is_tcp());
        tcp.filter_map(move |(place, port)| Some((port, self.winners.in_force(place)?)))
    }

    /// What became of one of a policy's targets.
    pub(super) fn ancestor(
        &self,
        policy: &Policy,
        target: &TargetRef,
        addresses: &Addresses,
    ) -> AncestorStatus {
        let found = self.view.scope(target.section.as_deref());
        let (refused, warnings) = match found {
            Ok(scope)
                if self
                    .winners
                    .of(scope)
                    .is_some_and(|w| w.name == policy.name) =>
            {
                (
                    self.refused_addresses(policy, scope, addresses),
                    self.warnings(policy, scope),
                )
            }
            _ => Default::default(),
        };
        let accepted = match found {
            Ok(scope) => self.accepted(policy, scope, &refused),
            Err(message) => not_found(policy, message),
        };
        AncestorStatus {
            service: (*target.service.name).to_owned(),
            section_name: target.section.clone(),
            refused_addresses: if accepted.status { refused } else { Vec::new() },
            accepted,
            resolved_refs: policy.resolved_refs.clone(),
            warnings,
        }
    }

    /// Condition `Accepted` for one target. The API demands Conflicted of every loser and Invalid of every policy on
    /// UDP, so these come before what else is wrong.
    fn accepted(&self, policy: &Policy, scope: Scope, refused: &[String]) -> Condition {
        let view = &self.view;
        if let Some(winner) = self.winners.of(scope)
            && winner.name != policy.name
        {
            let message = format!(
                "BackendTLSPolicy {} has the same target ({}) and precedence, as the older or \
                 else the first by name: remove one of the two",
                winner.name,
                view.describe(scope)
            );
            return Condition::new(Reason::Conflicted, message);
        }
        if let Some(message) = view.without_tcp(scope) {
            return Condition::new(Reason::Invalid, message);
        }
        if let Err(condition) = plan_for(policy, view) {
            return condition;
        }
        let mut message = view.describe(scope);
        let mut add = |sentence: &str| {
            message.push_str("; ");
            message.push_str(sentence);
        };
        view.notes.iter().for_each(|note| add(note));
        if let Some(others) = view.other_protocols(scope) {
            add(&others);
        }
        let mode = policy.validation_mode;
        if let Some(warning) = mode.warning() {
            add(&format!("{}: {warning}", mode.as_str()));
        }
        refused.iter().for_each(|refused| add(refused));
        Condition::new(Reason::Accepted, message)
    }

    /// The TCP ports of a scope on which this very policy is in force.
    fn own_ports(&self, policy: &Policy, scope: Scope) -> impl Iterator<Item = &Port> {
        let in_force = self.in_force(scope);
        in_force.filter_map(move |(port, winner)| (winner.name == policy.name).then_some(port))
    }

    /// What the author of a policy that won its target may not have meant.
    fn warnings(&self, policy: &Policy, scope: Scope) -> Vec<String> {
        let view = &self.view;
        let mut warnings = view.notes.clone();
        let mode = policy.validation_mode;
        warnings.extend(
            mode.warning()
                .map(|warning| format!("validation-mode {}: {warning}", mode.as_str())),
        );
        let tcp = view.ports_in(scope).any(|(_, port)| port.is_tcp());
        if tcp && self.own_ports(policy, scope).next().is_none() {
            warnings.push(format!(
                "every TCP port of Service {} has a policy of its own: this one is in force on none",
                view.name
            ));
        }
        if tcp && let Some(others) = view.other_protocols(scope) {
            warnings.push(format!("Service {}: {others}", view.name));
        }
        for port in self.own_ports(policy, scope) {
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

    /// Why a valid policy is not in effect on some of its addresses: another Service has them too. Of thousands of them
    /// the first only.
    fn refused_addresses(
        &self,
        policy: &Policy,
        scope: Scope,
        addresses: &Addresses,
    ) -> Vec<String> {
        const SHOWN: usize = 8;
        let own = self.own_ports(policy, scope);
        let own = own.flat_map(|port| &port.addresses);
        let mut refusals = own.filter_map(|address| addresses.refusal(address));
        let shown = refusals.by_ref().take(SHOWN);
        let mut messages: Vec<_> = shown.map(|refusal| refusal.message.clone()).collect();
        let hidden = refusals.count();
        if hidden > 0 {
            messages.push(format!(
                "and {hidden} more addresses of Service {} likewise",
                self.view.name
            ));
        }
        messages
    }
}

/// What became of a target whose Service is not there.
pub(super) fn without_service(policy: &Policy, target: &TargetRef) -> AncestorStatus {
    let message = format!(
        "Service {} does not exist: create it, or correct spec.targetRefs",
        target.service
    );
    AncestorStatus {
        service: (*target.service.name).to_owned(),
        section_name: target.section.clone(),
        refused_addresses: Vec::new(),
        accepted: not_found(policy, message),
        resolved_refs: policy.resolved_refs.clone(),
        warnings: Vec::new(),
    }
}

/// Condition `Accepted` for a target that is not there.
fn not_found(policy: &Policy, message: String) -> Condition {
    match &policy.plan {
        Err(invalid) if invalid.reason == Reason::Invalid => invalid.clone(),
        _ => Condition::new(Reason::TargetNotFound, message),
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
