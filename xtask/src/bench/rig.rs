//! Server, peers and agent, all running at once; idle ones cost nothing.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::load::{self, LARGE, Measured, SMALL, Scenario};
use super::peer::{Peer, executable, write_config};
use super::usage;
use crate::demo::certs::{Authority, P256};
use crate::demo::process::Process;
use crate::demo::world::{HOSTNAME, World};
use crate::sh;

/// Of every peer's connections to the server; OpenSSL's, BoringSSL's and rustls' own choices differ.
pub(super) const EXPECTED_TLS: &str = "TLSv1.3 TLS_AES_256_GCM_SHA384 X25519";
/// In how many connections a peer must have resumed a session: each of its workers has its own.
const RESUMPTION_TRIES: usize = 10;

/// Ends all of it when it is dropped: processes first, then the namespaces.
pub(super) struct Rig {
    peers: BTreeMap<Peer, Process>,
    _server: Process,
    world: World,
}

impl Rig {
    /// Starts all and asks each peer for a first answer.
    pub(super) fn start(peers: &[Peer]) -> Result<Self> {
        let mut world = World::new("bench")?;
        // A new connection per request leaves its port in TIME_WAIT (tcp(7)); the range is above the peers' ports.
        for setting in ["ip_local_port_range=11000 65535", "tcp_tw_reuse=1"] {
            let mut sysctl = world.client.command("sysctl", "--quiet --write");
            sh::output(sysctl.arg(format!("net.ipv4.{setting}")))?;
        }
        let authority = Authority::new(world.dir(), "ca", P256)?;
        world.trust(&authority)?;
        let server = start_server(&world, &authority)?;
        let mut processes = BTreeMap::new();
        for &peer in peers {
            if peer == Peer::Nodetls {
                let mut agent = sh::command(release_build()?, "agent");
                agent.env("TOKIO_WORKER_THREADS", "2"); // like every peer
                world.start_agent(agent)?;
            }
            let command = peer.command(&world.client, world.dir(), authority.certificate())?;
            if let Some(mut command) = command {
                let process = Process::start(&peer.to_string(), &mut command, world.dir())?;
                processes.insert(peer, process);
            }
        }
        let mut rig = Self {
            peers: processes,
            _server: server,
            world,
        };
        for &peer in peers {
            rig.wait_for(peer)?;
        }
        Ok(rig)
    }

    /// Until it answers.
    fn wait_for(&mut self, peer: Peer) -> Result<()> {
        let world = &self.world;
        let answers = || Ok(get(world, peer, "/1k").is_ok_and(|body| body.len() == SMALL));
        match self.peers.get_mut(&peer) {
            Some(process) => process.wait_until(|_| answers()),
            None if answers()? => Ok(()),
            None => bail!("{peer} does not answer: {:?}", get(world, peer, "/1k")),
        }
    }

    /// Makes sure that the server sees [`EXPECTED_TLS`]; says whether a session was resumed.
    pub(super) fn tls_is_as_expected(&self, peer: Peer) -> Result<bool> {
        let mut resumed = false;
        for _ in 0..RESUMPTION_TRIES {
            let seen = get(&self.world, peer, "/tls")?;
            let Some(rest) = seen.strip_prefix(EXPECTED_TLS) else {
                bail!("the server sees \"{seen}\", not \"{EXPECTED_TLS}\"");
            };
            resumed |= rest.trim() == "r";
        }
        Ok(resumed)
    }

    /// Puts one load on `peer`, and counts its CPU time meanwhile.
    pub(super) fn measure(
        &self,
        peer: Peer,
        scenario: Scenario,
        duration: Duration,
    ) -> Result<Measured> {
        let pids = self.pids(peer)?;
        let before = usage::cpu(&pids)?;
        let mut measured = load::run(&self.world.client, peer, scenario, duration)?;
        if !pids.is_empty() {
            measured.cpu = Some((usage::cpu(&pids)? - before) / measured.work);
        }
        Ok(measured)
    }

    /// Resident memory in MiB.
    pub(super) fn memory(&self, peer: Peer) -> Result<Option<f64>> {
        let pids = self.pids(peer)?;
        (!pids.is_empty()).then(|| usage::memory(&pids)).transpose()
    }

    /// The processes of `peer`, if it has any.
    fn pids(&self, peer: Peer) -> Result<Vec<u32>> {
        let first = match peer {
            Peer::Nodetls => self.world.agent_pid(),
            _ => self.peers.get(&peer).map(Process::pid),
        };
        first.map_or(Ok(Vec::new()), usage::tree)
    }
}

fn start_server(world: &World, authority: &Authority) -> Result<Process> {
    let www = world.dir().join("www");
    fs::create_dir(&www)?;
    fs::write(www.join("1k"), [b'x'; SMALL])?;
    File::create(www.join("100m"))?.set_len(LARGE)?;
    let (certificate, key) = authority.issue(HOSTNAME)?;
    let config = include_str!("configs/backend.conf")
        .replace("@CERT@", &certificate.display().to_string())
        .replace("@KEY@", &key.display().to_string());
    let config = write_config(world.dir(), "backend.conf", &config)?;
    let mut nginx = world.backend.command(executable("nginx"), "-e stderr -c");
    let mut server = Process::start("backend", nginx.arg(config), world.dir())?;
    server.wait_until(|_| Ok(get(world, Peer::DirectPlain, "/1k").is_ok()))?;
    Ok(server)
}

/// What `peer` answers; an error unless its status is 2xx.
fn get(world: &World, peer: Peer, path: &str) -> Result<String> {
    let fixed = "--silent --show-error --fail --insecure --noproxy * --max-time 5";
    sh::output(world.client.command("curl", fixed).arg(peer.url(path)))
}

/// The agent's optimized build, beside the directory of this program's own build.
fn release_build() -> Result<std::path::PathBuf> {
    let this = std::env::current_exe()?;
    let target = this.parent().and_then(|debug| debug.parent());
    Ok(target
        .context("no target directory")?
        .join("release/nodetls"))
}
