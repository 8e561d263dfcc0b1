//! The kernel's half: what the pins tell, with or without an agent.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nodetls_ebpf::{LAYOUT, Mode};

use super::report::{
    Agent, AgentState, Connects, Exec, ExecState, Netns, NetnsState, Problem, Program, Status,
};
use crate::exec::{CGROUP, instances};
use crate::redirect::{
    EbpfView, PROGRAMS, PinnedLink, agents, default_cgroup, foreign, has_living_agent, is_bpffs,
    pinned_link,
};

/// Where `ip netns` keeps names.
const NETNS_DIR: &str = "/run/netns";

/// Everything that is pinned below `base`, targets aside, and what to read on.
///
/// # Errors
/// When the pins may not be read.
pub(crate) fn kernel(base: &Path) -> Result<(Status, Option<EbpfView>)> {
    let mut status = Status {
        pins: base.to_owned(),
        ..Status::default()
    };
    match is_bpffs(base) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((status, None)),
        result => anyhow::ensure!(result?, "not on a bpffs"),
    }
    status.exec = instances(base)
        .iter()
        .map(|(pins, lives)| exec(pins, *lives))
        .collect();
    let left = foreign(base).into_iter().map(|pins| {
        let what = format!("{} are pins of another version", pins.display());
        Problem::new(what, "start this version's agent, which replaces them")
    });
    status.problems.extend(left);
    let pins = base.join(LAYOUT);
    if !pins.try_exists()? {
        return Ok((status, None));
    }
    status.programs = programs(&pins).context("links")?;
    let view = match EbpfView::open(&pins) {
        Ok(view) => view,
        Err(error) => {
            let what = format!("the maps can't be read ({error:#}): connects may be refused");
            let cure = "restart the agent: it makes what is missing anew";
            status.problems.push(Problem::new(what, cure));
            return Ok((status, None));
        }
    };
    let (newest, ready) = view.epochs()?;
    status.agents = judge_agents(&agents(&pins), newest, ready);
    status.netns = netns(&pins, &view.pods()).context("netns")?;
    let connects = view.stats().connects.into_iter();
    status.connects = connects
        .map(|row| Connects {
            outcome: row.outcome.to_owned(),
            reason: row.reason.to_owned(),
            count: row.count,
        })
        .collect();
    Ok((status, Some(view)))
}

/// Who is in charge, of the `living`, when these are the newest epoch and the newest that has been ready.
pub(super) fn judge_agents(living: &[u64], newest: u64, ready: u64) -> Vec<Agent> {
    let state = |epoch: u64| match epoch {
        _ if epoch == newest && ready == newest => AgentState::InCharge,
        _ if epoch >= newest => AgentState::Starting,
        _ if ready > epoch => AgentState::Draining,
        _ => AgentState::Serving,
    };
    let mut agents: Vec<_> = living
        .iter()
        .map(|&epoch| Agent {
            epoch,
            state: state(epoch),
        })
        .collect();
    if newest != 0 && !living.contains(&newest) {
        let state = AgentState::Dead;
        agents.push(Agent {
            epoch: newest,
            state,
        });
    }
    agents
}

fn programs(pins: &Path) -> io::Result<Vec<Program>> {
    let mut paths = BTreeMap::new();
    let mut program = |name: &str| {
        let link = pinned_link(&pins.join("links").join(name), "cgroup_id")?;
        let cgroup_id = attached_to(link);
        let cgroup = cgroup_id.and_then(|id| {
            let path = paths.entry(id).or_insert_with(|| cgroup_path(id));
            path.clone()
        });
        Ok(Program {
            name: name.to_owned(),
            link: link.map(|link| link.link),
            program: link.map(|link| link.program),
            cgroup_id,
            cgroup,
        })
    };
    PROGRAMS.iter().map(|name| program(name)).collect()
}

fn attached_to(link: Option<PinnedLink>) -> Option<u64> {
    link.map(|link| link.attached_to).filter(|id| *id != 0)
}

/// A cgroup's id is its inode.
fn cgroup_path(id: u64) -> Option<PathBuf> {
    let mut queue = VecDeque::from([default_cgroup().ok()?]);
    while let Some(path) = queue.pop_front() {
        if inode(&path) == Some(id) {
            return Some(path);
        }
        let entries = fs::read_dir(&path).into_iter().flatten().flatten();
        let below = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        queue.extend(below.map(|entry| entry.path()));
    }
    None
}

fn inode(path: &Path) -> Option<u64> {
    Some(fs::metadata(path).ok()?.ino())
}

/// Those in PODS, and those that have a link.
fn netns(pins: &Path, pods: &BTreeMap<u64, u32>) -> io::Result<Vec<Netns>> {
    let entries = fs::read_dir(pins.join("netns")).into_iter().flatten();
    let linked = entries.flatten().filter_map(|entry| {
        let cookie = entry.file_name().to_str()?.parse().ok()?;
        Some((cookie, entry.path()))
    });
    let linked: BTreeMap<u64, PathBuf> = linked.collect();
    let cookies: BTreeSet<u64> = pods.keys().chain(linked.keys()).copied().collect();
    let names = netns_names();
    let row = |cookie: u64| {
        let pin = linked.get(&cookie).map(|path| path.join("link"));
        let link = pin.map(|pin| pinned_link(&pin, "netns_ino")).transpose()?;
        let link = link.flatten();
        let netns = attached_to(link);
        let is = |mode: Mode| pods.get(&cookie) == Some(&(mode as u32));
        let state = match netns {
            _ if is(Mode::Bypass) => NetnsState::Bypassed,
            _ if !is(Mode::Redirect) && !is(Mode::RedirectV4) => NetnsState::Denied,
            Some(_) => NetnsState::Enrolled,
            None => NetnsState::Detached,
        };
        Ok(Netns {
            name: netns.and_then(|inode| names.get(&inode).cloned()),
            cookie,
            state,
            link: link.map(|link| link.link),
        })
    };
    cookies.into_iter().map(row).collect()
}

/// Inode → name of the named netns.
pub(crate) fn netns_names() -> BTreeMap<u64, String> {
    let entries = fs::read_dir(NETNS_DIR).into_iter().flatten().flatten();
    let names = entries
        .filter_map(|entry| Some((inode(&entry.path())?, entry.file_name().into_string().ok()?)));
    names.collect()
}

fn exec(pins: &Path, lives: bool) -> Exec {
    let cgroup = fs::read_link(pins.join(CGROUP)).ok();
    let processes = cgroup.as_ref().map(|cgroup| cgroup.join("cgroup.procs"));
    let processes = processes.and_then(|path| fs::read_to_string(path).ok());
    let pid = processes.and_then(|pids| pids.lines().next()?.parse::<u32>().ok());
    let command = pid.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).ok());
    let state = match lives {
        true if has_living_agent(pins) => ExecState::Running,
        true => ExecState::Orphaned,
        false => ExecState::Ended,
    };
    let name = pins.file_name().unwrap_or_default();
    Exec {
        number: name.to_string_lossy().into_owned(),
        state,
        pid,
        command: command.map(|command| command.trim_end().to_owned()),
        cgroup,
    }
}
