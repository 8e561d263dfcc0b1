//! One directory, watched for changes: inotify (by the `notify` crate) tells at once, a periodic tick heals what
//! inotify lost. Used for the directory of manifests and for `/run/netns`.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{Config, Event, INotifyWatcher, RecursiveMode, Watcher};
use tokio::sync::watch;
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
            Some(watch) if watch.still_watches(&self.dir) => {
                watch.state.send_modify(|state| state.changed = false);
            }
            _ => self.watch_again(),
        }
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
        Some(watch) => {
            // Never an error: the watch has a sender.
            let _ = watch
                .state
                .subscribe()
                .wait_for(|state| state.changed)
                .await;
        }
        None => std::future::pending().await,
    }
}

/// A running inotify watch on one inode.
struct Watch {
    // Dropping it ends the watch and its thread.
    _inotify: INotifyWatcher,
    inode: (u64, u64),
    state: watch::Sender<State>,
}

/// What notify's thread tells.
#[derive(Default)]
struct State {
    changed: bool,
    // The directory itself was moved or removed.
    lost: bool,
}

impl Watch {
    fn start(dir: &Path) -> Result<Self, WatchError> {
        let inode = inode(dir)?;
        let state = watch::Sender::new(State::default());
        let inotify = |cause| WatchError::Inotify {
            dir: dir.to_owned(),
            cause,
        };
        let record = {
            let (dir, state) = (dir.to_owned(), state.clone());
            move |event| record(&dir, event, &state)
        };
        let mut watcher = INotifyWatcher::new(record, Config::default()).map_err(inotify)?;
        watcher
            .watch(dir, RecursiveMode::NonRecursive)
            .map_err(inotify)?;
        Ok(Self {
            _inotify: watcher,
            inode,
            state,
        })
    }

    /// Whether `dir` is still the inode that is watched: an unmount or a replaced parent tells no event.
    fn still_watches(&self, dir: &Path) -> bool {
        !self.state.borrow().lost && inode(dir).is_ok_and(|now| now == self.inode)
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

/// Takes note of one event.
fn record(dir: &Path, event: notify::Result<Event>, state: &watch::Sender<State>) {
    let event = event.unwrap_or_else(|error| {
        tracing::warn!(dir = %dir.display(), %error, "inotify");
        // As after an overflow, anything may have happened.
        Event::new(EventKind::Any)
    });
    let changed = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        // Reading, as we do ourselves.
        EventKind::Access(_) => false,
        _ => true,
    };
    let of_dir = event.paths.iter().any(|path| path == dir);
    let gone = matches!(
        event.kind,
        EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_))
    );
    if changed {
        state.send_modify(|state| {
            state.changed = true;
            state.lost |= of_dir && gone;
        });
    }
}

#[cfg(test)]
mod tests;
