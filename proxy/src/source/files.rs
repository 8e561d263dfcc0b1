//! A directory of Kubernetes manifests, followed live.
//!
//! A manifest that can't be read changes nothing, as a refused `kubectl apply`: its last good objects stay in force. A
//! file that is being written is not read, for a policy that vanished for a moment would be plaintext for that moment.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use super::look::{Entry, Look, look};
use super::manifest::{self, Manifest, Problem};
use super::{FileError, Update};
use crate::policy::Objects;
use crate::watch_dir::{DirWatcher, WatchError};

mod merge;
mod once;

pub use once::read_once;

/// How often the directory is read without an event.
const RECONCILE: Duration = Duration::from_secs(10);

/// Time between two readings, which must be equal; and for events on their way.
const SETTLE: Duration = Duration::from_millis(25);

/// Pairs of readings to wait for a directory that keeps changing; then what is at rest is taken (1 s).
const MAX_LOOKS: usize = 20;

/// Follows a directory of manifests.
pub struct Files {
    dir: PathBuf,
    reconcile: Duration,
    watcher: DirWatcher,
    files: BTreeMap<OsString, Tracked>,
    // Closed by their writer since they were last taken over.
    completed: BTreeSet<OsString>,
    owners: merge::Owners,
    dir_error: Option<String>,
    // Something changed that no scan has seen to its end.
    dirty: bool,
    last: Update,
}

/// What is known of one file.
#[derive(Default)]
struct Tracked {
    /// Digest of the content that `problems` are about; `None` before the first was read.
    seen: Option<u64>,
    /// In force.
    objects: Objects,
    problems: Vec<Problem>,
    /// Whether `objects` are of an earlier content than `problems`.
    kept: bool,
    /// Why it can't be read now.
    unreadable: Option<String>,
    held: Option<Held>,
}

/// Changed content that is not taken yet.
struct Held {
    digest: u64,
    since: Instant,
}

impl Files {
    /// Reads the directory for the first time. Waits up to 5 s for files that are being written just now.
    pub async fn load(dir: &Path) -> Result<(Self, Update), WatchError> {
        Self::load_with(dir, RECONCILE).await
    }

    async fn load_with(dir: &Path, reconcile: Duration) -> Result<(Self, Update), WatchError> {
        let mut files = Self {
            dir: dir.to_owned(),
            reconcile,
            // Before the first reading, so that no change falls between them.
            watcher: DirWatcher::new(dir, reconcile)?,
            files: BTreeMap::new(),
            completed: BTreeSet::new(),
            owners: merge::Owners::new(),
            dir_error: None,
            dirty: false,
            last: Update::default(),
        };
        let deadline = Instant::now() + files.patience();
        files.scan().await;
        while files.files.values().any(|file| file.held.is_some()) && Instant::now() < deadline {
            sleep(SETTLE).await;
            files.scan().await;
        }
        files.last = files.update();
        let first = files.last.clone();
        Ok((files, first))
    }

    /// Waits until the objects or the errors are others than before. Cancelling it loses nothing.
    pub async fn next(&mut self) -> Update {
        loop {
            if !self.dirty {
                self.watcher.changed().await;
                self.dirty = true;
            }
            self.scan().await;
            self.dirty = false;
            let update = self.update();
            if update != self.last {
                self.last = update.clone();
                return update;
            }
        }
    }

    /// How long a file may be held back before that is reported.
    fn patience(&self) -> Duration {
        self.reconcile / 2
    }

    /// Reads the directory, and takes over what is complete.
    async fn scan(&mut self) {
        let (found, moving) = match self.settled_look().await {
            Ok(found) => found,
            Err(error) => {
                self.dir_error = Some(format!(
                    "cannot be read: {error}; its objects stay in force"
                ));
                return;
            }
        };
        self.dir_error = None;
        let mut taken = Vec::new();
        for (name, entry) in &found {
            if let Some(bytes) = self.examine(name, entry, moving.contains(name)) {
                taken.push((name.clone(), bytes));
            }
        }
        // Large files take long to parse. All of them are put in force at once, since objects move between files.
        let parse = move || -> Vec<(OsString, u64, Manifest)> {
            let parse = |(name, bytes): (OsString, Vec<u8>)| {
                (name, digest(&bytes), manifest::parse(&bytes))
            };
            taken.into_iter().map(parse).collect()
        };
        let Ok(parsed) = spawn_blocking(parse).await else {
            return;
        };
        for (name, digest, manifest) in parsed {
            self.completed.remove(&name);
            self.files.entry(name).or_default().put(digest, manifest);
        }
        let present = |name: &OsString| found.contains_key(name) || moving.contains(name);
        self.files.retain(|name, _| present(name));
        self.completed.retain(present);
    }

    /// Looks until two looks are equal and no event came meanwhile. Returns also the names of the files that are being
    /// written, or were still changing when patience ran out.
    async fn settled_look(&mut self) -> io::Result<(Look, BTreeSet<OsString>)> {
        let mut found = self.look().await?;
        let mut moving = BTreeSet::new();
        for _ in 0..MAX_LOOKS {
            if !self.news(&found) {
                return Ok((found, BTreeSet::new()));
            }
            self.watcher.take_touched();
            let before = self.look().await?;
            sleep(SETTLE).await;
            found = self.look().await?;
            // The events of what happened during the second look may be on their way.
            sleep(SETTLE).await;
            moving = match self.watcher.take_touched() {
                Some(touched) => moved(&before, &found, &touched),
                None => before.into_keys().chain(found.keys().cloned()).collect(),
            };
            if moving
                .iter()
                .all(|name| self.watcher.is_open_for_writing(name))
            {
                break;
            }
        }
        Ok((found, moving))
    }

    async fn look(&mut self) -> io::Result<Look> {
        // What is closed after this moment vouches for the next look, not for this one.
        self.completed.append(&mut self.watcher.take_completed());
        let dir = self.dir.clone();
        spawn_blocking(move || look(&dir)).await?
    }

    /// Whether a look shows anything that is not in force already.
    fn news(&self, look: &Look) -> bool {
        look.len() != self.files.len()
            || look.iter().any(|(name, entry)| {
                let seen = self.files.get(name).filter(|file| file.held.is_none());
                seen.is_none_or(|file| match &entry.content {
                    Ok(bytes) => file.unreadable.is_some() || file.seen != Some(digest(bytes)),
                    Err(cause) => file.unreadable.as_ref() != Some(cause),
                })
            })
    }

    /// Compares one file with what is known of it; returns its content if that is to be taken now.
    fn examine(&mut self, name: &OsStr, entry: &Entry, moving: bool) -> Option<Vec<u8>> {
        let writing = self.watcher.is_open_for_writing(name);
        let file = self.files.entry(name.to_owned()).or_default();
        let bytes = match &entry.content {
            Ok(bytes) => bytes,
            Err(cause) => {
                file.unreadable = Some(cause.clone());
                return None;
            }
        };
        file.unreadable = None;
        let digest = digest(bytes);
        if file.seen == Some(digest) {
            file.held = None;
            self.completed.remove(name);
            return None;
        }
        let same = file.held.take().filter(|held| held.digest == digest);
        let since = same.map_or_else(Instant::now, |held| held.since);
        // Without the event of its closing (on the way, lost, or a symlink's target, which sends none) time must tell.
        let complete = file.seen.is_none()
            || self.completed.contains(name)
            || (entry.symlink && !bytes.is_empty())
            || since.elapsed() >= self.reconcile;
        if complete && !writing && !moving {
            return Some(bytes.clone());
        }
        file.held = Some(Held { digest, since });
        None
    }

    fn update(&mut self) -> Update {
        let patience = self.patience();
        let mut update = merge::update(&self.dir, &self.files, &mut self.owners, patience);
        if let Some(cause) = &self.dir_error {
            let error = FileError {
                file: self.dir.clone(),
                document: None,
                object: None,
                cause: cause.clone(),
            };
            update.errors.insert(0, error);
        }
        update
    }
}

impl Tracked {
    /// Takes a new content over; with a fault in it only if there is nothing better.
    fn put(&mut self, digest: u64, manifest: Manifest) {
        self.kept = !manifest.problems.is_empty() && self.seen.is_some();
        if !self.kept {
            self.objects = manifest.objects;
        }
        self.problems = manifest.problems;
        self.seen = Some(digest);
        self.held = None;
    }

    fn errors(&self, file: &Path, patience: Duration) -> Vec<FileError> {
        let kept = |kept: bool| {
            if kept {
                "; the objects it held before stay in force"
            } else {
                ""
            }
        };
        let of_file = |cause: String| FileError {
            file: file.to_owned(),
            document: None,
            object: None,
            cause: cause + kept(self.seen.is_some()),
        };
        if let Some(cause) = &self.unreadable {
            return vec![of_file(cause.clone())];
        }
        let mut errors = Vec::new();
        if self
            .held
            .as_ref()
            .is_some_and(|held| held.since.elapsed() >= patience)
        {
            errors.push(of_file(
                "changed, but not closed by its writer; save it again".to_owned(),
            ));
        }
        errors.extend(self.problems.iter().map(|problem| FileError {
            file: file.to_owned(),
            document: Some(problem.document),
            object: problem.object.clone(),
            cause: problem.cause.clone() + kept(self.kept),
        }));
        errors
    }
}

/// The manifests that differ between two looks, or had an event.
fn moved(before: &Look, after: &Look, touched: &BTreeSet<OsString>) -> BTreeSet<OsString> {
    let names = before.keys().chain(after.keys());
    let moved = |name: &&OsString| before.get(*name) != after.get(*name) || touched.contains(*name);
    names.filter(moved).cloned().collect()
}

/// Enough to tell one content from the next.
fn digest(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;
