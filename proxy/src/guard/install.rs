//! The guard on the node's disk: this very program, and a systemd unit that the kubelet requires. Files are all that is
//! written: systemd reads them at the next boot, so nobody has to talk to it.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::durable::replace;

const UNIT: &str = "nodetls-guard.service";
/// The link that `systemctl enable` makes of `RequiredBy`.
const REQUIRED: &str = "kubelet.service.requires";

/// Puts the guard in place for the next boot: the unit into `units` (the node's /etc/systemd/system), the program into
/// `cache`, which must have the same path on the node. What is there already is not written again.
///
/// # Errors
/// A file can't be read or written.
pub(crate) fn install(units: &Path, cache: &Path, pins: &Path) -> Result<()> {
    let program = fs::read("/proc/self/exe").context("this program can't be read")?;
    put(&binary(cache), &program, 0o755)?;
    let unit = include_str!("nodetls-guard.service")
        .replace("@CACHE@", &cache.display().to_string())
        .replace("@PINS@", &pins.display().to_string());
    put(&units.join(UNIT), unit.as_bytes(), 0o644)?;
    let link = link(units);
    let made = directory(&link).and_then(|()| or_exists(symlink(format!("../{UNIT}"), &link)));
    made.with_context(|| format!("{} can't be made", link.display()))
}

/// Takes the program away, without which the unit does nothing: for an agent that was started without the guard.
///
/// # Errors
/// It can't be removed.
pub(crate) fn disarm(cache: &Path) -> Result<()> {
    let binary = binary(cache);
    // Of a read-only disk even what is not there can't be removed.
    if binary.exists() {
        or_missing(fs::remove_file(&binary))
            .with_context(|| format!("{} can't be removed", binary.display()))?;
    }
    Ok(())
}

/// Removes all that [`install`] made, and what an administrator has made another kubelet require; of the unit only if
/// `units` is named.
///
/// # Errors
/// Something stays.
pub(crate) fn remove(units: Option<&Path>, cache: &Path) -> Result<()> {
    if let Some(units) = units {
        // The unit last: a kubelet that requires one which is not there would not start.
        let mut paths = links(units).with_context(|| units.display().to_string())?;
        paths.push(units.join(UNIT));
        for path in paths {
            or_missing(fs::remove_file(&path))
                .with_context(|| format!("{} can't be removed", path.display()))?;
            if let Some(directory) = path.parent().filter(|directory| *directory != units) {
                // Others may be required too.
                let _ = fs::remove_dir(directory);
            }
        }
    }
    disarm(cache)?;
    // Whatever else is there is not ours. Until now it may have an SELinux label.
    let _ = fs::remove_dir(cache.join("bin"));
    Ok(())
}

fn binary(cache: &Path) -> PathBuf {
    cache.join("bin/nodetls")
}

/// Those of all services that require the unit.
fn links(units: &Path) -> io::Result<Vec<PathBuf>> {
    let mut links = Vec::new();
    if !units.exists() {
        return Ok(links);
    }
    for entry in fs::read_dir(units)? {
        let directory = entry?.path();
        let link = directory.join(UNIT);
        if directory
            .extension()
            .is_some_and(|extension| extension == "requires")
            && link.is_symlink()
        {
            links.push(link);
        }
    }
    Ok(links)
}

fn link(units: &Path) -> PathBuf {
    units.join(REQUIRED).join(UNIT)
}

/// Writes a file unless it is there.
fn put(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let write = || -> io::Result<()> {
        if fs::read(path).is_ok_and(|before| before == content) {
            return Ok(());
        }
        directory(path)?;
        replace(path, ".nodetls-", content, mode)
    };
    write().with_context(|| format!("{} can't be written", path.display()))
}

/// Makes the one that `path` is in.
fn directory(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)
}

fn or_exists(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    }
}

fn or_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_is_installed_is_run_before_the_kubelet_and_removed_without_a_trace() {
        let host = tempfile::tempdir().unwrap();
        let (units, cache) = (host.path().join("system"), host.path().join("cache"));
        fs::create_dir(&units).unwrap();
        for _ in 0..2 {
            install(&units, &cache, Path::new("/pins")).unwrap();
        }
        // As systemd finds it: by the link.
        let unit = fs::read_to_string(link(&units)).unwrap();
        let binary = binary(&cache).display().to_string();
        let line = |line: String| assert!(unit.lines().any(|one| one == line), "{line}: {unit}");
        line(format!("ConditionPathExists={binary}"));
        let cache_flag = format!("--cache={}", cache.display());
        line(format!(
            "ExecStart={binary} guard {cache_flag} --pins=/pins"
        ));
        assert!(unit.contains("\nBefore=kubelet.service ") && !unit.contains('@'));
        assert_eq!(
            fs::read(&binary).unwrap(),
            fs::read("/proc/self/exe").unwrap()
        );
        let mode = fs::metadata(&binary).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
        disarm(&cache).unwrap();
        assert!(!Path::new(&binary).exists() && link(&units).exists());
        remove(None, &cache).unwrap();
        assert!(!cache.join("bin").exists() && link(&units).exists());
        for _ in 0..2 {
            remove(Some(&units), &cache).unwrap();
        }
        assert_eq!(fs::read_dir(&units).unwrap().count(), 0);
    }

    #[test]
    fn a_directory_that_can_not_be_written_is_named() {
        let host = tempfile::tempdir().unwrap();
        let units = host.path().join("file");
        fs::write(&units, "").unwrap();
        let error = install(&units, host.path(), Path::new("/pins")).unwrap_err();
        let named = format!("{}/{UNIT} can't be written", units.display());
        assert_eq!(error.to_string(), named);
    }
}
