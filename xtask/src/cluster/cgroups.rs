//! The cluster's part of the machine's cgroup tree: in every hierarchy one directory, with all of it below.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Below the root of each hierarchy; kubelet.yaml has it too.
pub(super) const NAME: &str = "nodetls-cluster";

/// The cluster's directories: cgroup2's, and those of the hierarchies of version 1 where there are some.
fn directories(kinds: &[&str]) -> Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let of_kind = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (mount, kind) = (fields.next()?, fields.next()?);
        kinds.contains(&kind).then(|| Path::new(mount).join(NAME))
    });
    Ok(of_kind.collect())
}

/// That of cgroup2.
pub(super) fn unified() -> Result<PathBuf> {
    let mounts = directories(&["cgroup2"])?.into_iter();
    mounts
        .min()
        .context("no cgroup2 mount: `mount -t cgroup2 none /sys/fs/cgroup/unified`")
}

/// Makes those of a node: kubelet wants its root in every hierarchy, and processes only in leaves.
pub(super) fn create(node: &str) -> Result<()> {
    for top in directories(&["cgroup", "cgroup2"])? {
        for directory in [top.clone(), top.join(node)] {
            fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
            fill_cpuset(&directory)?;
        }
    }
    for group in ["holder", "system"] {
        fs::create_dir_all(unified()?.join(node).join(group))?;
    }
    Ok(())
}

/// A new cpuset of version 1 is empty, and takes no process. (cgroup2's root has no such file.)
fn fill_cpuset(directory: &Path) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let above = directory.with_file_name(file);
        if above.exists() && fs::read_to_string(directory.join(file))?.trim().is_empty() {
            fs::write(directory.join(file), fs::read_to_string(above)?)?;
        }
    }
    Ok(())
}

/// Whether a process of the cluster is alive.
pub(super) fn populated() -> Result<bool> {
    match fs::read_to_string(unified()?.join("cgroup.events")) {
        Ok(events) => Ok(events.contains("populated 1")),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Kills every process of the cluster, pods' too, and removes the cgroups.
pub(super) fn remove() -> Result<()> {
    let limit = Duration::from_secs(20);
    if populated()? {
        fs::write(unified()?.join("cgroup.kill"), "1")?;
    }
    // Not `interrupt::poll`: what an interrupted task started must end too.
    let deadline = Instant::now() + limit;
    while populated()? || left()?.iter().any(|top| remove_tree(top).is_err()) {
        if Instant::now() > deadline {
            bail!(
                "cgroups below {} are not empty after {limit:?}",
                unified()?.display()
            );
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// The cluster's directories that exist.
pub(super) fn left() -> Result<Vec<PathBuf>> {
    let all = directories(&["cgroup", "cgroup2"])?.into_iter();
    Ok(all.filter(|top| top.exists()).collect())
}

/// The files of a cgroup directory go with it; only directories can be removed, the lowest first.
fn remove_tree(directory: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(directory)
}
