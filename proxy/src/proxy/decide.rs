//! Which protocol does the client speak? Read from its first bytes; a timer alone never decides.

use std::time::Duration;

use rustls::Error as TlsError;
use rustls::server::Acceptor;
use tokio::io::{self, AsyncRead, AsyncReadExt as _};
use tokio::time::{Instant, timeout_at};

/// The client's half of the HTTP/2 connection preface (RFC 9113 section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Longer request lines and ClientHellos than this are nobody's.
const MAX_OPENING: usize = 16 * 1024 + 5;
/// How long a client may pause within what could still become an HTTP/1 request line. A protocol whose first message
/// is one short word without a line end (ZooKeeper's `ruok`) goes on after that.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a client may take in all for an opening that it has begun, however many bytes it sends meanwhile.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

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

/// Reads into `first` until the protocol is known. A client that closes before is `Other`, and so is one that takes too
/// long over what could become a request line. Safe to cancel: what was read stays in `first`.
///
/// # Errors
/// When reading fails, or (`TimedOut`) the client begins a ClientHello or preface and does not complete it in time.
pub(super) async fn read_opening(
    client: &mut (impl AsyncRead + Unpin),
    first: &mut Vec<u8>,
) -> io::Result<Protocol> {
    if client.read_buf(first).await? == 0 {
        return Ok(Protocol::Other);
    }
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(protocol) = classify(first) {
            return Ok(protocol);
        }
        let committed = first.starts_with(&[0x16]) || first.starts_with(&HTTP2_PREFACE[..4]);
        let pause = Instant::now() + PAUSE;
        let until = if committed { end } else { end.min(pause) };
        match timeout_at(until, client.read_buf(first)).await {
            Ok(Ok(0)) => return Ok(Protocol::Other),
            Ok(read) => read?,
            Err(_) if committed => return Err(io::ErrorKind::TimedOut.into()),
            Err(_) => return Ok(Protocol::Other),
        };
    }
}

/// What `bytes` are the beginning of; `None` while it is open.
pub(crate) fn classify(bytes: &[u8]) -> Option<Protocol> {
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
#[path = "decide_tests.rs"]
mod tests;
