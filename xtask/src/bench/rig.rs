//! Server, peers and agent, all running at once; idle ones cost nothing.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::load::{self, Source};
use super::peer::{Peer, executable, write_config};
use super::scenario::{LARGE, Measured, SMALL, Scenario};
use super::service::{Service, for_each};
use super::usage::{Processes, Watch};
use crate::demo::certs::{Authority, P256};
use crate::demo::process::Process;
use crate::demo::world::{BACKEND_IP, HOSTNAME, World};
use crate::sh;

/// Of every peer's connections to the server; OpenSSL's, BoringSSL's and rustls' own choices differ.
pub(super) const EXPECTED_TLS: &str = "TLSv1.3 TLS_AES_256_GCM_SHA384 X25519";
/// In how many connections a peer must have resumed a session: each of its workers has its own.
const RESUMPTION_TRIES: usize = 10;
/// How long [`Rig::calibrate`] loads.
const CALIBRATION: Duration = Duration::from_secs(2);

/// Ends all of it when it is dropped: processes first, then the namespaces.
pub(super) struct Rig {
    peers: BTreeMap<Peer, Process>,
    _servers: [Process; 2],
    authority: Authority,
    world: World,
    half_load: u32,
}

impl Rig {
    /// Starts all and asks each peer for a first answer.
    pub(super) fn start(peers: &[Peer]) -> Result<Self> {
        raise_file_limit()?;
        let world = World::new("bench")?;
        // A new connection per request leaves its port in TIME_WAIT (tcp(7)); the range is above the peers' ports.
        for setting in ["ip_local_port_range=11000 65535", "tcp_tw_reuse=1"] {
            let mut sysctl = world.client.command("sysctl", "--quiet --write");
            sh::output(sysctl.arg(format!("net.ipv4.{setting}")))?;
        }
        write_manifests(&world)?;
        let authority = Authority::new(world.dir(), "ca", P256)?;
        world.trust(&authority)?;
        let mut rig = Self {
            _servers: start_servers(&world, &authority)?,
            peers: BTreeMap::new(),
            authority,
            world,
            half_load: 0,
        };
        for &peer in peers {
            rig.start_peer(peer)?;
        }
        Ok(rig)
    }

    /// Starts it, anew if it is running, and waits until it answers.
    fn start_peer(&mut self, peer: Peer) -> Result<()> {
        let world = &mut self.world;
        if peer == Peer::Nodetls {
            world.stop_agent();
            let mut agent = agent("--connections-per-netns")?;
            agent.arg(connections().to_string());
            world.start_agent(agent)?;
        }
        self.peers.remove(&peer);
        let command = peer.command(&world.client, world.dir(), self.authority.certificate())?;
        if let Some(mut command) = command {
            let process = Process::start(&peer.to_string(), &mut command, world.dir())?;
            self.peers.insert(peer, process);
        }
        let world = &self.world;
        let answers = || Ok(get(world, peer, "/1k").is_ok_and(|body| body.len() == SMALL));
        match self.peers.get_mut(&peer) {
            Some(process) => process.wait_until(|_| answers()),
            None if answers()? => Ok(()),
            None => bail!("{peer} does not answer: {:?}", get(world, peer, "/1k")),
        }
    }

    /// Makes sure that the servers see [`EXPECTED_TLS`]; says whether a session was resumed, of those that bytes are
    /// relayed on, if the peer does that.
    pub(super) fn tls_is_as_expected(&self, peer: Peer) -> Result<bool> {
        let check = |ask: &dyn Fn() -> Result<String>| -> Result<bool> {
            let mut resumed = false;
            for _ in 0..RESUMPTION_TRIES {
                let seen = ask()?;
                let Some(rest) = seen.strip_prefix(EXPECTED_TLS) else {
                    bail!("the server sees \"{seen}\", not \"{EXPECTED_TLS}\"");
                };
                resumed |= rest.trim() == "r";
            }
            Ok(resumed)
        };
        let resumed = check(&|| get(&self.world, peer, "/tls"))?;
        let echo = peer.address(Service::Echo);
        match echo.filter(|_| peer != Peer::DirectTls) {
            Some(address) => check(&|| load::tls_of_echo(&self.world.client, &address)),
            None => Ok(resumed),
        }
    }

    /// Finds out what half load is: half of what `peer` takes; in requests per second.
    pub(super) fn calibrate(&mut self, peer: Peer) -> Result<u32> {
        let measured = self.measure(peer, Scenario::KeepAlive, CALIBRATION)?;
        self.half_load = (measured.rate.unwrap_or_default() / 2.0) as u32;
        Ok(self.half_load)
    }

    /// Puts one load on `peer`, and counts its CPU time and memory meanwhile.
    pub(super) fn measure(
        &mut self,
        peer: Peer,
        scenario: Scenario,
        duration: Duration,
    ) -> Result<Measured> {
        if scenario.needs_a_fresh_peer() {
            self.start_peer(peer)?;
        }
        let processes = self.processes(peer)?;
        let source = Source {
            client: &self.world.client,
            dir: self.world.dir(),
            ca: self.authority.certificate(),
            duration,
            half_load: self.half_load,
            idle_connections: idle_connections(),
            proxy: &processes,
        };
        let before = processes.cpu()?;
        let watch = Watch::start(processes.clone());
        let measured = load::run(&source, peer, scenario);
        let peak = watch.peak()?;
        let mut measured = measured?;
        let used = before
            .zip(processes.cpu()?)
            .map(|(before, after)| after - before);
        measured.cpu_time = measured.cpu_time.or(used);
        measured.memory = measured.memory.or(peak);
        if scenario.needs_a_fresh_peer() {
            self.start_peer(peer)?; // or the next scenarios would be told this one's memory
        }
        Ok(measured)
    }

    /// Where generated files are.
    pub(super) fn dir(&self) -> &Path {
        self.world.dir()
    }

    pub(super) fn agent_pid(&self) -> Option<u32> {
        self.world.agent_pid()
    }

    fn processes(&self, peer: Peer) -> Result<Processes> {
        Processes::of(match peer {
            Peer::Nodetls => self.world.agent_pid(),
            _ => self.peers.get(&peer).map(Process::pid),
        })
    }
}

/// How many files a process may open here.
pub(super) fn file_limit() -> u64 {
    getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX)
}

/// How many connections nodetls takes with so many: its share is three eighths of them.
pub(super) fn most_connections() -> u64 {
    file_limit() / 8 * 3
}

/// How many connections are held idle: 10,000, or as many as nodetls takes of one netns, which is three quarters of all.
pub(super) fn idle_connections() -> usize {
    (most_connections() / 4 * 3).min(10_000) as usize
}

/// How many each peer is to take.
pub(super) fn connections() -> usize {
    idle_connections() + 500
}

/// For all that is started from here on.
pub(super) fn raise_file_limit() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    Ok(setrlimit(Resource::Nofile, raised)?)
}

/// In the place of the example's.
pub(super) fn write_manifests(world: &World) -> Result<()> {
    let service = include_str!("configs/service.yaml");
    let service = for_each(service, &Service::ALL, Service::cluster_port);
    let policy = include_str!("configs/policy.yaml");
    for (file, text) in [("service.yaml", &*service), ("policy.yaml", policy)] {
        write_config(&world.manifests(), file, text)?;
    }
    Ok(())
}

/// nginx, and bench-server for what it can't do; one worker each.
pub(super) fn start_servers(world: &World, authority: &Authority) -> Result<[Process; 2]> {
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
    let mut nginx = Process::start("backend", nginx.arg(config), world.dir())?;
    nginx.wait_until(|_| Ok(get(world, Peer::DirectPlain, "/1k").is_ok()))?;

    let elsewhere = world.dir().join("untrusted");
    fs::create_dir(&elsewhere)?;
    let other = Authority::new(&elsewhere, "ca", P256)?.issue(HOSTNAME)?;
    let mut server = world
        .backend
        .command(release_build("bench-server")?, "serve");
    server.env("TOKIO_WORKER_THREADS", "1");
    server.args(["--listen", BACKEND_IP]);
    server.arg("--identity").arg(certificate).arg(key);
    server.arg("--untrusted-identity").arg(other.0).arg(other.1);
    let mut ports = |flag: &str, service: Service| {
        let ports = [Some(service.tls_port()), service.plain_port()];
        let ports = ports.iter().flatten().map(u16::to_string);
        server.arg(flag).args(ports);
    };
    ports("--http", Service::Grpc);
    ports("--echo", Service::Echo);
    ports("--untrusted", Service::Untrusted);
    let server = Process::start("bench-server", &mut server, world.dir())?;
    Ok([nginx, server])
}

/// What `peer` answers; an error unless its status is 2xx.
fn get(world: &World, peer: Peer, path: &str) -> Result<String> {
    let address = peer.address(Service::Web).context("no address")?;
    let scheme = if peer == Peer::DirectTls {
        "https"
    } else {
        "http"
    };
    let fixed = "--silent --show-error --fail --insecure --noproxy * --max-time 5";
    let mut curl = world.client.command("curl", fixed);
    sh::output(curl.arg(format!("{scheme}://{address}{path}")))
}

/// nodetls' agent with `args`: its workers are as many as its processors, and are to be two, like every peer's.
pub(super) fn agent(args: &str) -> Result<Command> {
    let mut agent = sh::command("taskset", "--cpu-list 0,1");
    agent.arg(release_build("nodetls")?).arg("agent");
    agent.args(args.split_whitespace());
    Ok(agent)
}

/// An optimized build of `program`, beside the directory of this program's own build.
pub(super) fn release_build(program: &str) -> Result<PathBuf> {
    let this = env::current_exe()?;
    let target = this.parent().and_then(|debug| debug.parent());
    let target = target.context("no target directory")?;
    Ok(target.join("release").join(program))
}
