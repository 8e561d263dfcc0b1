#![allow(clippy::unwrap_used)]
use tokio::io::AsyncWriteExt as _;

use super::*;

const HTTP1: Protocol = Protocol::Http1 { head: false };

#[test]
fn whole_openings() {
    for (bytes, protocol) in [
        (&b"GET / HTTP/1.1\r\n"[..], HTTP1),
        (b"GET / HTTP/1.0\n", HTTP1),
        (
            b"HEAD /x?y=%20 HTTP/1.1\r\nHost: a\r\n",
            Protocol::Http1 { head: true },
        ),
        (HTTP2_PREFACE, Protocol::Http2),
        (b"CONNECT {\"verbose\":false}\r\n", Protocol::Other),
        (b"GET / HTTP/2.0\r\n", Protocol::Other),
        (b"GET /\r\n", Protocol::Other),
        (b"GET  HTTP/1.1\r\n", Protocol::Other),
        (b"GET / HTTP/1.15\r\n", Protocol::Other),
        (b"EHLO example.com\r\n", Protocol::Other),
        (b"*1\r\n$4\r\nPING\r\n", Protocol::Other),
        (b"\0\0\0\x08\x04\xd2\x16\x2f", Protocol::Other),
        (b"\r\n", Protocol::Other),
        (b"PRI * HTTP/2.0\r\nHost: a\r\n", Protocol::Other),
        (b"\x16\x03\x01\x00\x05hello", Protocol::Other),
    ] {
        assert_eq!(classify(bytes), Some(protocol), "{}", bytes.escape_ascii());
    }
}

#[test]
fn undecided_until_complete() {
    for whole in [
        &b"GET /a HTTP/1.1\r\n"[..],
        b"POST /a HTTP/1.0\n",
        HTTP2_PREFACE,
    ] {
        for end in 0..whole.len() {
            assert_eq!(
                classify(&whole[..end]),
                None,
                "{}",
                whole[..end].escape_ascii()
            );
        }
    }
    assert_eq!(classify(&[b'a'; MAX_OPENING + 1]), Some(Protocol::Other));
}

#[test]
fn a_client_hello_byte_by_byte() {
    let hello = client_hello_bytes();
    for end in 0..hello.len() {
        assert_eq!(classify(&hello[..end]), None, "after {end} bytes");
    }
    assert_eq!(classify(&hello), Some(Protocol::Tls));
}

/// Feeds `bytes` to `read_opening`, one each `pause`, on a clock that does not wait; the result, what was read, the time.
async fn trickle(bytes: &[u8], pause: Duration) -> (io::Result<Protocol>, Vec<u8>, Duration) {
    let (mut client, mut proxy) = io::duplex(1);
    let bytes = bytes.to_vec();
    let writer = tokio::spawn(async move {
        for byte in bytes {
            tokio::time::sleep(pause).await;
            if client.write_all(&[byte]).await.is_err() {
                return;
            }
        }
        // Stays open, and silent.
        std::future::pending::<()>().await;
    });
    let started = Instant::now();
    let mut first = Vec::new();
    let result = read_opening(&mut proxy, &mut first).await;
    writer.abort();
    (result, first, started.elapsed())
}

#[tokio::test(start_paused = true)]
async fn bytes_that_trickle_in() {
    let request = b"GET / HTTP/1.1\r\n";
    let (result, first, _) = trickle(request, Duration::from_millis(20)).await;
    assert_eq!((result.unwrap(), &first[..]), (HTTP1, &request[..]));
    let hello = client_hello_bytes();
    let (result, first, _) = trickle(&hello, Duration::from_millis(5)).await;
    assert_eq!((result.unwrap(), first), (Protocol::Tls, hello));
    let (result, ..) = trickle(HTTP2_PREFACE, Duration::from_millis(400)).await;
    assert_eq!(result.unwrap(), Protocol::Http2);
}

#[tokio::test(start_paused = true)]
async fn a_word_without_line_end_goes_on() {
    let (result, first, took) = trickle(b"ruok", Duration::from_millis(1)).await;
    assert_eq!(
        (result.unwrap(), &first[..]),
        (Protocol::Other, &b"ruok"[..])
    );
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn the_time_for_an_opening_is_bounded_in_all_not_for_each_byte() {
    let bound = PATIENCE + Duration::from_secs(2);
    let hello = client_hello_bytes();
    for opening in [&hello[..], HTTP2_PREFACE] {
        let (result, first, took) = trickle(opening, Duration::from_millis(900)).await;
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(first.len() > 5 && took <= bound, "{took:?}");
    }
    // What could be a request line may be another protocol's: it goes on, to the server.
    let line = format!("GET /{} HTTP/1.1\r\n", "a".repeat(100));
    let (result, first, took) = trickle(line.as_bytes(), Duration::from_millis(900)).await;
    assert_eq!(result.unwrap(), Protocol::Other);
    assert!(first.len() > 5 && took <= bound, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn the_length_of_an_opening_is_bounded() {
    // A ClientHello whose records never add up to it.
    let mut endless_hello = Vec::new();
    while endless_hello.len() < 4 * MAX_OPENING {
        endless_hello.extend([0x16, 3, 1, 0, 4]);
        endless_hello.extend(if endless_hello.len() == 5 {
            [1, 0, 0xff, 0]
        } else {
            [0; 4]
        });
    }
    for flood in [vec![b'a'; 4 * MAX_OPENING], endless_hello] {
        let (mut client, mut proxy) = io::duplex(4 * MAX_OPENING);
        client.write_all(&flood).await.unwrap();
        let mut first = Vec::new();
        let protocol = read_opening(&mut proxy, &mut first).await.unwrap();
        assert_eq!(protocol, Protocol::Other);
        assert!(first.len() <= 2 * MAX_OPENING + 64, "{} bytes", first.len());
    }
}

fn client_hello_bytes() -> Vec<u8> {
    let config = rustls::ClientConfig::builder()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = "www.example.com".try_into().unwrap();
    let mut client = rustls::ClientConnection::new(config.into(), name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello
}
