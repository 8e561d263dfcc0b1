//! A directory of Kubernetes manifests, followed live.
//!
//! A manifest that can't be read changes nothing, as a refused `kubectl apply`: its last good objects stay in force. A
//! file that is being written is not read, for a policy that vanished for a moment would be plaintext for that moment.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};

use super::look::{Found, settled_look};
use super::manifest::{self, Manifest, Problem};
use super::{FileError, Update};
use crate::identity::TlsSecret;
use crate::policy::{ObjectName, Objects};
use crate::watch_dir::{DirWatcher, WatchError};

mod merge;
mod once;

pub use once::read_once;

/// How often the directory is read without an event.
const RECONCILE: Duration = Duration::from_secs(10);

/// How often it is read while a file is being written: writes through a symlink tell no event of their end.
const RETRY: Duration = Duration::from_secs(1);

/// Follows a directory of manifests.
pub struct Files {
    dir: PathBuf,
    // How long a file may be written before that is reported.
    patience: Duration,
    watcher: DirWatcher,
    files: BTreeMap<OsString, Tracked>,
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
    /// As well.
    secrets: BTreeMap<ObjectName, TlsSecret>,
    problems: Vec<Problem>,
    /// Whether `objects` are of an earlier content than `problems`.
    kept: bool,
    /// Why it can't be read now.
    unreadable: Option<String>,
    /// Since when it has been found being written.
    written_since: Option<Instant>,
}

impl Files {
    /// Reads the directory for the first time. Waits up to 5 s for files that are being written just now.
    pub async fn load(dir: &Path) -> Result<(Self, Update), WatchError> {
        Self::load_with(dir, RECONCILE).await
    }

    async fn load_with(dir: &Path, reconcile: Duration) -> Result<(Self, Update), WatchError> {
        let mut files = Self {
            dir: dir.to_owned(),
            patience: reconcile / 2,
            // Before the first reading, so that no change falls between them.
            watcher: DirWatcher::new(dir, reconcile)?,
            files: BTreeMap::new(),
            owners: merge::Owners::new(),
            dir_error: None,
            dirty: false,
            last: Update::default(),
        };
        files.scan().await;
        let deadline = Instant::now() + files.patience;
        while files.being_written() && Instant::now() < deadline {
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
                self.changed().await;
                self.dirty = true;
            }
            self.scan().await;
            self.dirty = false;
            let update = self.update();
            let (new, last) = (&update, &self.last);
            if (&new.objects, &new.secrets, &new.errors)
                != (&last.objects, &last.secrets, &last.errors)
            {
                self.last = update.clone();
                return update;
            }
        }
    }

    async fn changed(&mut self) {
        if self.being_written() {
            // Elapsed or not: it is time to look.
            let _ = timeout(RETRY, self.watcher.changed()).await;
        } else {
            self.watcher.changed().await;
        }
    }

    fn being_written(&self) -> bool {
        let mut files = self.files.values();
        files.any(|file| file.written_since.is_some())
    }

    /// Reads the directory, and takes over what is whole.
    async fn scan(&mut self) {
        let found = match settled_look(&self.dir).await {
            Ok(found) => found,
            Err(error) => {
                self.dir_error = Some(format!(
                    "cannot be read: {error}; its objects stay in force"
                ));
                return;
            }
        };
        let seen = self
            .files
            .iter()
            .map(|(name, file)| (name.clone(), file.seen));
        let seen: BTreeMap<_, _> = seen.collect();
        // Large files take long to parse.
        let parse = move || -> BTreeMap<OsString, News> {
            let parse = |(name, found)| {
                let seen = seen.get(&name).copied().flatten();
                (name, News::of(found, seen))
            };
            found.into_iter().map(parse).collect()
        };
        let Ok(news) = spawn_blocking(parse).await else {
            return;
        };
        self.dir_error = None;
        // All at once, since objects move between files.
        self.files.retain(|name, _| news.contains_key(name));
        for (name, news) in news {
            self.files.entry(name).or_default().put(news);
        }
    }

    fn update(&mut self) -> Update {
        let mut update = merge::update(&self.dir, &self.files, &mut self.owners, self.patience);
        if let Some(cause) = &self.dir_error {
            let error = FileError {
                file: self.dir.clone(),
                document: None,
                object: None,
                cause: cause.clone(),
            };
            update.errors.insert(0, error);
            update.complete = false;
        }
        update
    }
}

impl Tracked {
    /// Takes over what a look found; content with a fault in it only if there is nothing better.
    fn put(&mut self, news: News) {
        self.unreadable = None;
        let written_since = self.written_since.take();
        match news {
            News::None => {}
            News::BeingWritten => {
                self.written_since = written_since.or_else(|| Some(Instant::now()))
            }
            News::Unreadable(cause) => self.unreadable = Some(cause),
            News::Content { digest, manifest } => {
                self.kept = !manifest.problems.is_empty() && self.seen.is_some();
                if !self.kept {
                    self.objects = manifest.objects;
                    self.secrets = manifest.secrets;
                }
                self.problems = manifest.problems;
                self.seen = Some(digest);
            }
        }
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
            .written_since
            .is_some_and(|since| since.elapsed() >= patience)
        {
            errors.push(of_file(
                "a process has it open for writing, or keeps changing it; end that, or rename a finished file to it"
                    .to_owned(),
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

/// What a look tells of a file that was not known before.
enum News {
    None,
    BeingWritten,
    Unreadable(String),
    Content { digest: u64, manifest: Manifest },
}

impl News {
    /// Parses what differs from the content of digest `seen`.
    fn of(found: Found, seen: Option<u64>) -> Self {
        match found {
            Found::BeingWritten => Self::BeingWritten,
            Found::Unreadable(cause) => Self::Unreadable(cause),
            Found::Whole { bytes, .. } => match digest(&bytes) {
                digest if seen == Some(digest) => Self::None,
                digest => Self::Content {
                    digest,
                    manifest: manifest::parse(&bytes),
                },
            },
        }
    }
}

/// Enough to tell one content from the next.
fn digest(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;
