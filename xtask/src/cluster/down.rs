//! `cargo xtask cluster down`, and the check that it leaves nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::{STATE, cgroups};
use crate::sh;

/// What kubelet sets, machine-wide, and does not set back.
const SYSCTLS: [&str; 6] = [
    "kernel/keys/root_maxbytes",
    "kernel/keys/root_maxkeys",
    "kernel/panic",
    "kernel/panic_on_oops",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
];

/// Ends the cluster and removes what it made.
///
/// # Errors
/// Something is left: what, and where.
pub(super) fn run() -> Result<()> {
    if !Path::new(STATE).exists() && cgroups::left()?.is_empty() {
        println!("the cluster is not up");
        return Ok(());
    }
    clean()?;
    println!("the cluster is down; no process, mount, netns, cgroup or firewall rule is left");
    Ok(())
}

/// The same, for a cluster in any state.
pub(super) fn clean() -> Result<()> {
    let namespaces = network_namespaces()?;
    stop()?;
    let mut left = processes_left(&namespaces)?;
    left.extend(
        cgroups::left()?
            .iter()
            .map(|top| format!("cgroup {}", top.display())),
    );
    for table in firewall_tables()?.difference(&before("tables")) {
        left.push(format!("in the machine's own netns, nftables' {table}"));
    }
    if !left.is_empty() {
        bail!(
            "`cluster down` left something behind; please report it:\n{}",
            left.join("\n")
        );
    }
    // Last: without it nobody would know what is left.
    fs::remove_dir_all(STATE).or_else(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Ok(()),
        _ => Err(error).context(STATE),
    })
}

/// Ends all processes; logs stay.
pub(super) fn stop() -> Result<()> {
    cgroups::remove()?;
    for line in before("sysctls") {
        let (name, value) = line.split_once(' ').unwrap_or_default();
        fs::write(sysctl(name), value).with_context(|| line.clone())?;
    }
    Ok(())
}

/// Notes what the cluster may change, to set it back and to find what it leaves.
pub(super) fn note_before() -> Result<()> {
    let state = Path::new(STATE);
    let mut sysctls = String::new();
    for name in SYSCTLS {
        sysctls += &format!("{name} {}", fs::read_to_string(sysctl(name))?);
    }
    fs::write(state.join("sysctls.before"), sysctls)?;
    let tables: Vec<_> = firewall_tables()?.into_iter().collect();
    Ok(fs::write(state.join("tables.before"), tables.join("\n"))?)
}

/// The lines that [`note_before`] wrote.
fn before(what: &str) -> BTreeSet<String> {
    let file = Path::new(STATE).join(what).with_extension("before");
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn sysctl(name: &str) -> PathBuf {
    Path::new("/proc/sys").join(name)
}

/// nftables' tables in our own netns; those of iptables-nft are among them.
fn firewall_tables() -> Result<BTreeSet<String>> {
    let nft = sh::find("nft").unwrap_or("nft".into());
    let tables = sh::output(&mut sh::command(nft, "list tables"))?;
    Ok(tables.lines().map(str::to_owned).collect())
}

/// The network namespaces of the cluster's processes: its nodes' and its pods'.
fn network_namespaces() -> Result<BTreeSet<PathBuf>> {
    let ours = processes()?
        .into_iter()
        .filter(|process| in_cluster(process));
    Ok(ours.filter_map(|process| netns(&process)).collect())
}

/// Processes that are the cluster's, or keep one of its mounts or network namespaces.
fn processes_left(namespaces: &BTreeSet<PathBuf>) -> Result<Vec<String>> {
    let mut left = Vec::new();
    for process in processes()? {
        let mounts = fs::read_to_string(process.join("mountinfo")).unwrap_or_default();
        let why = if in_cluster(&process) {
            "is the cluster's"
        } else if mounts.contains(STATE) {
            "sees one of its mounts"
        } else if netns(&process).is_some_and(|netns| namespaces.contains(&netns)) {
            "is in one of its network namespaces"
        } else {
            continue;
        };
        let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
        left.push(format!("{} ({}) {why}", process.display(), name.trim()));
    }
    Ok(left)
}

/// All of the machine but zombies, which keep nothing: their parent has yet to ask for them.
fn processes() -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir("/proc")?.collect::<Result<Vec<_>, _>>()?;
    let paths = entries.into_iter().map(|entry| entry.path());
    let alive = |path: &PathBuf| fs::read(path.join("mountinfo")).is_ok();
    Ok(paths.filter(alive).collect())
}

fn in_cluster(process: &Path) -> bool {
    let cgroups = fs::read_to_string(process.join("cgroup")).unwrap_or_default();
    cgroups.contains(&format!(":/{}", cgroups::NAME))
}

fn netns(process: &Path) -> Option<PathBuf> {
    let netns = fs::read_link(process.join("ns/net")).ok()?;
    (fs::read_link("/proc/self/ns/net").ok()? != netns).then_some(netns)
}
