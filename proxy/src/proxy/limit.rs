//! How many connections may be open at a time: of one netns, and of all. More are refused early, so that the open ones
//! live.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How often the same trouble is logged.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// What a connection takes at most, roughly: blocked both ways it holds two buffers and what is sealed, 208 KiB, and there is
/// what the kernel has for its sockets. An idle one takes far less.
const CONNECTION: u64 = 256 * 1024;

/// Of each four places that there are, one netns may have three: others find one.
const SHARE: usize = 3;

/// Which of the process's limits allows fewer connections, and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scarce {
    /// Two files each, and a quarter of the files for all else: of each pod its netns and listeners; watches.
    OpenFiles(usize),
    /// Half of the memory is for all else.
    Memory(usize),
}

impl Scarce {
    /// `memory` is how many bytes the process may use.
    pub(super) fn new(memory: Option<u64>) -> Self {
        let connections = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
        let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let by_files = connections(files / 8 * 3);
        match memory.map(|bytes| connections(bytes / 2 / CONNECTION)) {
            Some(by_memory) if by_memory < by_files => Self::Memory(by_memory),
            _ => Self::OpenFiles(by_files),
        }
    }

    /// How many connections there may be.
    pub(super) fn connections(self) -> usize {
        let (Self::OpenFiles(connections) | Self::Memory(connections)) = self;
        connections
    }
}

/// The open connections of one netns, or of all.
#[derive(Debug)]
pub(super) struct Limit {
    connections: usize,
    free: Arc<Semaphore>,
    logged: Occasional,
}

impl Limit {
    /// None is open yet.
    pub(super) fn new(connections: usize) -> Self {
        let connections = connections.min(Semaphore::MAX_PERMITS);
        Self {
            connections,
            free: Arc::new(Semaphore::new(connections)),
            logged: Occasional::default(),
        }
    }

    /// Whether as much is taken here as leaves only their share of `all` places to others. `log` as for [`Limit::take`].
    pub(super) fn has_its_share(&self, all: &Self, log: impl FnOnce(usize)) -> bool {
        let taken = self.connections - self.free.available_permits();
        let has = taken >= SHARE * all.free.available_permits();
        if has && self.logged.is_due() {
            log(taken);
        }
        has
    }

    /// A place for one more connection, until it is dropped. `None` above the limit; `log` is told the limit then, but not
    /// each time.
    pub(super) fn take(&self, log: impl FnOnce(usize)) -> Option<OwnedSemaphorePermit> {
        let permit = Arc::clone(&self.free).try_acquire_owned().ok();
        if permit.is_none() && self.logged.is_due() {
            log(self.connections);
        }
        permit
    }
}

/// The limits of pods.
#[derive(Debug)]
pub(super) struct OfPods {
    connections: usize,
    /// By the pod's uid.
    limits: Mutex<HashMap<String, Weak<Limit>>>,
}

impl OfPods {
    /// Each of so many connections.
    pub(super) fn new(connections: usize) -> Self {
        Self {
            connections,
            limits: Mutex::default(),
        }
    }

    /// That of one more netns: the netns of one pod have one together, else it could make more of them and have the places
    /// of others.
    pub(super) fn limit(&self, uid: Option<&str>) -> Arc<Limit> {
        let new = || Arc::new(Limit::new(self.connections));
        let Some(uid) = uid else {
            return new();
        };
        let mut limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        limits.retain(|_, limit| limit.strong_count() > 0);
        let limit = limits.get(uid).and_then(Weak::upgrade);
        let limit = limit.unwrap_or_else(new);
        limits.insert(uid.to_owned(), Arc::downgrade(&limit));
        limit
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

/// Lines of one kind that a second may have.
const LINES: u32 = 10;

/// Lets no more than 10 of a kind through in a second.
#[derive(Debug, Default)]
pub(super) struct Throttle(Mutex<Second>);

#[derive(Debug, Default)]
struct Second {
    start: Option<Instant>,
    lines: u32,
    /// Since the last that was let through.
    left_out: u64,
}

impl Throttle {
    /// Whether one more may pass; then how many did not since the last that did.
    pub(super) fn take(&self) -> Option<u64> {
        let mut now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let within = |start: Instant| start.elapsed() < Duration::from_secs(1);
        if !now.start.is_some_and(within) {
            now.start = Some(Instant::now());
            now.lines = 0;
        }
        if now.lines == LINES {
            now.left_out += 1;
            return None;
        }
        now.lines += 1;
        Some(std::mem::take(&mut now.left_out))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_flood_of_lines_is_cut_short_and_counted() {
        let throttle = Throttle::default();
        let passed = (0..100).filter_map(|_| throttle.take()).count();
        assert!((10..100).contains(&passed), "{passed}");
        std::thread::sleep(Duration::from_millis(1100));
        assert_eq!(throttle.take(), Some(100 - passed as u64));
        assert_eq!(throttle.take(), Some(0));
    }

    #[test]
    fn a_place_is_free_again_when_its_connection_ends_and_the_log_is_not_flooded() {
        let limit = Limit::new(2);
        let logged = Cell::new(0);
        let take = || limit.take(|_| logged.set(logged.get() + 1));
        let (first, second) = (take().unwrap(), take().unwrap());
        assert!(take().is_none() && take().is_none());
        assert_eq!(logged.get(), 1);
        drop(first);
        assert!(take().is_some());
        drop(second);
    }

    #[test]
    fn the_netns_of_a_pod_share_its_limit() {
        let pods = OfPods::new(1);
        let [first, nested] = [pods.limit(Some("a")), pods.limit(Some("a"))];
        let place = first.take(|_| {});
        assert!(place.is_some() && nested.take(|_| {}).is_none());
        assert!(pods.limit(Some("b")).take(|_| {}).is_some());
        assert!(pods.limit(None).take(|_| {}).is_some());
        drop((first, nested));
        assert!(pods.limit(Some("a")).take(|_| {}).is_some());
    }

    #[test]
    fn one_netns_leaves_a_quarter_to_others() {
        let all = Limit::new(20);
        let [first, second] = [Limit::new(100), Limit::new(100)];
        let fill = |netns: &Limit| {
            let mut places = Vec::new();
            while !netns.has_its_share(&all, |_| {}) {
                places.push((all.take(|_| {}).unwrap(), netns.take(|_| {}).unwrap()));
            }
            places
        };
        let places = fill(&first);
        assert_eq!(places.len(), 15);
        assert_eq!(fill(&second).len(), 4);
        drop(places);
        assert_eq!(fill(&second).len(), 15);
    }
}
