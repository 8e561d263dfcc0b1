//! The sk_lookup program of one netns, and the sockmap that names the proxy's listeners there.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result};
use aya::EbpfLoader;
use aya::maps::{MapData, SockMap};
use aya::programs::SkLookup;
use aya::programs::links::FdLink;
use nodetls_ebpf::IdRange;

use super::Redirect;
use super::objects;
use super::pins::{link_field, pin_link};
use crate::sys;

/// Loads the programs of all netns: a loader parses the kernel's types when it is made, asked or not, which takes longer than
/// to load a program.
fn loader(ids: IdRange) -> EbpfLoader<'static> {
    // It borrows them. They are two words, and a process has few loaders.
    let ids: &'static IdRange = Box::leak(Box::new(ids));
    let mut loader = EbpfLoader::new();
    loader
        .btf(None)
        .override_global("ID_PREFIX", &ids.prefix, true)
        .override_global("ID_MASK", &ids.mask, true);
    loader
}

/// One netns' redirection. Dropping it changes nothing in the kernel; `remove` does.
pub struct Lookup {
    directory: PathBuf,
    listeners: SockMap<MapData>,
}

impl Lookup {
    /// Loads the program for the netns with this cookie and attaches it, taking over what an earlier agent pinned.
    pub fn attach(redirect: &Redirect, cookie: u64, netns: &File) -> Result<Self> {
        let pins = redirect.pins();
        let directory = pins.join("netns").join(cookie.to_string());
        fs::create_dir_all(&directory)?;
        let loader = redirect
            .lookups
            .get_or_init(|| Mutex::new(loader(redirect.ids())));
        let mut object = loader
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .map_pin_path("COUNTERS", pins.join("maps").join("COUNTERS"))
            .map_pin_path("LISTENERS", directory.join("listeners"))
            .load(objects::LOOKUP)
            .context("the sk_lookup object can't be loaded")?;
        let program: &mut SkLookup = object
            .program_mut("lookup")
            .context("the eBPF object lacks the program lookup")?
            .try_into()?;
        program.load().context(
            "the kernel refuses the sk_lookup program: nodetls needs Linux 5.17 or newer",
        )?;
        let pin = directory.join("link");
        let inode = netns.metadata()?.ino();
        match sys::bpf_obj_get(&pin) {
            Ok(link) if link_field(&link, "netns_ino")? == Some(inode) => {
                sys::bpf_link_update(&link, program.fd()?).context("bpf(BPF_LINK_UPDATE)")?;
            }
            _ => {
                let id = program
                    .attach(netns.as_fd())
                    .context("the kernel takes 64 sk_lookup programs for each netns")?;
                let link: FdLink = program.take_link(id)?.into();
                pin_link(link, &pin)?;
            }
        }
        let listeners = object
            .take_map("LISTENERS")
            .context("the eBPF object lacks the map LISTENERS")?
            .try_into()?;
        Ok(Self {
            directory,
            listeners,
        })
    }

    /// Its pins are where the others are now.
    pub fn follow(&mut self, redirect: &Redirect) {
        if let Some(name) = self.directory.file_name() {
            self.directory = redirect.pins().join("netns").join(name);
        }
    }

    /// Makes `listener` the one that gets new connections of this slot's family.
    pub fn set_listener(&mut self, slot: u32, listener: &impl AsRawFd) -> Result<()> {
        Ok(self.listeners.set(slot, listener, 0)?)
    }

    /// Takes program and pins out of the kernel.
    pub fn remove(self) {
        remove(&self.directory);
    }
}

/// Removes what was pinned for netns that no longer exist.
pub fn remove_stale(pins: &Path, known: impl Fn(u64) -> bool) {
    let Ok(entries) = fs::read_dir(pins.join("netns")) else {
        return;
    };
    for entry in entries.flatten() {
        let cookie = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        if cookie.is_none_or(|cookie| !known(cookie)) {
            remove(&entry.path());
        }
    }
}

fn remove(directory: &Path) {
    // Each on its own: one that fails must not keep the others.
    for pin in ["link", "listeners"] {
        if let Err(error) = fs::remove_file(directory.join(pin)) {
            tracing::debug!(pin, directory = %directory.display(), %error, "pin not removed");
        }
    }
    if let Err(error) = fs::remove_dir(directory) {
        tracing::warn!(directory = %directory.display(), %error, "pins of a netns not removed");
    }
}
