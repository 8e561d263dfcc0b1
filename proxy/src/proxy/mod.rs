//! The data plane. The way of one connection: accept (here) → decide → connect (`upstream`) → relay or
//! rewrite.

mod connection;
pub(crate) mod decide;
mod departure;
pub(crate) mod head;
mod limit;
mod names;
mod opening;
mod record;
mod relay;
mod respond;
mod rewrite;
mod route;
mod upstream;

use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::decide::Protocol;
use self::limit::{Limit, Occasional};
pub use self::names::Names;
use self::respond::abort_by_default;
pub use self::route::{Failing, Route, Routes};
pub use self::upstream::{Dialer, probe};
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
    /// How many connections of one netns may be open at a time.
    pub connections_per_netns: usize,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Fires when no new connection is to be taken.
    pub draining: CancellationToken,
    /// Fires when the open ones are to end as well.
    pub ending: CancellationToken,
    /// Every task of the data plane.
    pub tasks: TaskTracker,
}

impl Serve for Arc<Proxy> {
    fn serve(&self, pod: &Arc<Pod>, listeners: Vec<StdListener>) {
        let limit = Arc::new(Limit::new(self.connections_per_netns));
        for listener in listeners {
            match TcpListener::from_std(listener) {
                Ok(listener) => {
                    let (pod, limit) = (Arc::clone(pod), Arc::clone(&limit));
                    let accepting = Arc::clone(self).accept(pod, listener, limit);
                    self.tasks.spawn(accepting);
                }
                Err(error) => tracing::error!(netns = pod.name, %error, "a listener can't be used"),
            }
        }
    }
}

impl Proxy {
    /// One that takes connections as soon as it is given listeners.
    pub fn new(
        routes: watch::Receiver<Arc<Routes>>,
        dialer: Dialer,
        connections_per_netns: usize,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            routes,
            dialer: Arc::new(dialer),
            connections_per_netns,
            metrics,
            draining: CancellationToken::new(),
            ending: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }
    }

    async fn accept(self: Arc<Self>, pod: Arc<Pod>, listener: TcpListener, limit: Arc<Limit>) {
        let logged = Occasional::default();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = pod.released.cancelled() => return,
                () = self.draining.cancelled() => break,
            };
            match accepted {
                Ok((stream, peer)) => self.spawn(&pod, &limit, stream, ClientAddr(peer)),
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
        self.accept_backlog(&pod, &limit, listener);
    }

    /// Connections that the kernel has completed already would be reset by closing the listener.
    fn accept_backlog(self: &Arc<Self>, pod: &Arc<Pod>, limit: &Limit, listener: TcpListener) {
        let Ok(listener) = listener.into_std() else {
            return;
        };
        while let Ok((stream, peer)) = listener.accept() {
            if stream.set_nonblocking(true).is_ok()
                && let Ok(stream) = TcpStream::from_std(stream)
            {
                self.spawn(pod, limit, stream, ClientAddr(peer));
            }
        }
    }

    fn spawn(
        self: &Arc<Self>,
        pod: &Arc<Pod>,
        limit: &Limit,
        stream: TcpStream,
        client: ClientAddr,
    ) {
        let log = || {
            let limit = self.connections_per_netns;
            tracing::warn!(
                netns = pod.name,
                limit,
                "too many open connections: more are reset (--connections-per-netns)"
            );
        };
        let Some(place) = limit.take(log) else {
            self.metrics.netns_limit.inc();
            abort_by_default(&stream);
            return;
        };
        let serving = connection::serve(Arc::clone(self), Arc::clone(pod), stream, client);
        self.tasks.spawn(async move {
            serving.await;
            drop(place);
        });
    }
}
