//! A look at a directory: every manifest in it, none of them half-written.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::mem;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Once;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::sys;

/// A larger file is refused: 16 MiB.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// Time between two looks: that of a tool to write or rename several files that belong together.
const SETTLE: Duration = Duration::from_millis(25);

/// Looks to wait for a directory that keeps changing; then what is at rest is taken (1 s).
const MAX_LOOKS: usize = 40;

/// What was found, by file name.
pub(super) type Look = BTreeMap<OsString, Found>;

/// One manifest.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// All of it, at a moment when nobody wrote.
    Whole { bytes: Vec<u8>, version: Version },
    /// Somebody has it open for writing.
    BeingWritten,
    /// Why it can't be read.
    Unreadable(String),
}

/// No content of a file has the version of an earlier one: inode and time of the last change (which a rename is too).
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Version {
    inode: u64,
    changed: (i64, i64),
}

/// All files as they stood at one moment: what two looks found equal did not change from the first to the second. What
/// keeps changing counts as being written.
pub(super) async fn settled_look(dir: &Path) -> io::Result<Look> {
    let mut before = Look::new();
    let mut now = look_at(dir).await?;
    for _ in 0..MAX_LOOKS {
        sleep(SETTLE).await;
        before = mem::replace(&mut now, look_at(dir).await?);
        if now == before {
            return Ok(now);
        }
    }
    for (name, found) in &mut now {
        if before.remove(name).as_ref() != Some(found) {
            *found = Found::BeingWritten;
        }
    }
    let vanished = before.into_keys();
    now.extend(vanished.map(|name| (name, Found::BeingWritten)));
    Ok(now)
}

async fn look_at(dir: &Path) -> io::Result<Look> {
    let dir = dir.to_owned();
    spawn_blocking(move || look(&dir)).await?
}

/// Reads every `*.yaml`, `*.yml` and `*.json` of `dir` that is a regular file (or a symlink to one) and no dotfile.
pub(super) fn look(dir: &Path) -> io::Result<Look> {
    let mut look = Look::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if !is_manifest(&name) {
            continue;
        }
        let found = match read(&entry.path()) {
            Ok(Some((bytes, version))) => Found::Whole { bytes, version },
            Ok(None) => continue,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Found::BeingWritten,
            // Removed between the listing and the reading; a symlink that leads nowhere is an error.
            Err(error)
                if error.kind() == io::ErrorKind::NotFound && !entry.file_type()?.is_symlink() =>
            {
                continue;
            }
            Err(error) => Found::Unreadable(format!("cannot be read: {error}")),
        };
        look.insert(name, found);
    }
    Ok(look)
}

fn is_manifest(name: &OsStr) -> bool {
    let extension = Path::new(name).extension().and_then(OsStr::to_str);
    !name.as_encoded_bytes().starts_with(b".") && matches!(extension, Some("yaml" | "yml" | "json"))
}

/// The content of a regular file, `None` for a directory, a pipe and the like; `WouldBlock` while somebody writes.
fn read(path: &Path) -> io::Result<Option<(Vec<u8>, Version)>> {
    if !fs::metadata(path)?.is_file() {
        return Ok(None);
    }
    // Not to hang, should a pipe have taken the file's place meanwhile.
    let no_wait = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(no_wait)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Ok(None);
    }
    let leased = lease(&file)?;
    let bytes = read_bounded(&file)?;
    let metadata = file.metadata()?;
    if leased {
        // Fails if the kernel gave our lease to a writer, after fs.lease-break-time (45 s).
        sys::set_lease(&file, libc::F_UNLCK)?;
    }
    let version = Version {
        inode: metadata.ino(),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    };
    Ok(Some((bytes, version)))
}

/// Keeps writers waiting in open(2) until the lease ends; `WouldBlock` if there is one already. False where there are
/// no leases: then a slow writer's half file is taken for whole.
fn lease(file: &File) -> io::Result<bool> {
    static WARNING: Once = Once::new();
    match sys::set_lease(file, libc::F_RDLCK) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(error),
        Err(error) => {
            WARNING.call_once(|| {
                tracing::warn!(
                    %error,
                    "cannot tell whether a manifest is being written; run as its owner or with CAP_LEASE, or change \
                     manifests by rename only"
                );
            });
            Ok(false)
        }
    }
}

/// Everything, if it is not too large.
pub(super) fn read_bounded(file: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        let limit = MAX_FILE_BYTES >> 20;
        return Err(io::Error::other(format!(
            "larger than {limit} MiB; split it"
        )));
    }
    Ok(bytes)
}
