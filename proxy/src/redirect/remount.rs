//! The node's bpffs, unmounted and mounted anew.
//!
//! A bpffs lives as long as a mount or an open file of it. A pod has a mount of its own: what is pinned there stays in
//! force when the node's is unmounted, but it ends with this agent, and no other finds it. So the pins are made again on
//! the bpffs that the node mounts next; they are the same maps and links.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nodetls_ebpf::LAYOUT;
use rustix::process::getppid;

use super::pins::{is_bpffs, prepare, remove, walk};
use super::{Epoch, Redirect, has_living_agent};
use crate::sys;

/// What the node has where our pins should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnNode {
    /// They are there, or were removed: all as without a look.
    AsEver,
    /// No bpffs.
    NoBpffs,
    /// Another bpffs, without pins, or with those that an agent has left.
    Another,
    /// Another bpffs, with the pins of an agent that lives.
    Taken,
}

/// The path as the process that started us sees it, which is of the node's mount namespace: a container's runtime.
fn on_node(path: &Path) -> PathBuf {
    match (getppid(), path.strip_prefix("/")) {
        (Some(parent), Ok(path)) => {
            Path::new(&format!("/proc/{}/root", parent.as_raw_nonzero())).join(path)
        }
        _ => path.to_owned(),
    }
}

/// Looks for our pins at `base`, where the node sees it.
///
/// # Errors
/// It can't be looked at.
pub fn look(base: &Path, epoch: &Epoch) -> io::Result<OnNode> {
    let base = on_node(base);
    let pins = base.join(LAYOUT);
    let ours = pins.try_exists()? && epoch.is_pinned_in(&pins)?;
    let mount = base.parent().unwrap_or(&base);
    Ok(match is_bpffs(mount)? {
        _ if ours || !epoch.is_pinned_somewhere() => OnNode::AsEver,
        true if has_living_agent(&pins) => OnNode::Taken,
        true => OnNode::Another,
        false => OnNode::NoBpffs,
    })
}

impl Redirect {
    /// Makes our pins again at `base`, where the node sees it; from here on all is done there.
    ///
    /// # Errors
    /// When a pin can't be made: then all is as before.
    pub fn follow(&mut self, base: &Path, epoch: &mut Epoch) -> Result<()> {
        let base = on_node(base);
        let (pins, staged) = (base.join(LAYOUT), base.join(format!("{LAYOUT}-staged")));
        if staged.exists() {
            remove(&staged);
        }
        prepare(&staged)?;
        let from = epoch.directory();
        // An agent that starts finds all of it or nothing.
        let copied = copy(&from, &staged).and_then(|()| {
            let moved = epoch.moved(&staged)?;
            if pins.try_exists()? {
                remove(&pins);
            }
            fs::rename(&staged, &pins)?;
            Ok((moved, File::open(&pins)?))
        });
        let (moved, directory) = copied
            .inspect_err(|_| drop(remove(&staged)))
            .context("what is pinned can't be pinned again")?;
        // Whatever becomes of who started us.
        self.pins = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
        *epoch = moved.at(&self.pins);
        self.moved = Some((directory, base));
        Ok(())
    }
}

/// Pins everything below `from` at the same place below `to`: what says which agent lives is not pinned.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let (files, directories) = walk(from);
    let place = |path: &Path| -> Result<PathBuf> { Ok(to.join(path.strip_prefix(from)?)) };
    for directory in directories
        .iter()
        .filter(|path| !path.starts_with(from.join("agents")))
    {
        fs::create_dir_all(place(directory)?)?;
    }
    for file in files {
        let object = sys::bpf_obj_get(&file)?;
        sys::bpf_obj_pin(&object, &place(&file)?)
            .with_context(|| format!("{} can't be pinned", file.display()))?;
    }
    Ok(())
}
