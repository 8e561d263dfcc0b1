//! The agent's half: what it knows of itself, and the page `/status`.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use anyhow::Result;
use serde_json::{Value, json};

use super::gather::kernel;
use super::node_pods::NodePods;
use super::problems;
use super::report::{
    Answer, Audit, Ca, Connections, EarlierConnection, Target, TargetError, TargetState,
};
use crate::ask::Unanswerable;
use crate::explain::LastError;
use crate::metrics::{Audited, Metrics};
use crate::pods::Pod;
use crate::policy::{
    self, AncestorStatus, CaBundle, Compiler, Condition, PolicyStatus, Snapshot, SubjectAltName,
    Upstream,
};
use crate::proxy::{Failing, Proxy};
use crate::readiness::Readiness;
use crate::tls::describe::{LISTED, subject};

/// Ports of Services whose last error is told.
const MAX_ERRORS: usize = 20;

/// What the agent knows of itself. Clones share it.
#[derive(Clone, Default)]
pub struct Live {
    facts: Arc<Mutex<Facts>>,
    parts: Arc<OnceLock<Parts>>,
}

/// What of the agent itself is looked at, once it has come that far.
pub(crate) struct Parts {
    /// It alone knows Services that nobody targets.
    pub(crate) compiler: Arc<Mutex<Compiler>>,
    pub(crate) proxy: Arc<Proxy>,
    /// None without a cluster.
    pub(crate) cluster: Option<NodePods>,
}

/// Cheap to clone: a look takes no longer than that.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    pub(crate) pins: PathBuf,
    /// Where these are now, if the node has another bpffs there.
    pub(crate) moved: Option<PathBuf>,
    pub(crate) epoch: u64,
    /// Names by cookie.
    pub(crate) netns: BTreeMap<u64, String>,
    /// Those whose connects come to us.
    pub(crate) pods: Arc<[Arc<Pod>]>,
    /// Why others are not enrolled, by name.
    pub(crate) not_enrolled: Arc<BTreeMap<String, String>>,
    /// What is in force.
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) policies: Arc<[Arc<PolicyStatus>]>,
    /// Why manifests can't be read.
    pub(crate) unreadable: Arc<[String]>,
    /// Why the objects may not be the API server's; each names its cure.
    pub(crate) out_of_step: Arc<[String]>,
    /// Why nobody finds what is pinned; with its cure.
    pub(crate) bpffs: Option<String>,
    /// What there is no room for; with the cure.
    pub(crate) left_out: Option<String>,
    /// What nobody has turned.
    pub(crate) earlier: Arc<[EarlierConnection]>,
    /// What fails now.
    pub(crate) failing: Arc<[Failing]>,
    /// In audit mode.
    pub(crate) audited: Option<Arc<[Audited]>>,
}

impl Live {
    pub(crate) fn update(&self, change: impl FnOnce(&mut Facts)) {
        change(&mut self.facts.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn facts(&self) -> Facts {
        let facts = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        facts.clone()
    }

    /// The page `/policies`: what became of each, as JSON.
    ///
    /// # Errors
    /// None that can be thought of.
    pub(crate) fn policies(&self) -> Result<String> {
        let facts = self.facts();
        let all: Vec<_> = facts.policies.iter().map(|one| policy(one)).collect();
        Ok(serde_json::to_string_pretty(&all)? + "\n")
    }

    /// To be called once.
    pub(crate) fn set_parts(&self, parts: Parts) {
        let first = self.parts.set(parts).is_ok();
        debug_assert!(first);
    }

    /// # Errors
    /// It is too early.
    pub(crate) fn parts(&self) -> Result<&Parts, Unanswerable> {
        let early = || Unanswerable("the agent is starting: ask again when it is ready".to_owned());
        self.parts.get().ok_or_else(early)
    }
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live").finish_non_exhaustive()
    }
}

/// The page `/status`: a [`super::Status`] as JSON.
///
/// # Errors
/// When the pins can't be read.
pub(crate) fn page(live: &Live, metrics: &Metrics, readiness: &Readiness) -> Result<String> {
    let facts = live.facts();
    let (mut status, _) = kernel(facts.moved.as_ref().unwrap_or(&facts.pins))?;
    status.pins = facts.pins;
    let missing = readiness.entries();
    status.answer = Some(Answer {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        epoch: facts.epoch,
        ready: missing.is_empty(),
    });
    for netns in &mut status.netns {
        let known = facts.netns.get(&netns.cookie);
        netns.name = known.cloned().or(netns.name.take());
    }
    status.targets = targets(&facts.snapshot, &open(metrics));
    status.connections = Some(connections(metrics));
    status.errors = live.parts().map_or_else(|_| Vec::new(), errors);
    status.earlier = facts.earlier.to_vec();
    status.audit = facts
        .audited
        .as_ref()
        .map(|rows| rows.iter().map(audit).collect());
    let found = [
        problems::of_agent(&missing),
        problems::of_policies(&facts.policies, &facts.unreadable),
        problems::with_cure(&facts.out_of_step),
        problems::with_cure(facts.bpffs.as_slice()),
        problems::with_cure(facts.left_out.as_slice()),
        problems::of_targets(&status.targets),
        problems::of_handshakes(&facts.failing),
        problems::of_audit(facts.audited.as_deref().unwrap_or_default()),
        problems::of_kernel(&status),
    ];
    status.problems.extend(found.into_iter().flatten());
    status.healthy = status.problems.is_empty();
    Ok(serde_json::to_string_pretty(&status)? + "\n")
}

fn errors(parts: &Parts) -> Vec<TargetError> {
    let routes = Arc::clone(&parts.proxy.routes.borrow());
    let errors = routes.by_id.values().filter_map(|route| {
        let error = LastError::of(route.lately())?;
        let (service, port) = (route.target.service.to_string(), route.target.port);
        Some(TargetError {
            service,
            port,
            error,
        })
    });
    let mut errors: Vec<_> = errors.collect();
    // RFC 3339 in UTC sorts as text.
    errors.sort_by(|one, other| other.error.time.cmp(&one.error.time));
    let mut seen = HashSet::new();
    errors.retain(|one| seen.insert((one.service.clone(), one.port)));
    errors.truncate(MAX_ERRORS);
    errors
}

fn policy(status: &PolicyStatus) -> Value {
    let condition = |condition: &Condition| json!({"status": condition.status, "reason": condition.reason.as_str(), "message": condition.message});
    let ancestor = |ancestor: &AncestorStatus| {
        json!({
            "service": ancestor.service,
            "sectionName": ancestor.section_name,
            "accepted": condition(&ancestor.accepted),
            "resolvedRefs": ancestor.resolved_refs.as_ref().map(condition),
            "refusedAddresses": ancestor.refused_addresses,
            "warnings": ancestor.warnings,
        })
    };
    json!({
        "policy": status.policy.to_string(),
        "generation": status.generation,
        "optedOut": status.opted_out,
        "problems": status.problems,
        "warnings": status.warnings,
        "targets": status.ancestors.iter().map(ancestor).collect::<Vec<_>>(),
    })
}

/// Open connections by Service (`namespace/name`) and port.
fn open(metrics: &Metrics) -> BTreeMap<(String, String), u64> {
    let series = metrics.series("nodetls_open_connections").into_iter();
    let by_target = series.filter_map(|(mut labels, open)| {
        let (namespace, name) = (
            labels.remove("service_namespace")?,
            labels.remove("service")?,
        );
        Some((
            (format!("{namespace}/{name}"), labels.remove("port")?),
            open,
        ))
    });
    by_target.collect()
}

fn connections(metrics: &Metrics) -> Connections {
    let by = |name: &str, label: &str| {
        let mut sums = BTreeMap::new();
        for (mut labels, count) in metrics.series(name) {
            *sums
                .entry(labels.remove(label).unwrap_or_default())
                .or_default() += count;
        }
        sums
    };
    let sum = |name| by(name, "").into_values().sum();
    let handshakes = by("nodetls_tls_handshakes_total", "result");
    let result = |name| handshakes.get(name).copied().unwrap_or_default();
    Connections {
        open: sum("nodetls_open_connections"),
        opened: sum("nodetls_connections_opened_total"),
        passed_through: sum("nodetls_passthrough_connections_total"),
        handshakes_ok: result("ok"),
        handshakes_failed: result("failed"),
        failures: by("nodetls_connection_failures_total", "reason"),
    }
}

/// One for each port of a Service; where its addresses don't share one fate, one for each fate.
fn targets(snapshot: &Snapshot, open: &BTreeMap<(String, String), u64>) -> Vec<Target> {
    let mut all: BTreeMap<_, Vec<(&policy::Target, Target)>> = BTreeMap::new();
    for (address, target) in &snapshot.targets {
        let same_port = all.entry((&target.service, target.port)).or_default();
        match same_port.iter_mut().find(|(other, _)| **other == **target) {
            Some((_, row)) => row.addresses.push(*address),
            None => {
                let mut row = row(target);
                row.addresses.push(*address);
                let key = (target.service.to_string(), target.port.to_string());
                row.open = open.get(&key).copied().unwrap_or_default();
                same_port.push((target, row));
            }
        }
    }
    let rows = all.into_values().flatten();
    rows.map(|(_, row)| row).collect()
}

fn row(target: &policy::Target) -> Target {
    let refusal = target.plan.as_ref().err();
    let plan = target.plan.as_ref().ok();
    let names = plan.map(|plan| plan.subject_alt_names.iter().map(alt_name).collect());
    Target {
        service: Some(target.service.to_string()),
        port: target.port,
        addresses: Vec::new(),
        policy: Some(target.policy.to_string()),
        state: match refusal {
            None => TargetState::Accepted,
            Some(_) => TargetState::Refused,
        },
        reason: refusal.map(|refusal| refusal.reason.to_owned()),
        message: refusal.map(|refusal| refusal.message.clone()),
        hostname: plan.map(|plan| plan.hostname.clone()),
        subject_alt_names: names.unwrap_or_default(),
        ca: plan.map(|plan| ca(&plan.roots)),
        endpoints: match &target.upstream {
            Upstream::ServiceAddress | Upstream::Host { .. } => None,
            Upstream::Endpoints(endpoints) => Some(endpoints.clone()),
        },
        external_host: match &target.upstream {
            Upstream::Host { name, port } => Some(format!("{name}:{port}")),
            _ => None,
        },
        open: 0,
    }
}

fn audit(found: &Audited) -> Audit {
    Audit {
        service: found.service.to_string(),
        port: found.port,
        connects: found.connects,
        probe: found.result().map(str::to_owned),
    }
}

pub(crate) fn alt_name(name: &SubjectAltName) -> String {
    match name {
        SubjectAltName::Hostname(name) | SubjectAltName::Uri(name) => name.clone(),
    }
}

fn ca(bundle: &CaBundle) -> Ca {
    let first = bundle.certificates.iter().take(LISTED);
    Ca {
        count: bundle.certificates.len(),
        subjects: first.map(subject).collect(),
    }
}
