#![allow(clippy::unwrap_used, clippy::panic)]

use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason as Code, SendStream};
use tokio::io::{AsyncWriteExt as _, DuplexStream, duplex};
use tokio::time::Instant;

use super::*;
use crate::failure::Reason;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

type Sender = SendRequest<Bytes>;

/// Sends a request and leaves its body open, unless it is a HEAD.
async fn request(
    sender: &Sender,
    method: Method,
    kind: &str,
) -> (ResponseFuture, SendStream<Bytes>) {
    let done = method == Method::HEAD;
    let request = Request::builder()
        .method(method)
        .uri("http://a.example/")
        .header(CONTENT_TYPE, kind)
        .body(())
        .unwrap();
    let mut sender = sender.clone().ready().await.unwrap();
    sender.send_request(request, done).unwrap()
}

async fn body(mut stream: RecvStream) -> String {
    let mut body = Vec::new();
    while let Some(data) = stream.data().await {
        body.extend(data.unwrap());
    }
    String::from_utf8(body).unwrap()
}

/// The first bytes are read before, as the proxy does.
async fn serve(mut io: DuplexStream) {
    let mut read = vec![0; PREFACE.len() + 5];
    io.read_exact(&mut read).await.unwrap();
    let answer = Answer::to(Reason::UnknownCa);
    answer_all(&mut io, &read, answer).await;
}

#[tokio::test(start_paused = true)]
async fn every_request_is_answered_without_waiting_for_its_body_and_then_the_connection_ends() {
    let (client, server) = duplex(64 * 1024);
    let server = tokio::spawn(serve(server));
    let (sender, connection) = h2::client::handshake(client).await.unwrap();
    let connection = tokio::spawn(connection);
    let (get, _body) = request(&sender, Method::GET, "text/plain").await;
    let (post, mut upload) = request(&sender, Method::POST, "text/plain").await;
    let (head, _) = request(&sender, Method::HEAD, "text/plain").await;
    for response in [get, post] {
        let response = response.await.unwrap();
        assert_eq!(response.status(), 502);
        assert_eq!(response.headers()["content-length"], "46");
        let text = "nodetls: no secure connection to this Service\n";
        assert_eq!(body(response.into_body()).await, text);
    }
    let head = head.await.unwrap();
    assert_eq!(head.status(), 502);
    assert!(head.into_body().is_end_stream());
    // RFC 9113 section 8.1: the rest of the body is not wanted, which is no error.
    let reset = std::future::poll_fn(|cx| upload.poll_reset(cx)).await;
    assert_eq!(reset.unwrap(), Code::NO_ERROR);
    drop((upload, sender));
    connection.await.unwrap().unwrap();
    server.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn grpc_gets_unavailable_in_trailers_only() {
    let (client, server) = duplex(64 * 1024);
    let server = tokio::spawn(serve(server));
    let (sender, connection) = h2::client::handshake(client).await.unwrap();
    let connection = tokio::spawn(connection);
    let (response, _body) = request(&sender, Method::POST, "application/grpc+proto").await;
    let response = response.await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["grpc-status"], "14");
    assert_eq!(response.headers()["content-type"], "application/grpc+proto");
    let message = "nodetls: no secure connection to this Service";
    assert_eq!(response.headers()["grpc-message"], message);
    assert!(
        response.into_body().is_end_stream(),
        "no frame after the headers"
    );
    drop(sender);
    drop(_body);
    connection.await.unwrap().unwrap();
    server.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn no_client_holds_the_answer_up_for_long() {
    let unread = [PREFACE, b"\0\0\0\x04\0\0\0\0\0"].concat();
    let garbage = [PREFACE, &[0xff; 4096][..]].concat();
    // Never reads, never says more; breaks the protocol; never even finishes the preface.
    for (said, buffer) in [(&unread[..], 8), (&garbage, 64), (&PREFACE[..20], 64)] {
        let (mut client, mut server) = duplex(buffer);
        let started = Instant::now();
        let talk = tokio::spawn(async move {
            let _ = client.write_all(b"\0\0\0").await;
            std::future::pending::<()>().await;
        });
        answer_all(&mut server, said, Answer::to(Reason::Refused)).await;
        assert!(
            started.elapsed() <= 2 * FIRST + REST,
            "{:?}",
            started.elapsed()
        );
        talk.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_without_a_request_learns_that_the_connection_ends() {
    let (client, server) = duplex(64 * 1024);
    let server = tokio::spawn(serve(server));
    let (_sender, connection) = h2::client::handshake(client).await.unwrap();
    let started = Instant::now();
    connection.await.unwrap();
    assert!(started.elapsed() >= FIRST, "not before it could ask");
    server.await.unwrap();
}
