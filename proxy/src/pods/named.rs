//! The named network namespaces of this machine: those `ip netns` keeps in a directory, usually /run/netns.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use glob::Pattern;

use super::retry::Retry;
use crate::watch_dir::DirWatcher;

/// `NSFS_MAGIC` of linux/magic.h.
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// Which names are pods' and which are merely there.
pub struct NamedNetns {
    directory: PathBuf,
    patterns: Vec<Pattern>,
    watcher: DirWatcher,
    /// Names without a netns: it is mounted there a little after the name has appeared, and no event tells of it.
    bare: Retry,
}

/// A named network namespace.
pub struct Named {
    /// Open, so that it can be entered.
    pub file: File,
    /// Tells a netns from another that was given the same name later.
    pub inode: u64,
    /// Whether its name matches a pattern.
    pub matches: bool,
}

impl NamedNetns {
    /// Those in `directory` whose names match one of the shell patterns. [`NamedNetns::changed`] resolves at least every
    /// `reconcile`.
    ///
    /// # Errors
    /// Names the pattern that is none; or the directory can't be watched.
    pub fn new(directory: &Path, patterns: &[String], reconcile: Duration) -> Result<Self> {
        let patterns = patterns
            .iter()
            .map(|pattern| {
                Pattern::new(pattern)
                    .with_context(|| format!("--netns {pattern}: not a shell pattern"))
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            directory: directory.to_owned(),
            patterns,
            watcher: DirWatcher::new(directory, reconcile)?,
            bare: Retry::new(),
        })
    }

    /// Resolves when it is time to list again. Cancelling it loses nothing.
    pub async fn changed(&mut self) {
        tokio::select! {
            () = self.watcher.changed() => {}
            () = self.bare.due() => {}
        }
    }

    /// All that exist now. A name whose netns is not mounted on it yet is left for the next look.
    pub fn list(&mut self) -> Result<BTreeMap<String, Named>> {
        let mut bare = BTreeSet::new();
        let entries = fs::read_dir(&self.directory)
            .with_context(|| format!("{} can't be read", self.directory.display()))?;
        let mut list = BTreeMap::new();
        for entry in entries.flatten() {
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let file = match File::open(entry.path()) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                // Such as no free file descriptor: it is not gone.
                result => result.with_context(|| format!("netns {name} can't be opened"))?,
            };
            let is_netns = rustix::fs::fstatfs(&file).is_ok_and(|fs| fs.f_type == NSFS_MAGIC);
            let Ok(metadata) = file.metadata() else {
                continue;
            };
            if is_netns {
                let matches = self.patterns.iter().any(|pattern| pattern.matches(&name));
                let inode = metadata.ino();
                list.insert(
                    name,
                    Named {
                        file,
                        inode,
                        matches,
                    },
                );
            } else {
                bare.insert(name);
            }
        }
        self.bare.set(bare);
        Ok(list)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_name_without_a_netns_is_looked_at_again() {
        let dir = tempfile::tempdir().unwrap();
        let hour = Duration::from_secs(3600);
        let mut named = NamedNetns::new(dir.path(), &["*".to_owned()], hour).unwrap();
        assert!(named.list().unwrap().is_empty());
        let second = Duration::from_secs(1);
        assert!(timeout(second, named.changed()).await.is_err());
        fs::write(dir.path().join("late"), "").unwrap();
        for _ in 0..4 {
            timeout(second, named.changed()).await.unwrap();
            assert!(named.list().unwrap().is_empty());
        }
        fs::remove_file(dir.path().join("late")).unwrap();
        timeout(second, named.changed()).await.unwrap();
        named.list().unwrap();
        assert!(timeout(second, named.changed()).await.is_err());
    }
}
