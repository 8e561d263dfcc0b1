//! Servers that speak no TLS, or no more of it.

use super::*;

/// A server that reads the ClientHello, answers these bytes and closes.
async fn answered(bytes: &'static [u8]) -> Failure {
    answered_to(Alpn::None, bytes).await
}

async fn answered_to(alpn: Alpn, bytes: &'static [u8]) -> Failure {
    let client = TlsClient::new(&origination(&[Ca::new("test CA").der()])).unwrap();
    let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
    tokio::spawn(async move {
        let _hello = theirs.read(&mut [0; 4096]).await?;
        theirs.write_all(bytes).await
    });
    client
        .handshake(ours, alpn, LIMIT)
        .await
        .map(|_| ())
        .unwrap_err()
}

#[tokio::test]
async fn a_plaintext_server_is_recognised_and_named() {
    for (bytes, words) in [
        (
            &b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"[..],
            "answered with HTTP, not TLS: \"HTTP/1.1 400 Bad Request\"",
        ),
        (
            b"SSH-2.0-OpenSSH_9.2\r\n",
            "SSH, not TLS: \"SSH-2.0-OpenSSH_9.2\"",
        ),
        (
            b"220 mail.example ESMTP\r\n",
            "SMTP or FTP, not TLS: \"220 mail.example ESMTP\"",
        ),
        (
            b"-ERR unknown command\r\n",
            "something that is not TLS: \"-ERR unknown command\"",
        ),
        (
            b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x05\x00\x00\x40\x00",
            "HTTP/2, not TLS",
        ),
        // Shorter than a TLS record's header.
        (b"hi\n", "not TLS: \"hi\""),
        (
            b"\xde\xad\xbe\xef\x1b[31m\"",
            "not TLS: \"\\xde\\xad\\xbe\\xef\\x1b[31m\\\"\"",
        ),
    ] {
        let outcome = Err::<(), _>(answered(bytes).await);
        let essentials = [words, "enable TLS on that port"];
        assert_failure(outcome, Reason::PlaintextServer, &essentials);
    }
}

#[tokio::test]
async fn a_long_answer_is_shown_in_part() {
    let failure = answered(&[0x01; 4096]).await;
    assert_eq!(failure.detail.matches(r"\x01").count(), 48, "{failure}");
}

/// A server that answers these bytes and goes on listening.
async fn silence_after(bytes: &'static [u8]) -> Failure {
    let client = TlsClient::new(&origination(&[Ca::new("test CA").der()])).unwrap();
    let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
    theirs.write_all(bytes).await.unwrap();
    let limit = Duration::from_millis(50);
    let outcome = client.handshake(ours, Alpn::None, limit).await;
    drop(theirs);
    outcome.map(|_| ()).unwrap_err()
}

#[tokio::test]
async fn a_timeout_tells_how_far_the_handshake_came() {
    for (bytes, reason, words) in [
        (
            &b""[..],
            Reason::HandshakeTimeout,
            "sent nothing for 50ms after the ClientHello",
        ),
        (
            b"\x16\x03\x03\x00\x40\x02",
            Reason::HandshakeTimeout,
            "did not complete it within 50ms",
        ),
        (b"hi\n", Reason::PlaintextServer, "not TLS: \"hi\""),
    ] {
        let outcome = Err::<(), _>(silence_after(bytes).await);
        assert_failure(outcome, reason, &[words]);
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
    for (alert, reason, words) in [
        (70, Reason::NoCommonVersion, "alert protocol_version (70)"),
        (40, Reason::NoCommonCipher, "alert handshake_failure (40)"),
        (
            71,
            Reason::NoCommonCipher,
            "alert insufficient_security (71)",
        ),
        (
            120,
            Reason::NoCommonAlpn,
            "alert no_application_protocol (120)",
        ),
        (
            112,
            Reason::Alert,
            "hostname, sent as SNI (alert unrecognized_name (112))",
        ),
        (80, Reason::Alert, "by alert internal_error (80)"),
        (48, Reason::Alert, "by alert unknown_ca (48)"),
        (115, Reason::Alert, "by alert unknown_psk_identity (115)"),
        (238, Reason::Alert, "by alert 238"),
        (
            42,
            Reason::ClientCertificateRequired,
            "requires a client certificate",
        ),
    ] {
        let record = vec![0x15, 3, 3, 0, 2, 2, alert];
        let outcome = Err::<(), _>(answered(record.leak()).await);
        assert_failure(outcome, reason, &[words]);
    }
}

#[tokio::test]
async fn a_server_that_selects_another_protocol() {
    // A ServerHello of TLS 1.2 with ALPN http/1.1 (RFC 5246 section 7.4.1.3, RFC 7301 section 3.1).
    let mut hello = b"\x16\x03\x03\x00\x44\x02\x00\x00\x40\x03\x03".to_vec();
    hello.extend([7; 32]);
    hello.extend(b"\x00\xc0\x2f\x00\x00\x18\x00\x17\x00\x00\xff\x01\x00\x01\x00");
    hello.extend(b"\x00\x10\x00\x0b\x00\x09\x08http/1.1");
    let outcome = Err::<(), _>(answered_to(Alpn::H2, hello.leak()).await);
    let essentials = ["offered: h2; the server selects another"];
    assert_failure(outcome, Reason::NoCommonAlpn, &essentials);
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
    let outcome = client
        .handshake(socket, Alpn::None, LIMIT)
        .await
        .map(|_| ());
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
    let mut stream = client.handshake(ours, Alpn::None, LIMIT).await.unwrap();
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
        (
            Kind::HostUnreachable,
            Reason::HandshakeTimeout,
            Reason::Reset,
        ),
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
