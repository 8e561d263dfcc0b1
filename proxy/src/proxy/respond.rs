//! What a client is told when its connection can't be secured: an HTTP/1 client a short answer, others a reset. The
//! reason is for log and metric, not for the client.

use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::decide::Protocol;
use crate::failure::{Failure, Reason};
use crate::sys;

/// How long a refused client may take to read its answer, and how long we wait for it to acknowledge what we sent.
const LINGER: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(5);
/// How much more of its request a refused client may send.
const MAX_DISCARDED: u64 = 1024 * 1024;

/// Ends `client`'s connection because of `failure`, before any byte of an answer was relayed.
pub(super) async fn refuse(client: TcpStream, protocol: Option<Protocol>, failure: &Failure) {
    match protocol {
        Some(Protocol::Http1 { head }) => answer(client, head, failure.reason).await,
        _ => drop(client),
    }
}

/// From now on, dropping `stream` sends RST: a connection that is cut off must never look cleanly ended.
pub(super) fn abort_by_default(stream: &TcpStream) {
    // Fails only on a socket that is dead already.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
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

async fn answer(mut client: TcpStream, head: bool, reason: Reason) {
    let (status, body) = match reason {
        Reason::PolicyRefused | Reason::NoEndpoints => (
            "503 Service Unavailable",
            "nodetls: this Service can't be reached securely\n",
        ),
        _ => (
            "502 Bad Gateway",
            "nodetls: no secure connection to this Service\n",
        ),
    };
    let mut response = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    if !head {
        response.push_str(body);
    }
    // Closing with unread data would send RST, and the client could lose the answer (RFC 9112 section 9.6).
    let deliver = async {
        client.write_all(response.as_bytes()).await?;
        client.shutdown().await?;
        let mut rest = (&mut client).take(MAX_DISCARDED);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
    };
    // The client may be gone already.
    let _ = timeout(LINGER, deliver).await;
    close(client);
}
