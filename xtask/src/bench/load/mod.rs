//! The load that is put on each peer, by the program that is best at it.

mod bulk;
mod h2load;
mod own;
mod wrk;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::peer::Peer;
use super::scenario::{Measured, Scenario};
use super::usage::Processes;
use crate::demo::world::{HOSTNAME, Netns};

pub(super) use self::bulk::TRANSFERS;
pub(super) use self::own::{Load, connects, tls_of_echo};
#[cfg(test)]
pub(super) use self::{h2load::parse_h2load, own::parse_own, wrk::parse_millis, wrk::parse_wrk};

/// From where a load comes, and how much of it.
pub(super) struct Source<'a> {
    pub(super) client: &'a Netns,
    /// Of what is generated: logs.
    pub(super) dir: &'a Path,
    /// Of the authority that issued the server's certificate.
    pub(super) ca: &'a Path,
    pub(super) duration: Duration,
    /// Requests per second.
    pub(super) half_load: u32,
    pub(super) idle_connections: usize,
    /// Between client and server.
    pub(super) proxy: &'a Processes,
}

/// Puts the load of `scenario` on `peer`.
///
/// # Errors
/// A request that was not answered as it should be.
pub(super) fn run(source: &Source, peer: Peer, scenario: Scenario) -> Result<Measured> {
    let address = scenario.service().and_then(|it| peer.address(it));
    let address = address.context("it does not serve this")?;
    let secure = peer == Peer::DirectTls;
    let http = format!("{}://{address}", if secure { "https" } else { "http" });
    let own = |load: &str| {
        let mut args: Vec<String> = load.split(' ').map(str::to_owned).collect();
        args.push(address.clone());
        if secure {
            let ca = source.ca.display().to_string();
            args.extend(["--tls".into(), HOSTNAME.into(), "--ca".into(), ca]);
        }
        args
    };
    let seconds = source.duration.as_secs();
    let for_time = |load: &str| own(&format!("{load} --seconds {seconds}"));
    match scenario {
        Scenario::KeepAlive => wrk::run(source, &http),
        // Not wrk: whether it closes depends on the answer's Connection, not on that of its request.
        Scenario::New => own::run(
            source,
            &for_time("exchange --new --get /1k --connections 32"),
        ),
        Scenario::HalfLoad => {
            let rate = source.half_load;
            let load = format!("pace --get /1k --connections 64 --rate {rate}");
            own::run(source, &for_time(&load))
        }
        Scenario::GrpcOne => h2load::run(source, &http, "-c1 -m32"),
        Scenario::GrpcMany => h2load::run(source, &http, "-c64 -m1"),
        Scenario::Echo => own::run(source, &for_time("exchange --connections 64")),
        Scenario::EchoMany => own::run(source, &for_time("exchange --connections 1000 --bytes 64")),
        Scenario::EchoNew => own::run(source, &for_time("exchange --new --connections 32")),
        Scenario::Storm => own::run(source, &own("storm --connections 2000")),
        Scenario::Refused => own::run(source, &for_time("refused --get / --connections 16")),
        Scenario::Download => bulk::download(source, &http),
        Scenario::Upload => bulk::upload(source, &http),
        Scenario::Idle | Scenario::IdleEcho => {
            let get = if scenario == Scenario::Idle {
                " --get /1k"
            } else {
                ""
            };
            let count = source.idle_connections;
            let load = format!("hold{get} --connections {count}");
            own::hold(source, &own(&load), count)
        }
        Scenario::Connect | Scenario::Scale | Scenario::Profile => bail!("not a load"),
    }
}
