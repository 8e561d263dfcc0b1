//! nodetls beside other TLS originators: the same server, client, network path and TLS parameters for each.

mod load;
mod peer;
mod report;
mod rig;
mod usage;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;

use self::load::{Measured, Scenario};
use self::peer::Peer;
use self::report::Results;
use self::rig::Rig;
use crate::{ebpf, setup, sh};

/// Compare nodetls with Envoy, HAProxy, nginx and stunnel: speed, CPU time, memory
///
/// Examples:
///   cargo xtask bench                                           all peers, 5 rounds, about 10 minutes
///   cargo xtask bench --rounds 2 --seconds 3                    a quick look
///   cargo xtask bench --peers nodetls,envoy-tcp --output t.md   two of them, with a Markdown file
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Options {
    /// How often each peer is measured; the peers take turns within a round
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Duration of one measurement
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
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
    setup::run(setup::For::Bench)?;
    let peers = options.peers();
    if peers.iter().any(Peer::is_envoy) {
        peer::install_envoy()?;
    }
    ebpf::build(false)?;
    sh::run(&mut sh::cargo("build --locked --release --package nodetls"))?;

    let about = report::about(&options.command(), &peers)?;
    println!("{about}");
    let rig = Rig::start(&peers)?;
    let resumption = resumption(&rig, &peers)?;
    let results = measure(&rig, &peers, options)?;
    drop(rig);
    let markdown = format!("{about}\n{resumption}\n{}", results.tables(&peers));
    println!("\n{resumption}\n{}", results.tables(&peers));
    if let Some(file) = &options.output {
        std::fs::write(file, markdown).with_context(|| file.display().to_string())?;
    }
    Ok(())
}

impl Options {
    fn peers(&self) -> Vec<Peer> {
        let mut peers = self.peers.clone();
        if peers.is_empty() {
            peers = Peer::all();
        }
        peers.sort();
        peers.dedup();
        peers
    }

    /// As it would be typed; without `--output`, which changes nothing.
    fn command(&self) -> String {
        let mut line = format!(
            "cargo xtask bench --rounds {} --seconds {}",
            self.rounds, self.seconds
        );
        if !self.peers.is_empty() {
            let names: Vec<_> = self.peers().iter().map(Peer::to_string).collect();
            line += &format!(" --peers {}", names.join(","));
        }
        line
    }
}

/// Makes sure that all peers' TLS is the same; says which of them resume sessions.
fn resumption(rig: &Rig, peers: &[Peer]) -> Result<String> {
    let mut resuming = Vec::new();
    for peer in peers.iter().filter(|peer| peer.originates_tls()) {
        let resumed = rig
            .tls_is_as_expected(*peer)
            .with_context(|| peer.to_string())?;
        if resumed {
            resuming.push(peer.to_string());
        }
    }
    Ok(format!(
        "Seen by the server: every peer {}; sessions resumed by {} (a pool's first connection just stays open).\n\
         Latency counts from a request's first byte: the client's own connect comes before.",
        rig::EXPECTED_TLS,
        resuming.join(", ")
    ))
}

/// Scenario by scenario within a round, so that peers are compared within seconds of each other.
fn measure(rig: &Rig, peers: &[Peer], options: &Options) -> Result<Results> {
    let duration = Duration::from_secs(options.seconds.into());
    let mut results = Results::default();
    for round in 1..=options.rounds {
        for scenario in Scenario::ALL {
            for &peer in peers {
                let measured = rig
                    .measure(peer, scenario, duration)
                    .with_context(|| format!("{peer}, {}", scenario.title()))?;
                let Measured { rate, cpu, .. } = &measured;
                let unit = scenario.unit();
                let cpu = cpu.map_or_else(String::new, |cpu| {
                    format!(
                        "{:10.*} {}",
                        unit.cpu_digits,
                        cpu * unit.cpu_factor,
                        unit.cpu
                    )
                });
                println!(
                    "round {round}/{}  {:12} {peer:13} {rate:9.*} {:7}{cpu}",
                    options.rounds,
                    scenario.name(),
                    unit.rate_digits,
                    unit.rate,
                );
                results.add(scenario, peer, measured);
            }
        }
        for &peer in peers {
            if let Some(memory) = rig.memory(peer)? {
                results.add_memory(peer, memory);
            }
        }
    }
    Ok(results)
}

#[cfg(test)]
mod tests;
