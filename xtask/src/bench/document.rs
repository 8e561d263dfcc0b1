//! `docs/performance.md`, and what is printed.

use std::env;
use std::fmt::Write as _;
use std::fs;

use anyhow::{Context, Result, bail};

use super::connect::Costs;
use super::peer::Peer;
use super::profile::Profile;
use super::scale::Scaled;
use super::scenario::Scenario;
use super::stats::Results;
use super::{chosen, goals, load, plot, report};
use crate::sh;

const DOCUMENT: &str = "docs/performance.md";
const PLOT: &str = "docs/performance.svg";

/// What a run does not measure: why a goal is missed, what was tried, what would reach it.
const LIMITS: &str = "
### What the missed goals wait for

- **A request on an open connection** is two receives, two sends and a share of `epoll_wait`. The profile at the end shows
  that most of its time is the kernel's TCP/IP and waking the next process; TLS and nodetls' own code are the smallest part.
  So `plain-relay`, which does the same without TLS, is as dear or dearer, and 0.6 × Envoy lies below it.
  Tried: workers with a runtime each instead of tokio's one for all, whose threads woke each other (kept: a request takes a
  sixth less CPU, a download a quarter less).
  Not tried: io_uring, which saves the entries into the kernel but not TCP/IP; a sockmap, by which bytes get from the
  client's socket to the agent's past TCP/IP. It would save the most, in a part of the kernel that has lost other projects'
  data.
- **A new HTTP/1 connection** takes ten system calls, six to be accepted, watched and closed, four for the bytes, and two in
  three one more, a look for the request before it is there.
  Tried: to close a client that has said that it asks for nothing more at once, as nginx does, and not to wait for its end
  (kept: two calls and a wake-up fewer); to write the log's lines of a second together (kept); for a client's silence a timer
  that comes after those that there are, since tokio writes to its eventfd for one that comes before (kept: every third
  connection did). On an AMD Zen 3 these three took it from 1.12 and 1.16 × nginx to 0.99 and 1.01, in rounds in turn.
  Before that: a timer instead of TCP_USER_TIMEOUT around each request on a shared connection (kept); to accept on one worker
  and hand every second connection to another (14 % more CPU: now each accepts for itself); to take a shared connection of the
  same worker first (kept).
  User space is three tenths: the log's line 5 % of all, to format its 18 fields, which HAProxy and nginx do not write here;
  of the rest no function takes 2 %.
  Tried: a listener for each worker in one SO_REUSEPORT group, as a connection may now wake two workers, one in vain: 0.97 ×
  nginx instead of 1.05, 12 rounds of each in turn. Not kept: whatever runs as the same user in the netns can join the group,
  and be given connections that are nodetls'; in the host's netns they are other pods'.
  Not tried: to have the sk_lookup program choose among listeners that share no address. It needs another layout of a pinned
  map, and with it an upgrade that keeps the old one served meanwhile.
- **A byte uploaded** is copied into user space, sealed into a second buffer and copied out; a quarter to a third of the time goes
  into being woken for what the client has sent meanwhile. Tried: to seal from the buffer that was read into, not from a copy of
  it (kept: rustls' copy took three times what the cipher takes); reads of 64 KiB (kept), not 128 bytes longer, which were a
  record and a send of their own (kept: half of the sends); reads and writes of 128 and 256 KiB (within the spread).
  Not tried: kTLS, where the kernel seals what it copies anyway. It needs a module on every node, and the relay would need
  both ways for as long as a kernel without it is supported.
- **The cipher** depends on the processor: where there is VAES but no AVX-512 (AMD Zen 3), aws-lc's AES-GCM is slower than
  BoringSSL's, which Envoy has (aws/aws-lc issue 2283; pull request 2934, open, ports it). On such a machine it was three tenths
  of an upload, 0.4 s for a GiB where those with AVX-512 take 0.13 to 0.17; an upload took 1.0 to 1.3 × Envoy's CPU, a
  download 0.8.
- **Memory of idle HTTP/1 connections:** the agent alone has more than HAProxy with all of them, 16 MiB of its program that
  are in use and a heap of 20 MiB; and a connection, with two sockets, takes some 8 KiB more than one of HAProxy's or nginx'.
  Tried: to have the allocator return what is free, once a second (kept: 24 MiB less at the start, and a third less when
  all connections have closed). To be below HAProxy the agent would have to be another program, without a Kubernetes client.
- **A byte downloaded** varies more from round to round than it is away from the goal: five rounds of downloads by Envoy and
  nodetls alone gave 0.72 and 0.83 on the same day.
- **p99 at half load** varies most of all: four runs of three rounds beside nginx alone, one after the other on an AMD EPYC,
  gave 0.23 to 0.85 × the better of nginx' two.
- **Machines differ.** On AMD EPYCs all peers took up to twice the time that they took on an Intel Xeon with quieter
  neighbours. On that Xeon, in five rounds with the same data path (commit 8605454), it was per request on an open
  connection 0.64 × Envoy and 0.75 × the best, per new HTTP/1 connection 0.08 × Envoy, 0.99 × HAProxy and 1.07 × nginx, per new
  TCP connection 0.42, downloaded 0.84 and uploaded 0.92 × Envoy; p99 at half load was 0.65 × the best.
";

/// What was measured.
pub(super) struct Report {
    pub(super) about: String,
    pub(super) notes: String,
    pub(super) results: Results,
    pub(super) connect: Option<Costs>,
    pub(super) scale: Option<Scaled>,
    pub(super) profile: Option<Profile>,
}

impl Report {
    /// Nothing yet; `about` says on what.
    pub(super) fn new(about: String) -> Self {
        Self {
            about,
            notes: String::new(),
            results: Results::default(),
            connect: None,
            scale: None,
            profile: None,
        }
    }

    /// In Markdown, from the second level of headings on.
    pub(super) fn text(&self, scenarios: &[Scenario], peers: &[Peer]) -> String {
        let mut text = format!("{}{}", self.about, self.notes);
        if scenarios.iter().any(|scenario| scenario.of_peers()) {
            text += "\n## Goals\n";
            text += &goals::table(&self.results);
            text += LIMITS;
            text += "\n## Beside others\n";
            text += &report::tables(&self.results, scenarios, peers);
        }
        let mut section = |scenario: Scenario, table: String| {
            let _ = write!(text, "\n## {}\n\n{table}", scenario.title());
        };
        if let Some(costs) = &self.connect {
            section(Scenario::Connect, costs.table());
        }
        if let Some(scaled) = &self.scale {
            section(Scenario::Scale, scaled.table());
        }
        if let Some(profile) = &self.profile {
            section(Scenario::Profile, profile.table());
        }
        text
    }
}

fn introduction() -> String {
    format!(
        "# Performance

nodetls beside other proxies that originate TLS, all in the client's network namespace on one machine, nodetls with its
redirection by eBPF. Written by `NODETLS_BLESS=1 cargo xtask bench`, which installs the others; take the ratios, not the
figures: client, proxy and server share the same processors.

![Medians of each scenario](performance.svg)

- Every proxy has two workers, verifies chain and name, and resumes sessions; the servers speak TLS 1.3 with one cipher
  suite and one group only. nodetls writes its access log, the others none.
- The peers take turns within a round, and another one is first in each. A cell is the median (least..most) of the rounds.
  \"÷ best\" and \"÷ envoy-tcp\" are ratios of medians, to the best other proxy and to Envoy's tcp_proxy.
- CPU is the user and system time of the proxy's processes, whatever the machine was busy with; RSS the most they had
  meanwhile, shared pages counted for each process.
- `-tcp`, `-stream` and stunnel relay bytes; `-http` proxies parse HTTP and share connections to the server.
- Floors: `plain-relay` copies bytes without TLS (tokio's copy_bidirectional, two workers), `direct-tls` is the client's own
  TLS, `direct-plain` no TLS and no proxy.
- HTTP/1 on open connections is loaded by wrk, whose latency counts from a request's first byte; gRPC by h2load; bulk is curl's,
  {} × 100 MiB; all else is `tests/bench/`, whose latency has the client's connect in it. At half load latency
  counts from when a request was due.
- Idle connections are those of peers started anew; as many as nodetls takes of one netns with the files that a process may open here.

",
        load::TRANSFERS
    )
}

fn blessed() -> bool {
    env::var_os("NODETLS_BLESS").is_some()
}

/// # Errors
/// The document is to be written, but not everything is to be measured.
pub(super) fn check_if_blessed(peers: &[Peer], scenarios: &[Scenario]) -> Result<()> {
    let all = peers == chosen(&[]) && scenarios == chosen(&[]);
    if blessed() && !all {
        bail!("{DOCUMENT} is of all scenarios and peers: leave out --scenario and --peers");
    }
    Ok(())
}

/// Writes the document and its plot if NODETLS_BLESS is set.
pub(super) fn bless(text: &str, results: &Results, scenarios: &[Scenario]) -> Result<()> {
    if !blessed() {
        return Ok(());
    }
    let document = format!("{}{text}", introduction());
    for (file, text) in [(DOCUMENT, document), (PLOT, plot::svg(results, scenarios))] {
        fs::write(sh::top().join(file), text).context(file)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_document_is_of_these_scenarios_and_peers() {
        let document = fs::read_to_string(sh::top().join(DOCUMENT)).unwrap();
        assert!(
            document.starts_with(&introduction()) && document.contains(LIMITS),
            "NODETLS_BLESS=1 cargo xtask bench"
        );
        for scenario in chosen::<Scenario>(&[]) {
            assert!(
                document.contains(&format!("# {}\n", scenario.title())),
                "{scenario:?}"
            );
        }
        for peer in chosen::<Peer>(&[]) {
            assert!(document.contains(&format!("\n| {peer} | ")), "{peer}");
        }
    }
}
