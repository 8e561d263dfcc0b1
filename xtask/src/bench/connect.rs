//! What the eBPF programs cost a connect that is none of nodetls' business.

use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

use anyhow::Result;

use super::load;
use super::peer::write_config;
use super::rig::agent;
use super::stats::Spread;
use crate::demo::certs::{Authority, P256};
use crate::demo::world::World;
use crate::sh;

/// As many addresses and ports as make the map of targets full but for the canary's.
const ADDRESSES: u16 = 255;
const PORTS: u16 = 256;
/// Has no route.
const UNREACHABLE: &str = "10.97.0.1:80";

/// Whose connects are measured.
#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Off,
    One,
    Full,
}

const STATES: [(State, &str); 3] = [
    (State::Off, "without the programs"),
    (State::One, "with them, a target"),
    (State::Full, "with them, 65,280 targets"),
];

/// Nanoseconds of each state and round: of connect(2) alone, and of a whole connection.
pub(super) struct Costs(Vec<Vec<(f64, f64)>>);

/// Each round with each state.
pub(super) fn measure(rounds: u32, duration: Duration) -> Result<Costs> {
    let mut world = World::new("bench-connect")?;
    let authority = Authority::new(world.dir(), "ca", P256)?;
    world.trust(&authority)?;
    let mut unreachable = world.client.command("ip", "route add unreachable");
    sh::output(unreachable.arg("10.97.0.0/24"))?;
    let mut costs = vec![Vec::new(); STATES.len()];
    for round in 1..=rounds {
        for ((state, name), costs) in STATES.iter().zip(&mut costs) {
            world.stop_agent();
            let more = world.manifests().join("more.yaml");
            match state {
                State::Full => {
                    let many = many_targets(ADDRESSES, PORTS);
                    write_config(&world.manifests(), "more.yaml", &many)?;
                }
                _ if more.exists() => fs::remove_file(more)?,
                _ => {}
            }
            if *state != State::Off {
                world.start_agent(agent("")?)?;
            }
            let (alone, whole) = load::connects(&world.client, UNREACHABLE, duration)?;
            println!(
                "round {round}/{rounds}  connect {name:26} {alone:6.0} ns, a whole connection {whole:8.0} ns"
            );
            costs.push((alone, whole));
        }
    }
    Ok(Costs(costs))
}

/// A Service with a policy, and with this many ports on each of so many addresses.
pub(super) fn many_targets(addresses: u16, ports: u16) -> String {
    let mut text = String::from(
        "apiVersion: v1\nkind: Service\nmetadata: { name: many, namespace: default }\nspec:\n  \
         clusterIP: 10.96.1.0\n  externalIPs:\n",
    );
    for address in 1..addresses {
        let _ = writeln!(text, "  - 10.96.1.{address}");
    }
    text += "  ports:\n";
    for port in 1..=ports {
        let _ = writeln!(text, "  - {{ name: p{port}, port: {port}, protocol: TCP }}");
    }
    let policy = include_str!("configs/policy.yaml");
    let policy = policy
        .replace("name: enable-backend-tls", "name: many")
        .replace("name: tls-backend", "name: many");
    text + "---\n" + &policy
}

impl Costs {
    /// In Markdown, with the difference to no programs.
    pub(super) fn table(&self) -> String {
        let mut text = String::from(
            "| | connect(2) alone, ns | more | a whole connection, ns | more |\n|---|--:|--:|--:|--:|\n",
        );
        let spreads = |pick: fn(&(f64, f64)) -> f64| {
            let spreads = self
                .0
                .iter()
                .map(|costs| Spread::of(costs.iter().map(pick).collect()));
            spreads.collect::<Vec<_>>()
        };
        let (alone, whole) = (spreads(|costs| costs.0), spreads(|costs| costs.1));
        for ((_, name), columns) in STATES.iter().zip(alone.iter().zip(&whole)) {
            let cell = |spread: &Option<Spread>, first: &Option<Spread>| match (spread, first) {
                (Some(it), Some(off)) => format!(
                    "{:.0} ({:.0}..{:.0}) | {:+.0}",
                    it.median,
                    it.min,
                    it.max,
                    it.median - off.median
                ),
                _ => "– | –".to_owned(),
            };
            let cells = [cell(columns.0, &alone[0]), cell(columns.1, &whole[0])];
            let _ = writeln!(text, "| {name} | {} |", cells.join(" | "));
        }
        text
    }
}
