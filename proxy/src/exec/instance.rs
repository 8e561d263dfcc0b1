//! What one `nodetls exec` has in the kernel: a number, and with it a range of addresses; a directory of pins; a cgroup.
//! All of it is removed by its proxy, or, if that was killed, by the next who comes by and finds the cgroup empty.

use std::fs::{self, File};
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::{FileExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use nodetls_ebpf::IdRange;
use rustix::fs::{FlockOperation, flock};

use super::own_cgroup;
use crate::pods::own_listeners;
use crate::redirect::{
    Effect, Epoch, Maps, Redirect, cgroup_is_gone, has_living_agent, remove_pins,
};

pub(crate) const EXEC: &str = "exec";
/// In the directory of pins: a symbolic link to the cgroup.
pub(crate) const CGROUP: &str = "cgroup";

/// An instance. Dropping it removes it, unless its cgroup has processes: their connects stay refused.
pub(super) struct Instance {
    pub(super) cgroup: PathBuf,
    pins: PathBuf,
    /// Tells whether a process is in the cgroup or below. Kept open: later no descriptor may be free, or no path.
    events: Option<File>,
}

impl Instance {
    /// Takes a free number below `base`, with its listeners in the current netns; makes the cgroup, and loads the
    /// programs for it.
    pub(super) fn new(base: &Path) -> Result<(Epoch, Maps, Redirect, Vec<TcpListener>, Self)> {
        let parent = own_cgroup()?;
        let directory = base.join(EXEC);
        fs::create_dir_all(&directory).with_context(|| {
            format!(
                "{} can't be created: this needs root and a bpffs",
                directory.display()
            )
        })?;
        let _lock = lock(&directory)?;
        collect(base);
        let (number, listeners) = free_number(&directory)?;
        let pins = directory.join(number.to_string());
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
        let mut instance = Self {
            // In containers pids repeat.
            cgroup: parent.join(format!("nodetls-exec-{}-{now:x}", process::id())),
            pins,
            events: None,
        };
        let (redirect, mut maps) = Redirect::load_at(
            instance.pins.clone(),
            IdRange::exec(number),
            Effect::Enforce,
        )?;
        let epoch = Epoch::take(redirect.pins(), &mut maps)?;
        fs::create_dir(&instance.cgroup)
            .with_context(|| format!("{} can't be created", instance.cgroup.display()))?;
        instance.events = Some(open_events(&instance.cgroup)?);
        symlink(&instance.cgroup, instance.pins.join(CGROUP))?;
        Ok((epoch, maps, redirect, listeners, instance))
    }

    /// Whether the command has ended, with all that it started; or was never there.
    pub(super) fn is_over(&self) -> bool {
        self.events.as_ref().is_none_or(is_empty)
    }
}

/// The first that has no pins here, and no listeners in this netns: of an instance with other pins, that is.
fn free_number(directory: &Path) -> Result<(u32, Vec<TcpListener>)> {
    for number in 0..IdRange::EXEC_RANGES {
        if directory.join(number.to_string()).exists() {
            continue;
        }
        match own_listeners(IdRange::exec(number)) {
            Ok(listeners) => return Ok((number, listeners)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error).context("listeners can't be opened in this netns"),
        }
    }
    bail!(
        "too many commands run at a time: each of {} numbers is taken",
        IdRange::EXEC_RANGES
    )
}

impl Drop for Instance {
    fn drop(&mut self) {
        if self.is_over() {
            remove(&self.pins);
        } else {
            let pins = self.pins.display();
            tracing::warn!(%pins, "the command goes on without its proxy: its connects are refused");
        }
    }
}

fn open_events(cgroup: &Path) -> io::Result<File> {
    File::open(cgroup.join("cgroup.events"))
}

/// Whether no process is left; not, if that can't be told.
fn is_empty(events: &File) -> bool {
    let mut text = [0; 128];
    match events.read_at(&mut text, 0) {
        Ok(read) => text[..read]
            .split(|byte| *byte == b'\n')
            .any(|line| line == b"populated 0"),
        // Only an empty cgroup can be removed.
        Err(error) => error.raw_os_error() == Some(libc::ENODEV),
    }
}

/// The directories of pins of all instances below `base`, and whether their proxy or command lives.
pub fn instances(base: &Path) -> Vec<(PathBuf, bool)> {
    let entries = fs::read_dir(base.join(EXEC)).into_iter().flatten();
    entries
        .flatten()
        .map(|entry| entry.path())
        .map(|pins| {
            let lives = has_living_agent(&pins) || !is_over(&pins);
            (pins, lives)
        })
        .collect()
}

/// Whether the command has ended. The cgroup's path may mean nothing here: then the kernel must say that it is gone.
fn is_over(pins: &Path) -> bool {
    match open_events(&pins.join(CGROUP)) {
        Ok(events) => is_empty(&events),
        Err(_) => cgroup_is_gone(pins),
    }
}

/// Keeps others from taking a number, or collecting, as long as the returned file is open.
fn lock(directory: &Path) -> Result<File> {
    let lock = File::open(directory)?;
    flock(&lock, FlockOperation::LockExclusive)?;
    Ok(lock)
}

/// Removes what killed instances left below `base`. Nobody takes a new number before the returned lock is dropped;
/// there is none where no instance has ever been.
pub fn collect_stale(base: &Path) -> Result<Option<File>> {
    let directory = base.join(EXEC);
    if !directory.exists() {
        return Ok(None);
    }
    let lock = lock(&directory)?;
    collect(base);
    Ok(Some(lock))
}

fn collect(base: &Path) {
    for (pins, lives) in instances(base) {
        if !lives {
            remove(&pins);
        }
    }
}

fn remove(pins: &Path) {
    if let Ok(cgroup) = fs::read_link(pins.join(CGROUP)) {
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
    if let Err(error) = fs::remove_dir(cgroup)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(cgroup = %cgroup.display(), %error, "can't be removed");
    }
}
