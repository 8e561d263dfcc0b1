//! The bpffs directory of what outlives an agent: what in it is ours, what another version left, and their removal.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use aya::programs::links::FdLink;
use nodetls_ebpf::LAYOUT;

use crate::sys;

/// `BPF_FS_MAGIC` of linux/magic.h.
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
/// Longer than a connect takes from its hook to its SYN.
const SETTLE: Duration = Duration::from_millis(100);

/// Makes `directory` ready for pins, for root alone: whoever could lock or replace something there could stop us.
pub(super) fn prepare(directory: &Path) -> Result<()> {
    let help = || {
        format!(
            "{} can't be created: this needs root and a bpffs (`mount -t bpf -o mode=700 bpf /sys/fs/bpf`)",
            directory.display()
        )
    };
    let private = |path: &Path| {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700).create(path)
    };
    private(directory).with_context(help)?;
    if !is_bpffs(directory).with_context(help)? {
        // Never leave pins' directories behind on a filesystem that can't hold pins.
        let _ = fs::remove_dir(directory);
        bail!(
            "{} is not on a bpffs: `mount -t bpf -o mode=700 bpf /sys/fs/bpf`, or name one with --pins",
            directory.display()
        );
    }
    let metadata = fs::metadata(directory)?;
    ensure!(
        metadata.uid() == rustix::process::geteuid().as_raw(),
        "{} belongs to another user (uid {}): remove it",
        directory.display(),
        metadata.uid()
    );
    fs::set_permissions(directory, Permissions::from_mode(0o700))?;
    for name in ["links", "maps", "netns", "agents"] {
        private(&directory.join(name)).with_context(help)?;
    }
    Ok(())
}

/// Whether `path` is on a bpffs.
pub fn is_bpffs(path: &Path) -> io::Result<bool> {
    Ok(rustix::fs::statfs(path)?.f_type == BPF_FS_MAGIC)
}

/// Has `load` pin its maps beside `directory`, whose maps are of another layout, and only then sets these aside.
pub(super) fn replace<T>(directory: &Path, load: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let beside = |name: &str| directory.with_file_name(format!("{LAYOUT}-{name}"));
    let staged = beside("staged");
    if staged.exists() {
        remove(&staged);
    }
    prepare(&staged)?;
    let loaded = load(&staged)?;
    let aside = (1..)
        .map(|number| beside(&format!("replaced-{number}")))
        .find(|path| !path.exists())
        .context("no free name")?;
    fs::rename(directory, &aside).context("pins of another layout can't be set aside")?;
    fs::rename(&staged, directory).context("the new pins can't take their place")?;
    tracing::warn!(aside = %aside.display(), "pins of another layout are replaced");
    Ok(loaded)
}

/// Pins that an agent of another layout left below `base`. Until they are removed their programs go on turning or
/// refusing connects, so nothing leaks meanwhile.
pub fn foreign(base: &Path) -> Vec<PathBuf> {
    layouts(base)
        .into_iter()
        .filter(|path| path.file_name().is_none_or(|name| name != LAYOUT))
        .collect()
}

/// The directories below `base` that an agent has made, of whatever layout (`v1`, `v1-replaced-1`): a user may have
/// named a base that holds others' pins too.
pub fn layouts(base: &Path) -> Vec<PathBuf> {
    let is_layout = |name: &OsStr| {
        let name = name.to_str().and_then(|name| name.strip_prefix('v'));
        let number = name.map(|name| name.split('-').next().unwrap_or_default());
        number.is_some_and(|number| number.parse::<u32>().is_ok())
    };
    let entries = fs::read_dir(base).into_iter().flatten().flatten();
    entries
        .filter(|entry| is_layout(&entry.file_name()))
        .map(|entry| entry.path())
        .collect()
}

/// Whether programs pinned in `pins` look at the connects of a cgroup that exists.
pub fn is_in_force(pins: &Path) -> bool {
    let attached = |name| matches!(pinned_link(&pins.join("links").join(name), "cgroup_id"), Ok(Some(link)) if link.attached_to != 0);
    attached("connect4") && attached("connect6")
}

/// Whether the cgroup whose connects are turned by the pins in `pins` is gone, or was never joined.
pub fn cgroup_is_gone(pins: &Path) -> bool {
    match sys::bpf_obj_get(&pins.join("links/connect4")) {
        // The kernel lets go of a link whose cgroup was removed.
        Ok(link) => matches!(link_field(&link, "cgroup_id"), Ok(Some(0))),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// Removes foreign pins, so that our programs act from here on. Our sockmaps must still be empty: a connect that the
/// foreign programs have turned already carries an id of theirs, and must be refused.
pub fn remove_foreign(foreign: &[PathBuf]) {
    for directory in foreign {
        remove_links(directory, "netns_ino");
        remove_links(directory, "cgroup_id");
        remove(directory);
        tracing::info!(directory = %directory.display(), "pins of another layout removed");
    }
    if !foreign.is_empty() {
        std::thread::sleep(SETTLE);
    }
}

/// Removes everything below `directory`: what turns connects first, so that none is turned to nobody. Tells what it
/// removed.
pub fn remove(directory: &Path) -> Vec<PathBuf> {
    let mut removed = remove_links(directory, "cgroup_id");
    let (files, directories) = walk(directory);
    removed.extend(files.into_iter().filter(|path| remove_pin(path)));
    for path in directories.iter().rev() {
        if let Err(error) = fs::remove_dir(path) {
            tracing::warn!(directory = %path.display(), %error, "can't be removed");
        }
    }
    removed
}

/// Removes the pinned links that have this field, which tells their kind.
fn remove_links(directory: &Path, field: &str) -> Vec<PathBuf> {
    let has_field = |path: &PathBuf| {
        sys::bpf_obj_get(path).is_ok_and(|link| matches!(link_field(&link, field), Ok(Some(_))))
    };
    let links = walk(directory).0.into_iter().filter(has_field);
    links.filter(|path| remove_pin(path)).collect()
}

fn remove_pin(path: &Path) -> bool {
    fs::remove_file(path)
        .inspect_err(|error| tracing::warn!(pin = %path.display(), %error, "can't be removed"))
        .is_ok()
}

/// Files (links and maps, symbolic links too), and directories from the outermost in.
pub(super) fn walk(directory: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let (mut files, mut directories) = (Vec::new(), vec![directory.to_owned()]);
    let mut next = 0;
    while let Some(directory) = directories.get(next).cloned() {
        next += 1;
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let list = if is_directory {
                &mut directories
            } else {
                &mut files
            };
            list.push(entry.path());
        }
    }
    (files, directories)
}

/// Pins `link` at `path`; a stale pin there is replaced after the new link is in force.
pub(super) fn pin_link(link: FdLink, path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).context("a stale pin can't be removed"),
    }
    link.pin(path)?;
    Ok(())
}

/// A pinned link, as the kernel tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PinnedLink {
    /// Its id, as in `bpftool link show id`.
    pub link: u64,
    /// The id of its program.
    pub program: u64,
    /// The id of the cgroup, or the inode of the netns, that it is attached to; 0 when that is gone.
    pub attached_to: u64,
}

/// The link pinned at `path`, of the kind that has this `field`; none when there is no pin, or one of another kind.
///
/// # Errors
/// When the pin may not be opened.
pub fn pinned_link(path: &Path, field: &str) -> io::Result<Option<PinnedLink>> {
    let link = match sys::bpf_obj_get(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        result => result?,
    };
    let fields = (
        link_field(&link, "link_id")?,
        link_field(&link, "prog_id")?,
        link_field(&link, field)?,
    );
    let (Some(link), Some(program), Some(attached_to)) = fields else {
        return Ok(None);
    };
    Ok(Some(PinnedLink {
        link,
        program,
        attached_to,
    }))
}

/// A number that the kernel tells about a link; where a link is attached is in no other interface of aya's.
pub(super) fn link_field(link: impl AsFd, field: &str) -> io::Result<Option<u64>> {
    let path = format!("/proc/self/fdinfo/{}", link.as_fd().as_raw_fd());
    Ok(fs::read_to_string(path)?.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name == field).then(|| value.trim().parse().ok())?
    }))
}
