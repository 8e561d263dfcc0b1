//! How many connections of one netns may be open at a time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How often the same trouble is logged.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// The open connections of one netns.
#[derive(Debug)]
pub(super) struct Limit {
    free: Arc<Semaphore>,
    logged: Occasional,
}

impl Limit {
    /// None is open yet.
    pub(super) fn new(connections: usize) -> Self {
        Self {
            free: Arc::new(Semaphore::new(connections.min(Semaphore::MAX_PERMITS))),
            logged: Occasional::default(),
        }
    }

    /// A place for one more connection, until it is dropped. `None` above the limit; `log` is called then, but not each
    /// time.
    pub(super) fn take(&self, log: impl FnOnce()) -> Option<OwnedSemaphorePermit> {
        let permit = Arc::clone(&self.free).try_acquire_owned().ok();
        if permit.is_none() && self.logged.is_due() {
            log();
        }
        permit
    }
}

/// Says when to log again what goes on for longer: every 10 s.
#[derive(Debug, Default)]
pub(super) struct Occasional {
    last: Mutex<Option<Instant>>,
}

impl Occasional {
    /// Whether it has not been due for 10 s.
    pub(super) fn is_due(&self) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.is_none_or(|last| last.elapsed() >= LOG_EVERY);
        if due {
            *last = Some(Instant::now());
        }
        due
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_place_is_free_again_when_its_connection_ends_and_the_log_is_not_flooded() {
        let limit = Limit::new(2);
        let logged = Cell::new(0);
        let take = || limit.take(|| logged.set(logged.get() + 1));
        let (first, second) = (take().unwrap(), take().unwrap());
        assert!(take().is_none() && take().is_none());
        assert_eq!(logged.get(), 1);
        drop(first);
        assert!(take().is_some());
        drop(second);
    }
}
