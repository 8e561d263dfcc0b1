//! Many pods, many targets, and as many connections as the files that a process may open allow.

use std::fmt::Write as _;
use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::connect::many_targets;
use super::load::Load;
use super::peer::{Peer, write_config};
use super::rig::{agent, file_limit, most_connections, start_servers, write_manifests};
use super::service::Service;
use super::usage::Processes;
use crate::demo::certs::{Authority, P256};
use crate::demo::world::{BACKEND_IP, Netns, World};
use crate::sh;

const PODS: u64 = 250;
const TARGETS: (u16, u16) = (100, 100);
const MOST_CONNECTIONS: u64 = 50_000;
/// How long what is idle is watched.
const REST: Duration = Duration::from_secs(5);

/// What the agent used in each state, and how long it took to come to it.
pub(super) struct Scaled {
    connections: u64,
    rows: Vec<Row>,
}

struct Row {
    state: String,
    took: Duration,
    memory: f64,
    files: usize,
    /// CPU seconds per second, at rest.
    cpu: f64,
}

/// Starts the agent with all pods and targets, then opens the connections.
pub(super) fn measure() -> Result<Scaled> {
    // When few places are left, they are for the pods with fewest.
    let each = most_connections().min(MOST_CONNECTIONS) / 10 * 9 / PODS;
    let mut world = World::new("bench-scale")?;
    let authority = Authority::new(world.dir(), "ca", P256)?;
    world.trust(&authority)?;
    write_manifests(&world)?;
    let many = many_targets(TARGETS.0, TARGETS.1);
    write_config(&world.manifests(), "more.yaml", &many)?;
    let _servers = start_servers(&world, &authority)?;
    let pods = pods(&world)?;

    let start = Instant::now();
    let mut command = agent("--netns")?;
    command.arg(format!("{}-*", world.client.name()));
    world.start_agent(command)?;
    let pid = world.agent_pid().context("no agent")?;
    let mut rows = vec![row("started".to_owned(), start, pid)?];

    let start = Instant::now();
    let mut clients = Vec::new();
    for pod in &pods {
        clients.push(Load::start(pod, &hold(each)?)?);
    }
    for client in &mut clients {
        client.expect(&each.to_string())?;
    }
    let connections = each * PODS;
    rows.push(row(format!("{connections} connections"), start, pid)?);

    let start = Instant::now();
    for client in clients {
        client.finish()?; // it looks whether its connections are still good
    }
    rows.push(row("all closed".to_owned(), start, pid)?);
    Ok(Scaled { connections, rows })
}

/// Namespaces on a bridge in the server's, named like the client's.
fn pods(world: &World) -> Result<Vec<Netns>> {
    let mut pods = Vec::new();
    let mut links = String::from("link add br0 type bridge\nlink set br0 up\n");
    links += "address add 10.98.0.1/16 dev br0\n";
    for number in 1..=PODS {
        let pod = Netns::new(format!("{}-{number}", world.client.name()))?;
        let name = pod.name();
        let _ = writeln!(links, "link add v{number} type veth peer eth0 netns {name}");
        let _ = writeln!(links, "link set v{number} master br0 up");
        pods.push(pod);
    }
    batch(world, &world.backend, &links)?;
    for (number, pod) in (1..=PODS).zip(&pods) {
        let (high, low) = (1 + number / 250, 1 + number % 250);
        let commands = format!(
            "link set lo up\nlink set eth0 up\naddress add 10.98.{high}.{low}/16 dev eth0\n\
             route add {BACKEND_IP} via 10.98.0.1\n"
        );
        batch(world, pod, &commands)?;
    }
    Ok(pods)
}

/// Runs `ip` with each line.
fn batch(world: &World, netns: &Netns, lines: &str) -> Result<()> {
    let file = world.dir().join("ip");
    fs::write(&file, lines)?;
    sh::output(netns.ip("-batch").arg(file))?;
    Ok(())
}

/// What bench-load is to do in each pod.
fn hold(connections: u64) -> Result<Vec<String>> {
    let address = Peer::Nodetls.address(Service::Echo).context("no address")?;
    let hold = ["hold", "--connections", &connections.to_string(), &address];
    Ok(hold.map(str::to_owned).to_vec())
}

fn row(state: String, since: Instant, pid: u32) -> Result<Row> {
    let took = since.elapsed();
    let agent = Processes::of(Some(pid))?;
    let before = agent.cpu()?;
    sleep(REST);
    let used = before
        .zip(agent.cpu()?)
        .map(|(before, after)| after - before);
    let row = Row {
        state,
        took,
        memory: agent.memory()?.unwrap_or_default(),
        files: fs::read_dir(format!("/proc/{pid}/fd"))?.count(),
        cpu: used.unwrap_or_default() / REST.as_secs_f64(),
    };
    let Row {
        state,
        memory,
        files,
        cpu,
        ..
    } = &row;
    println!(
        "scale  {state:20} {took:6.1?} {memory:6.0} MiB {files:6} files, CPU at rest {cpu:.3}"
    );
    Ok(row)
}

impl Scaled {
    /// In Markdown.
    pub(super) fn table(&self) -> String {
        let mut text = format!(
            "{} connections, as a process may open {} files here: nodetls takes three eighths of them, of which nine tenths \
             are tried, {MOST_CONNECTIONS} at most.\n\n\
             | | took s | RSS MiB | open files | CPU at rest |\n|---|--:|--:|--:|--:|\n",
            self.connections,
            file_limit()
        );
        for row in &self.rows {
            let _ = writeln!(
                text,
                "| {} | {:.1} | {:.0} | {} | {:.1} % |",
                row.state,
                row.took.as_secs_f64(),
                row.memory,
                row.files,
                row.cpu * 100.0
            );
        }
        text
    }
}
