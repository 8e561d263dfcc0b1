//! When to look at the cgroups again: inotify tells at once, a timer heals what it missed.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
use rustix::io::Errno;
use tokio::net::unix::pipe::Receiver;
use tokio::time::{Instant, sleep, sleep_until};

/// A container's start makes several events within a millisecond.
const DEBOUNCE: Duration = Duration::from_millis(2);
/// A process is in the pod's cgroup before it is in the pod's netns, and no event tells of that: so after each event we
/// look again, a few times and ever later.
const FIRST_RETRY: Duration = Duration::from_millis(2);
const LAST_RETRY: Duration = Duration::from_millis(512);

/// Watches cgroup directories. Not by the `notify` crate: its events can't be limited to those that matter, and each of
/// our own reads would make some.
pub(super) struct Watch {
    // To tokio an inotify descriptor is as good as a pipe: it polls it, and reads.
    inotify: Receiver,
    reconcile: Duration,
    next: Instant,
    retry: Duration,
    // inotify's limit was reached, and logged.
    full: AtomicBool,
}

impl Watch {
    /// Watches nothing yet. Must be called in a tokio runtime.
    pub(super) fn new(reconcile: Duration) -> Result<Self> {
        let inotify = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)
            .context("inotify can't be used: raise fs.inotify.max_user_instances")?;
        Ok(Self {
            inotify: Receiver::from_owned_fd_unchecked(inotify)?,
            reconcile,
            next: Instant::now(),
            retry: FIRST_RETRY,
            full: AtomicBool::new(false),
        })
    }

    /// Watches a cgroup: new and removed children, the first process that comes and the last that goes. To be called
    /// before each look at it: a second time is free, and the kernel forgets removed ones.
    pub(super) fn add(&self, dir: &Path) {
        let children = WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::ONLYDIR;
        let result = add_watch(&self.inotify, dir, children).and_then(|_| {
            // cgroup v1 has no events: there a write to cgroup.procs tells of new processes.
            let files = ["cgroup.events", "cgroup.procs"].map(|name| dir.join(name));
            let mut added = files
                .iter()
                .map(|file| add_watch(&self.inotify, file, WatchFlags::MODIFY));
            added
                .find(|result| *result != Err(Errno::NOENT))
                .unwrap_or(Ok(0))
        });
        // Whatever else goes wrong, as a cgroup that is gone, the look at it tells.
        if result == Err(Errno::NOSPC) && !self.full.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "not every pod's cgroup can be watched, so new pods may be seen late: raise fs.inotify.max_user_watches"
            );
        }
    }

    /// To be called at each look.
    pub(super) fn looked(&mut self) {
        let wait = if self.retry <= LAST_RETRY {
            self.retry.min(self.reconcile)
        } else {
            self.reconcile
        };
        self.next = Instant::now() + wait;
        self.retry = self.retry.saturating_mul(2);
    }

    /// Resolves when it is time to look. Cancelling it loses nothing.
    pub(super) async fn changed(&mut self) {
        tokio::select! {
            _ = self.inotify.readable() => self.retry = FIRST_RETRY,
            () = sleep_until(self.next) => {}
        }
        sleep(DEBOUNCE).await;
        // What comes from here on is for the next time.
        let mut events = [0_u8; 4096];
        while self.inotify.try_read(&mut events).is_ok() {}
    }
}
