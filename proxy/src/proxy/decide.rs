//! Which protocol does the client speak? Read from its first bytes; a timer alone never decides.

use std::time::Duration;

use rustls::Error as TlsError;
use rustls::server::Acceptor;
use tokio::io::{self, AsyncRead, AsyncReadExt as _};
use tokio::time::timeout;

/// The client's half of the HTTP/2 connection preface (RFC 9113 section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Longer request lines and ClientHellos than this are nobody's.
const MAX_OPENING: usize = 16 * 1024 + 5;
/// How long a client may pause within what could still become an HTTP/1 request line. A protocol whose first message
/// is one short word without a line end (ZooKeeper's `ruok`) goes on after that.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a client may take for the rest of a ClientHello or HTTP/2 preface that it has begun.
const REST: Duration = Duration::from_secs(10);

/// What the client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TLS of its own: passed through untouched.
    Tls,
    /// HTTP/1.x; `head`: its first request is a HEAD, whose answer has no body.
    Http1 {
        /// The first request's method is HEAD.
        head: bool,
    },
    /// HTTP/2 with prior knowledge.
    Http2,
    /// Anything else, or nothing: the server may speak first.
    Other,
}

impl Protocol {
    /// The access log's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Http1 { .. } => "http/1.1",
            Self::Http2 => "h2",
            Self::Other => "other",
        }
    }
}

/// Reads into `first` until the protocol is known. A client that closes before is `Other`. Safe to cancel: what was
/// read stays in `first`.
///
/// # Errors
/// When reading fails, or the client begins a ClientHello or preface and does not go on.
pub(super) async fn read_opening(
    client: &mut (impl AsyncRead + Unpin),
    first: &mut Vec<u8>,
) -> io::Result<Protocol> {
    loop {
        if let Some(protocol) = classify(first) {
            return Ok(protocol);
        }
        let committed = first.starts_with(&[0x16]) || first.starts_with(&HTTP2_PREFACE[..4]);
        let limit = match (first.is_empty(), committed) {
            (true, _) => None,
            (false, true) => Some(REST),
            (false, false) => Some(PAUSE),
        };
        let read = match limit {
            None => client.read_buf(first).await?,
            Some(limit) => match timeout(limit, client.read_buf(first)).await {
                Ok(read) => read?,
                Err(_) if committed => return Err(io::ErrorKind::TimedOut.into()),
                Err(_) => return Ok(Protocol::Other),
            },
        };
        if read == 0 {
            return Ok(Protocol::Other);
        }
    }
}

/// What `bytes` are the beginning of; `None` while it is open.
fn classify(bytes: &[u8]) -> Option<Protocol> {
    let (first, second) = (bytes.first()?, bytes.get(1));
    if *first == 0x16 && second.is_none_or(|version| *version == 3) {
        return client_hello(bytes);
    }
    if bytes.starts_with(HTTP2_PREFACE) {
        return Some(Protocol::Http2);
    }
    if HTTP2_PREFACE.starts_with(bytes) {
        return None;
    }
    request_line(bytes)
}

fn client_hello(bytes: &[u8]) -> Option<Protocol> {
    let mut acceptor = Acceptor::default();
    let mut rest = bytes;
    while !rest.is_empty() {
        if acceptor.read_tls(&mut rest).is_err() {
            return Some(Protocol::Other);
        }
        match acceptor.accept() {
            Ok(None) => {}
            // A ClientHello that we would not serve is one all the same.
            Ok(Some(_)) | Err((TlsError::PeerIncompatible(_) | TlsError::PeerMisbehaved(_), _)) => {
                return Some(Protocol::Tls);
            }
            Err(_) => return Some(Protocol::Other),
        }
    }
    (bytes.len() > MAX_OPENING).then_some(Protocol::Other)
}

/// HTTP/1 only if there is a whole request line (RFC 9112 section 3): NATS, for one, begins with `CONNECT {`.
fn request_line(bytes: &[u8]) -> Option<Protocol> {
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let line = &bytes[..end.unwrap_or(bytes.len())];
    if line.len() > MAX_OPENING {
        return Some(Protocol::Other);
    }
    let mut parts = line.splitn(3, |byte| *byte == b' ');
    let method = parts.next().unwrap_or_default();
    let (target, version) = (parts.next(), parts.next());
    let possible = !method.is_empty()
        && method.iter().all(|byte| is_token(*byte))
        && target.is_none_or(|target| {
            target
                .iter()
                .all(|byte| byte.is_ascii_graphic() || *byte > 127)
        })
        && version.is_none_or(could_be_version);
    match (possible, end) {
        (false, _) => Some(Protocol::Other),
        (true, None) => None,
        (true, Some(_)) => {
            let complete = target.is_some_and(|target| !target.is_empty())
                && version.is_some_and(|version| version.trim_ascii_end().len() == 8);
            Some(if complete {
                Protocol::Http1 {
                    head: method == b"HEAD",
                }
            } else {
                Protocol::Other
            })
        }
    }
}

/// Whether `bytes` are (the beginning of) `HTTP/1.` DIGIT CR.
fn could_be_version(bytes: &[u8]) -> bool {
    let (name, rest) = bytes.split_at(bytes.len().min(7));
    b"HTTP/1.".starts_with(name)
        && match rest {
            [] => true,
            [digit] | [digit, b'\r'] => digit.is_ascii_digit(),
            _ => false,
        }
}

/// A `tchar` of RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
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

    #[tokio::test]
    async fn bytes_that_trickle_in() {
        let (mut client, mut proxy) = io::duplex(1);
        let writer = tokio::spawn(async move {
            for byte in b"GET / HTTP/1.1\r\n" {
                tokio::time::sleep(Duration::from_millis(20)).await;
                io::AsyncWriteExt::write_all(&mut client, &[*byte])
                    .await
                    .unwrap();
            }
            client
        });
        let mut first = Vec::new();
        assert_eq!(read_opening(&mut proxy, &mut first).await.unwrap(), HTTP1);
        assert_eq!(first, b"GET / HTTP/1.1\r\n");
        writer.await.unwrap();
    }

    #[tokio::test]
    async fn a_word_without_line_end_goes_on() {
        let (mut client, mut proxy) = io::duplex(64);
        io::AsyncWriteExt::write_all(&mut client, b"ruok")
            .await
            .unwrap();
        let mut first = Vec::new();
        assert_eq!(
            read_opening(&mut proxy, &mut first).await.unwrap(),
            Protocol::Other
        );
        assert_eq!(first, b"ruok");
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
}
