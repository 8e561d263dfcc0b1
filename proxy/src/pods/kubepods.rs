//! The kubelet's part of a cgroup tree: `kubepods`, below it (with or without a directory for the QoS class) one
//! directory a pod, below that its containers'. Names differ by cgroup driver, the way there by node.

use std::collections::HashSet;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::io::Errno;

/// How far below the mount `kubepods` may be: `/system.slice/docker-ID.scope/kubelet.slice/kubelet-kubepods.slice`.
const SEARCH_DEPTH: usize = 5;
/// How far below a pod's directory its processes may be: nested containers, an init of their own.
const POD_DEPTH: usize = 12;

/// A pod's directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PodDir {
    /// `metadata.uid`, or a static pod's config hash.
    pub(super) uid: String,
    pub(super) path: PathBuf,
}

/// The mount points of cgroup hierarchies in the text of `/proc/self/mountinfo` (proc_pid_mountinfo(5)): those of
/// cgroup2 first; on a hybrid node an old runtime may use v1 alone.
pub(super) fn cgroup_mounts(mountinfo: &str) -> Vec<PathBuf> {
    let of = |kind: &'static str| {
        mountinfo.lines().filter_map(move |line| {
            let (mount, filesystem) = line.split_once(" - ")?;
            let found = filesystem.split(' ').next() == Some(kind);
            found.then(|| mount.split(' ').nth(4)).flatten()
        })
    };
    of("cgroup2")
        .chain(of("cgroup"))
        .map(PathBuf::from)
        .collect()
}

/// The kubelet's directory in the first of these hierarchies that has one. Of several (nodes that share a kernel), it is
/// the one that process `own` lives below.
///
/// # Errors
/// There is none, or several that can't be told apart.
pub(super) fn find(hierarchies: &[PathBuf], own: u32) -> Result<PathBuf> {
    let mut all = Vec::new();
    for hierarchy in hierarchies {
        let mut found = Vec::new();
        search(hierarchy, SEARCH_DEPTH, &mut found)?;
        // An empty one may be left over in a hierarchy that the runtime does not use.
        if found
            .iter()
            .any(|path| pods(path, |_| {}).is_ok_and(|pods| !pods.is_empty()))
        {
            all = found;
            break;
        }
        all.extend(found);
    }
    if all.len() > 1 {
        let ours = |path: &PathBuf| {
            pods(path, |_| {})
                .into_iter()
                .flatten()
                .any(|pod| processes(&pod.path, &mut |_| {}).is_ok_and(|pids| pids.contains(&own)))
        };
        if let Some(ours) = all.iter().position(ours) {
            all.swap(0, ours);
            all.truncate(1);
        }
    }
    let names = |paths: &[PathBuf]| {
        let names: Vec<_> = paths
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        names.join(", ")
    };
    ensure!(
        !all.is_empty(),
        "no cgroup `kubepods` below {}: mount the host's /sys/fs/cgroup, and name where it is mounted",
        names(hierarchies)
    );
    ensure!(
        all.len() == 1,
        "several kubelets' cgroups: {}; name the directory that this node's is in",
        names(&all)
    );
    Ok(all.swap_remove(0))
}

fn search(dir: &Path, depth: usize, found: &mut Vec<PathBuf>) -> Result<()> {
    for child in children(dir)? {
        let name = child.file_name().unwrap_or_default().to_string_lossy();
        if is_kubepods(&name) {
            found.push(child);
        } else if depth > 1 {
            search(&child, depth - 1, found)?;
        }
    }
    Ok(())
}

/// `kubepods`, `kubepods.slice`, or with a cgroup root of the kubelet's own `kubelet-kubepods.slice`.
fn is_kubepods(name: &str) -> bool {
    let slice = name.strip_suffix(".slice").unwrap_or(name);
    name == "kubepods" || slice != name && (slice == "kubepods" || slice.ends_with("-kubepods"))
}

/// The uid in a pod directory's name: `podUID`, or `PREFIX-podUID.slice` with `_` for each `-` of the uid.
pub(super) fn pod_uid(name: &str) -> Option<String> {
    let uid = match name.strip_suffix(".slice") {
        Some(slice) => slice.rsplit_once("-pod")?.1.replace('_', "-"),
        None => name.strip_prefix("pod")?.to_owned(),
    };
    (!uid.is_empty()).then_some(uid)
}

/// The pods below the kubelet's directory. `visit` is called with each directory before it is read.
pub(super) fn pods(kubepods: &Path, mut visit: impl FnMut(&Path)) -> Result<Vec<PodDir>> {
    let mut pods = Vec::new();
    let mut unread = vec![(kubepods.to_owned(), true)];
    while let Some((dir, has_classes)) = unread.pop() {
        visit(&dir);
        for path in children(&dir)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if let Some(uid) = pod_uid(&name) {
                pods.push(PodDir { uid, path });
            } else if has_classes {
                unread.push((path, false));
            }
        }
    }
    Ok(pods)
}

/// The processes of a pod, whatever container or nested cgroup they are in. `visit` as above.
pub(super) fn processes(pod: &Path, visit: &mut impl FnMut(&Path)) -> Result<HashSet<u32>> {
    let mut pids = HashSet::new();
    let mut unread = vec![(pod.to_owned(), POD_DEPTH)];
    while let Some((dir, depth)) = unread.pop() {
        visit(&dir);
        pids.extend(procs(&dir)?);
        if depth > 0 {
            unread.extend(children(&dir)?.into_iter().map(|child| (child, depth - 1)));
        }
    }
    Ok(pids)
}

fn procs(dir: &Path) -> Result<Vec<u32>> {
    let file = dir.join("cgroup.procs");
    let text = or_gone(fs::read_to_string(&file))
        .with_context(|| format!("{} can't be read", file.display()))?;
    parse_procs(&text.unwrap_or_default()).with_context(|| file.display().to_string())
}

/// The text of a `cgroup.procs`.
fn parse_procs(text: &str) -> Result<Vec<u32>> {
    let pid = |line: &str| match line.parse() {
        Ok(0) => bail!("has processes that we can't see: run with hostPID: true"),
        Ok(pid) => Ok(pid),
        Err(_) => bail!("{line:?} is no process id"),
    };
    text.lines().map(pid).collect()
}

fn children(dir: &Path) -> Result<Vec<PathBuf>> {
    let list = || -> io::Result<Vec<PathBuf>> {
        let mut children = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                children.push(entry.path());
            }
        }
        Ok(children)
    };
    let children = or_gone(list()).with_context(|| format!("{} can't be read", dir.display()))?;
    Ok(children.unwrap_or_default())
}

/// A cgroup may go while we look, and a threaded one lists no processes: its parent does. Any other error must not pass
/// for an empty directory: all its pods would be released.
fn or_gone<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    let gone = [Errno::NODEV, Errno::OPNOTSUPP].map(|errno| Some(errno.raw_os_error()));
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) if gone.contains(&error.raw_os_error()) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
