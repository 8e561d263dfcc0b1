//! Files that a reader, or the next boot, finds as they were or as they are to be, and never in between.

use std::fs::{File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// Puts `content` in the place of the file at `path`: written beside it under a name that begins with `prefix`, synced,
/// renamed.
pub(crate) fn replace(path: &Path, prefix: &str, content: &[u8], mode: u32) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let mut file = tempfile::Builder::new()
        .prefix(prefix)
        .tempfile_in(directory)?;
    file.write_all(content)?;
    let opened = file.as_file();
    opened.set_permissions(Permissions::from_mode(mode))?;
    opened.sync_all()?;
    file.persist(path)?;
    File::open(directory)?.sync_all()
}
