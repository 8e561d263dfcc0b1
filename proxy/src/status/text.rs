//! The state for people: tables that fit a screen on a small node, then what is wrong.

use std::fmt::Display;

use super::report::{
    Agent, AgentState, Audit, Connections, Connects, EarlierConnection, Exec, ExecState, Netns,
    NetnsState, Program, Status, Target, TargetState,
};
use crate::cli::or_dash;
use crate::failure::Reason;
use crate::table::{aligned, line, widths};

/// Rows of one table that are shown; JSON has all.
const SHOWN: usize = 30;
/// Items of one cell that are shown.
const LISTED: usize = 3;

/// Renders a state. Every line ends in a newline.
pub(super) fn render(status: &Status) -> String {
    let mut text = String::new();
    line(&mut text, &head(status));
    table(
        &mut text,
        ["AGENT", "STATE"],
        status.agents.iter().map(agent),
    );
    table(
        &mut text,
        ["PROGRAM", "STATE", "LINK", "CGROUP"],
        status.programs.iter().map(program),
    );
    table(
        &mut text,
        ["NETNS", "STATE", "LINK", "COOKIE"],
        status.netns.iter().map(netns),
    );
    table(
        &mut text,
        [
            "SERVICE",
            "ADDRESSES",
            "STATE",
            "POLICY",
            "HOSTNAME",
            "CA",
            "ENDPOINTS",
            "OPEN",
        ],
        status.targets.iter().map(target),
    );
    if let Some(audit) = &status.audit {
        text.push('\n');
        line(
            &mut text,
            "audit mode: nothing is redirected or refused; this is what would be",
        );
        table(
            &mut text,
            ["SERVICE", "CONNECTS", "TLS HANDSHAKE"],
            audit.iter().map(audited),
        );
    }
    table(
        &mut text,
        ["CONNECTS", "REASON", "COUNT"],
        status
            .connects
            .iter()
            .filter(|row| row.count != 0)
            .map(connects),
    );
    if let Some(connections) = &status.connections {
        table(&mut text, ["CONNECTIONS", "COUNT"], counts(connections));
        let failures = connections.failures.iter();
        let failures = failures
            .map(|(reason, count)| [reason.clone(), count.to_string(), cure(reason).to_owned()]);
        table(&mut text, ["FAILURES", "COUNT", "CURE"], failures);
    }
    table(
        &mut text,
        ["CONNECTED BEFORE", "LOCAL", "REMOTE", "NETNS"],
        status.earlier.iter().map(earlier),
    );
    table(
        &mut text,
        ["EXEC", "STATE", "PID", "COMMAND", "CGROUP"],
        status.exec.iter().map(exec),
    );
    text.push('\n');
    for problem in &status.problems {
        line(&mut text, &format!("problem: {}", problem.what));
        line(&mut text, &format!("  cure: {}", problem.cure));
    }
    if status.healthy {
        line(&mut text, "all is well");
    }
    text
}

fn head(status: &Status) -> String {
    let pins = status.pins.display();
    match &status.answer {
        Some(answer) => {
            let ready = if answer.ready { "ready" } else { "not ready" };
            let (version, epoch) = (&answer.version, answer.epoch);
            format!("nodetls {version}, agent of epoch {epoch}: {ready}; pins: {pins}")
        }
        None => format!("no agent answers; from the pins alone: {pins}"),
    }
}

/// A table with an empty line above; none without rows.
fn table<const N: usize>(
    text: &mut String,
    header: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
) {
    let mut all = vec![header.map(str::to_owned)];
    all.extend(rows);
    let count = all.len() - 1;
    if count == 0 {
        return;
    }
    all.truncate(1 + SHOWN);
    let widths = widths(&all);
    text.push('\n');
    for row in &all {
        line(text, &aligned(row, &widths));
    }
    if count > SHOWN {
        let more = count - SHOWN;
        line(text, &format!("and {more} more (--output json has all)"));
    }
}

fn agent(agent: &Agent) -> [String; 2] {
    let state = match agent.state {
        AgentState::InCharge => "in charge",
        AgentState::Starting => "starting",
        AgentState::Serving => "serving until the newest is ready",
        AgentState::Draining => "draining",
        AgentState::Dead => "dead",
    };
    [format!("epoch {}", agent.epoch), state.to_owned()]
}

fn program(program: &Program) -> [String; 4] {
    let state = match program.cgroup_id {
        Some(_) => "attached",
        None => "not attached",
    };
    let cgroup = match (&program.cgroup, program.cgroup_id) {
        (Some(path), Some(id)) => format!("{} (id {id})", path.display()),
        (None, Some(id)) => format!("id {id}"),
        (_, None) => "-".to_owned(),
    };
    [
        program.name.clone(),
        state.to_owned(),
        or_dash(program.link),
        cgroup,
    ]
}

fn netns(netns: &Netns) -> [String; 4] {
    let state = match netns.state {
        NetnsState::Enrolled => "enrolled",
        NetnsState::Bypassed => "bypassed",
        NetnsState::Denied => "denied",
        NetnsState::Detached => "not attached",
    };
    let cookie = netns.cookie.to_string();
    [
        or_dash(netns.name.as_ref()),
        state.to_owned(),
        or_dash(netns.link),
        cookie,
    ]
}

fn target(target: &Target) -> [String; 8] {
    let state = match target.state {
        TargetState::Accepted => "accepted",
        TargetState::Refused => "refused",
        TargetState::Unknown => "unknown",
    };
    let state = match &target.reason {
        Some(reason) => format!("{state} ({reason})"),
        None => state.to_owned(),
    };
    let service = target.service.as_ref();
    let ca = target.ca.as_ref().map(|ca| match ca.subjects.as_slice() {
        subjects if subjects.len() == ca.count => listed(subjects),
        _ => format!("{} CAs", ca.count),
    });
    let endpoints = target.endpoints.as_ref();
    [
        or_dash(service.map(|service| format!("{service}:{}", target.port))),
        listed(&target.addresses),
        state,
        or_dash(target.policy.as_ref()),
        or_dash(target.hostname.as_ref()),
        or_dash(ca),
        or_dash(
            endpoints
                .map(|endpoints| listed(endpoints))
                .or_else(|| target.external_host.clone()),
        ),
        target.open.to_string(),
    ]
}

fn audited(row: &Audit) -> [String; 3] {
    [
        format!("{}:{}", row.service, row.port),
        row.connects.to_string(),
        row.probe
            .clone()
            .unwrap_or_else(|| "not tried yet".to_owned()),
    ]
}

fn connects(row: &Connects) -> [String; 3] {
    [
        row.outcome.clone(),
        row.reason.clone(),
        row.count.to_string(),
    ]
}

fn counts(connections: &Connections) -> impl Iterator<Item = [String; 2]> {
    let rows = [
        ("open", connections.open),
        ("accepted", connections.opened),
        ("passed through", connections.passed_through),
        ("handshakes, ok", connections.handshakes_ok),
        ("handshakes, failed", connections.handshakes_failed),
    ];
    rows.into_iter()
        .map(|(name, count)| [name.to_owned(), count.to_string()])
}

fn earlier(connection: &EarlierConnection) -> [String; 4] {
    [
        connection.service.clone(),
        connection.local.to_string(),
        connection.remote.to_string(),
        connection.netns.clone(),
    ]
}

fn cure(reason: &str) -> &'static str {
    let known = Reason::ALL.iter().find(|known| known.as_str() == reason);
    known.map_or("-", |reason| reason.cure())
}

fn exec(exec: &Exec) -> [String; 5] {
    let state = match exec.state {
        ExecState::Running => "running",
        ExecState::Orphaned => "without proxy",
        ExecState::Ended => "ended",
    };
    let cgroup = exec.cgroup.as_ref();
    [
        exec.number.clone(),
        state.to_owned(),
        or_dash(exec.pid),
        or_dash(exec.command.as_ref()),
        or_dash(cgroup.map(|path| path.display())),
    ]
}

/// The first few, with commas.
fn listed(items: &[impl Display]) -> String {
    if items.is_empty() {
        return "none".to_owned();
    }
    let first = items.iter().take(LISTED).map(ToString::to_string);
    let mut text = first.collect::<Vec<_>>().join(",");
    if items.len() > LISTED {
        text.push_str(&format!(",+{}", items.len() - LISTED));
    }
    text
}
