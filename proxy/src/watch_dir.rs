//! One directory, watched for changes: inotify (by the `notify` crate) tells at once, a periodic tick heals what
//! inotify lost. Used for the directory of manifests and for `/run/netns`.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind, Flag, ModifyKind, RenameMode};
use notify::{Config, Event, INotifyWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

/// How long to collect further events after the first one.
const DEBOUNCE: Duration = Duration::from_millis(20);

/// A directory can't be watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// It is absent, or may not be looked at.
    #[error("cannot open directory {}: {cause}; create it or name another", dir.display())]
    Unreadable {
        /// The directory.
        dir: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// It is a file.
    #[error("{} is not a directory; name the directory that holds the files", dir.display())]
    NotADirectory {
        /// The path.
        dir: PathBuf,
    },
    /// inotify refuses: mostly its limits.
    #[error(
        "cannot watch {}: {cause}; raise fs.inotify.max_user_instances or max_user_watches",
        dir.display()
    )]
    Inotify {
        /// The directory.
        dir: PathBuf,
        /// Why.
        cause: notify::Error,
    },
}

/// Watches one directory, not what is below it.
pub struct DirWatcher {
    dir: PathBuf,
    reconcile: Duration,
    next_tick: Instant,
    // None while the directory is absent; tried again on every tick.
    watch: Option<Watch>,
}

impl DirWatcher {
    /// Starts to watch `dir`. [`DirWatcher::changed`] resolves at least every `reconcile`.
    pub fn new(dir: &Path, reconcile: Duration) -> Result<Self, WatchError> {
        Ok(Self {
            dir: dir.to_owned(),
            reconcile,
            next_tick: Instant::now() + reconcile,
            watch: Some(Watch::start(dir)?),
        })
    }

    /// Resolves when something in the directory may have changed: a name appeared, went, or was renamed, a file was
    /// written, closed after writing, or got other permissions; or at the tick. Cancelling it loses nothing.
    pub async fn changed(&mut self) {
        tokio::select! {
            () = wait(self.watch.as_ref()) => {}
            () = sleep_until(self.next_tick) => {}
        }
        sleep(DEBOUNCE).await;
        self.next_tick = Instant::now() + self.reconcile;
        match &self.watch {
            Some(watch) if watch.still_watches(&self.dir) => watch.shared.lock().changed = false,
            _ => self.watch_again(),
        }
    }

    /// Whether the file `name` was written to and not closed since, as far as events tell: it may be half a file.
    pub fn is_open_for_writing(&self, name: &OsStr) -> bool {
        self.watch
            .as_ref()
            .is_some_and(|watch| watch.shared.lock().writing.contains(name))
    }

    /// The files that were closed after writing, or moved here as a whole, since the last call.
    pub fn take_completed(&mut self) -> BTreeSet<OsString> {
        let watch = self.watch.as_ref();
        watch
            .map(|watch| std::mem::take(&mut watch.shared.lock().completed))
            .unwrap_or_default()
    }

    /// The names that anything happened to since the last call; `None` if events were lost.
    pub fn take_touched(&mut self) -> Option<BTreeSet<OsString>> {
        let mut events = self.watch.as_ref()?.shared.lock();
        let touched = std::mem::take(&mut events.touched);
        (!std::mem::take(&mut events.overflowed)).then_some(touched)
    }

    fn watch_again(&mut self) {
        let lost = self.watch.take().is_some();
        match Watch::start(&self.dir) {
            Ok(watch) => self.watch = Some(watch),
            Err(error) if lost => tracing::warn!(%error, "directory lost; trying again"),
            Err(error) => tracing::debug!(%error, "directory still lost"),
        }
    }
}

/// Resolves when the watch has something to tell; never without a watch.
async fn wait(watch: Option<&Watch>) {
    match watch {
        Some(watch) => watch.shared.changed().await,
        None => std::future::pending().await,
    }
}

/// A running inotify watch on one inode.
struct Watch {
    // Dropping it ends the watch and its thread.
    _inotify: INotifyWatcher,
    inode: (u64, u64),
    shared: Arc<Shared>,
}

impl Watch {
    fn start(dir: &Path) -> Result<Self, WatchError> {
        let inode = inode(dir)?;
        let shared = Arc::new(Shared::default());
        let handler = Arc::clone(&shared);
        let inotify = |cause| WatchError::Inotify {
            dir: dir.to_owned(),
            cause,
        };
        let mut watcher = INotifyWatcher::new(
            {
                let dir = dir.to_owned();
                move |event| handler.record(&dir, event)
            },
            Config::default(),
        )
        .map_err(inotify)?;
        watcher
            .watch(dir, RecursiveMode::NonRecursive)
            .map_err(inotify)?;
        Ok(Self {
            _inotify: watcher,
            inode,
            shared,
        })
    }

    /// Whether `dir` is still the inode that is watched: an unmount or a replaced parent tells no event.
    fn still_watches(&self, dir: &Path) -> bool {
        !self.shared.lock().lost && inode(dir).is_ok_and(|now| now == self.inode)
    }
}

fn inode(dir: &Path) -> Result<(u64, u64), WatchError> {
    let unreadable = |cause| WatchError::Unreadable {
        dir: dir.to_owned(),
        cause,
    };
    let metadata = std::fs::metadata(dir).map_err(unreadable)?;
    if !metadata.is_dir() {
        return Err(WatchError::NotADirectory {
            dir: dir.to_owned(),
        });
    }
    Ok((metadata.dev(), metadata.ino()))
}

/// What notify's thread tells the owner of the watch.
#[derive(Default)]
struct Shared {
    events: Mutex<Events>,
    wake: Notify,
}

#[derive(Default)]
struct Events {
    changed: bool,
    // The directory itself was moved or removed.
    lost: bool,
    writing: BTreeSet<OsString>,
    completed: BTreeSet<OsString>,
    touched: BTreeSet<OsString>,
    overflowed: bool,
    // The first half of a rename of a file that is being written: its cookie.
    renamed_open: Option<usize>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Events> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn changed(&self) {
        while !self.lock().changed {
            self.wake.notified().await;
        }
    }

    fn record(&self, dir: &Path, event: notify::Result<Event>) {
        let relevant = match event {
            Ok(event) => self.lock().record(dir, &event),
            Err(error) => {
                tracing::warn!(dir = %dir.display(), %error, "inotify");
                self.lock().overflow();
                true
            }
        };
        if relevant {
            self.lock().changed = true;
            self.wake.notify_one();
        }
    }
}

impl Events {
    /// Events were lost: who writes is unknown.
    fn overflow(&mut self) {
        self.writing.clear();
        self.completed.clear();
        self.overflowed = true;
    }

    /// Takes note of one event; false if it changed nothing (as our own reading of files).
    fn record(&mut self, dir: &Path, event: &Event) -> bool {
        if event.flag() == Some(Flag::Rescan) {
            self.overflow();
            return true;
        }
        let Some(path) = event.paths.first() else {
            return false;
        };
        if path == dir {
            let gone = matches!(
                event.kind,
                EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_))
            );
            self.lost |= gone;
            return gone;
        }
        match path.file_name() {
            Some(name) => self.record_file(name, event),
            None => false,
        }
    }

    fn record_file(&mut self, name: &OsStr, event: &Event) -> bool {
        match event.kind {
            EventKind::Modify(ModifyKind::Data(_)) => self.opened(name),
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => self.closed(name),
            EventKind::Modify(ModifyKind::Name(RenameMode::From)) => {
                self.renamed_open = event.tracker().filter(|_| self.writing.contains(name));
                self.gone(name);
            }
            // A writer keeps its open file through a rename; what comes from elsewhere is taken as whole.
            EventKind::Modify(ModifyKind::Name(RenameMode::To)) => {
                let cookie = self.renamed_open.take();
                if cookie.is_some() && cookie == event.tracker() {
                    self.opened(name);
                } else {
                    self.closed(name);
                }
            }
            EventKind::Remove(_) => self.gone(name),
            EventKind::Create(_) | EventKind::Modify(ModifyKind::Metadata(_)) => {}
            // Name(Both) repeats From and To; opening and reading change nothing.
            _ => return false,
        }
        self.touched.insert(name.to_owned());
        true
    }

    fn opened(&mut self, name: &OsStr) {
        self.writing.insert(name.to_owned());
        self.completed.remove(name);
    }

    fn closed(&mut self, name: &OsStr) {
        self.writing.remove(name);
        self.completed.insert(name.to_owned());
    }

    fn gone(&mut self, name: &OsStr) {
        self.writing.remove(name);
        self.completed.remove(name);
    }
}

#[cfg(test)]
mod tests;
