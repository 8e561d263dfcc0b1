//! Which of several agents on one node is in charge: the one of the newest epoch alone writes the maps. One that never
//! became ready and died gives it back to the agent before it.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nodetls_ebpf::{EPOCH_NEWEST, EPOCH_READY};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::Maps;

/// An agent's claim to the maps. It is alive as long as this is: the lock goes with the process, however that ends.
pub struct Epoch {
    number: u64,
    pins: PathBuf,
    inode: Inode,
    /// The directory `agents`, whose lock is for changes of the maps (shared) and of the charge (exclusive).
    charge: File,
    _alive: File,
}

/// Who is in charge, as one agent sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Charge {
    /// We are.
    Ours,
    /// A newer agent, which is not ready yet.
    Starting,
    /// Nobody: a newer agent died before it was ready.
    Vacant,
    /// A newer agent, which is or was ready, or one of another layout: we are to drain.
    Superseded,
}

impl Epoch {
    /// Takes the next epoch: from here on the agents before us don't write.
    pub fn take(pins: &Path, maps: &mut Maps) -> Result<Self> {
        let agents = pins.join("agents");
        let charge = File::open(&agents)?;
        flock(&charge, FlockOperation::LockExclusive)?;
        remove_dead(&agents)?;
        let number = maps.epoch(EPOCH_NEWEST)? + 1;
        let alive = alive(&agents, number)?;
        maps.set_epoch(EPOCH_NEWEST, number)?;
        flock(&charge, FlockOperation::Unlock)?;
        Ok(Self {
            number,
            pins: pins.to_owned(),
            inode: inode(pins)?,
            charge,
            _alive: alive,
        })
    }

    /// The directory of our pins, whatever is mounted where it was.
    pub(super) fn directory(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/..", self.charge.as_raw_fd()))
    }

    /// Whether the maps that we write are pinned on the bpffs of our start, be it mounted or not.
    pub(super) fn is_pinned_somewhere(&self) -> bool {
        self.is_pinned_in(&self.directory()).unwrap_or(false)
    }

    /// Whether it is the maps that we write that are pinned in `pins`; not if none are.
    pub(super) fn is_pinned_in(&self, pins: &Path) -> io::Result<bool> {
        match inode(pins) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            result => Ok(result? == self.inode),
        }
    }

    /// The same agent, alive in another directory that has the same pins.
    pub(super) fn moved(&self, pins: &Path) -> Result<Self> {
        let agents = pins.join("agents");
        let moved = Self {
            number: self.number,
            pins: pins.to_owned(),
            inode: inode(pins)?,
            charge: File::open(&agents)?,
            _alive: alive(&agents, self.number)?,
        };
        moved.set_serving(serving_mark(&self.directory(), self.number).exists())?;
        Ok(moved)
    }

    /// The same under another path of the directory.
    pub(super) fn at(self, pins: &Path) -> Self {
        Self {
            pins: pins.to_owned(),
            ..self
        }
    }

    /// Grows with every agent.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Makes sure that we are in charge, and stay so until the returned value is dropped.
    ///
    /// # Errors
    /// When another agent is.
    pub fn hold(&self, maps: &Maps) -> Result<Hold<'_>> {
        flock(&self.charge, FlockOperation::LockShared)?;
        let hold = Hold(&self.charge);
        ensure!(
            self.charge(maps)? == Charge::Ours,
            "another agent owns the maps now"
        );
        Ok(hold)
    }

    /// Tells the agents before us that they can go. True the first time.
    pub fn tell_ready(&self, maps: &mut Maps) -> Result<bool> {
        if self.has_been_ready(maps)? {
            return Ok(false);
        }
        maps.set_epoch(EPOCH_READY, self.number)?;
        Ok(true)
    }

    /// Whether [`Epoch::tell_ready`] has been called.
    pub fn has_been_ready(&self, maps: &Maps) -> Result<bool> {
        Ok(maps.epoch(EPOCH_READY)? == self.number)
    }

    /// Tells agents after us whether new connections come to us.
    pub fn set_serving(&self, serving: bool) -> io::Result<()> {
        let mark = serving_mark(&self.pins, self.number);
        let result = match serving {
            true => fs::create_dir(mark),
            false => fs::remove_dir(mark),
        };
        use io::ErrorKind::{AlreadyExists, NotFound};
        match result {
            Err(error) if matches!(error.kind(), AlreadyExists | NotFound) => Ok(()),
            result => result,
        }
    }

    /// Whether an agent before us still lives, and new connections come to it: one in audit mode, or that drains, may
    /// live, but serves nobody.
    pub fn has_serving_elders(&self) -> bool {
        let mut elders = living(&self.pins).filter(|number| *number < self.number);
        elders.any(|number| serving_mark(&self.pins, number).exists())
    }

    /// Who is in charge now.
    pub fn charge(&self, maps: &Maps) -> Result<Charge> {
        if !self.pinned()? {
            return Ok(Charge::Superseded);
        }
        let newest = maps.epoch(EPOCH_NEWEST)?;
        if newest == self.number {
            Ok(Charge::Ours)
        } else if maps.epoch(EPOCH_READY)? > self.number {
            Ok(Charge::Superseded)
        } else if is_alive(&self.pins.join("agents").join(newest.to_string())) {
            Ok(Charge::Starting)
        } else {
            Ok(Charge::Vacant)
        }
    }

    /// Whether the pinned maps are still those that we write. Needs no file descriptor: none may be free.
    fn pinned(&self) -> Result<bool> {
        match inode(&self.pins) {
            Ok(inode) => Ok(inode == self.inode),
            // Removed, or only unmounted.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(self.is_pinned_somewhere()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Tells the pinned EPOCH from another that took its place: device and number.
type Inode = (u64, u64);

fn inode(pins: &Path) -> io::Result<Inode> {
    let metadata = fs::metadata(pins.join("maps/EPOCH"))?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Says that an agent of this number lives, as long as the file is open.
fn alive(agents: &Path, number: u64) -> Result<File> {
    let directory = agents.join(number.to_string());
    match fs::create_dir(&directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error.into()),
        _ => {}
    }
    let alive = File::open(&directory)?;
    lock(&alive).with_context(|| format!("{} is locked", directory.display()))?;
    Ok(alive)
}

/// Is there as long as new connections come to that agent.
fn serving_mark(pins: &Path, number: u64) -> PathBuf {
    pins.join(format!("agents/{number}/serving"))
}

/// As long as this lives nobody else comes into charge.
pub struct Hold<'a>(&'a File);

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        // Fails for no descriptor that could be locked.
        let _ = flock(self.0, FlockOperation::Unlock);
    }
}

/// Whether an agent lives that has its pins in `pins`.
pub fn has_living_agent(pins: &Path) -> bool {
    living(pins).next().is_some()
}

/// Who looks whether we live holds the lock for a moment.
fn lock(directory: &File) -> io::Result<()> {
    const PATIENCE: u32 = 100;
    for _ in 0..PATIENCE {
        match flock(directory, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => thread::sleep(Duration::from_millis(1)),
            result => return Ok(result?),
        }
    }
    Err(Errno::WOULDBLOCK.into())
}

/// The epochs of the agents that live, the oldest first.
pub fn agents(pins: &Path) -> Vec<u64> {
    let mut agents: Vec<_> = living(pins).collect();
    agents.sort_unstable();
    agents
}

/// The epochs of the agents that live.
fn living(pins: &Path) -> impl Iterator<Item = u64> {
    let entries = fs::read_dir(pins.join("agents")).into_iter().flatten();
    let paths = entries.flatten().map(|entry| entry.path());
    paths
        .filter(|path| is_alive(path))
        .filter_map(|path| path.file_name()?.to_str()?.parse().ok())
}

/// Whether the process that locked `directory` lives.
fn is_alive(directory: &Path) -> bool {
    match File::open(directory) {
        Ok(lock) => flock(&lock, FlockOperation::NonBlockingLockShared).is_err(),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

fn remove_dead(agents: &Path) -> io::Result<()> {
    for entry in fs::read_dir(agents)? {
        let path = entry?.path();
        if !is_alive(&path) {
            let _ = fs::remove_dir(path.join("serving"));
            fs::remove_dir(path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_look_delays_an_agent_that_starts_and_another_agent_refuses_it() {
        let directory = tempfile::tempdir().unwrap();
        let open = || File::open(directory.path()).unwrap();
        let look = open();
        flock(&look, FlockOperation::LockShared).unwrap();
        let looking = thread::spawn(move || {
            thread::sleep(Duration::from_millis(20));
            drop(look);
        });
        let alive = open();
        lock(&alive).unwrap();
        looking.join().unwrap();
        assert!(is_alive(directory.path()) && lock(&open()).is_err());
        drop(alive);
        assert!(!is_alive(directory.path()));
    }
}
