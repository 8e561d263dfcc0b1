//! The data plane's threads. Each has a runtime of its own, and a connection stays on the thread it was given to: with one
//! runtime for all, threads wake each other for its events, which takes a fifth more CPU time for a request.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::time::interval;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::access_log::{gather_lines, write_lines};
use crate::sys::give_back_memory;

/// How many workers accept from one listener: each connection may wake all of them.
const ACCEPTING: usize = 4;
/// How many connections more than another's a worker may have. To hand one over costs as much as some requests do.
const SLACK: usize = 8;
/// How often a worker writes its lines of the log and gives memory back. Sooner than most timers that a connection sets: tokio
/// wakes the thread, by a system call, for one that comes before all others, and so does this one instead.
pub(super) const BEAT: Duration = Duration::from_secs(1);

/// The threads; they end when this is dropped.
#[derive(Debug)]
pub(super) struct Workers {
    all: Vec<Arc<Worker>>,
    next: AtomicUsize,
    _ending: DropGuard,
}

/// One thread.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) runtime: Handle,
    /// Its open connections.
    open: Arc<()>,
}

/// A connection's place on a worker, until it is dropped.
#[derive(Debug)]
pub(super) struct Place(#[expect(dead_code, reason = "it is counted")] Arc<()>);

impl Workers {
    /// Starts so many.
    pub(super) fn start(count: usize) -> io::Result<Self> {
        let ending = CancellationToken::new();
        let all = (0..count).map(|number| Worker::start(number, ending.clone()));
        let guard = ending.clone().drop_guard();
        Ok(Self {
            all: all
                .map(|worker| worker.map(Arc::new))
                .collect::<io::Result<_>>()?,
            next: AtomicUsize::default(),
            _ending: guard,
        })
    }

    /// Those that accept a listener's connections, each time other ones.
    pub(super) fn accepting(&self) -> impl Iterator<Item = &Arc<Worker>> {
        let first = self.next.fetch_add(1, Ordering::Relaxed) % self.all.len();
        let circle = self.all.iter().cycle().skip(first);
        circle.take(self.all.len().min(ACCEPTING))
    }

    /// Whose a connection is to be that `own` has accepted: its own, unless it has many more than others.
    pub(super) fn choose<'a>(&'a self, own: &'a Worker) -> &'a Worker {
        let idlest = self.all.iter().min_by_key(|worker| worker.open());
        match idlest {
            Some(idlest) if own.open() > idlest.open() + SLACK => idlest,
            _ => own,
        }
    }

    /// Has all lines written that they have gathered so far.
    pub(super) async fn write_lines(&self) {
        let writing = self
            .all
            .iter()
            .map(|worker| worker.runtime.spawn(async { write_lines() }));
        for written in writing.collect::<Vec<_>>() {
            // Fails only where the worker has ended.
            let _ = written.await;
        }
    }
}

impl Worker {
    fn start(number: usize, ending: CancellationToken) -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel();
        // The thread makes and drops its runtime: where another runs, none may be dropped.
        let work = move || match Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => {
                let _ = sender.send(Ok(runtime.handle().clone()));
                gather_lines();
                runtime.block_on(ending.run_until_cancelled(beat()));
                // With the connections that are still open.
                drop(runtime);
                write_lines();
            }
            Err(error) => {
                let _ = sender.send(Err(error));
            }
        };
        thread::Builder::new()
            .name(format!("worker-{number}"))
            .spawn(work)?;
        let runtime = receiver.recv().map_err(io::Error::other)??;
        Ok(Self {
            runtime,
            open: Arc::default(),
        })
    }

    fn open(&self) -> usize {
        Arc::strong_count(&self.open)
    }

    /// For one more connection.
    pub(super) fn place(&self) -> Place {
        Place(Arc::clone(&self.open))
    }
}

async fn beat() {
    let mut beat = interval(BEAT);
    loop {
        beat.tick().await;
        write_lines();
        give_back_memory();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_connection_stays_where_it_was_accepted_unless_others_have_far_fewer() {
        let workers = Workers::start(3).unwrap();
        let [first, second, third] = &*workers.all else {
            panic!("{workers:?}");
        };
        let is = |worker: &Worker, other: &Worker| std::ptr::eq(worker, other);
        let mut places: Vec<_> = (0..SLACK).map(|_| second.place()).collect();
        assert!(is(workers.choose(second), second));
        places.extend([first.place(), second.place()]);
        assert!(is(workers.choose(second), third));
        drop(places);
        assert!(is(workers.choose(second), second));
    }

    #[test]
    fn listeners_are_spread_over_the_workers() {
        let workers = Workers::start(ACCEPTING + 1).unwrap();
        let name = |worker: &Arc<Worker>| Arc::as_ptr(worker);
        let all: Vec<_> = workers.all.iter().map(name).collect();
        let chosen: Vec<_> = workers.accepting().map(name).collect();
        assert_eq!(chosen, all[..ACCEPTING]);
        let chosen: Vec<_> = workers.accepting().map(name).collect();
        assert_eq!(chosen, all[1..]);
        let few = Workers::start(1).unwrap();
        assert_eq!(few.accepting().count(), 1);
    }
}
