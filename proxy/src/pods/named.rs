//! The named network namespaces of this machine: those `ip netns` keeps in a directory, usually /run/netns.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use glob::Pattern;

/// `NSFS_MAGIC` of linux/magic.h.
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// Which names are pods' and which are merely there.
pub struct NamedNetns {
    directory: PathBuf,
    patterns: Vec<Pattern>,
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
    /// Those in `directory` whose names match one of the shell patterns.
    ///
    /// # Errors
    /// Names the pattern that is none.
    pub fn new(directory: &Path, patterns: &[String]) -> Result<Self> {
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
        })
    }

    /// All that exist now. A name whose netns is not mounted on it yet is left for the next look.
    pub fn list(&self) -> Result<BTreeMap<String, Named>> {
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
            }
        }
        Ok(list)
    }
}
