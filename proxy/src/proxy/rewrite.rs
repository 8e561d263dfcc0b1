//! HTTP with the policy's hostname as `Host` or `:authority`: each request of the client is forwarded over one
//! connection to the server, and its answer back. Bodies and trailers stream, upgrades become a tunnel.

mod cause;
mod client;
mod forward;
mod head;
mod request_body;
mod server;

use std::error::Error as StdError;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto;
use tokio::io::copy_bidirectional;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::cause::{Cause, chain, explain};
pub(super) use self::client::Client;
use self::forward::Forwarder;
use crate::failure::{Failure, Reason};
use crate::proxy::connection::FAREWELL;
use crate::proxy::respond::{FIRST, TOGETHER};
use crate::tls::ServerStream;

/// As for a first request's head.
const MAX_HEADERS: u32 = 64 * 1024;

type BoxError = Box<dyn StdError + Send + Sync>;
type Body = UnsyncBoxBody<Bytes, BoxError>;

/// Serves a client that speaks HTTP to the end of its connection.
///
/// # Errors
/// The first thing that went wrong; the client was told, or cut off.
pub(super) async fn rewrite(
    client: Client,
    stream: Box<ServerStream>,
    hostname: &str,
) -> Result<(), Failure> {
    let tasks = Tasks::default();
    let _ending = tasks.ending.clone().drop_guard();
    let (closed, cause) = (CancellationToken::new(), Cause::default());
    let forwarder = Forwarder::open(stream, hostname, &tasks, &closed, &cause).await?;
    let (asked, requests) = (forwarder.asked.clone(), forwarder.requests.clone());
    let ended = async {
        closed.cancelled().await;
        requests.close();
        requests.wait().await;
        if cause.is_known() {
            // Who is told to go before the first request asks again, and sees an error nowhere.
            let _ = timeout(FIRST, asked.cancelled()).await;
            sleep(TOGETHER).await;
        }
    };
    let served = serve(client, forwarder, &tasks, ended).await;
    if let Err(error) = served {
        cause.note(|| client_gone(&*error));
    } else {
        tasks.tunnels.close();
        tasks.tunnels.wait().await;
        // The end of the connection to the server; answers that it has cut short, and a client will never take.
        tasks.running.close();
        let _ = timeout(FAREWELL, tasks.running.wait()).await;
    }
    cause.take().map_or(Ok(()), Err)
}

/// Both versions of HTTP; when the server's connection has `ended`, the client's does, with the answers under way.
async fn serve(
    client: Client,
    forwarder: Arc<Forwarder>,
    tasks: &Tasks,
    ended: impl Future<Output = ()>,
) -> Result<(), BoxError> {
    let service = service_fn(move |request| Arc::clone(&forwarder).forward(request));
    let mut builder = auto::Builder::new(tasks.clone());
    let mut http1 = builder.http1();
    // What is idle ends when one of the two ends it, as with a relay.
    http1.header_read_timeout(None);
    http1.half_close(true).preserve_header_case(true);
    http1.auto_date_header(false);
    let mut http2 = builder.http2();
    http2.auto_date_header(false);
    http2.max_header_list_size(MAX_HEADERS);
    let mut server = pin!(builder.serve_connection_with_upgrades(TokioIo::new(client), service));
    tokio::select! {
        biased;
        served = server.as_mut() => served,
        () = ended => {
            server.as_mut().graceful_shutdown();
            server.await
        }
    }
}

/// Both ways, in whatever protocol they have agreed on.
async fn tunnel(client: OnUpgrade, server: OnUpgrade, cause: Cause) {
    let copied = async {
        let (client, server) = tokio::try_join!(client, server).map_err(|e| explain(&e))?;
        let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
        // The server's connection has noted its own failures.
        let copied = copy_bidirectional(&mut client, &mut server).await;
        copied.map_err(|error| client_gone(&error))
    };
    if let Err(failure) = copied.await {
        cause.note(|| failure);
    }
}

fn client_gone(error: &(dyn StdError + 'static)) -> Failure {
    let detail = format!("the client's connection failed: {}", chain(error));
    Failure::new(Reason::ClientGone, detail)
}

/// Runs the parts of one client's connections, which end with it.
#[derive(Clone, Default)]
struct Tasks {
    running: TaskTracker,
    /// Go on when HTTP has ended.
    tunnels: TaskTracker,
    ending: CancellationToken,
}

impl<F: Future<Output: Send> + Send + 'static> Executor<F> for Tasks {
    fn execute(&self, future: F) {
        self.running.spawn(self.until_ending(future));
    }
}

impl Tasks {
    fn until_ending<F: Future>(&self, future: F) -> impl Future<Output = ()> + use<F> {
        let ending = self.ending.clone();
        async move { drop(ending.run_until_cancelled(future).await) }
    }
}
