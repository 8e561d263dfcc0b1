//! Servers that speak no TLS, or no more of it.

use super::*;

/// A server that reads the ClientHello, answers these bytes and closes.
async fn answered(bytes: &'static [u8]) -> Failure {
    let client = TlsClient::new(&origination(&[Ca::new("test CA").der()])).unwrap();
    let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
    tokio::spawn(async move {
        let _hello = theirs.read(&mut [0; 4096]).await?;
        theirs.write_all(bytes).await
    });
    client
        .handshake(ours, Alpn::None)
        .await
        .map(|_| ())
        .unwrap_err()
}

#[tokio::test]
async fn a_plaintext_server_is_recognised() {
    for bytes in [
        &b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"[..],
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"220 mail.example ESMTP\r\n",
        b"-ERR unknown command\r\n",
        b"\x00\x00\x12\x04\x00\x00\x00\x00\x00",
        b"\xde\xad\xbe\xef\xde\xad\xbe\xef",
    ] {
        let failure = answered(bytes).await;
        let essentials = ["not TLS", "enable TLS on that port"];
        assert_failure(Err::<(), _>(failure), Reason::PlaintextServer, &essentials);
    }
}

#[tokio::test]
async fn garbage_inside_tls_records_is_a_protocol_error() {
    for bytes in [
        &b"\x16\x03\x03\x00\x08garbage!"[..],
        b"\x17\x03\x03\x00\x04data",
        b"\x16\x03\x03\xff\xff",
        b"\x16\x41\x41\x00\x04abcd",
    ] {
        let failure = answered(bytes).await;
        assert_failure(
            Err::<(), _>(failure),
            Reason::ProtocolError,
            &["broke the TLS protocol"],
        );
    }
}

#[tokio::test]
async fn alerts_have_their_reasons() {
    for (bytes, reason, essential) in [
        (
            b"\x15\x03\x01\x00\x02\x02\x46",
            Reason::NoCommonParameters,
            "TLS 1.2 nor TLS 1.3",
        ),
        (
            b"\x15\x03\x03\x00\x02\x02\x28",
            Reason::NoCommonParameters,
            "HandshakeFailure",
        ),
        (
            b"\x15\x03\x03\x00\x02\x02\x47",
            Reason::NoCommonParameters,
            "InsufficientSecurity",
        ),
        (
            b"\x15\x03\x03\x00\x02\x02\x78",
            Reason::NoCommonParameters,
            "ALPN",
        ),
        (b"\x15\x03\x03\x00\x02\x02\x70", Reason::Alert, "hostname"),
        (
            b"\x15\x03\x03\x00\x02\x02\x50",
            Reason::Alert,
            "InternalError",
        ),
        (b"\x15\x03\x03\x00\x02\x02\xee", Reason::Alert, "0xee"),
        (
            b"\x15\x03\x03\x00\x02\x02\x2a",
            Reason::ClientCertificateRequired,
            "client certificate",
        ),
    ] {
        assert_failure(Err::<(), _>(answered(bytes).await), reason, &[essential]);
    }
}

#[tokio::test]
async fn a_server_that_closes_at_once() {
    let failure = answered(b"").await;
    let essentials = ["closed the connection", "speaks TLS"];
    assert_failure(
        Err::<(), _>(failure),
        Reason::ClosedDuringHandshake,
        &essentials,
    );

    // Over TCP it closes with the ClientHello unread: a reset.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { listener.accept().await.map(drop) });
    let client = TlsClient::new(&origination(&[Ca::new("test CA").der()])).unwrap();
    let socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let outcome = client.handshake(socket, Alpn::None).await.map(|_| ());
    assert_failure(outcome, Reason::ClosedDuringHandshake, &essentials);
}

#[tokio::test]
async fn a_stream_that_ends_without_close_notify_is_truncated() {
    let ca = Ca::new("test CA");
    let client = TlsClient::new(&origination(&[ca.der()])).unwrap();
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let acceptor = TlsAcceptor::from(Arc::new(ca.leaf(&[HOST]).server()));
    tokio::spawn(async move {
        let mut stream = acceptor.accept(theirs).await?;
        stream.write_all(b"half an answ").await?;
        stream.flush().await
    });
    let mut stream = client.handshake(ours, Alpn::None).await.unwrap();
    let mut answer = Vec::new();
    let error = stream.read_to_end(&mut answer).await.unwrap_err();
    assert_eq!(answer, b"half an answ");
    let failure = failure_from_io(&error, Stage::Relay);
    assert_failure(Err::<(), _>(failure), Reason::Truncated, &["close_notify"]);
}

#[test]
fn socket_errors_have_their_reasons() {
    use io::ErrorKind as Kind;
    for (kind, handshake, relay) in [
        (
            Kind::UnexpectedEof,
            Reason::ClosedDuringHandshake,
            Reason::Truncated,
        ),
        (
            Kind::ConnectionReset,
            Reason::ClosedDuringHandshake,
            Reason::Reset,
        ),
        (
            Kind::BrokenPipe,
            Reason::ClosedDuringHandshake,
            Reason::Reset,
        ),
        (Kind::TimedOut, Reason::HandshakeTimeout, Reason::Reset),
        (Kind::OutOfMemory, Reason::Internal, Reason::Internal),
    ] {
        let error = io::Error::from(kind);
        assert_eq!(
            failure_from_io(&error, Stage::Handshake).reason,
            handshake,
            "{kind:?}"
        );
        assert_eq!(
            failure_from_io(&error, Stage::Relay).reason,
            relay,
            "{kind:?}"
        );
    }
}
