//! The results, in Markdown.

use std::fmt::Write as _;
use std::fs;

use anyhow::Result;

use super::peer::{Peer, version};
use super::scenario::Scenario;
use super::stats::{Column, Results, Spread};
use crate::sh;

/// A table for each scenario.
pub(super) fn tables(results: &Results, scenarios: &[Scenario], peers: &[Peer]) -> String {
    let tables = scenarios.iter().filter(|it| it.of_peers());
    tables
        .map(|scenario| table(results, *scenario, peers))
        .collect()
}

fn table(results: &Results, scenario: Scenario, peers: &[Peer]) -> String {
    let columns = scenario.figures();
    let columns = columns
        .into_iter()
        .map(|figure| results.column(scenario, figure));
    let columns: Vec<_> = columns.collect();
    let mut heads = Vec::new();
    for column in &columns {
        heads.push(column.figure.title);
        if column.figure.better.is_some() {
            heads.extend(["÷ best", "÷ envoy-tcp"]);
        }
    }
    let mut text = format!("\n### {}\n\n", scenario.title());
    let _ = writeln!(text, "| | {} |", heads.join(" | "));
    let _ = writeln!(text, "|---|{}", "--:|".repeat(heads.len()));
    let measured = |peer: &&Peer| columns.iter().any(|it| it.spreads.contains_key(peer));
    for &peer in peers.iter().filter(measured) {
        let cells: Vec<_> = columns.iter().flat_map(|it| cells(it, peer)).collect();
        let _ = writeln!(text, "| {peer} | {} |", cells.join(" | "));
    }
    text
}

/// The figure, and where it is compared its ratios.
fn cells(column: &Column, peer: Peer) -> Vec<String> {
    let cell = column.spreads.get(&peer).map(|spread| {
        let Spread { min, median, max } = spread;
        let [min, median, max] = [min, median, max].map(|it| column.figure.text(*it));
        if min == max {
            return median;
        }
        format!("{median} ({min}..{max})")
    });
    let mut cells = vec![cell];
    if column.figure.better.is_some() {
        let best = column.best_rival().map(|(_, median)| median);
        for to in [best, column.median(Peer::EnvoyTcp)] {
            cells.push(column.ratio(peer, to).map(|ratio| format!("{ratio:.2}")));
        }
    }
    let shown = |cell: Option<String>| cell.unwrap_or_else(|| "–".to_owned());
    cells.into_iter().map(shown).collect()
}

/// How and on what this was measured.
pub(super) fn about(command: &str, peers: &[Peer]) -> Result<String> {
    let commit = sh::output(&mut sh::command(
        "git",
        "describe --always --dirty --abbrev=12",
    ));
    let commit = commit.unwrap_or_else(|_| "unknown".to_owned());
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let load = fs::read_to_string("/proc/loadavg")?;
    let cpus = fs::read_to_string("/proc/cpuinfo")?;
    let count = cpus
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("CPUs of an unnamed model", |(_, model)| model);
    let mut versions = Vec::new();
    for peer in peers {
        versions.extend(peer.version()?);
    }
    versions.dedup();
    versions.extend([version("wrk", "-v")?, version("h2load", "--version")?]);
    Ok(format!(
        "`{command}` at commit {}: Linux {}, {count} × {model}, {}. Load average at the start: {}.\n",
        commit.trim(),
        kernel.trim(),
        versions.join(", "),
        load.split(' ').take(3).collect::<Vec<_>>().join(" ")
    ))
}
