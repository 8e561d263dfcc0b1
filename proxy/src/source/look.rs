//! One look at a directory: the content of every manifest in it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// A larger file is refused: 16 MiB.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// What was found, by file name.
pub(super) type Look = BTreeMap<OsString, Entry>;

/// One manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Writes to the file behind a symlink tell the directory no event.
    pub(super) symlink: bool,
    /// The bytes, or why they can't be had.
    pub(super) content: Result<Vec<u8>, String>,
}

/// Reads every `*.yaml`, `*.yml` and `*.json` of `dir` that is a regular file (or a symlink to one) and no dotfile.
pub(super) fn look(dir: &Path) -> io::Result<Look> {
    let mut found = Look::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if !is_manifest(&name) {
            continue;
        }
        let symlink = entry.file_type()?.is_symlink();
        let content = match read(&entry.path()) {
            Ok(None) => continue,
            Ok(Some(bytes)) => Ok(bytes),
            // Removed between the listing and the reading; a symlink that leads nowhere is an error.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !symlink => continue,
            Err(error) => Err(format!("cannot be read: {error}")),
        };
        found.insert(name, Entry { symlink, content });
    }
    Ok(found)
}

fn is_manifest(name: &OsStr) -> bool {
    let extension = Path::new(name).extension().and_then(OsStr::to_str);
    !name.as_encoded_bytes().starts_with(b".") && matches!(extension, Some("yaml" | "yml" | "json"))
}

/// The content of a regular file; `None` for a directory, a pipe and the like.
fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
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
    read_bounded(file).map(Some)
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
