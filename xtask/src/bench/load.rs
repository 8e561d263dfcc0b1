//! The load that is put on each peer, and what its generators say.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::peer::Peer;
use crate::demo::world::Netns;
use crate::sh;

/// Size of the large file in bytes: 100 MiB.
pub(super) const LARGE: u64 = 100 << 20;
/// Size of the small file in bytes.
pub(super) const SMALL: usize = 1024;
const DOWNLOADS: u64 = 10;
const GIB: f64 = (1_u64 << 30) as f64;

/// A kind of load.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Scenario {
    KeepAlive,
    NewConnections,
    Bulk,
}

/// In which units a scenario is told.
pub(super) struct Unit {
    pub(super) rate: &'static str,
    pub(super) rate_digits: usize,
    pub(super) cpu: &'static str,
    /// From CPU seconds.
    pub(super) cpu_factor: f64,
    pub(super) cpu_digits: usize,
}

impl Scenario {
    pub(super) const ALL: [Self; 3] = [Self::KeepAlive, Self::NewConnections, Self::Bulk];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::KeepAlive => "keep-alive",
            Self::NewConnections => "new",
            Self::Bulk => "bulk",
        }
    }

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::KeepAlive => "HTTP/1 keep-alive, 1 KiB, 64 connections",
            Self::NewConnections => {
                "A new connection per request (`Connection: close`), 1 KiB, 32 at a time"
            }
            Self::Bulk => "Bulk: 10 downloads of 100 MiB on one connection",
        }
    }

    pub(super) fn unit(self) -> Unit {
        let (rate, cpu) = match self {
            Self::KeepAlive => ("req/s", "µs/req"),
            Self::NewConnections => ("conn/s", "µs/conn"),
            Self::Bulk => ("Gbit/s", "s/GiB"),
        };
        let bulk = self == Self::Bulk;
        Unit {
            rate,
            rate_digits: if bulk { 2 } else { 0 },
            cpu,
            cpu_factor: if bulk { 1.0 } else { 1e6 },
            cpu_digits: if bulk { 3 } else { 1 },
        }
    }
}

/// One measurement.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Measured {
    /// Requests per second; for [`Scenario::Bulk`] Gbit/s.
    pub(super) rate: f64,
    /// Latency in milliseconds, the median and the 99th percentile, from a request's first byte: the client's connect,
    /// and its handshake with [`Peer::DirectTls`], come before.
    pub(super) latency: Option<(f64, f64)>,
    /// Requests; for [`Scenario::Bulk`] GiB.
    pub(super) work: f64,
    /// CPU seconds of the proxy per request, or per GiB; filled in by the rig.
    pub(super) cpu: Option<f64>,
}

/// Puts the load on `peer`, from `client`.
///
/// # Errors
/// A socket error, or a status other than 2xx.
pub(super) fn run(
    client: &Netns,
    peer: Peer,
    scenario: Scenario,
    duration: Duration,
) -> Result<Measured> {
    match scenario {
        Scenario::KeepAlive => wrk(client, peer, duration, &["-c64"]),
        Scenario::NewConnections => {
            wrk(client, peer, duration, &["-c32", "-H", "Connection: close"])
        }
        Scenario::Bulk => download(client, peer),
    }
}

fn wrk(client: &Netns, peer: Peer, duration: Duration, args: &[&str]) -> Result<Measured> {
    let fixed = format!("-t1 -d{}s --latency", duration.as_secs());
    let mut wrk = client.command("wrk", &fixed);
    wrk.args(args).arg(peer.url("/1k"));
    parse_wrk(&sh::output(&mut wrk)?)
}

/// Reads wrk's report; an error where it tells of failed requests.
pub(super) fn parse_wrk(report: &str) -> Result<Measured> {
    let failures = ["Socket errors:", "Non-2xx or 3xx responses:"];
    let failed = |line: &&str| failures.iter().any(|failure| line.contains(failure));
    if let Some(line) = report.lines().find(failed) {
        bail!("requests failed; wrk says \"{}\"", line.trim());
    }
    let value = |label: &str| {
        let line = report
            .lines()
            .find_map(|line| line.trim().strip_prefix(label));
        line.with_context(|| format!("wrk's report has no `{label}`:\n{report}"))
    };
    let millis = |label| {
        let text = value(label)?.trim();
        parse_millis(text).with_context(|| format!("wrk says `{label} {text}`"))
    };
    let count = report
        .lines()
        .find_map(|line| line.trim().split_once(" requests in "));
    let (count, _) = count.context("wrk's report has no number of requests")?;
    let work: f64 = count.parse()?;
    if work < 1.0 {
        bail!("not one request was answered");
    }
    Ok(Measured {
        rate: value("Requests/sec:")?.trim().parse()?,
        latency: Some((millis("50%")?, millis("99%")?)),
        work,
        cpu: None,
    })
}

/// A duration as wrk prints it: `83.00us`, `1.20ms`, `2.01s`, `1.00m`.
pub(super) fn parse_millis(text: &str) -> Option<f64> {
    let units = [("us", 1.0), ("ms", 1e3), ("s", 1e6), ("m", 6e7)];
    let (number, micros) = units
        .iter()
        .find_map(|(unit, micros)| Some((text.strip_suffix(unit)?, micros)))?;
    Some(number.parse::<f64>().ok()? * micros / 1e3)
}

fn download(client: &Netns, peer: Peer) -> Result<Measured> {
    let fixed = "--silent --show-error --fail-early --fail --insecure --noproxy * --max-time 300";
    let mut curl = client.command("curl", fixed);
    curl.args([
        "--output",
        "/dev/null",
        "--write-out",
        "%{http_code} %{size_download}\n",
    ]);
    curl.arg(format!("{}?[1-{DOWNLOADS}]", peer.url("/100m")));
    let start = Instant::now();
    let answers = sh::output(&mut curl)?;
    let seconds = start.elapsed().as_secs_f64();
    let expected = format!("200 {LARGE}\n").repeat(DOWNLOADS as usize);
    if answers != expected {
        bail!("downloads failed; status and bytes of each:\n{answers}");
    }
    let bytes = (DOWNLOADS * LARGE) as f64;
    Ok(Measured {
        rate: bytes * 8.0 / 1e9 / seconds,
        latency: None,
        work: bytes / GIB,
        cpu: None,
    })
}
