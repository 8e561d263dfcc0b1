//! What one `nodetls exec` has in the kernel: a number, and with it a range of addresses; a directory of pins; a cgroup.
//! All of it is removed by its proxy, or, if that was killed, by the next who comes by and finds the cgroup empty.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process;

use anyhow::{Context as _, Result};
use nodetls_ebpf::IdRange;
use rustix::fs::{FlockOperation, flock};

use super::own_cgroup;
use crate::redirect::{Epoch, Maps, Redirect, has_living_agent, is_bpffs, remove_pins};

const EXEC: &str = "exec";
/// In the directory of pins: a symbolic link to the cgroup.
const CGROUP: &str = "cgroup";

/// An instance. Dropping it removes it, unless its cgroup has processes: their connects stay refused.
pub(super) struct Instance {
    pub(super) cgroup: PathBuf,
    pins: PathBuf,
}

impl Instance {
    /// Takes a free number below `base`, makes the cgroup, and loads the programs for it.
    pub(super) fn new(base: &Path) -> Result<(Epoch, Maps, Redirect, Self)> {
        let directory = base.join(EXEC);
        fs::create_dir_all(&directory).with_context(|| {
            format!(
                "{} can't be created (needs root, and a bpffs)",
                directory.display()
            )
        })?;
        let one_at_a_time = File::open(&directory)?;
        flock(&one_at_a_time, FlockOperation::LockExclusive)?;
        collect(&directory);
        let (number, pins) = (0..IdRange::EXEC_RANGES)
            .map(|number| (number, directory.join(number.to_string())))
            .find(|(_, pins)| !pins.exists())
            .context("every number is taken: too many commands run at a time")?;
        let instance = Self {
            cgroup: own_cgroup()?.join(format!("nodetls-exec-{}", process::id())),
            pins,
        };
        let (redirect, mut maps) = Redirect::load_at(instance.pins.clone(), IdRange::exec(number))?;
        let epoch = Epoch::take(redirect.pins(), &mut maps)?;
        symlink(&instance.cgroup, instance.pins.join(CGROUP))?;
        fs::create_dir(&instance.cgroup)
            .with_context(|| format!("{} can't be created", instance.cgroup.display()))?;
        Ok((epoch, maps, redirect, instance))
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        remove(&self.pins);
    }
}

/// Whether a process is in the cgroup or below.
pub(super) fn is_populated(cgroup: &Path) -> bool {
    fs::read_to_string(cgroup.join("cgroup.events"))
        .is_ok_and(|events| events.lines().any(|line| line == "populated 1"))
}

/// The directories of pins of all instances below `base`, and whether their proxy or command lives.
pub fn instances(base: &Path) -> Vec<(PathBuf, bool)> {
    let entries = fs::read_dir(base.join(EXEC)).into_iter().flatten();
    entries
        .flatten()
        .map(|entry| entry.path())
        .map(|pins| {
            let lives = has_living_agent(&pins) || is_populated(&pins.join(CGROUP));
            (pins, lives)
        })
        .collect()
}

/// Removes what killed instances left below `base`.
pub fn collect_stale(base: &Path) -> io::Result<()> {
    let directory = base.join(EXEC);
    if !directory.exists() || !is_bpffs(base)? {
        return Ok(());
    }
    let one_at_a_time = File::open(&directory)?;
    flock(&one_at_a_time, FlockOperation::LockExclusive)?;
    collect(&directory);
    Ok(())
}

fn collect(directory: &Path) {
    let Some(base) = directory.parent() else {
        return;
    };
    for (pins, lives) in instances(base) {
        if !lives {
            remove(&pins);
        }
    }
}

fn remove(pins: &Path) {
    let cgroup = pins.join(CGROUP);
    if is_populated(&cgroup) {
        tracing::warn!(pins = %pins.display(), "the command goes on without its proxy: its connects are refused");
        return;
    }
    if let Ok(cgroup) = fs::read_link(&cgroup) {
        remove_cgroup(&cgroup);
    }
    remove_pins(pins);
}

/// With the cgroups that the command made in it.
fn remove_cgroup(cgroup: &Path) {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    if let Err(error) = fs::remove_dir(cgroup) {
        tracing::warn!(cgroup = %cgroup.display(), %error, "can't be removed");
    }
}
