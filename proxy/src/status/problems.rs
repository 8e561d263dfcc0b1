//! What is wrong, each with its cure.

use std::sync::Arc;

use super::report::{
    AgentState, Exec, ExecState, NetnsState, Problem, Program, Status, Target, TargetState,
};
use crate::agent::{AGENT, MANIFESTS, NETNS, TARGETS};
use crate::failure::Reason;
use crate::metrics::Audited;
use crate::policy::{Condition, PolicyStatus};
use crate::proxy::Failing;

/// What is not as it was pinned.
pub(super) fn of_kernel(status: &Status) -> Vec<Problem> {
    let mut problems = Vec::new();
    for program in &status.programs {
        if program.cgroup_id.is_some() {
            continue;
        }
        let cause = match program.link {
            None => format!("its pin links/{} is gone", program.name),
            Some(_) => "its cgroup is gone".to_owned(),
        };
        let meaning = match program.name.as_str() {
            "connect4" => "IPv4 connects to targets go out as clients make them, in plaintext too",
            "connect6" => "IPv6 connects to targets go out as clients make them, in plaintext too",
            _ => "clients that ask for their peer's address get one of nodetls' own",
        };
        let what = format!("{} is not attached ({cause}): {meaning}", program.name);
        let cure = "(re)start the agent: it attaches what is missing at its start";
        problems.push(Problem::new(what, cure));
    }
    for netns in &status.netns {
        if netns.state == NetnsState::Detached {
            let cookie = netns.cookie;
            let name = netns
                .name
                .clone()
                .unwrap_or_else(|| format!("cookie {cookie}"));
            let what = format!(
                "the sk_lookup program of network namespace {name} is not attached: connects from there to targets \
                 are refused"
            );
            problems.push(Problem::new(
                what,
                "(re)start the agent: it enrols each anew",
            ));
        }
    }
    for exec in &status.exec {
        if exec.state == ExecState::Orphaned {
            let (number, pid) = (&exec.number, exec.pid.unwrap_or_default());
            let command = exec.command.as_deref().unwrap_or("?");
            let what = format!(
                "the proxy of `nodetls exec` {number} is gone, its command ({command}, process {pid}) is not: connects \
                 of that to targets are refused"
            );
            problems.push(Problem::new(what, "end the command and start it again"));
        }
    }
    problems
}

/// Why the agent that answered is not ready.
pub(super) fn of_agent(missing: &[(String, Option<String>)]) -> Vec<Problem> {
    let problem = |(name, text): &(String, Option<String>)| match (name.as_str(), text) {
        (_, None) => Problem::new(
            format!("the agent is starting; pending: {name}"),
            "wait; if it takes long, see its log",
        ),
        (AGENT, Some(text)) => Problem::new(
            format!("this agent is not in charge: {text}"),
            "if no newer one is, start one; if one is, give its address as --admin",
        ),
        (MANIFESTS, Some(text)) => Problem::new(
            format!(
                "not all manifests could be read yet: {text}: what was a target before is refused"
            ),
            "correct the manifest it names",
        ),
        (NETNS, Some(text)) => Problem::new(
            format!("{name}: {text}: connects from there to targets are refused"),
            "the agent tries again every 10 s: if that doesn't help, correct what it names",
        ),
        (TARGETS, Some(text)) => Problem::new(
            format!("targets can't be published: {text}: what was in force before still is"),
            "correct what it names: the agent tries again every 10 s",
        ),
        (_, Some(text)) => Problem::new(format!("{name}: {text}"), "see the agent's log"),
    };
    missing.iter().map(problem).collect()
}

/// Why the objects in force may be old, or what is pinned may go; each names its cure.
pub(super) fn with_cure(texts: &[String]) -> Vec<Problem> {
    let problem = |text: &String| match text.rsplit_once("; ") {
        Some((what, cure)) => Problem::new(what, cure),
        None => Problem::new(text, "see the agent's log"),
    };
    texts.iter().map(problem).collect()
}

/// With which servers there is no TLS.
pub(super) fn of_handshakes(failing: &[Failing]) -> Vec<Problem> {
    let problem = |one: &Failing| {
        let (policy, failure) = (&one.policy, &one.failure);
        let what = format!(
            "BackendTLSPolicy {policy}, Service {}: TLS handshakes fail ({}): {}",
            one.port(),
            failure.reason,
            failure.detail
        );
        Problem::new(what, failure.reason.cure())
    };
    failing.iter().map(problem).collect()
}

/// Ports to which there is no connection at all; those whose handshakes fail are told of already.
pub(super) fn of_audit(audited: &[Audited]) -> Vec<Problem> {
    let problem = |one: &Audited| {
        let failure = one.probe.as_ref()?.as_ref().err()?;
        let told = failure.reason.is_of_handshake() || failure.reason == Reason::PolicyRefused;
        let (service, port) = (&one.service, one.port);
        let what = format!(
            "Service {service}:{port} can't be tried: {}",
            failure.detail
        );
        (!told).then(|| Problem::new(what, failure.reason.cure()))
    };
    audited.iter().filter_map(problem).collect()
}

/// Which policies and manifests are not in effect.
pub(super) fn of_policies(policies: &[Arc<PolicyStatus>], unreadable: &[String]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for error in unreadable {
        let what = format!("a manifest can't be read: {error}");
        let cure = "correct it; its last good objects, if it had any, stay in force";
        problems.push(Problem::new(what, cure));
    }
    for status in policies {
        let policy = &status.policy;
        for ancestor in &status.ancestors {
            let service = match &ancestor.section_name {
                Some(section) => format!("{}:{section}", ancestor.service),
                None => ancestor.service.clone(),
            };
            let refused = |condition: &Condition, what: &str| {
                let reason = condition.reason;
                let what =
                    format!("BackendTLSPolicy {policy}, Service {service}: {what} ({reason})");
                Problem::new(what, condition.message.clone())
            };
            let resolved = ancestor.resolved_refs.as_ref();
            if !ancestor.accepted.status {
                problems.push(refused(&ancestor.accepted, "refused"));
            } else if let Some(unresolved) = resolved.filter(|condition| !condition.status) {
                problems.push(refused(unresolved, "a CA reference is not usable"));
            }
            problems.extend(ancestor.refused_addresses.iter().map(|message| {
                let what =
                    format!("BackendTLSPolicy {policy}, Service {service}: an address is refused");
                Problem::new(what, message)
            }));
        }
        if status.ancestors.is_empty() && !status.problems.is_empty() {
            let what = format!("BackendTLSPolicy {policy}: refused, and in force nowhere");
            problems.push(Problem::new(what, status.problems.join("; ")));
        }
    }
    problems
}

/// Which targets have nobody to connect to.
pub(super) fn of_targets(targets: &[Target]) -> Vec<Problem> {
    let empty = targets.iter().filter(|target| {
        let endpoints = target.endpoints.as_ref();
        target.state == TargetState::Accepted && endpoints.is_some_and(Vec::is_empty)
    });
    let problem = |target: &Target| {
        let service = target.service.as_deref().unwrap_or_default();
        let what = format!("Service {service}:{} has no ready endpoint", target.port);
        Problem::new(what, Reason::NoEndpoints.cure())
    };
    empty.map(problem).collect()
}

/// What it means that no agent answered at `admin`, because of `error`.
pub(super) fn without_answer(status: &Status, admin: &str, error: &str) -> Option<Problem> {
    let is_alive = |state: AgentState| state != AgentState::Dead;
    if let Some(agent) = status.agents.iter().rfind(|agent| is_alive(agent.state)) {
        let epoch = agent.epoch;
        return Some(Problem::new(
            format!("an agent runs (epoch {epoch}), but does not answer at {admin}: {error}"),
            "give the address that the agent was given as --admin",
        ));
    }
    let attached = |program: &Program| program.cgroup_id.is_some();
    if status.programs.iter().any(attached) {
        return Some(Problem::new(
            "no agent runs: connects to targets are refused until one does",
            "start `nodetls agent`; or, to let clients connect in plaintext again, `nodetls uninstall`",
        ));
    }
    let running = |exec: &Exec| exec.state == ExecState::Running;
    if status.programs.is_empty() && status.exec.iter().any(running) {
        return None;
    }
    let pins = status.pins.display();
    let what = format!(
        "no agent runs, and no program is pinned at {pins}: connections to targets are not secured"
    );
    Some(Problem::new(
        what,
        "start `nodetls agent`; if it has other --pins, give them here",
    ))
}
