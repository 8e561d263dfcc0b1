//! nodetls beside other TLS originators: the same servers, clients, network path and TLS parameters for each.

mod connect;
mod document;
mod goals;
mod load;
mod peer;
mod plot;
mod profile;
mod report;
mod rig;
mod scale;
mod scenario;
mod service;
mod stats;
mod usage;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use self::document::Report;
use self::peer::Peer;
use self::rig::Rig;
use self::scenario::Scenario;
use self::stats::Results;
use crate::{ebpf, setup, sh};

/// Compare nodetls with Envoy, HAProxy, nginx and stunnel: speed, latency, CPU time, memory
///
/// With NODETLS_BLESS=1 the results of all scenarios and peers become docs/performance.md.
///
/// Examples:
///   cargo xtask bench                                           everything, 5 rounds: about an hour
///   cargo xtask bench --rounds 2 --seconds 2                    a quick look
///   cargo xtask bench --scenario download,upload --rounds 3     two scenarios
///   cargo xtask bench --peers nodetls,envoy-tcp --output t.md   two of them, with a Markdown file
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Options {
    /// How often each peer is measured; the peers take turns within a round
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Duration of one measurement
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Which scenarios [default: all]
    #[arg(long, value_name = "A,B", value_enum, value_delimiter = ',')]
    scenario: Vec<Scenario>,
    /// Which peers [default: all]
    #[arg(long, value_name = "A,B", value_enum, value_delimiter = ',')]
    peers: Vec<Peer>,
    /// Also write the Markdown to this file
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Measures and prints the tables; all that it started is ended.
///
/// # Errors
/// Something could not be set up, or a peer failed a request.
pub(crate) fn run(options: &Options) -> Result<()> {
    if !setup::is_root() {
        bail!("the benchmark needs root: it makes network namespaces and loads eBPF programs");
    }
    let (peers, scenarios) = (options.peers(), options.scenarios());
    document::check_if_blessed(&peers, &scenarios)?;
    setup::run(setup::For::Bench)?;
    if peers.iter().any(Peer::is_envoy) {
        peer::install_envoy()?;
    }
    ebpf::build(false)?;
    // Each by itself, so that nodetls has no feature that only the other programs need.
    for package in ["nodetls", "nodetls-bench"] {
        sh::run(sh::cargo("build --locked --release --package").arg(package))?;
    }
    rig::raise_file_limit()?;

    let mut report = Report::new(report::about(&options.command(), &peers)?);
    println!("{}", report.about);
    let profiled = scenarios.contains(&Scenario::Profile);
    if profiled || scenarios.iter().any(|scenario| scenario.of_peers()) {
        let mut rig = Rig::start(&peers)?;
        report.notes = notes(&mut rig, &peers)?;
        report.results = measure(&mut rig, &peers, &scenarios, options)?;
        if profiled {
            report.profile = Some(profile::measure(&mut rig, options.duration())?);
        }
    }
    if scenarios.contains(&Scenario::Connect) {
        report.connect = Some(connect::measure(options.rounds, options.duration())?);
    }
    if scenarios.contains(&Scenario::Scale) {
        report.scale = Some(scale::measure()?);
    }
    let text = report.text(&scenarios, &peers);
    println!("\n{text}");
    if let Some(file) = &options.output {
        std::fs::write(file, &text).with_context(|| file.display().to_string())?;
    }
    document::bless(&text, &report.results, &scenarios)
}

impl Options {
    fn peers(&self) -> Vec<Peer> {
        chosen(&self.peers)
    }

    fn scenarios(&self) -> Vec<Scenario> {
        chosen(&self.scenario)
    }

    fn duration(&self) -> Duration {
        Duration::from_secs(self.seconds.into())
    }

    /// As it would be typed; without `--output`, which changes nothing.
    fn command(&self) -> String {
        let mut line = format!(
            "cargo xtask bench --rounds {} --seconds {}",
            self.rounds, self.seconds
        );
        if !self.scenario.is_empty() {
            line += &format!(" --scenario {}", names(&self.scenarios()));
        }
        if !self.peers.is_empty() {
            line += &format!(" --peers {}", names(&self.peers()));
        }
        line
    }
}

/// In the order of the tables; all if none is named.
fn chosen<T: ValueEnum + Ord>(named: &[T]) -> Vec<T> {
    let all = T::value_variants();
    let mut chosen = if named.is_empty() { all } else { named }.to_vec();
    chosen.sort();
    chosen.dedup();
    chosen
}

fn names<T: ValueEnum>(values: &[T]) -> String {
    let values = values.iter().filter_map(T::to_possible_value);
    let names: Vec<_> = values.map(|value| value.get_name().to_owned()).collect();
    names.join(",")
}

/// Makes sure that all peers' TLS is the same; says which of them resume sessions, and what half load is.
fn notes(rig: &mut Rig, peers: &[Peer]) -> Result<String> {
    let mut resuming = Vec::new();
    for peer in peers.iter().filter(|peer| peer.originates_tls()) {
        let resumed = rig
            .tls_is_as_expected(*peer)
            .with_context(|| peer.to_string())?;
        if resumed {
            resuming.push(peer.to_string());
        }
    }
    let envoy = peers.iter().find(|peer| **peer == Peer::EnvoyTcp);
    let proxy = envoy.or_else(|| peers.first()).context("no peer")?;
    let half = rig.calibrate(*proxy)?;
    Ok(format!(
        "Seen by the servers: every peer {}; sessions resumed by {} (a pool's first connection just stays open).\n\
         Half load is {half} requests per second: half of what {proxy} took before the first round.\n",
        rig::EXPECTED_TLS,
        resuming.join(", ")
    ))
}

/// Scenario by scenario within a round, so that peers are compared within seconds of each other; another one is first in
/// each round.
fn measure(
    rig: &mut Rig,
    peers: &[Peer],
    scenarios: &[Scenario],
    options: &Options,
) -> Result<Results> {
    let mut results = Results::default();
    let mut peers = peers.to_vec();
    for round in 1..=options.rounds {
        let loads = scenarios.iter().filter_map(|it| Some((*it, it.service()?)));
        for (scenario, service) in loads {
            let serves = |peer: &&Peer| peer.address(service).is_some();
            for &peer in peers.iter().filter(serves) {
                let name = names(&[scenario]);
                let measured = rig
                    .measure(peer, scenario, options.duration())
                    .with_context(|| format!("{name} of {peer}"))?;
                let figures = scenario.figures().into_iter().filter_map(|figure| {
                    let value = figure.text((figure.of)(&measured)?);
                    Some(format!("{value:>8} {:11}", figure.title))
                });
                let figures: String = figures.collect();
                println!(
                    "round {round}/{}  {name:10} {peer:13}{figures}",
                    options.rounds
                );
                results.add(scenario, peer, measured);
            }
        }
        peers.rotate_left(1);
    }
    Ok(results)
}

#[cfg(test)]
mod tests;
