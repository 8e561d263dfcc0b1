//! What nodetls is to reach, in ratios of medians of one run.

use std::fmt::Write as _;

use super::peer::Peer;
use super::scenario::Scenario;
use super::stats::Results;

/// The figure that the plot shows of a scenario, in medians of another proxy.
struct Goal {
    what: &'static str,
    scenario: Scenario,
    /// The best other proxy if none.
    to: Option<Peer>,
    at_most: f64,
}

const fn goal(what: &'static str, scenario: Scenario, to: Option<Peer>, at_most: f64) -> Goal {
    Goal {
        what,
        scenario,
        to,
        at_most,
    }
}

const GOALS: [Goal; 11] = [
    goal(
        "CPU per HTTP/1 request on an open connection",
        Scenario::KeepAlive,
        Some(Peer::EnvoyTcp),
        0.6,
    ),
    goal(
        "CPU per HTTP/1 request on an open connection",
        Scenario::KeepAlive,
        None,
        0.75,
    ),
    goal(
        "CPU per new HTTP/1 connection",
        Scenario::New,
        Some(Peer::EnvoyTcp),
        0.1,
    ),
    goal(
        "CPU per new HTTP/1 connection",
        Scenario::New,
        Some(Peer::HaproxyHttp),
        1.0,
    ),
    goal(
        "CPU per new HTTP/1 connection",
        Scenario::New,
        Some(Peer::NginxHttp),
        1.0,
    ),
    goal(
        "CPU per new TCP connection",
        Scenario::EchoNew,
        Some(Peer::EnvoyTcp),
        0.5,
    ),
    goal(
        "CPU per GiB, downloaded",
        Scenario::Download,
        Some(Peer::EnvoyTcp),
        0.8,
    ),
    goal(
        "CPU per GiB, uploaded",
        Scenario::Upload,
        Some(Peer::EnvoyTcp),
        0.8,
    ),
    goal(
        "Memory with idle HTTP/1 connections",
        Scenario::Idle,
        None,
        1.0,
    ),
    goal(
        "Memory with idle TCP connections",
        Scenario::IdleEcho,
        None,
        1.0,
    ),
    goal("p99 at half load", Scenario::HalfLoad, None, 1.0),
];

/// A row for each goal that something was measured for.
pub(super) fn table(results: &Results) -> String {
    let mut text = String::from("\n| Goal | at most | measured | |\n|---|--:|--:|---|\n");
    for goal in GOALS {
        let Some(figure) = goal.scenario.plotted() else {
            continue;
        };
        let column = results.column(goal.scenario, figure);
        let to = match goal.to {
            Some(peer) => column.median(peer).map(|median| (peer, median)),
            None => column.best_rival(),
        };
        let ratio = column.ratio(Peer::Nodetls, to.map(|(_, median)| median));
        if let Some(((peer, _), ratio)) = to.zip(ratio) {
            let verdict = if ratio <= goal.at_most {
                "reached"
            } else {
                "missed"
            };
            let best = if goal.to.is_none() { "the best, " } else { "" };
            let _ = writeln!(
                text,
                "| {} | {:.2} × {best}{peer} | {ratio:.2} | {verdict} |",
                goal.what, goal.at_most
            );
        }
    }
    text
}
