//! The connection to the Service: dialled from the pod's netns while we look at the client's first bytes, secured once
//! we know what the client speaks, or earlier, when the server might speak first.

use std::future::{pending, poll_fn};
use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::names::Names;
use super::route::Route;
use super::workers::BEAT;
use crate::addr::UpstreamAddr;
use crate::buffer::Lend as _;
use crate::counted::Counted;
use crate::failure::{Failure, Reason};
use crate::identity::Identities;
use crate::pods::Pod;
use crate::pods::netns::NetnsThread;
use crate::redirect::OwnSockets;
use crate::tls::{Alpn, ServerStream, TlsClient, failure_of_stream};

/// After this long a silence of the client's we find out whether the server speaks first.
const SILENCE: Duration = Duration::from_millis(50);
/// After this long a silence of the client's we dial although its target speaks HTTP, as a connection at rest shows. A timer
/// that comes after the workers' beat costs no system call.
const LAZY: Duration = BEAT;
/// How long a client that has not spoken yet may do so after the upstream failed, and get a proper answer.
const GRACE: Duration = Duration::from_secs(1);
/// How long a probe waits for an alert.
const ALERT: Duration = Duration::from_millis(250);
/// Like Go's and Envoy's order of magnitude; the kernel's own two hours outlive every NAT.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Dials from pods' network namespaces.
pub struct Dialer {
    /// Makes the sockets.
    pub netns: NetnsThread,
    /// Marks them, so that their connect is not turned back to us.
    pub own_sockets: Arc<OwnSockets>,
    /// Finds the addresses of external hosts.
    pub names: Names,
    /// For the TCP connection to one address, and for the look-up of an external host's.
    pub connect_timeout: Duration,
    /// For the TLS handshake.
    pub handshake_timeout: Duration,
    /// For policies that ask for a client certificate.
    pub identities: Identities,
}

type Step<T> = Pin<Box<dyn Future<Output = Result<T, Failure>> + Send>>;

enum Stage {
    Begun,
    Dialling(Step<TcpStream>),
    Dialled(TcpStream),
    Handshaking(Step<ServerStream>),
    Secured(Box<ServerStream>),
    Failed(Failure),
}

/// A connection to a target's upstream, at whatever stage it is.
pub(super) struct Upstream {
    dialer: Arc<Dialer>,
    pod: Arc<Pod>,
    route: Arc<Route>,
    /// What secures it, once that is known.
    tls: Option<Result<Arc<TlsClient>, Failure>>,
    stage: Stage,
    /// There may be no need for it: it is not dialled before the client's silence has lasted.
    pub(super) lazy: bool,
}

impl Upstream {
    /// Nothing happens before it is first polled.
    pub(super) fn new(dialer: Arc<Dialer>, pod: Arc<Pod>, route: Arc<Route>) -> Self {
        Self {
            dialer,
            pod,
            route,
            tls: None,
            stage: Stage::Begun,
            lazy: false,
        }
    }

    /// Connects, waits for the client's silence to last, secures the connection without ALPN, and returns when the
    /// server has spoken or closed, or the connection has failed and the client stayed silent.
    /// Safe to cancel.
    pub(super) async fn server_first(&mut self) {
        if self.lazy {
            sleep(LAZY).await;
        }
        let silence = Instant::now() + SILENCE;
        if self.tls().await.is_ok() {
            self.dialled_stage().await;
            if self.route.options().client_first {
                return pending().await;
            }
            sleep_until(silence).await;
            self.secured_stage(Alpn::None).await;
            if let Stage::Secured(stream) = &mut self.stage {
                match poll_fn(|cx| stream.poll_fill(cx)).await {
                    Ok(_) => return,
                    Err(error) => {
                        self.stage = Stage::Failed(failure_of_stream(&error, stream));
                    }
                }
            }
        }
        sleep(GRACE).await;
    }

    /// The bare TCP connection, for a client that speaks TLS itself.
    pub(super) async fn plain(mut self) -> Result<TcpStream, Failure> {
        if matches!(
            self.stage,
            Stage::Handshaking(_) | Stage::Secured(_) | Stage::Failed(_)
        ) {
            self.stage = Stage::Begun;
        }
        self.dialled_stage().await;
        match self.stage {
            Stage::Dialled(stream) => Ok(stream),
            Stage::Failed(failure) => Err(failure),
            _ => Err(Failure::new(
                Reason::Internal,
                "a connection was not dialled",
            )),
        }
    }

    /// The verified TLS connection. One that was secured speculatively serves only where no ALPN is wanted.
    pub(super) async fn secured(mut self, alpn: Alpn) -> Result<Box<ServerStream>, Failure> {
        self.tls().await?;
        let speculative = matches!(self.stage, Stage::Handshaking(_) | Stage::Secured(_));
        if speculative && alpn != Alpn::None {
            self.stage = Stage::Begun;
        }
        self.dialled_stage().await;
        self.secured_stage(alpn).await;
        match self.stage {
            Stage::Secured(stream) => Ok(stream),
            Stage::Failed(failure) => Err(failure),
            _ => Err(Failure::new(
                Reason::Internal,
                "a connection was not secured",
            )),
        }
    }

    /// The TLS client for this connection: the route's; or, if the policy says so, one that shows the identity of the pod's
    /// own namespace. Safe to cancel.
    async fn tls(&mut self) -> Result<Arc<TlsClient>, Failure> {
        if let Some(known) = &self.tls {
            return known.clone();
        }
        let tls = match (
            &self.route.tls,
            self.route.options().client_certificate.as_deref(),
        ) {
            (Ok(anonymous), Some(secret)) => {
                let identity = self.dialer.identities.of(&self.pod, secret).await;
                identity.map(|identity| identity.client(anonymous))
            }
            (tls, _) => tls.clone(),
        };
        self.tls = Some(tls.clone());
        tls
    }

    async fn dialled_stage(&mut self) {
        if let Stage::Begun = self.stage {
            self.stage = Stage::Dialling(dial(&self.dialer, &self.pod, &self.route));
        }
        if let Stage::Dialling(step) = &mut self.stage {
            self.stage = step.await.map_or_else(Stage::Failed, Stage::Dialled);
        }
    }

    async fn secured_stage(&mut self, alpn: Alpn) {
        if matches!(self.stage, Stage::Dialled(_)) {
            let tls = self.tls().await;
            let placeholder = Stage::Failed(Failure::new(
                Reason::Internal,
                "a handshake was not started",
            ));
            if let Stage::Dialled(stream) = std::mem::replace(&mut self.stage, placeholder) {
                self.stage = match tls {
                    Ok(client) => Stage::Handshaking(self.handshake(client, stream, alpn)),
                    Err(failure) => Stage::Failed(failure),
                };
            }
        }
        if let Stage::Handshaking(step) = &mut self.stage {
            self.stage = match step.await {
                Ok(stream) => Stage::Secured(Box::new(stream)),
                Err(failure) => Stage::Failed(failure),
            };
        }
    }

    fn handshake(
        &self,
        client: Arc<TlsClient>,
        stream: TcpStream,
        alpn: Alpn,
    ) -> Step<ServerStream> {
        let route = Arc::clone(&self.route);
        let metrics = &route.metrics;
        let (sent, received) = (&metrics.tls_sent_bytes, &metrics.tls_received_bytes);
        let stream = Counted::new(stream, sent.clone(), received.clone());
        let limit = route.options().handshake_timeout;
        let limit = limit.unwrap_or(self.dialer.handshake_timeout);
        Box::pin(async move {
            let started = Instant::now();
            let result = client.handshake(stream, alpn, limit).await;
            route.record_handshake(started.elapsed(), result.as_ref().ok());
            result
        })
    }
}

/// Makes a verified TLS connection to a route's upstream and ends it. No pod's identity is shown: that a server asks for one
/// is no failure where the policy has one.
///
/// # Errors
/// Why there can be none; what is of the handshake is also shown by [`super::Routes::failing`].
pub async fn probe(dialer: Arc<Dialer>, pod: Arc<Pod>, route: Arc<Route>) -> Result<(), Failure> {
    let connect = async {
        let mut upstream = Upstream::new(dialer, pod, Arc::clone(&route));
        upstream.tls = Some(route.tls.clone());
        let mut stream = upstream.secured(Alpn::None).await?;
        // TLS 1.3's alert for a missing client certificate comes after the handshake.
        match timeout(ALERT, stream.read_u8()).await {
            Ok(Err(error)) if error.kind() != io::ErrorKind::UnexpectedEof => {
                Err(failure_of_stream(&error, &stream))
            }
            _ => Ok(()),
        }
    };
    let mut result: Result<(), Failure> = connect.await;
    let asked = |failure: &mut Failure| failure.reason == Reason::ClientCertificateRequired;
    if route.options().client_certificate.is_some() && result.as_mut().is_err_and(asked) {
        result = Ok(());
    }
    if let Err(failure) = &result {
        route.show_failure(failure);
    }
    result
}

fn dial(dialer: &Arc<Dialer>, pod: &Arc<Pod>, route: &Arc<Route>) -> Step<TcpStream> {
    let (dialer, pod, route) = (Arc::clone(dialer), Arc::clone(pod), Arc::clone(route));
    Box::pin(async move {
        let detail = format!("Service {} has no ready endpoint", route.target.service);
        let mut failure = Failure::new(Reason::NoEndpoints, detail);
        let limit = route.options().connect_timeout;
        let limit = limit.unwrap_or(dialer.connect_timeout);
        for address in route.upstream_addresses(&dialer.names, limit).await? {
            let attempt = dial_one(&dialer, &pod, address);
            let error = match timeout(limit, attempt).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => error,
                Err(_) => io::ErrorKind::TimedOut.into(),
            };
            // That the pod has no IPv6 says nothing of the server.
            if failure.reason == Reason::NoEndpoints || address.0.is_ipv4() {
                failure = Failure::connect(&error, address.0);
            }
        }
        Err(failure)
    })
}

async fn dial_one(
    dialer: &Dialer,
    pod: &Pod,
    UpstreamAddr(address): UpstreamAddr,
) -> io::Result<TcpStream> {
    let socket = dialer.netns.tcp_socket(&pod.netns, address)?;
    dialer.own_sockets.mark(&socket).map_err(io::Error::other)?;
    let stream = TcpSocket::from_std_stream(socket.into())
        .connect(address)
        .await?;
    prepare(&stream)?;
    Ok(stream)
}

/// What every connection of ours has, on either side: no Nagle delay, and a peer that vanished is noticed. Those that are
/// accepted have it from their listener.
pub(super) fn prepare(socket: &impl AsFd) -> io::Result<()> {
    let socket = SockRef::from(socket);
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE / 4);
    socket.set_tcp_keepalive(&keepalive)
}
