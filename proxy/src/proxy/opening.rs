//! What is read of a connection before it is relayed: enough to decide, and a request's whole head.

use std::io;

use tokio::net::TcpStream;

use super::connection::client_gone;
use super::decide::{Protocol, read_opening};
use super::head::{Unread, read_head, without_h2c};
use super::respond::Answer;
use super::upstream::Upstream;
use crate::failure::{Failure, Reason};

/// Most first messages at one go.
const FIRST_READ: usize = 4096;

/// What was read before the relay, and what it told.
pub(super) struct Opening {
    /// `None`: the client was silent, and the server spoke or failed first.
    pub(super) protocol: Option<Protocol>,
    pub(super) first: Vec<u8>,
}

/// Waits for the client's first words or the server's.
pub(super) async fn read_first(
    client: &mut TcpStream,
    upstream: &mut Upstream,
) -> Result<Opening, Failure> {
    let mut first = Vec::with_capacity(FIRST_READ);
    let protocol = tokio::select! {
        biased;
        protocol = read_opening(client, &mut first) => Some(protocol.map_err(|error| {
            match error.kind() {
                io::ErrorKind::TimedOut => too_much("a ClientHello or HTTP/2 preface was not complete in time"),
                _ => client_gone(&error),
            }
        })?),
        () = upstream.server_first() => None,
    };
    Ok(Opening { protocol, first })
}

/// Reads the whole head of an HTTP/1 client's first request, and takes out of it what can't be honoured.
pub(super) async fn complete(
    client: &mut TcpStream,
    mut opening: Opening,
) -> Result<Opening, (Failure, Answer)> {
    let Some(Protocol::Http1 { .. }) = opening.protocol else {
        return Ok(opening);
    };
    let (failure, answer) = match read_head(client, &mut opening.first).await {
        Ok(()) => {
            opening.first = without_h2c(opening.first);
            return Ok(opening);
        }
        // Nobody will read it.
        Err(Unread::Failed(error)) => (client_gone(&error), Answer::TOO_SLOW),
        Err(Unread::TooSlow) => {
            let failure = too_much("a request's head was not complete in time");
            (failure, Answer::TOO_SLOW)
        }
        Err(Unread::TooLong) => {
            let failure = too_much("a request's head is longer than 64 KiB");
            (failure, Answer::TOO_LONG)
        }
    };
    Err((failure, answer))
}

fn too_much(detail: &str) -> Failure {
    Failure::new(Reason::ClientLimit, detail)
}
