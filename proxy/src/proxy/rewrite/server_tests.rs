#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use http_body_util::Empty;
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Chain, Join, join};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::*;
use crate::failure::Reason;
use crate::tls::{Stage, failure_from_io};

/// What follows a bare end: with TLS that is an error.
struct Truncated;

impl AsyncRead for Truncated {
    fn poll_read(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        _buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()))
    }
}

type Stream = Join<Chain<OwnedReadHalf, Truncated>, OwnedWriteHalf>;

/// A connection to a server that says something and ends it with RST, and its cause.
async fn reset_after(words: &[u8]) -> (Server<Stream>, Cause) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    server.write_all(words).await.unwrap();
    SockRef::from(&server)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(server);
    let (reader, writer) = stream.into_split();
    let stream = join(reader.chain(Truncated), writer);
    let cause = Cause::default();
    let describe = |error: &io::Error, _: &Stream| failure_from_io(error, Stage::Relay);
    (Server::new(stream, cause.clone(), describe), cause)
}

#[tokio::test]
async fn what_a_server_said_before_it_took_no_more_is_read() {
    let (mut server, cause) = reset_after(b"why").await;
    for _ in 0..3 {
        server.write_all(b"lost").await.unwrap();
        server.flush().await.unwrap();
    }
    assert!(!cause.is_known());
    let mut said = [0; 3];
    server.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"why");
    server.shutdown().await.unwrap();
    server.read_u8().await.unwrap_err();
    assert_eq!(cause.take().unwrap().reason, Reason::Reset);
}

#[tokio::test]
async fn a_server_that_was_gone_before_the_preface_fails_the_request() {
    let (server, cause) = reset_after(b"").await;
    let asked = async {
        let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(server));
        let (mut sender, connection) = handshake.await?;
        tokio::spawn(connection);
        sender.ready().await?;
        sender
            .send_request(Request::new(Empty::<Bytes>::new()))
            .await
    };
    let answer = timeout(Duration::from_secs(10), asked).await;
    answer.expect("hangs").unwrap_err();
    assert!(cause.is_known());
}
