//! The open connections, for who asks. A connection enters what it has anyway, shared, and leaves at its end; nothing is
//! formatted before somebody looks.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use slab::Slab;

use super::relay::Tally;
use super::route::Route;
use crate::pods::Pod;
use crate::tls::Session;

/// Those of one proxy.
#[derive(Default)]
pub(super) struct Registry(Mutex<Slab<Arc<Entry>>>);

struct Entry {
    client: SocketAddr,
    pod: Arc<Pod>,
    route: Arc<Route>,
    sent: Tally,
    received: Tally,
    since: Instant,
    known: Mutex<Known>,
}

/// What shows only as a connection goes on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known {
    /// What the client speaks, in the access log's words.
    pub protocol: Option<&'static str>,
    /// The address dialled, once it answered.
    pub endpoint: Option<SocketAddr>,
    /// What was negotiated with the server; none of a connection that is passed through.
    pub session: Option<Session>,
}

/// An open connection as it was when somebody looked.
pub struct Seen {
    /// The client.
    pub client: SocketAddr,
    /// Whose it is.
    pub pod: Arc<Pod>,
    /// Where it goes.
    pub route: Arc<Route>,
    /// Plaintext bytes from the client to the Service so far.
    pub sent: u64,
    /// Plaintext bytes from the Service to the client so far.
    pub received: u64,
    /// Since it was accepted.
    pub age: Duration,
    /// The rest.
    pub known: Known,
}

/// A connection that is in the registry until this is dropped.
pub(super) struct Registered {
    registry: Arc<Registry>,
    place: usize,
    entry: Arc<Entry>,
}

impl Registry {
    /// Enters a connection; the tallies are its own (sent, received).
    pub(super) fn enter(
        self: &Arc<Self>,
        client: SocketAddr,
        pod: &Arc<Pod>,
        route: &Arc<Route>,
        [sent, received]: [&Tally; 2],
    ) -> Registered {
        let entry = Arc::new(Entry {
            client,
            pod: Arc::clone(pod),
            route: Arc::clone(route),
            sent: sent.clone(),
            received: received.clone(),
            since: Instant::now(),
            known: Mutex::default(),
        });
        Registered {
            place: lock(&self.0).insert(Arc::clone(&entry)),
            registry: Arc::clone(self),
            entry,
        }
    }

    /// All that are open now.
    pub(super) fn look(&self) -> Vec<Seen> {
        // Nobody waits for more than this.
        let entries: Vec<_> = lock(&self.0)
            .iter()
            .map(|(_, entry)| Arc::clone(entry))
            .collect();
        let seen = entries.into_iter().map(|entry| Seen {
            client: entry.client,
            pod: Arc::clone(&entry.pod),
            route: Arc::clone(&entry.route),
            sent: entry.sent.bytes(),
            received: entry.received.bytes(),
            age: entry.since.elapsed(),
            known: *lock(&entry.known),
        });
        seen.collect()
    }
}

impl Registered {
    /// Notes what is known now.
    pub(super) fn note(&self, change: impl FnOnce(&mut Known)) {
        change(&mut lock(&self.entry.known));
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        lock(&self.registry.0).try_remove(self.place);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
