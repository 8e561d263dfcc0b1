//! What /proc tells of a process: its netns, its parent.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{getpid, getppid};

/// Network namespaces by inode, held open: so no inode of these is given to another.
pub(super) type NetnsByInode = BTreeMap<u64, Arc<File>>;

/// The netns that are the node's own: those in `named`, and always ours. When none is named: also the one of the process
/// that started our container, since a hostNetwork pod gets the netns of its runtime. That is our nearest ancestor in
/// another netns than ours (an ordinary pod), or none (we are hostNetwork, or no pod). Never PID 1: where nodes share a
/// kernel it belongs to none of them.
///
/// # Errors
/// A file of `named` can't be opened; our ancestors can't be seen.
pub(super) fn node_netns(named: &[PathBuf]) -> Result<NetnsByInode> {
    let own = open(Path::new("/proc/self/ns/net")).context("our own netns can't be opened")?;
    let own_inode = own.0;
    let mut all = BTreeMap::from([own]);
    for path in named {
        let opened = open(path)
            .with_context(|| format!("the node's netns {} can't be opened", path.display()))?;
        all.insert(opened.0, opened.1);
    }
    if named.is_empty() {
        ensure!(
            getppid().is_some() || getpid().is_init(),
            "the process that started us can't be seen: run with hostPID: true"
        );
        let mut ancestor = parent(std::process::id());
        while let Some(pid) = ancestor {
            if let Some((inode, file)) = open_netns(pid)?
                && inode != own_inode
            {
                all.insert(inode, file);
                break;
            }
            ancestor = parent(pid);
        }
    }
    Ok(all)
}

/// Whether one of `pids`, which are in the netns `inode`, was started by a process outside `pod` that is in it too. That
/// is how the node's netns looks, and never a pod's: a container's first process is started from the node's netns.
pub(super) fn is_shared_with_parent(inode: u64, pids: &[u32], pod: &HashSet<u32>) -> Result<bool> {
    for parent in pids.iter().filter_map(|pid| parent(*pid)) {
        if !pod.contains(&parent) && netns(parent)? == Some(inode) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The inode of a process's netns; `None` when it has none: it has ended, or is a zombie.
pub(super) fn netns(pid: u32) -> Result<Option<u64>> {
    unless_ended(pid, || Ok(fs::metadata(path(pid))?.ino()))
}

/// The same, open: it stays valid when the process ends.
pub(super) fn open_netns(pid: u32) -> Result<Option<(u64, Arc<File>)>> {
    unless_ended(pid, || open(&path(pid)))
}

fn path(pid: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/ns/net"))
}

fn open(path: &Path) -> std::io::Result<(u64, Arc<File>)> {
    let file = File::open(path)?;
    Ok((file.metadata()?.ino(), Arc::new(file)))
}

fn unless_ended<T>(pid: u32, look: impl Fn() -> std::io::Result<T>) -> Result<Option<T>> {
    let mut result = look();
    // The kernel says EACCES also when the process ends just then: the second look tells.
    if matches!(&result, Err(error) if error.kind() == ErrorKind::PermissionDenied) {
        result = look();
    }
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
        Err(error) => Err(error).with_context(|| {
            format!("the netns of process {pid} can't be seen (needs CAP_SYS_PTRACE)")
        }),
    }
}

/// The process that started this one, as long as that lives; never PID 1, which adopts the others.
fn parent(pid: u32) -> Option<u32> {
    parse_parent(&stat(pid)?)
}

fn parse_parent(stat: &str) -> Option<u32> {
    field(stat, 4).filter(|parent| *parent > 1)
}

/// When a process started, in ticks since the boot.
pub(super) fn started(pid: u32) -> Option<u64> {
    field(&stat(pid)?, 22)
}

fn stat(pid: u32) -> Option<String> {
    fs::read_to_string(format!("/proc/{pid}/stat")).ok()
}

/// A field of `/proc/PID/stat` as proc_pid_stat(5) numbers them, from the third on: the second is a name in parentheses with
/// anything in it.
fn field<T: FromStr>(stat: &str, number: usize) -> Option<T> {
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').nth(number - 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn who_started_later_is_younger() {
        let mut child = std::process::Command::new("sleep")
            .arg("10")
            .spawn()
            .unwrap();
        assert!(started(std::process::id()).unwrap() <= started(child.id()).unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(started(child.id()), None);
    }

    #[test]
    fn the_parent_is_found_behind_any_name() {
        assert_eq!(parse_parent("42 (sh) S 41 42 42 0"), Some(41));
        assert_eq!(parse_parent("42 (a) S 7 (b) R 41 42"), Some(41));
        assert_eq!(parse_parent("42 (pause) S 1 42"), None);
        assert_eq!(parse_parent("1 (init) S 0 1"), None);
        assert_eq!(parse_parent(""), None);
    }

    #[test]
    fn our_own_netns_is_the_nodes() {
        let own = netns(std::process::id()).unwrap().unwrap();
        let named = [PathBuf::from("/proc/self/ns/net")];
        let nodes: Vec<u64> = node_netns(&named).unwrap().into_keys().collect();
        assert_eq!(nodes, [own]);
        assert!(node_netns(&[]).unwrap().contains_key(&own));
        let error = node_netns(&[PathBuf::from("/nonexistent")]).unwrap_err();
        assert!(format!("{error:#}").contains("/nonexistent"), "{error:#}");
    }

    #[test]
    fn an_ended_process_has_no_netns() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        // A zombie until it is waited for.
        while !fs::read_to_string(format!("/proc/{pid}/stat"))
            .unwrap()
            .contains(") Z ")
        {}
        assert_eq!(netns(pid).unwrap(), None);
        child.wait().unwrap();
        assert_eq!(netns(pid).unwrap(), None);
    }
}
