//! What holds whatever the bytes of messages are, for tests and for a fuzz target. The judge is hyper; of heads not by a
//! parser of its own: it has httparse too.
#![allow(clippy::unwrap_used)]

use std::cell::Cell;
use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1::Parts;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, client, server};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::Framing;
use super::head::has_bare_lf;

/// Panics if others may follow a client that has sent `bytes`, and hyper does not take them for as many whole requests; or if
/// they are taken for others when they come one at a time.
pub(crate) fn of_requests(bytes: &[u8]) {
    let follow = |piece: usize| {
        let mut framing = Framing::default();
        let pieces = bytes.chunks(piece);
        pieces.for_each(|piece| framing.requests(piece));
        let others_may_follow = framing.requests.between_messages() && !framing.is_own();
        others_may_follow.then_some(framing.unanswered.len())
    };
    let followed = follow(bytes.len().max(1));
    assert_eq!(follow(1), followed, "{}", bytes.escape_ascii());
    let Some(followed) = followed else {
        return;
    };
    let agreed = match requests(bytes) {
        (whole, Ok(())) => whole == followed,
        // A target that is none is for the server to refuse: a request begins there all the same.
        (whole, Err(error)) => error.to_string() == "invalid URI" && whole < followed,
    };
    assert!(agreed, "not {followed}: {}", bytes.escape_ascii());
}

/// Panics if a connection is at rest with `bytes` as the answer to a request of this method, and hyper does not take them
/// for one whole answer; if it is answered, and hyper waits for more; or if either changes when they come one at a time.
pub(crate) fn of_answer(method: &Method, bytes: &[u8]) {
    let follow = |piece: usize| {
        let mut framing = Framing::default();
        framing.requests(format!("{method} / HTTP/1.1\r\n\r\n").as_bytes());
        let pieces = bytes.chunks(piece);
        pieces.for_each(|piece| framing.responses(piece));
        (framing.is_answered(), framing.at_rest())
    };
    let followed = follow(bytes.len().max(1));
    assert_eq!(follow(1), followed, "{}", bytes.escape_ascii());
    let agreed = match followed {
        (true, true) => &[Answer::Whole][..],
        // Not ASCII, a Transfer-Encoding is not chunked for hyper; in trailers a bare LF is no end of a line.
        (true, false) if bytes.is_ascii() && !has_bare_lf(bytes) => {
            &[Answer::Whole, Answer::Last, Answer::Other]
        }
        _ => return,
    };
    let answer = answer(method, bytes);
    assert!(
        agreed.contains(&answer),
        "{answer:?} to a {method}: {}",
        bytes.escape_ascii()
    );
}

#[derive(Debug, PartialEq)]
enum Answer {
    /// And the connection can be used again.
    Whole,
    /// Whole, but nothing comes after it.
    Last,
    Incomplete,
    /// More than one answer, or none that it takes.
    Other,
}

/// How many whole requests hyper takes `bytes` for, and how it ends.
fn requests(bytes: &[u8]) -> (usize, hyper::Result<()>) {
    let whole = AtomicUsize::new(0);
    let service = service_fn(|request: Request<Incoming>| {
        let whole = &whole;
        async move {
            if request.into_body().collect().await.is_ok() {
                whole.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let served = run(async {
        let (client, server) = tokio::io::duplex(bytes.len().max(1));
        let server = server::conn::http1::Builder::new()
            .half_close(true)
            .serve_connection(TokioIo::new(server), service);
        let (mut reader, mut writer) = tokio::io::split(client);
        let client = async {
            writer.write_all(bytes).await.unwrap();
            writer.shutdown().await.unwrap();
            let _ = tokio::io::copy(&mut reader, &mut tokio::io::sink()).await;
        };
        tokio::join!(server, client).0
    });
    (whole.into_inner(), served)
}

/// What hyper takes `bytes` for, as the answer to a request of this method, on a connection that stays open.
fn answer(method: &Method, bytes: &[u8]) -> Answer {
    let request = Request::builder().method(method);
    let request = request.body(Empty::<Bytes>::new()).unwrap();
    run(async {
        let (client, mut server) = tokio::io::duplex(bytes.len().max(1024));
        let handshake = client::conn::http1::handshake(TokioIo::new(client)).await;
        let (mut sender, connection) = handshake.unwrap();
        let read = Cell::new(false);
        let exchange = async {
            sender.send_request(request).await?.collect().await?;
            let open = sender.ready().await.is_ok();
            read.set(true);
            drop(sender);
            hyper::Result::Ok(open)
        };
        let server = async {
            // hyper takes no answer before it has asked.
            server.read_u8().await.unwrap();
            server.write_all(bytes).await.unwrap();
            // It has had its turns then, and waits.
            for _ in 0..2 * bytes.len() + 16 {
                if read.get() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            let whole = read.get();
            drop(server);
            whole
        };
        let connection =
            async { hyper::Result::Ok(unread(connection.without_shutdown().await?).await) };
        let (answered, unread, in_time) = tokio::join!(exchange, connection, server);
        match (answered, unread) {
            (Ok(_), _) if !in_time => Answer::Incomplete,
            (Ok(open), Ok(0)) if open => Answer::Whole,
            (Ok(_), Ok(0)) => Answer::Last,
            (Err(error), _) if is_incomplete(&error) => Answer::Incomplete,
            _ => Answer::Other,
        }
    })
}

/// How many bytes of a connection that has ended were not read.
async fn unread(left: Parts<TokioIo<DuplexStream>>) -> usize {
    let mut bytes = left.read_buf.to_vec();
    left.io.into_inner().read_to_end(&mut bytes).await.unwrap();
    bytes.len()
}

/// hyper has more than one name for it.
fn is_incomplete(error: &hyper::Error) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref());
    let ended = |cause: &io::Error| cause.kind() == io::ErrorKind::UnexpectedEof;
    error.is_incomplete_message() || cause.is_some_and(ended)
}

fn run<T>(what: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap().block_on(what)
}
