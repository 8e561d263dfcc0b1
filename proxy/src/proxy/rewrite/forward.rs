//! Forwards the requests of one client over one connection, and the answers back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::http::uri::Authority;
use hyper::rt::Executor as _;
use hyper::upgrade::OnUpgrade;
use hyper::{Request, Response, StatusCode, Version, upgrade};
use hyper_util::rt::TokioIo;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::cause::{Cause, explain, is_of_stream, was_not_taken};
use super::head::{self, has_token, readdress, switch, without_hop_by_hop};
use super::request_body::RequestBody;
use super::server::Server;
use super::{Body, BoxError, MAX_HEADERS, Tasks, tunnel};
use crate::failure::{Failure, Reason};
use crate::proxy::respond::{Answer, LINGER, MAX_DISCARDED, TOGETHER, response};
use crate::tls::{ServerStream, failure_of_stream};

/// Forwards the requests of one client.
pub(super) struct Forwarder {
    host: Authority,
    sender: Sender,
    /// Cancelled when the server's connection has ended.
    gone: CancellationToken,
    /// Cancelled by the client's first request.
    pub(super) asked: CancellationToken,
    /// Those that have no answer yet.
    pub(super) requests: TaskTracker,
    /// An answer of the server has gone to the client.
    answered: AtomicBool,
    /// The connection to the server speaks another protocol now.
    upgraded: AtomicBool,
    tasks: Tasks,
    cause: Cause,
}

/// The connection to the server.
enum Sender {
    /// Takes one request at a time.
    Http1(AsyncMutex<http1::SendRequest<RequestBody>>),
    Http2(http2::SendRequest<RequestBody>),
}

impl Forwarder {
    /// Cancels `closed` when the server's connection has ended.
    pub(super) async fn open(
        stream: Box<ServerStream>,
        hostname: &str,
        tasks: &Tasks,
        closed: &CancellationToken,
        cause: &Cause,
    ) -> Result<Arc<Self>, Failure> {
        let refused = |_| Failure::new(Reason::PolicyRefused, "its hostname is no authority");
        let host = Authority::try_from(hostname).map_err(refused)?;
        let http2 = stream.session().alpn == "h2";
        let cause = cause.clone();
        let io = TokioIo::new(Server::new(stream, cause.clone(), |error, stream| {
            failure_of_stream(error, stream)
        }));
        let new = |sender| {
            Arc::new(Self {
                host,
                sender,
                gone: CancellationToken::new(),
                asked: CancellationToken::new(),
                requests: TaskTracker::new(),
                answered: AtomicBool::new(false),
                upgraded: AtomicBool::new(false),
                tasks: tasks.clone(),
                cause,
            })
        };
        // Errors of the connections come with the requests.
        if http2 {
            let mut builder = http2::Builder::new(tasks.clone());
            builder.max_header_list_size(MAX_HEADERS);
            let (sender, connection) = builder.handshake(io).await.map_err(|e| explain(&e))?;
            let forwarder = new(Sender::Http2(sender));
            tasks.execute(forwarder.ended(connection, closed));
            Ok(forwarder)
        } else {
            let mut builder = http1::Builder::new();
            builder.preserve_header_case(true);
            let (sender, connection) = builder.handshake(io).await.map_err(|e| explain(&e))?;
            let forwarder = new(Sender::Http1(AsyncMutex::new(sender)));
            tasks.execute(forwarder.ended(connection.with_upgrades(), closed));
            Ok(forwarder)
        }
    }

    /// Drives the server's connection. Must not keep it open itself, so it holds nothing but a weak reference.
    fn ended<C: Future>(
        self: &Arc<Self>,
        connection: C,
        closed: &CancellationToken,
    ) -> impl Future<Output = ()> + use<C> {
        let (forwarder, closed): (Weak<Self>, _) = (Arc::downgrade(self), closed.clone());
        async move {
            let _ = connection.await;
            let Some(forwarder) = forwarder.upgrade() else {
                return;
            };
            forwarder.gone.cancel();
            if let Sender::Http1(sender) = &forwarder.sender {
                // Until it is known whether the last answer was a change of protocol.
                drop(sender.lock().await);
            }
            if !forwarder.upgraded.load(Ordering::Relaxed) {
                closed.cancel();
            }
        }
    }

    pub(super) async fn forward(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, BoxError> {
        self.asked.cancel();
        let _request = self.requests.token();
        let mut request = request.map(RequestBody::new);
        let body = request.body().clone();
        let mut asked = Request::new(());
        *asked.method_mut() = request.method().clone();
        *asked.version_mut() = request.version();
        if let Some(kind) = request.headers().get(CONTENT_TYPE) {
            asked.headers_mut().insert(CONTENT_TYPE, kind.clone());
        }
        let http2 = matches!(self.sender, Sender::Http2(_));
        let Ok(upgrades) = readdress(&mut request, &self.host, http2) else {
            return Ok(self.refuse(&asked, body, Answer::BAD_REQUEST));
        };
        let on_client = upgrades.then(|| upgrade::on(&mut request));
        // hyper may lose a request that it is given while the connection ends: tokio's channel drops what is left in it with
        // the last sender, which is ours.
        let lost = async {
            self.gone.cancelled().await;
            sleep(TOGETHER).await;
        };
        let answer = tokio::select! {
            biased;
            answer = self.send(request) => answer.map_err(Some),
            () = lost => Err(None),
        };
        match answer {
            Ok(response) => {
                self.answered.store(true, Ordering::Relaxed);
                Ok(self.relay_answer(response, asked.version(), on_client))
            }
            Err(error) => self.failed(error, &asked, body),
        }
    }

    async fn send(&self, request: Request<RequestBody>) -> hyper::Result<Response<Incoming>> {
        match &self.sender {
            Sender::Http1(sender) => {
                let mut sender = sender.lock().await;
                sender.ready().await?;
                let response = sender.send_request(request).await?;
                let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
                self.upgraded.store(switches, Ordering::Relaxed);
                Ok(response)
            }
            Sender::Http2(sender) => {
                let mut sender = sender.clone();
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }

    fn relay_answer(
        &self,
        mut answer: Response<Incoming>,
        version: Version,
        on_client: Option<OnUpgrade>,
    ) -> Response<Body> {
        let closes = has_token(answer.headers(), &CONNECTION, "close");
        let protocols = head::upgrade(answer.headers());
        without_hop_by_hop(answer.headers_mut());
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS
            && let (Some(client), Some(protocols)) = (on_client, protocols)
        {
            switch(answer.headers_mut(), protocols);
            let server = upgrade::on(&mut answer);
            let tunnel = tunnel(client, server, self.cause.clone());
            self.tasks.tunnels.spawn(self.tasks.until_ending(tunnel));
        } else if closes && version != Version::HTTP_2 {
            let close = HeaderValue::from_static("close");
            answer.headers_mut().insert(CONNECTION, close);
        }
        *answer.version_mut() = version;
        let cause = self.cause.clone();
        let failed = move |error: hyper::Error| {
            if !is_of_stream(&error) {
                cause.note(|| explain(&error));
            }
            BoxError::from(error)
        };
        answer.map(|body| body.map_err(failed).boxed_unsync())
    }

    /// The server's connection failed under a request, or was gone without a word about it; an error that broke a single
    /// stream is handed on as it is.
    fn failed(
        &self,
        error: Option<hyper::Error>,
        asked: &Request<()>,
        body: RequestBody,
    ) -> Result<Response<Body>, BoxError> {
        let (failure, not_taken) = match error {
            Some(error) if is_of_stream(&error) => return Err(error.into()),
            Some(error) => (explain(&error), was_not_taken(&error)),
            None => {
                let detail = "the server's connection ended";
                (Failure::new(Reason::Reset, detail), false)
            }
        };
        // The server has ended the connection, as it may: who asks again gets another one (RFC 9113 section 8.7).
        let http2 = asked.version() == Version::HTTP_2;
        if http2 && not_taken && !self.cause.is_known() {
            return Err(h2::Error::from(h2::Reason::REFUSED_STREAM).into());
        }
        self.cause.note(|| failure.clone());
        // As with a relay: cut off, a client may try again. Frames can tell it for each request.
        if self.answered.load(Ordering::Relaxed) && !http2 {
            return Err(failure.into());
        }
        Ok(self.refuse(asked, body, Answer::to(failure.reason)))
    }

    /// An answer of ours.
    fn refuse(&self, asked: &Request<()>, body: RequestBody, answer: Answer) -> Response<Body> {
        let (mut head, text) = response(asked, answer);
        if asked.version() == Version::HTTP_2 {
            self.tasks.execute(async move {
                sleep(TOGETHER).await;
                drop(body);
            });
        } else {
            let close = HeaderValue::from_static("close");
            head.headers_mut().insert(CONNECTION, close);
            self.tasks
                .execute(timeout(LINGER, body.discard(MAX_DISCARDED)));
        }
        head.map(|()| {
            Full::from(text)
                .map_err(|never| match never {})
                .boxed_unsync()
        })
    }
}
