//! The agent's answer: first what becomes of the client's connects, then what is in force where it connects to.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::SystemTime;

use anyhow::Result;

use super::client::{Client, Fate, Node};
use super::report::{Explanation, Handshake, LastError, Outcome, Policy, Target, rfc3339};
use super::service::{Named, port_text};
use crate::ask::Parameters;
use crate::failure::Reason;
use crate::identity::DEFAULT_NAMESPACE;
use crate::policy::{self, BackendTlsPolicy, Compiler, ObjectName, Upstream};
use crate::proxy::{Lately, Routes};
use crate::readiness::Readiness;
use crate::status::{Facts, Live, alt_name, kernel};
use crate::tls::certificate::Certificate;

/// The domain of the options that are shown.
const OPTIONS: &str = "nodetls.io/";

/// The page `/explain`: an [`Explanation`] as JSON.
///
/// # Errors
/// What is asked for can't be told, or the pins can't be read.
pub(crate) fn page(live: &Live, readiness: &Readiness, parameters: &Parameters) -> Result<String> {
    let (parts, facts) = (live.parts()?, live.facts());
    let node = Node {
        netns: kernel(&facts.pins)?.0.netns,
        facts: &facts,
        cluster: parts.cluster.as_ref(),
    };
    let client = node.client(parameters.required("client")?)?;
    let text = parameters.required("service")?;
    let compiler = parts.compiler.lock();
    let compiler = compiler.unwrap_or_else(PoisonError::into_inner);
    let namespace = client.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
    let routes = Arc::clone(&parts.proxy.routes.borrow());
    let judge = Judge {
        facts: &facts,
        compiler: &compiler,
        routes: &routes,
    };
    let mut explanation = match Named::read(text, namespace, &compiler, &facts.snapshot)? {
        Named::Port(service, port) => judge.explain(client, &service, port),
        Named::Address(address) => no_target(client, address),
    };
    let missing = readiness.missing().into_iter();
    explanation
        .notes
        .extend(missing.map(|what| format!("the agent is not ready: {what}")));
    explanation.notes.extend(facts.left_out.clone());
    Ok(serde_json::to_string_pretty(&explanation)? + "\n")
}

pub(super) struct Judge<'a> {
    facts: &'a Facts,
    pub(super) compiler: &'a Compiler,
    routes: &'a Routes,
}

impl Judge<'_> {
    fn explain(&self, client: Client, service: &ObjectName, port: u16) -> Explanation {
        let targets = self.targets(service, port);
        let policies = self.policies(service);
        let shown = port_text(service, port);
        let (outcome, why, cure) = match client.fate {
            Fate::Untouched { why, cure } => (Outcome::Untouched, why, Some(cure)),
            _ if targets.is_empty() => self.untargeted(service, port, &policies),
            Fate::Refused { why, cure } => (Outcome::Refused, why, Some(cure)),
            Fate::Turned => of_targets(&client.name, &shown, &targets),
        };
        let earlier = self.facts.earlier.iter();
        let earlier = earlier.filter(|one| one.netns == client.name && one.service == shown);
        let earlier = earlier.count();
        let mut notes = Vec::new();
        if earlier > 0 {
            notes.push(format!(
                "{earlier} connections of it are older than its enrolment or than the target, and go on as they are: \
                 restart the client, or start the agent with --cut-earlier-connections"
            ));
        }
        if targets.len() > 1 {
            notes.push("not all addresses of the port share one fate: see each below".to_owned());
        }
        Explanation {
            client: client.name,
            service: shown,
            outcome,
            why,
            cure,
            targets,
            policies,
            notes,
        }
    }

    /// What is in force; of equals one.
    fn targets(&self, service: &ObjectName, port: u16) -> Vec<Target> {
        let mut all: Vec<(&policy::Target, Vec<SocketAddr>)> = Vec::new();
        for (address, target) in &self.facts.snapshot.targets {
            if target.service != *service || target.port != port {
                continue;
            }
            match all.iter_mut().find(|(other, _)| **other == **target) {
                Some((_, addresses)) => addresses.push(*address),
                None => all.push((target, vec![*address])),
            }
        }
        let shown = all.into_iter();
        shown
            .map(|(target, addresses)| self.target(target, addresses))
            .collect()
    }

    fn target(&self, target: &policy::Target, addresses: Vec<SocketAddr>) -> Target {
        let (plan, refusal) = match &target.plan {
            Ok(plan) => (Some(plan), None),
            Err(refusal) => (None, Some(refusal)),
        };
        let lately = self.lately(target);
        let written = self.compiler.policy(&target.policy);
        Target {
            addresses,
            policy: target.policy.to_string(),
            reason: refusal.map(|refusal| refusal.reason.to_owned()),
            message: refusal.map(|refusal| refusal.message.clone()),
            hostname: plan.map(|plan| plan.hostname.clone()),
            subject_alt_names: plan
                .iter()
                .flat_map(|plan| plan.subject_alt_names.iter().map(alt_name))
                .collect(),
            ca: plan
                .iter()
                .flat_map(|plan| plan.roots.certificates.iter().map(Certificate::of))
                .collect(),
            options: written.map(|policy| options(policy)).unwrap_or_default(),
            endpoints: match &target.upstream {
                Upstream::Endpoints(endpoints) => Some(endpoints.clone()),
                Upstream::ServiceAddress | Upstream::Host { .. } => None,
            },
            external_host: match &target.upstream {
                Upstream::Host { name, port } => Some(format!("{name}:{port}")),
                Upstream::Endpoints(_) | Upstream::ServiceAddress => None,
            },
            last_handshake: lately.handshake.map(|(time, session)| Handshake {
                time: rfc3339(time),
                version: session.version.to_owned(),
                cipher: session.cipher_suite.to_owned(),
                group: session.group.to_owned(),
                resumed: session.resumed,
            }),
            last_error: LastError::of(lately),
        }
    }

    /// Of all the addresses that share a fate.
    fn lately(&self, target: &policy::Target) -> Lately {
        let routes = self.routes.by_id.values();
        let routes = routes.filter(|route| *route.target == *target);
        routes
            .map(|route| route.lately())
            .fold(Lately::default(), |all, one| Lately {
                failing: one.failing.or(all.failing),
                handshake: newest(all.handshake, one.handshake),
                failure: newest(all.failure, one.failure),
            })
    }

    fn policies(&self, service: &ObjectName) -> Vec<Policy> {
        let mut policies = Vec::new();
        for status in self.facts.policies.iter() {
            if status.policy.namespace != service.namespace {
                continue;
            }
            let ancestors = status.ancestors.iter();
            for ancestor in ancestors.filter(|ancestor| *ancestor.service == *service.name) {
                policies.push(Policy {
                    policy: status.policy.to_string(),
                    section_name: ancestor.section_name.clone(),
                    accepted: ancestor.accepted.status,
                    reason: ancestor.accepted.reason.as_str().to_owned(),
                    message: ancestor.accepted.message.clone(),
                    warnings: [&ancestor.warnings[..], &status.warnings].concat(),
                });
            }
        }
        let opted_out = self.compiler.opted_out(service).into_iter();
        policies.extend(opted_out.map(|name| {
            Policy {
                policy: name.to_string(),
                section_name: None,
                accepted: false,
                reason: "OptedOut".to_owned(),
                message:
                    "it says nodetls.io/redirect: disabled, and is left to other implementations"
                        .to_owned(),
                warnings: Vec::new(),
            }
        }));
        policies
    }
}

/// What becomes of connections that are turned to us.
fn of_targets(
    client: &str,
    service: &str,
    targets: &[Target],
) -> (Outcome, String, Option<String>) {
    let accepted: Vec<_> = targets
        .iter()
        .filter(|target| target.reason.is_none())
        .collect();
    let Some(first) = accepted.first() else {
        let message = targets.first().and_then(|target| target.message.clone());
        return (Outcome::Refused, message.unwrap_or_default(), None);
    };
    let empty = |target: &&&Target| target.endpoints.as_ref().is_some_and(Vec::is_empty);
    if accepted.iter().any(|target| empty(&target)) {
        let why = format!("{service} has no ready endpoint");
        return (
            Outcome::Failing,
            why,
            Some(Reason::NoEndpoints.cure().to_owned()),
        );
    }
    let errors = accepted
        .iter()
        .filter_map(|target| target.last_error.as_ref());
    if let Some(error) = errors.clone().find(|error| error.failing) {
        let why = format!(
            "the last TLS handshake failed ({}): {}",
            error.reason, error.detail
        );
        return (Outcome::Failing, why, Some(error.cure.clone()));
    }
    let policy = &first.policy;
    let why =
        format!("{client} is enrolled, and BackendTLSPolicy {policy} is in force on {service}");
    (Outcome::Secured, why, None)
}

fn no_target(client: Client, address: SocketAddr) -> Explanation {
    let why = format!("{address} is no address of a Service that a BackendTLSPolicy targets");
    let cure = "name the Service instead of the address, to be told why".to_owned();
    Explanation {
        client: client.name,
        service: address.to_string(),
        outcome: Outcome::Untouched,
        why,
        cure: Some(cure),
        targets: Vec::new(),
        policies: Vec::new(),
        notes: Vec::new(),
    }
}

fn options(policy: &BackendTlsPolicy) -> BTreeMap<String, String> {
    let written = policy.spec["options"].as_object();
    let written = written.into_iter().flatten();
    let ours = written.filter(|(key, _)| key.starts_with(OPTIONS));
    ours.map(|(key, value)| {
        let text = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        (key.clone(), text)
    })
    .collect()
}

fn newest<T>(
    one: Option<(SystemTime, T)>,
    other: Option<(SystemTime, T)>,
) -> Option<(SystemTime, T)> {
    match (one, other) {
        (Some(one), Some(other)) if one.0 > other.0 => Some(one),
        (one, other) => other.or(one),
    }
}
