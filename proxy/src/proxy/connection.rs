//! One connection, from top to bottom.

use std::io;
use std::sync::Arc;

use tokio::net::TcpStream;

use super::decide::{Protocol, read_opening};
use super::relay::{End, Tally, relay};
use super::respond::{abort_by_default, close, refuse, reset_after_flush};
use super::upstream::{Upstream, prepare};
use super::{Proxy, Route};
use crate::access_log::Access;
use crate::addr::ClientAddr;
use crate::failure::{Failure, Reason};
use crate::metrics::OpenConnection;
use crate::pods::Pod;
use crate::tls::{Alpn, ServerStream, Session, Stage, failure_from_io};

/// Serves one redirected connection to its end. Its socket's local address claims a target id.
pub(super) async fn serve(
    proxy: Arc<Proxy>,
    pod: Arc<Pod>,
    client: TcpStream,
    client_addr: ClientAddr,
) {
    let claimed = client.local_addr().ok().and_then(|local| {
        let routes = proxy.routes.borrow();
        routes.claimed(local).cloned()
    });
    let Some(route) = claimed else {
        // Stale, or forged by a process of the pod.
        proxy.metrics.unknown_targets.inc();
        abort_by_default(&client);
        return;
    };
    let mut connection = Connection::new(&pod, &route, client_addr);
    // Boxed: its future is large, and the accept loop's task should not carry it.
    let work = Box::pin(connection.run(&proxy, &pod, client));
    let ended = tokio::select! {
        result = work => result,
        () = pod.released.cancelled() => Err(Failure::new(Reason::ClientGone, "its netns is gone")),
        () = proxy.ending.cancelled() => Err(Failure::new(Reason::ShutDown, "the agent ends")),
    };
    connection.finish(ended);
}

struct Connection {
    route: Arc<Route>,
    access: Access,
    sent: Tally,
    received: Tally,
    _open: OpenConnection,
}

impl Connection {
    fn new(pod: &Pod, route: &Arc<Route>, ClientAddr(client): ClientAddr) -> Self {
        let (target, metrics) = (&route.target, &route.metrics);
        let mut access = Access::new(client);
        access.netns = Some(pod.name.clone());
        access.service = Some((target.service.clone(), target.port));
        access.policy = Some(target.policy.clone());
        access.sni = target.plan.as_ref().ok().map(|plan| plan.hostname.clone());
        Self {
            access,
            sent: Tally::new(metrics.sent_bytes.clone()),
            received: Tally::new(metrics.received_bytes.clone()),
            route: Arc::clone(route),
            _open: metrics.open(),
        }
    }

    /// Decide, connect, relay.
    async fn run(
        &mut self,
        proxy: &Proxy,
        pod: &Arc<Pod>,
        mut client: TcpStream,
    ) -> Result<(), Failure> {
        abort_by_default(&client);
        prepare(&client).map_err(|error| client_gone(&error))?;
        let (dialer, pod) = (Arc::clone(&proxy.dialer), Arc::clone(pod));
        let mut upstream = Upstream::new(dialer, pod, Arc::clone(&self.route));
        let (mut first, mut greeting) = (Vec::new(), Vec::new());
        let protocol = tokio::select! {
            biased;
            protocol = read_opening(&mut client, &mut first) => match protocol {
                Ok(protocol) => Some(protocol),
                Err(error) => return Err(client_gone(&error)),
            },
            () = upstream.server_first(&mut greeting) => None,
        };
        self.access.protocol = Some(protocol.unwrap_or(Protocol::Other).as_str());
        let alpn = match protocol {
            Some(Protocol::Tls) => return self.pass_through(client, upstream, first).await,
            Some(Protocol::Http1 { .. }) => Alpn::Http11,
            Some(Protocol::Http2) => Alpn::H2,
            Some(Protocol::Other) | None => Alpn::None,
        };
        match upstream.secured(alpn).await {
            Ok(stream) => {
                let opening = Opening {
                    protocol,
                    first,
                    greeting,
                };
                self.relay_secured(client, stream, opening).await
            }
            Err(failure) => {
                refuse(client, protocol, &failure).await;
                Err(failure)
            }
        }
    }

    async fn relay_secured(
        &mut self,
        mut client: TcpStream,
        mut stream: Box<ServerStream>,
        opening: Opening,
    ) -> Result<(), Failure> {
        self.access.upstream = stream.get_ref().0.get_ref().peer_addr().ok();
        let session = Session::of(&stream);
        self.access.tls_version = Some(session.version);
        self.access.cipher = Some(session.cipher_suite);
        self.access.resumed = Some(session.resumed);
        let Opening {
            protocol,
            first,
            greeting,
        } = opening;
        let (sent, received) = (&mut self.sent, &mut self.received);
        let end = relay(&mut client, &mut *stream, first, greeting, sent, received).await;
        match end {
            End::Clean => {
                close(client);
                Ok(())
            }
            End::Client(error) => Err(client_gone(&error)),
            End::Upstream(error) => {
                let failure = failure_from_io(&error, Stage::Relay);
                if received.bytes == 0 {
                    // Such as TLS 1.3's alert for a missing client certificate, which comes after the handshake.
                    refuse(client, protocol, &failure).await;
                } else {
                    reset_after_flush(client).await;
                }
                Err(failure)
            }
        }
    }

    /// The client speaks TLS itself: its bytes go through as they are.
    async fn pass_through(
        &mut self,
        mut client: TcpStream,
        upstream: Upstream,
        first: Vec<u8>,
    ) -> Result<(), Failure> {
        self.route.metrics.passthrough("already_tls");
        let mut stream = upstream.plain().await?;
        abort_by_default(&stream);
        self.access.upstream = stream.peer_addr().ok();
        let (sent, received) = (&mut self.sent, &mut self.received);
        match relay(&mut client, &mut stream, first, Vec::new(), sent, received).await {
            End::Clean => {
                close(client);
                close(stream);
                Ok(())
            }
            End::Client(error) => Err(client_gone(&error)),
            End::Upstream(error) => {
                reset_after_flush(client).await;
                Err(failure_from_io(&error, Stage::Relay))
            }
        }
    }

    fn finish(mut self, ended: Result<(), Failure>) {
        *self.access.sent_bytes.get_mut() = self.sent.bytes;
        *self.access.received_bytes.get_mut() = self.received.bytes;
        match ended {
            Ok(()) => self.access.succeed(),
            Err(failure) => {
                self.route.metrics.failed(failure.reason.as_str());
                self.access.fail(failure.reason.as_str(), failure);
            }
        }
    }
}

fn client_gone(error: &io::Error) -> Failure {
    Failure::new(
        Reason::ClientGone,
        format!("the client's connection failed: {error}"),
    )
}

/// What was read before the relay, and what it told.
struct Opening {
    protocol: Option<Protocol>,
    first: Vec<u8>,
    greeting: Vec<u8>,
}
