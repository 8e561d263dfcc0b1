//! One connection, from top to bottom.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::decide::Protocol;
use super::departure::Departure;
use super::framing::Framing;
use super::http1::is_pooled;
use super::opening::{Opening, complete, read_first};
use super::plain::Plain;
use super::registry::Registered;
use super::relay::{End, Relay, Tally, until_idle};
use super::respond::{Answer, abort_by_default, close, refuse, reset_after_flush};
use super::rewrite::{Client, rewrite};
use super::upstream::Upstream;
use super::{Proxy, Route};
use crate::access_log::Access;
use crate::addr::ClientAddr;
use crate::failure::{Failure, Reason};
use crate::metrics::OpenConnection;
use crate::pods::Pod;
use crate::policy::ClientTls;
use crate::tls::{Alpn, ServerStream, Stage, failure_from_io, failure_of_stream};

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
        return;
    };
    let mut connection = Connection::new(&proxy, &pod, &route, client_addr);
    // Boxed: its future is large, and the accept loop's task should not carry it.
    let work = Box::pin(connection.run(&proxy, &pod, client));
    let ended = tokio::select! {
        result = work => result,
        () = pod.released.cancelled() => Err(Failure::new(Reason::ClientGone, "its netns is gone")),
        () = proxy.ending.cancelled() => Err(Failure::new(Reason::ShutDown, "the agent ends")),
    };
    connection.finish(ended);
}

/// How long close_notify may take to be written.
pub(super) const FAREWELL: Duration = Duration::from_secs(1);

pub(super) struct Connection {
    pub(super) route: Arc<Route>,
    access: Access,
    pub(super) sent: Tally,
    pub(super) received: Tally,
    registered: Registered,
    _open: OpenConnection,
}

impl Connection {
    fn new(
        proxy: &Proxy,
        pod: &Arc<Pod>,
        route: &Arc<Route>,
        ClientAddr(client): ClientAddr,
    ) -> Self {
        let (target, metrics) = (&route.target, &route.metrics);
        let mut access = Access::new(client);
        access.netns = Some(pod.name.clone());
        access.service = Some((target.service.clone(), target.port));
        access.policy = Some(target.policy.clone());
        access.sni = target.plan.as_ref().ok().map(|plan| plan.hostname.clone());
        let sent = Tally::new(metrics.sent_bytes.clone());
        let received = Tally::new(metrics.received_bytes.clone());
        Self {
            access,
            registered: proxy.registry.enter(client, pod, route, [&sent, &received]),
            sent,
            received,
            route: Arc::clone(route),
            _open: metrics.open(),
        }
    }

    /// Decide, connect, relay or rewrite.
    async fn run(
        &mut self,
        proxy: &Proxy,
        pod: &Arc<Pod>,
        mut client: TcpStream,
    ) -> Result<(), Failure> {
        let dialer = Arc::clone(&proxy.dialer);
        let mut upstream = Upstream::new(dialer, Arc::clone(pod), Arc::clone(&self.route));
        upstream.lazy = proxy.pool.has(pod, &self.route);
        let reading = read_first(&mut client, &mut upstream);
        let opening = match self.route.options().idle_timeout {
            Some(limit) => timeout(limit, reading)
                .await
                .map_err(|_| idle_for(Some(limit)))?,
            None => reading.await,
        }?;
        let protocol = opening.protocol;
        let spoken = protocol.unwrap_or(Protocol::Other).as_str();
        self.access.protocol = Some(spoken);
        self.registered.note(|known| known.protocol = Some(spoken));
        let opening = match complete(&mut client, opening).await {
            Ok(opening) => opening,
            Err((failure, answer)) => {
                refuse(client, protocol, &[], answer).await;
                return Err(failure);
            }
        };
        let wrap = self.route.options().client_tls == ClientTls::Wrap;
        let alpn = match protocol {
            Some(Protocol::Http1 { .. }) if is_pooled(&self.route) => {
                return self.share(proxy, pod, client, upstream, opening).await;
            }
            Some(Protocol::Http1 { .. }) => Alpn::Http11,
            Some(Protocol::Http2) => Alpn::H2,
            Some(Protocol::Tls | Protocol::Other) | None => Alpn::None,
        };
        let mut departure = Departure::new(&client, pod, &proxy.dialer.netns);
        departure.may_have_said_all =
            protocol == Some(Protocol::Other) && !opening.first.is_empty();
        if protocol == Some(Protocol::Tls) && !wrap {
            self.route.metrics.passthrough("already_tls");
            let stream = departure.or(upstream.plain()).await?;
            return self.pass_through(client, stream, opening.first).await;
        }
        match departure.or(upstream.secured(alpn)).await {
            Ok(stream) if alpn != Alpn::None && self.route.options().rewrite_host => {
                // Boxed: it is large, and not every connection is to carry it.
                Box::pin(self.rewrite(client, stream, opening.first)).await
            }
            Ok(stream) => {
                self.relay_secured(client, stream, opening, None).await?;
                Ok(())
            }
            Err(failure) => self.refuse(client, &opening, failure).await,
        }
    }

    /// Tells the client that there is no connection to the server.
    pub(super) async fn refuse(
        &self,
        client: TcpStream,
        opening: &Opening,
        failure: Failure,
    ) -> Result<(), Failure> {
        let answer = Answer::to(failure.reason);
        refuse(client, opening.protocol, &opening.first, answer).await;
        Err(failure)
    }

    /// The server's connection has served another client before.
    pub(super) fn note_reuse(&mut self) {
        self.access.reused = Some(true);
        self.route.metrics.reused.inc();
    }

    pub(super) fn note_session(&mut self, stream: &ServerStream) {
        self.access.upstream = stream.get_ref().endpoint;
        let session = stream.session();
        self.access.tls_version = Some(session.version);
        self.access.cipher = Some(session.cipher_suite);
        self.access.group = Some(session.group);
        self.access.resumed = Some(session.resumed);
        let endpoint = self.access.upstream;
        self.registered.note(|known| {
            (known.endpoint, known.session) = (endpoint, Some(session));
        });
    }

    /// Both connections if they are not ended yet, since the server has answered all that was asked; `followed` are the
    /// framing, and whether the client wants no more than one answer.
    pub(super) async fn relay_secured(
        &mut self,
        mut client: TcpStream,
        mut stream: Box<ServerStream>,
        opening: Opening,
        followed: Option<(&mut Framing, bool)>,
    ) -> Result<Option<(TcpStream, Box<ServerStream>)>, Failure> {
        self.note_session(&stream);
        let protocol = opening.protocol;
        let mut reader = Plain::new(&mut client, opening.first);
        if let Some(Protocol::Http2) = protocol {
            reader = reader.recording();
        }
        let idle_timeout = self.route.options().idle_timeout;
        let last = followed.as_ref().is_some_and(|(_, last)| *last);
        let relay = Relay {
            sent: &self.sent,
            received: &self.received,
            idle_timeout,
            framing: followed.map(|(framing, _)| framing),
            last,
        };
        let end = relay.between(&mut reader, &mut *stream).await;
        let record = reader.into_record();
        match end {
            End::Clean => {
                close(client);
                Ok(None)
            }
            End::Answered => Ok(Some((client, stream))),
            End::Client(error) => Err(client_gone(&error)),
            End::Idle => {
                let _ = timeout(FAREWELL, stream.shutdown()).await;
                close(client);
                Err(idle_for(idle_timeout))
            }
            End::Upstream(error) => {
                let failure = failure_of_stream(&error, &stream);
                if self.received.bytes() == 0 {
                    // Such as TLS 1.3's alert for a missing client certificate, which comes after the handshake.
                    let read = record.unwrap_or_default();
                    refuse(client, protocol, &read, Answer::to(failure.reason)).await;
                } else {
                    reset_after_flush(client).await;
                }
                Err(failure)
            }
        }
    }

    /// The client speaks HTTP, and its requests get the policy's hostname.
    async fn rewrite(
        &mut self,
        client: TcpStream,
        stream: Box<ServerStream>,
        first: Vec<u8>,
    ) -> Result<(), Failure> {
        self.note_session(&stream);
        let client = Client::new(first, client, self.sent.clone(), self.received.clone());
        let hostname = self.access.sni.clone().unwrap_or_default();
        let limit = self.route.options().idle_timeout;
        tokio::select! {
            ended = rewrite(client, stream, &hostname) => ended,
            () = until_idle(&self.sent, &self.received, limit) => Err(idle_for(limit)),
        }
    }

    /// The client speaks TLS itself: its bytes go through as they are.
    async fn pass_through(
        &mut self,
        mut client: TcpStream,
        mut stream: TcpStream,
        first: Vec<u8>,
    ) -> Result<(), Failure> {
        abort_by_default(&stream);
        self.access.upstream = stream.peer_addr().ok();
        let endpoint = self.access.upstream;
        self.registered.note(|known| known.endpoint = endpoint);
        let idle_timeout = self.route.options().idle_timeout;
        let relay = Relay {
            sent: &self.sent,
            received: &self.received,
            idle_timeout,
            framing: None,
            last: false,
        };
        let (mut one, mut other) = (
            Plain::new(&mut client, first),
            Plain::new(&mut stream, Vec::new()),
        );
        match relay.between(&mut one, &mut other).await {
            End::Clean | End::Answered => {
                close(client);
                close(stream);
                Ok(())
            }
            End::Client(error) => Err(client_gone(&error)),
            End::Idle => {
                close(client);
                close(stream);
                Err(idle_for(idle_timeout))
            }
            End::Upstream(error) => {
                reset_after_flush(client).await;
                Err(failure_from_io(&error, Stage::Relay))
            }
        }
    }

    fn finish(mut self, ended: Result<(), Failure>) {
        self.access.sent_bytes = self.sent.bytes();
        self.access.received_bytes = self.received.bytes();
        match ended {
            Ok(()) if self.route.wants_line() => self.access.succeed(),
            Ok(()) => self.access.leave_out(),
            Err(failure) => {
                self.route.record_failure(&failure);
                match self.route.failures_logged.take() {
                    Some(left_out) => {
                        self.access.left_out = left_out;
                        self.access.fail(failure.reason.as_str(), failure);
                    }
                    None => self.access.leave_out(),
                }
            }
        }
    }
}

pub(super) fn idle_for(limit: Option<Duration>) -> Failure {
    let limit = limit.unwrap_or_default();
    Failure::new(
        Reason::IdleTimeout,
        format!("no byte from either side for {limit:?}"),
    )
}

pub(super) fn client_gone(error: &io::Error) -> Failure {
    Failure::new(
        Reason::ClientGone,
        format!("the client's connection failed: {error}"),
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::{ErrorKind, Read as _};
    use std::net::{TcpListener, TcpStream as Client};

    use socket2::SockRef;

    use super::*;
    use crate::proxy::respond::abort_by_default;
    use crate::proxy::upstream::prepare;

    fn size<A, B, C, D, F>(_: fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    /// Paid for each open connection, ten thousand times.
    #[test]
    fn a_connections_futures_are_small() {
        let sizes = [size(serve), size(Connection::run)];
        println!("serve, run: {sizes:?} bytes");
        assert!(sizes[0] <= 1024 && sizes[1] <= 4096, "{sizes:?}");
    }

    #[test]
    fn what_is_accepted_is_as_its_listener() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        abort_by_default(&listener);
        prepare(&listener).unwrap();
        let mut client = Client::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let socket = SockRef::from(&accepted);
        assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_mins(1));
        drop(accepted);
        let error = client.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
}
