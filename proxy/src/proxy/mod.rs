//! The data plane. The way of one connection: accept (here) → decide → connect (`upstream`) → relay.

mod connection;
mod decide;
mod relay;
mod respond;
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
pub use self::route::{Route, Routes};
pub use self::upstream::Dialer;
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
}

impl Serve for Arc<Proxy> {
    fn serve(&self, pod: &Arc<Pod>, listeners: Vec<StdListener>) {
        for listener in listeners {
            match TcpListener::from_std(listener) {
                Ok(listener) => {
                    let accepting = Arc::clone(self).accept(Arc::clone(pod), listener);
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
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            routes,
            dialer: Arc::new(dialer),
            metrics,
            draining: CancellationToken::new(),
            ending: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }
    }

    async fn accept(self: Arc<Self>, pod: Arc<Pod>, listener: TcpListener) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = pod.released.cancelled() => return,
                () = self.draining.cancelled() => break,
            };
            match accepted {
                Ok((stream, peer)) => self.spawn(&pod, stream, ClientAddr(peer)),
                Err(error) => {
                    // EMFILE and the like leave the connection in the queue: at once is too soon.
                    self.metrics.accept_errors.inc();
                    tracing::warn!(netns = pod.name, %error, "a connection can't be accepted");
                    sleep(BACK_OFF).await;
                }
            }
        }
        self.accept_backlog(&pod, listener);
    }

    /// Connections that the kernel has completed already would be reset by closing the listener.
    fn accept_backlog(self: &Arc<Self>, pod: &Arc<Pod>, listener: TcpListener) {
        let Ok(listener) = listener.into_std() else {
            return;
        };
        while let Ok((stream, peer)) = listener.accept() {
            if stream.set_nonblocking(true).is_ok()
                && let Ok(stream) = TcpStream::from_std(stream)
            {
                self.spawn(pod, stream, ClientAddr(peer));
            }
        }
    }

    fn spawn(self: &Arc<Self>, pod: &Arc<Pod>, stream: TcpStream, client: ClientAddr) {
        let serving = connection::serve(Arc::clone(self), Arc::clone(pod), stream, client);
        self.tasks.spawn(serving);
    }
}
