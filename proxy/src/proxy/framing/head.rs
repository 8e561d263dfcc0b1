//! The heads of messages: how their bodies are framed (RFC 9112 section 6), and what ends a connection with them.

use httparse::{EMPTY_HEADER, Header, Request, Response, Status};

use super::GiveUp;

/// Heads with more fields are given up.
const MAX_FIELDS: usize = 100;
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
}

#[derive(Clone, Copy)]
pub(super) enum Body {
    Length(u64),
    Chunked,
}

/// A request's head, and whether its method is HEAD; none if it is not complete.
pub(super) fn request(bytes: &[u8]) -> Result<Option<(Head, bool)>, GiveUp> {
    let mut headers = [EMPTY_HEADER; MAX_FIELDS];
    let mut request = Request::new(&mut headers);
    let Status::Complete(length) = request.parse(bytes).map_err(|_| GiveUp)? else {
        return Ok(None);
    };
    let fields = Fields::read(&bytes[..length], request.version, request.headers)?;
    if fields.upgrade || request.method == Some("CONNECT") {
        return Err(GiveUp);
    }
    let body = fields.body()?.unwrap_or(Body::Length(0));
    let is_head = request.method == Some("HEAD");
    Ok(Some((
        Head {
            bytes: length,
            body,
        },
        is_head,
    )))
}

/// A response's head, and whether another one follows for the same request; none if it is not complete.
pub(super) fn response(bytes: &[u8], to_head: bool) -> Result<Option<(Head, bool)>, GiveUp> {
    let mut headers = [EMPTY_HEADER; MAX_FIELDS];
    let mut response = Response::new(&mut headers);
    let Status::Complete(length) = response.parse(bytes).map_err(|_| GiveUp)? else {
        return Ok(None);
    };
    let fields = Fields::read(&bytes[..length], response.version, response.headers)?;
    let status = response.code.unwrap_or_default();
    let framed = fields.body()?;
    // RFC 9112 section 6.3.
    let body = match (status, framed) {
        (101, _) => return Err(GiveUp),
        (100..200 | 204, None | Some(Body::Length(0))) => Body::Length(0),
        (100..200 | 204, _) => return Err(GiveUp),
        (304, _) => Body::Length(0),
        _ if to_head => Body::Length(0),
        // Until the connection ends.
        (_, None) => return Err(GiveUp),
        (_, Some(body)) => body,
    };
    let interim = (100..200).contains(&status);
    Ok(Some((
        Head {
            bytes: length,
            body,
        },
        interim,
    )))
}

/// What of a head matters here.
#[derive(Default)]
struct Fields {
    content_length: Option<u64>,
    chunked: bool,
    upgrade: bool,
}

impl Fields {
    fn read(head: &[u8], version: Option<u8>, headers: &[Header]) -> Result<Self, GiveUp> {
        let bare = |two: &[u8]| two[0] != b'\r' && two[1] == b'\n';
        // The parser takes line ends before a message, and bare LF.
        if version != Some(1) || !head[0].is_ascii_graphic() || head.windows(2).any(bare) {
            return Err(GiveUp);
        }
        let mut fields = Self::default();
        for Header { name, value } in headers {
            let is = |other: &str| name.eq_ignore_ascii_case(other);
            let mut elements = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
            if is("Content-Length") {
                let before = fields.content_length.replace(number(value, 10)?);
                give_up_if(before.is_some())?;
            } else if is("Transfer-Encoding") {
                give_up_if(fields.chunked || !value.eq_ignore_ascii_case(b"chunked"))?;
                fields.chunked = true;
            } else if is("Connection") {
                give_up_if(elements.any(|token| token.eq_ignore_ascii_case(b"close")))?;
            } else if AUTHENTICATION.iter().any(|name| is(name)) {
                give_up_if(elements.any(is_of_connection))?;
            }
            fields.upgrade |= is("Upgrade");
        }
        Ok(fields)
    }

    fn body(&self) -> Result<Option<Body>, GiveUp> {
        match (self.chunked, self.content_length) {
            (true, None) => Ok(Some(Body::Chunked)),
            (true, Some(_)) => Err(GiveUp),
            (false, length) => Ok(length.map(Body::Length)),
        }
    }
}

fn give_up_if(condition: bool) -> Result<(), GiveUp> {
    if condition { Err(GiveUp) } else { Ok(()) }
}

/// Whether a challenge's or a credential's scheme authenticates the connection and not the request (RFC 4559; MS-NTHT).
fn is_of_connection(element: &[u8]) -> bool {
    let scheme = element
        .split(|byte| *byte == b' ')
        .next()
        .unwrap_or_default();
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
