//! The answer to a client that speaks HTTP/2 (RFC 9113): to each of its requests, in frames; then GOAWAY.

use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::{Builder, Connection, SendResponse};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, join, split};
use tokio::time::timeout;

use super::Answer;

/// How long a client may take for its first request, and then for the rest and for its side of the close.
pub(in crate::proxy) const FIRST: Duration = Duration::from_secs(2);
const REST: Duration = Duration::from_secs(2);
/// How long the first answers go before GOAWAY and before the end of their requests' bodies: curl 7.88 drops an answer
/// when it reads all of them at once.
pub(in crate::proxy) const TOGETHER: Duration = Duration::from_millis(50);
/// Like most clients' and servers' bounds; requests beyond them are refused in proper frames as well.
const MAX_STREAMS: u32 = 1000;
const MAX_HEADERS: u32 = 64 * 1024;
/// The gRPC status `UNAVAILABLE`: clients may try again.
const GRPC_UNAVAILABLE: HeaderValue = HeaderValue::from_static("14");

/// Answers every request that the client has sent, or sends before it learns that the connection ends. Does not wait
/// for their bodies, and takes 6 s at most. `read` is what was read from the client, from the preface on.
pub(super) async fn answer_all(
    client: &mut (impl AsyncRead + AsyncWrite + Unpin),
    read: &[u8],
    answer: Answer,
) {
    let (reader, writer) = split(client);
    let io = join(read.chain(reader), writer);
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADERS);
    // A client that breaks off, or breaks the protocol, has had its chance: h2 has told it.
    let Ok(Ok(mut connection)) = timeout(FIRST, builder.handshake(io)).await else {
        return;
    };
    // GOAWAY before the first request would have the client connect again, and see an error nowhere.
    let Ok(Some(Ok(first))) = timeout(FIRST, connection.accept()).await else {
        return end(connection, answer).await;
    };
    let mut bodies = vec![respond(first, answer)];
    let together = async {
        while let Some(Ok(request)) = connection.accept().await {
            bodies.push(respond(request, answer));
        }
    };
    let _ = timeout(TOGETHER, together).await;
    drop(bodies);
    end(connection, answer).await;
}

/// GOAWAY, and the requests that cross it.
async fn end<IO>(mut connection: Connection<IO, Bytes>, answer: Answer)
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    connection.graceful_shutdown();
    let rest = async {
        while let Some(Ok(request)) = connection.accept().await {
            drop(respond(request, answer));
        }
    };
    let _ = timeout(REST, rest).await;
}

/// Dropping the body that is returned tells the client to stop sending it (RFC 9113 section 8.1).
fn respond(
    (request, mut stream): (Request<RecvStream>, SendResponse<Bytes>),
    answer: Answer,
) -> RecvStream {
    let (response, body) = response(&request, answer);
    // A stream that the client has reset needs no answer.
    if let Ok(mut stream) = stream.send_response(response, body.is_empty())
        && !body.is_empty()
    {
        let _ = stream.send_data(body, true);
    }
    request.into_body()
}

/// The answer to a request, and its body.
pub(in crate::proxy) fn response<B>(request: &Request<B>, answer: Answer) -> (Response<()>, Bytes) {
    let mut response = Response::new(());
    let kind = request.headers().get(CONTENT_TYPE);
    if let Some(kind) = kind.filter(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
        // Trailers only: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, kind.clone());
        headers.insert("grpc-status", GRPC_UNAVAILABLE);
        headers.insert("grpc-message", HeaderValue::from_static(answer.text));
        return (response, Bytes::new());
    }
    *response.status_mut() = answer.status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(answer.text.len() + 1));
    let body = match *request.method() {
        Method::HEAD => Bytes::new(),
        _ => Bytes::from([answer.text, "\n"].concat()),
    };
    (response, body)
}

#[cfg(test)]
#[path = "http2_tests.rs"]
mod tests;
