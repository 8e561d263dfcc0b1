//! Medians, spreads and ratios, in Markdown.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use anyhow::Result;

use super::load::{Measured, Scenario};
use super::peer::Peer;
use crate::sh;

/// All measurements.
#[derive(Default)]
pub(super) struct Results {
    loads: BTreeMap<(Scenario, Peer), Vec<Measured>>,
    /// Resident memory in MiB, after each round.
    memory: BTreeMap<Peer, Vec<f64>>,
}

impl Results {
    pub(super) fn add(&mut self, scenario: Scenario, peer: Peer, measured: Measured) {
        self.loads
            .entry((scenario, peer))
            .or_default()
            .push(measured);
    }

    pub(super) fn add_memory(&mut self, peer: Peer, mib: f64) {
        self.memory.entry(peer).or_default().push(mib);
    }

    /// A table per scenario, and one of memory.
    pub(super) fn tables(&self, peers: &[Peer]) -> String {
        let mut text = String::from(
            "Each figure is a median (least..most). The ratios are of medians; \"best\" is the best other proxy.\n",
        );
        for scenario in Scenario::ALL {
            text += &self.table(scenario, peers);
        }
        text += "\n### Resident memory after a round\n\n| | MiB | ÷ best | ÷ envoy-tcp |\n|---|--:|--:|--:|\n";
        let all: Vec<_> = peers
            .iter()
            .map(|peer| (*peer, self.memory.get(peer).cloned()))
            .collect();
        let column = Column::new(all, Better::Less);
        for &peer in peers.iter().filter(|peer| peer.is_proxy()) {
            let _ = writeln!(
                text,
                "| {peer} | {} | {} |",
                column.cell(peer, 1),
                column.ratios(peer)
            );
        }
        text
    }

    fn table(&self, scenario: Scenario, peers: &[Peer]) -> String {
        let unit = scenario.unit();
        let column = |better, pick: &dyn Fn(&Measured) -> Option<f64>| {
            let figures = |peer| -> Option<Vec<f64>> {
                self.loads
                    .get(&(scenario, peer))?
                    .iter()
                    .map(pick)
                    .collect()
            };
            Column::new(
                peers.iter().map(|&peer| (peer, figures(peer))).collect(),
                better,
            )
        };
        let rate = column(Better::More, &|measured| Some(measured.rate));
        let cpu = column(Better::Less, &|measured| {
            Some(measured.cpu? * unit.cpu_factor)
        });
        let median = column(Better::Less, &|measured| Some(measured.latency?.0));
        let slow = column(Better::Less, &|measured| Some(measured.latency?.1));
        let with_latency = scenario != Scenario::Bulk;

        let mut heads = vec![
            "",
            unit.rate,
            "÷ best",
            "÷ envoy-tcp",
            unit.cpu,
            "÷ best",
            "÷ envoy-tcp",
        ];
        if with_latency {
            heads.extend(["p50 ms", "p99 ms"]);
        }
        let mut text = format!("\n### {}\n\n| {} |\n", scenario.title(), heads.join(" | "));
        let _ = writeln!(text, "|---|{}", "--:|".repeat(heads.len() - 1));
        for &peer in peers {
            let mut cells = vec![
                rate.cell(peer, unit.rate_digits),
                rate.ratios(peer),
                cpu.cell(peer, unit.cpu_digits),
                cpu.ratios(peer),
            ];
            if with_latency {
                cells.extend([median.cell(peer, 2), slow.cell(peer, 2)]);
            }
            let _ = writeln!(text, "| {peer} | {} |", cells.join(" | "));
        }
        text
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Better {
    More,
    Less,
}

/// One figure of all peers.
struct Column {
    figures: BTreeMap<Peer, Spread>,
    better: Better,
}

impl Column {
    fn new(figures: Vec<(Peer, Option<Vec<f64>>)>, better: Better) -> Self {
        let spreads = figures
            .into_iter()
            .filter_map(|(peer, figures)| Some((peer, Spread::of(figures?)?)));
        Self {
            figures: spreads.collect(),
            better,
        }
    }

    fn cell(&self, peer: Peer, digits: usize) -> String {
        self.figures.get(&peer).map_or("–".to_owned(), |spread| {
            let Spread { min, median, max } = spread;
            format!("{median:.digits$} ({min:.digits$}..{max:.digits$})")
        })
    }

    /// Two cells: to the best proxy other than nodetls, and to Envoy's.
    fn ratios(&self, peer: Peer) -> String {
        let others = self
            .figures
            .iter()
            .filter(|(other, _)| other.is_proxy() && **other != Peer::Nodetls)
            .map(|(_, spread)| spread.median);
        let best = match self.better {
            Better::More => others.max_by(f64::total_cmp),
            Better::Less => others.min_by(f64::total_cmp),
        };
        let envoy = self
            .figures
            .get(&Peer::EnvoyTcp)
            .map(|spread| spread.median);
        let own = self.figures.get(&peer).map(|spread| spread.median);
        [best, envoy]
            .map(|to| match (own, to) {
                (Some(own), Some(to)) => format!("{:.2}", own / to),
                _ => "–".to_owned(),
            })
            .join(" | ")
    }
}

/// What the rounds gave.
#[derive(Debug, PartialEq)]
pub(super) struct Spread {
    pub(super) min: f64,
    pub(super) median: f64,
    pub(super) max: f64,
}

impl Spread {
    /// `None` of nothing.
    pub(super) fn of(mut figures: Vec<f64>) -> Option<Self> {
        figures.sort_by(f64::total_cmp);
        let middle = figures.len() / 2;
        let upper = *figures.get(middle)?;
        let median = if figures.len() % 2 == 1 {
            upper
        } else {
            figures[middle - 1].midpoint(upper)
        };
        Some(Self {
            min: *figures.first()?,
            median,
            max: *figures.last()?,
        })
    }
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
        versions.push(peer.version()?);
    }
    versions.dedup();
    Ok(format!(
        "`{command}` at commit {}: Linux {}, {count} × {model}, {}. Load average at the start: {}.\n\
         Two workers each; CA and name verified by each; nodetls writes its access log, the others none.\n",
        commit.trim(),
        kernel.trim(),
        versions.join(", "),
        load.split(' ').take(3).collect::<Vec<_>>().join(" ")
    ))
}
