//! The heads of messages: how their bodies are framed (RFC 9112 section 6), and what ends a connection with them.

use std::mem::MaybeUninit;

use httparse::{Header, ParserConfig, Request, Response, Status};

use super::GiveUp;
use crate::proxy::head::{MAX_FIELDS, is, is_close, tokens};

const AUTHENTICATION: [&str; 4] = [
    "Authorization",
    "WWW-Authenticate",
    "Proxy-Authorization",
    "Proxy-Authenticate",
];

/// A head that has come whole.
#[derive(Clone, Copy)]
pub(super) struct Head {
    pub(super) bytes: usize,
    pub(super) body: Body,
    /// From here on the connection is this client's own.
    pub(super) own: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    Length(u64),
    Chunked,
}

/// A request's head, and whether its method is HEAD; none if it is not complete.
pub(super) fn request(bytes: &[u8]) -> Result<Option<(Head, bool)>, GiveUp> {
    let mut headers = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut request = Request::new(&mut []);
    let parsed = request.parse_with_uninit_headers(bytes, &mut headers);
    let Status::Complete(length) = parsed.map_err(|_| GiveUp)? else {
        return Ok(None);
    };
    let fields = Fields::read(request.headers)?;
    let method = request.method.unwrap_or_default();
    if fields.upgrade || method == "CONNECT" {
        return Err(GiveUp);
    }
    let body = fields.body().unwrap_or(Body::Length(0));
    // A body where none has a meaning is not read by every server.
    let expected = ["POST", "PUT", "PATCH"].contains(&method) || body == Body::Length(0);
    let head = Head {
        bytes: length,
        body,
        own: fields.own || !expected || is_doubtful(&bytes[..length], request.version),
    };
    Ok(Some((head, method == "HEAD")))
}

/// A response's head, and whether another one follows for the same request; none if it is not complete.
pub(super) fn response(bytes: &[u8], to_head: bool) -> Result<Option<(Head, bool)>, GiveUp> {
    let mut headers = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut response = Response::new(&mut []);
    let parser = ParserConfig::default();
    let parsed = parser.parse_response_with_uninit_headers(&mut response, bytes, &mut headers);
    let Status::Complete(length) = parsed.map_err(|_| GiveUp)? else {
        return Ok(None);
    };
    let fields = Fields::read(response.headers)?;
    let status = response.code.unwrap_or_default();
    let framed = fields.body();
    let empty = framed.is_none_or(|body| body == Body::Length(0));
    // RFC 9112 section 6.3.
    let body = match (status, framed) {
        // No status, or another protocol from here on.
        (..100 | 101, _) => return Err(GiveUp),
        (100..200 | 204 | 304, _) => Body::Length(0),
        _ if to_head => Body::Length(0),
        // Until the connection ends.
        (_, None) => return Err(GiveUp),
        (_, Some(body)) => body,
    };
    let interim = (100..200).contains(&status);
    let unexpected = (interim || status == 204) && !empty;
    let head = Head {
        bytes: length,
        body,
        own: fields.own || unexpected || is_doubtful(&bytes[..length], response.version),
    };
    Ok(Some((head, interim)))
}

/// Whether a head has what the parser takes and others may not: line ends before it, bare LF, tabs. In HTTP/1.0, and with a
/// method in lower case, a connection's end is uncertain.
fn is_doubtful(head: &[u8], version: Option<u8>) -> bool {
    version != Some(1)
        || !head[0].is_ascii_uppercase()
        || head.contains(&b'\t')
        || has_bare_lf(head)
}

/// Whether a line ends in LF without CR.
pub(super) fn has_bare_lf(bytes: &[u8]) -> bool {
    let bare = |two: &[u8]| two[0] != b'\r' && two[1] == b'\n';
    bytes.windows(2).any(bare)
}

/// What of a head matters here.
#[derive(Default)]
struct Fields {
    content_length: Option<u64>,
    chunked: bool,
    upgrade: bool,
    /// See [`Head`].
    own: bool,
}

impl Fields {
    fn read(headers: &[Header]) -> Result<Self, GiveUp> {
        let mut fields = Self::default();
        for header in headers {
            let is = |name: &str| is(header, name);
            if is("Content-Length") {
                let length = number(header.value, 10)?;
                match fields.content_length.replace(length) {
                    Some(before) if before != length => return Err(GiveUp),
                    before => fields.own |= before.is_some(),
                }
            } else if is("Transfer-Encoding") {
                let chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
                let last = header.value.rsplit(|byte| *byte == b',').next();
                // It is what counts.
                if !last.is_some_and(|coding| chunked(coding.trim_ascii())) {
                    return Err(GiveUp);
                }
                fields.own |= fields.chunked || !chunked(header.value);
                fields.chunked = true;
            } else if is("Connection") {
                fields.own |= tokens(header).any(is_close);
            } else if AUTHENTICATION.iter().any(|name| is(name)) {
                fields.own |= tokens(header).any(is_of_connection);
            }
            fields.own |= is("Expect");
            fields.upgrade |= is("Upgrade");
        }
        fields.own |= fields.chunked && fields.content_length.is_some();
        Ok(fields)
    }

    fn body(&self) -> Option<Body> {
        let length = self.content_length.map(Body::Length);
        if self.chunked {
            Some(Body::Chunked)
        } else {
            length
        }
    }
}

/// Whether a challenge's or a credential's scheme authenticates the connection and not the request (RFC 4559; MS-NTHT).
fn is_of_connection(element: &[u8]) -> bool {
    let scheme = element.split(u8::is_ascii_whitespace).next();
    let scheme = scheme.unwrap_or_default();
    [&b"NTLM"[..], b"Negotiate"]
        .iter()
        .any(|name| scheme.eq_ignore_ascii_case(name))
}

/// Digits and nothing else.
pub(super) fn number(digits: &[u8], radix: u32) -> Result<u64, GiveUp> {
    let digits = str::from_utf8(digits).map_err(|_| GiveUp)?;
    // from_str_radix takes a sign too.
    if !digits.starts_with(|first: char| first.is_digit(radix)) {
        return Err(GiveUp);
    }
    u64::from_str_radix(digits, radix).map_err(|_| GiveUp)
}
