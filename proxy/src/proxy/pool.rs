//! Servers' connections at rest, kept for the next client of the same pod and target: a TLS handshake costs far more than
//! most requests do.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::thread::{self, ThreadId};
use std::time::Duration;

use prometheus::IntGauge;
use tokio::io::AsyncWrite as _;
use tokio::sync::watch;
use tokio::task::coop;
use tokio::time::{Instant, timeout};

use super::route::{Route, Routes};
use crate::buffer::Lend as _;
use crate::counted::Counted;
use crate::pods::Pod;
use crate::tls::ServerStream;

/// Counted from the handshake. A connection stays with its endpoint: this is how long a pod may go on with one that its
/// Service has no more. (Of EndpointSlices we know: another route.) One handshake in this time is not worth saving.
const MAX_AGE: Duration = Duration::from_secs(10);
/// Common servers close a connection at rest after 5 s (Node.js, Apache) or later.
const MAX_IDLE: Duration = Duration::from_secs(4);
/// For one pod and target.
const MAX_EACH: usize = 32;
/// Of one node.
const MAX_ALL: usize = 4096;
/// How often connections are looked after.
const TICK: Duration = Duration::from_secs(1);

/// The connections at rest.
pub(super) struct Pool {
    shelves: Mutex<Shelves>,
    /// How many there may be.
    limit: usize,
    size: IntGauge,
}

#[derive(Default)]
struct Shelves {
    by_key: HashMap<Key, Shelf>,
    size: usize,
    /// Nothing is kept any more.
    closed: bool,
}

/// Where the pod and the route are in memory: a shelf holds both, so that nothing else can be there.
type Key = (usize, usize);

struct Shelf {
    pod: Arc<Pod>,
    /// The policy's version too: another one makes another route.
    route: Arc<Route>,
    /// The last one put is the first one taken.
    streams: Vec<Resting>,
}

struct Resting {
    put: Instant,
    pooled: Pooled,
}

impl Resting {
    fn is_fresh(&mut self) -> bool {
        self.put.elapsed() < MAX_IDLE
            && self.pooled.since.elapsed() < MAX_AGE
            && self.pooled.is_quiet()
    }
}

/// A connection that may serve several clients, one after the other.
pub(super) struct Pooled {
    pub(super) stream: Box<ServerStream>,
    since: Instant,
    /// The worker whose runtime tells of its events: that would have to wake another for each.
    home: ThreadId,
}

impl Pooled {
    /// A connection just made.
    pub(super) fn new(stream: Box<ServerStream>) -> Self {
        let since = Instant::now();
        Self {
            stream,
            since,
            home: thread::current().id(),
        }
    }

    /// As one of this worker's, to be used.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub(super) fn move_here(self) -> io::Result<Self> {
        let home = thread::current().id();
        if self.home == home {
            return Ok(self);
        }
        let stream = self.stream.try_map(Counted::move_here)?;
        Ok(Self {
            stream: Box::new(stream),
            home,
            ..self
        })
    }

    /// Whether the server has neither closed it nor said anything, as far as this task may look (tokio's budget).
    fn is_quiet(&mut self) -> bool {
        if !coop::has_budget_remaining() {
            return false;
        }
        self.stream.poll_fill(&mut nobody()).is_pending()
    }

    /// Says goodbye, as far as that goes without waiting.
    pub(super) fn close(mut self) {
        let _ = Pin::new(&mut self.stream).poll_shutdown(&mut nobody());
    }
}

fn nobody() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

impl Pool {
    /// An empty one, for so many at most; `size` is its metric.
    pub(super) fn new(limit: usize, size: IntGauge) -> Self {
        Self {
            shelves: Mutex::default(),
            limit: limit.min(MAX_ALL),
            size,
        }
    }

    /// Whether [`Pool::take`] is likely to find one.
    pub(super) fn has(&self, pod: &Arc<Pod>, route: &Arc<Route>) -> bool {
        self.lock().by_key.contains_key(&key(pod, route))
    }

    /// A connection of this pod to this route's server that was open a moment ago.
    pub(super) fn take(&self, pod: &Arc<Pod>, route: &Arc<Route>) -> Option<Pooled> {
        let mut shelves = self.lock();
        let shelf = shelves.by_key.get_mut(&key(pod, route))?;
        let before = shelf.streams.len();
        let fresh = |mut resting: Resting| resting.is_fresh().then_some(resting.pooled);
        // The last of this worker's, else of another's.
        let here = thread::current().id();
        let next = || {
            let own = |resting: &Resting| resting.pooled.home == here;
            match shelf.streams.iter().rposition(own) {
                Some(own) => Some(shelf.streams.remove(own)),
                None => shelf.streams.pop(),
            }
        };
        let found = std::iter::from_fn(next).find_map(fresh);
        let taken = before - shelf.streams.len();
        if shelf.streams.is_empty() {
            shelves.by_key.remove(&key(pod, route));
        }
        shelves.size -= taken;
        self.show_size(&shelves);
        found
    }

    /// Keeps a connection at rest, unless it is old, or there are many.
    pub(super) fn put(&self, pod: &Arc<Pod>, route: &Arc<Route>, pooled: Pooled) {
        let mut shelves = self.lock();
        let shelf = shelves.by_key.get(&key(pod, route));
        let full = shelf.is_some_and(|shelf| shelf.streams.len() >= MAX_EACH);
        if full
            || shelves.size >= self.limit
            || shelves.closed
            || pod.released.is_cancelled()
            || pooled.since.elapsed() >= MAX_AGE
        {
            drop(shelves);
            return pooled.close();
        }
        let new = || Shelf {
            pod: Arc::clone(pod),
            route: Arc::clone(route),
            streams: Vec::new(),
        };
        let shelf = shelves.by_key.entry(key(pod, route)).or_insert_with(new);
        let put = Instant::now();
        shelf.streams.push(Resting { put, pooled });
        shelves.size += 1;
        self.show_size(&shelves);
    }

    /// Closes those of a pod.
    pub(super) fn forget(&self, pod: &Arc<Pod>) {
        self.retain(|shelf, _| !Arc::ptr_eq(&shelf.pod, pod));
    }

    /// Closes all, and keeps none any more.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.retain(|_, _| false);
    }

    /// Closes, again and again, what has been at rest for long, what its server has closed, and at once what belongs to a
    /// route that is no more.
    pub(super) async fn tend(&self, mut routes: watch::Receiver<Arc<Routes>>) {
        loop {
            if let Ok(Err(_)) = timeout(TICK, routes.changed()).await {
                // Nobody publishes any more: the process ends.
                return;
            }
            let routes = Arc::clone(&routes.borrow_and_update());
            self.retain(|shelf, resting| {
                let current = routes.by_id.get(&shelf.route.id);
                current.is_some_and(|current| Arc::ptr_eq(current, &shelf.route))
                    && resting.is_fresh()
            });
        }
    }

    fn retain(&self, keep: impl Fn(&Shelf, &mut Resting) -> bool) {
        let mut gone = Vec::new();
        let mut shelves = self.lock();
        shelves.by_key.retain(|_, shelf| {
            let mut streams = std::mem::take(&mut shelf.streams);
            gone.extend(streams.extract_if(.., |resting| !keep(shelf, resting)));
            shelf.streams = streams;
            !shelf.streams.is_empty()
        });
        shelves.size -= gone.len();
        self.show_size(&shelves);
        // Others need not wait for it.
        drop(shelves);
        for resting in gone {
            resting.pooled.close();
        }
    }

    fn show_size(&self, shelves: &Shelves) {
        let size = i64::try_from(shelves.size);
        self.size.set(size.unwrap_or(i64::MAX));
    }

    fn lock(&self) -> MutexGuard<'_, Shelves> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(pod: &Arc<Pod>, route: &Arc<Route>) -> Key {
    (Arc::as_ptr(pod).addr(), Arc::as_ptr(route).addr())
}
