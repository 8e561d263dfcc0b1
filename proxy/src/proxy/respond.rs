//! What a client is told when its connection can't be secured: an HTTP client a short answer, others a reset. The reason
//! is for log and metric, not for the client.

mod http2;

use std::os::fd::AsFd;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use hyper::StatusCode;

pub(super) use self::http2::{FIRST, TOGETHER, response};
use super::decide::Protocol;
use crate::failure::Reason;
use crate::sys;

/// How long a refused client may take to read its answer, and how long we wait for it to acknowledge what we sent.
pub(super) const LINGER: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(5);
/// How much more of its request a refused client may send.
pub(super) const MAX_DISCARDED: u64 = 1024 * 1024;

/// An answer of ours, to a client that speaks HTTP.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    status: StatusCode,
    text: &'static str,
}

impl Answer {
    /// The request is not HTTP as it must be.
    pub(super) const BAD_REQUEST: Self = Self {
        status: StatusCode::BAD_REQUEST,
        text: "nodetls: a bad request",
    };
    /// The request's head did not come in time.
    pub(super) const TOO_SLOW: Self = Self {
        status: StatusCode::REQUEST_TIMEOUT,
        text: "nodetls: the request took too long",
    };
    /// The request's head is too long.
    pub(super) const TOO_LONG: Self = Self {
        status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        text: "nodetls: the request's header fields are too long",
    };

    /// The connection failed for `reason`, before any byte of the server's answer was relayed.
    pub(super) fn to(reason: Reason) -> Self {
        match reason {
            Reason::PolicyRefused | Reason::NoEndpoints | Reason::ClientCertificateUnusable => {
                Self {
                    status: StatusCode::SERVICE_UNAVAILABLE,
                    text: "nodetls: this Service can't be reached securely",
                }
            }
            _ => Self {
                status: StatusCode::BAD_GATEWAY,
                text: "nodetls: no secure connection to this Service",
            },
        }
    }
}

/// Ends `client`'s connection: with `answer` if it speaks HTTP, else by a reset. `read` is all that was read from it;
/// only HTTP/2 needs it, and is reset without.
pub(super) async fn refuse(
    mut client: TcpStream,
    protocol: Option<Protocol>,
    read: &[u8],
    answer: Answer,
) {
    match protocol {
        Some(Protocol::Http1 { head }) => http1(&mut client, head, answer).await,
        Some(Protocol::Http2) if !read.is_empty() => {
            // Boxed: it is large, and rare.
            Box::pin(http2::answer_all(&mut client, read, answer)).await;
        }
        _ => return,
    }
    linger(client).await;
}

/// From now on, dropping `socket`, or what is accepted from it, sends RST: a connection that is cut off must never look
/// cleanly ended.
pub(super) fn abort_by_default(socket: &impl AsFd) {
    // Fails only on a socket that is dead already.
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

/// Closes a connection that came to its proper end.
pub(super) fn close(stream: TcpStream) {
    let _ = SockRef::from(&stream).set_linger(None);
}

/// Ends the connection with RST, once the client has what was sent to it: RST after unsent data would discard it.
pub(super) async fn reset_after_flush(client: TcpStream) {
    let flushed = async {
        while sys::unsent_bytes(&client).is_ok_and(|bytes| bytes > 0) {
            sleep(POLL).await;
        }
    };
    // A client that does not read loses the rest.
    let _ = timeout(LINGER, flushed).await;
}

async fn http1(client: &mut TcpStream, head: bool, Answer { status, text }: Answer) {
    let mut response = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        text.len() + 1
    );
    if !head {
        response.push_str(text);
        response.push('\n');
    }
    // The client may be gone already.
    let _ = timeout(LINGER, client.write_all(response.as_bytes())).await;
}

/// Closing with unread data would send RST, and the client could lose the answer (RFC 9112 section 9.6).
pub(super) async fn linger(mut client: TcpStream) {
    let read_rest = async {
        client.shutdown().await?;
        let mut rest = (&mut client).take(MAX_DISCARDED);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
    };
    let _ = timeout(LINGER, read_rest).await;
    close(client);
}
