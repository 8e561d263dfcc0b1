//! The data plane. The way of one connection: accept (here) → decide → connect (`upstream`) → relay or
//! rewrite.

mod connection;
pub(crate) mod decide;
mod departure;
pub(crate) mod framing;
pub(crate) mod head;
mod http1;
mod limit;
mod names;
mod opening;
mod plain;
mod pool;
mod registry;
mod relay;
mod respond;
mod rewrite;
mod route;
mod upstream;
mod workers;

use std::future::poll_fn;
use std::io;
use std::net::TcpListener as StdListener;
use std::num::NonZero;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::task::coop;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::decide::Protocol;
use self::limit::{Limit, Occasional, OfPods, Scarce};
pub use self::names::Names;
use self::pool::Pool;
use self::registry::Registry;
pub use self::registry::{Known, Seen};
use self::respond::abort_by_default;
pub use self::route::{Failing, Lately, Route, Routes};
use self::upstream::prepare;
pub use self::upstream::{Dialer, probe};
use self::workers::{Worker, Workers};
use crate::addr::ClientAddr;
use crate::metrics::Metrics;
use crate::pods::{Pod, Serve};

/// How long to leave a full machine alone before accepting again.
const BACK_OFF: Duration = Duration::from_millis(100);

/// Serves the connections of all pods.
pub struct Proxy {
    /// The published targets.
    pub routes: watch::Receiver<Arc<Routes>>,
    /// Dials for them.
    pub dialer: Arc<Dialer>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Fires when no new connection is to be taken.
    pub draining: CancellationToken,
    /// Fires when the open ones are to end as well.
    pub ending: CancellationToken,
    /// Every task of the data plane.
    pub tasks: TaskTracker,
    pool: Arc<Pool>,
    connections: Limit,
    of_pods: OfPods,
    scarce: Scarce,
    registry: Arc<Registry>,
    workers: Workers,
}

/// How much may be open at a time; more is reset.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections of one netns, or of all those of one pod.
    pub connections_per_netns: usize,
    /// Bytes of memory that the process may use; `None`: as many as there are.
    pub memory: Option<u64>,
}

impl Serve for Arc<Proxy> {
    fn serve(&self, pod: &Arc<Pod>, listeners: Vec<StdListener>) {
        let limit = self.of_pods.limit(pod.uid.as_deref());
        for listener in listeners {
            abort_by_default(&listener);
            let prepared = prepare(&listener);
            let accepting = prepared.and_then(|()| self.start_accepting(pod, &limit, &listener));
            if let Err(error) = accepting {
                tracing::error!(netns = pod.name, %error, "a listener can't be used");
            }
        }
    }
}

impl Proxy {
    /// One that takes connections as soon as it is given listeners. To be called within a runtime.
    pub fn new(
        routes: watch::Receiver<Arc<Routes>>,
        dialer: Dialer,
        limits: Limits,
        metrics: Arc<Metrics>,
    ) -> io::Result<Self> {
        let (draining, tasks) = (CancellationToken::new(), TaskTracker::new());
        let processors = thread::available_parallelism().map_or(1, NonZero::get);
        let scarce = Scarce::new(limits.memory);
        let (resting, size) = (scarce.connections() / 8, &metrics.pooled_connections);
        let pool = Arc::new(Pool::new(resting, size.clone()));
        tasks.spawn(tend(Arc::clone(&pool), routes.clone(), draining.clone()));
        Ok(Self {
            routes,
            dialer: Arc::new(dialer),
            metrics,
            draining,
            ending: CancellationToken::new(),
            tasks,
            pool,
            connections: Limit::new(scarce.connections()),
            of_pods: OfPods::new(limits.connections_per_netns),
            scarce,
            registry: Arc::default(),
            workers: Workers::start(processors)?,
        })
    }

    /// The connections that are open now, in no order.
    pub fn open(&self) -> Vec<Seen> {
        self.registry.look()
    }

    /// Writes the lines of the log that are due within a second.
    pub async fn write_lines(&self) {
        self.workers.write_lines().await;
    }

    /// On several workers: who comes first takes a connection.
    fn start_accepting(
        self: &Arc<Self>,
        pod: &Arc<Pod>,
        limit: &Arc<Limit>,
        listener: &StdListener,
    ) -> io::Result<()> {
        for worker in self.workers.accepting() {
            let _entered = worker.runtime.enter();
            let listener = TcpListener::from_std(listener.try_clone()?)?;
            let (pod, limit) = (Arc::clone(pod), Arc::clone(limit));
            let accepting = Arc::clone(self).accept(pod, limit, listener, Arc::clone(worker));
            self.tasks.spawn_on(accepting, &worker.runtime);
        }
        Ok(())
    }

    async fn accept(
        self: Arc<Self>,
        pod: Arc<Pod>,
        limit: Arc<Limit>,
        listener: TcpListener,
        own: Arc<Worker>,
    ) {
        let logged = Occasional::default();
        loop {
            let accepting = poll_fn(|cx| {
                let worker = self.workers.choose(&own);
                // Its runtime is to tell of the connection's events.
                let _entered = worker.runtime.enter();
                let accepted = listener.poll_accept(cx);
                accepted.map_ok(|accepted| (worker, accepted))
            });
            let accepted = tokio::select! {
                accepted = accepting => accepted,
                () = pod.released.cancelled() => return self.pool.forget(&pod),
                () = self.draining.cancelled() => break,
            };
            match accepted {
                Ok((worker, (stream, peer))) => {
                    self.spawn(&pod, &limit, worker, stream, ClientAddr(peer));
                }
                Err(error) => {
                    // EMFILE and the like leave the connection in the queue: at once is too soon.
                    self.metrics.accept_errors.inc();
                    if logged.is_due() {
                        tracing::warn!(netns = pod.name, %error, "connections can't be accepted");
                    }
                    sleep(BACK_OFF).await;
                }
            }
        }
        self.accept_backlog(&pod, &limit, listener, &own);
    }

    /// Connections that the kernel has completed already would be reset by closing the listener.
    fn accept_backlog(
        self: &Arc<Self>,
        pod: &Arc<Pod>,
        limit: &Limit,
        listener: TcpListener,
        own: &Worker,
    ) {
        let Ok(listener) = listener.into_std() else {
            return;
        };
        while let Ok((stream, peer)) = listener.accept() {
            if stream.set_nonblocking(true).is_ok()
                && let Ok(stream) = TcpStream::from_std(stream)
            {
                self.spawn(pod, limit, own, stream, ClientAddr(peer));
            }
        }
    }

    fn spawn(
        self: &Arc<Self>,
        pod: &Arc<Pod>,
        limit: &Limit,
        worker: &Worker,
        stream: TcpStream,
        client: ClientAddr,
    ) {
        let Some(places) = self.places(pod, limit) else {
            return;
        };
        let places = (places, worker.place());
        let serving = connection::serve(Arc::clone(self), Arc::clone(pod), stream, client);
        let serving = async move {
            serving.await;
            drop(places);
        };
        self.tasks.spawn_on(serving, &worker.runtime);
    }

    /// A place for one more connection among all, and among those of its netns.
    fn places(&self, pod: &Pod, limit: &Limit) -> Option<[OwnedSemaphorePermit; 2]> {
        let (netns, rejected) = (&*pod.name, &self.metrics.rejected);
        let (counter, flag) = match self.scarce {
            Scarce::OpenFiles(_) => (
                &rejected.open_files,
                "the limit of open files, RLIMIT_NOFILE",
            ),
            Scarce::Memory(_) => (&rejected.memory, "--memory-limit"),
        };
        let has_its_share = limit.has_its_share(&self.connections, |open| {
            tracing::warn!(
                netns,
                open,
                "too many open connections on this node: more of this netns are reset ({flag})"
            );
        });
        let take = || self.connections.take(|_| {});
        let of_all = (!has_its_share).then(take).flatten();
        let Some(of_all) = of_all else {
            counter.inc();
            return None;
        };
        let of_netns = limit.take(|limit| {
            tracing::warn!(
                netns,
                limit,
                "too many open connections: more are reset (--connections-per-netns)"
            );
        });
        if of_netns.is_none() {
            rejected.netns_limit.inc();
        }
        of_netns.map(|of_netns| [of_all, of_netns])
    }
}

/// Looks after the connections at rest until the process drains. (Without tokio's budget, which many would exceed.)
async fn tend(pool: Arc<Pool>, routes: watch::Receiver<Arc<Routes>>, draining: CancellationToken) {
    let tending = coop::unconstrained(pool.tend(routes));
    draining.run_until_cancelled(tending).await;
    pool.close();
}
