//! The head of a client's first HTTP/1 request, and the offer in it that a TLS connection can't honour.

use std::borrow::Cow;
use std::mem::MaybeUninit;

use httparse::{EMPTY_HEADER, Header, Request, Status};
use tokio::io::{self, AsyncRead, AsyncReadExt as _};
use tokio::time::timeout;

use super::decide::PATIENCE;

/// Twice what servers commonly take (8 to 32 KiB).
pub(super) const MAX_HEAD: usize = 64 * 1024;
/// As many header fields as common servers take.
pub(super) const MAX_FIELDS: usize = 100;

/// Why a head was not read.
#[derive(Debug)]
pub(super) enum Unread {
    /// It is longer than 64 KiB.
    TooLong,
    /// It was not complete after 10 s.
    TooSlow,
    /// Reading failed.
    Failed(io::Error),
}

/// Reads on into `first`, which begins with a request line, until it holds the whole head. A client that closes its half
/// before is for the server to judge.
pub(super) async fn read_head(
    client: &mut (impl AsyncRead + Unpin),
    first: &mut Vec<u8>,
) -> Result<(), Unread> {
    let read = async {
        let mut looked_at = 0;
        loop {
            let end = empty_line(&first[looked_at..]).map(|start| looked_at + start);
            if end.unwrap_or(first.len()) > MAX_HEAD {
                return Err(Unread::TooLong);
            }
            if end.is_some() {
                return Ok(());
            }
            // The empty line may have begun already.
            looked_at = first.len().saturating_sub(2);
            if client.read_buf(first).await.map_err(Unread::Failed)? == 0 {
                return Ok(());
            }
        }
    };
    timeout(PATIENCE, read)
        .await
        .unwrap_or(Err(Unread::TooSlow))
}

fn empty_line(bytes: &[u8]) -> Option<usize> {
    let starts = |rest: &[u8]| rest.starts_with(b"\n\n") || rest.starts_with(b"\n\r\n");
    (0..bytes.len()).find(|start| starts(&bytes[*start..]))
}

/// Takes the offer to change to cleartext HTTP/2 (`Upgrade: h2c`, RFC 7540 section 3.2; gone from RFC 9113) out of the
/// head that `first` begins with: a server that accepted it would change protocols on a connection whose ALPN says
/// http/1.1. All other bytes stay as they are, and so does a head that can't be parsed: it is for the server to judge.
///
/// Only a connection's first request is looked at; where the next one begins is not known yet.
pub(crate) fn without_h2c(first: Vec<u8>) -> Vec<u8> {
    if !first.windows(3).any(is_h2c) {
        return first;
    }
    let mut headers = vec![EMPTY_HEADER; first.iter().filter(|byte| **byte == b'\n').count()];
    let mut request = Request::new(&mut headers);
    let Ok(Status::Complete(end)) = request.parse(&first) else {
        return first;
    };
    let upgrades = || {
        request
            .headers
            .iter()
            .filter(|header| is(header, "Upgrade"))
    };
    if !upgrades().flat_map(tokens).any(is_h2c) {
        return first;
    }
    let others = upgrades().flat_map(tokens).any(|token| !is_h2c(token));
    let hop_by_hop = |token: &[u8]| {
        token.eq_ignore_ascii_case(b"HTTP2-Settings")
            || (!others && token.eq_ignore_ascii_case(b"Upgrade"))
    };
    edited(&first, end, request.headers, |header, line| {
        if is(header, "Upgrade") {
            without(header, line, is_h2c)
        } else if is(header, "Connection") {
            without(header, line, hop_by_hop)
        } else if is(header, "HTTP2-Settings") {
            Cow::Borrowed(&[])
        } else {
            Cow::Borrowed(line)
        }
    })
}

/// The head that `first` begins with without `Connection: close`, and what comes after it; none if it does not say that.
pub(super) fn without_close(first: &[u8]) -> Option<Vec<u8>> {
    let mut headers = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut request = Request::new(&mut []);
    let Ok(Status::Complete(end)) = request.parse_with_uninit_headers(first, &mut headers) else {
        return None;
    };
    let mut connection = request
        .headers
        .iter()
        .filter(|header| is(header, "Connection"));
    connection
        .any(|header| tokens(header).any(is_close))
        .then(|| {
            edited(first, end, request.headers, |header, line| {
                if is(header, "Connection") {
                    without(header, line, is_close)
                } else {
                    Cow::Borrowed(line)
                }
            })
        })
}

/// `first` with each header line of the head, which is `end` bytes long, as `edit` gives it.
fn edited(
    first: &[u8],
    end: usize,
    headers: &[Header],
    edit: impl for<'a> Fn(&Header, &'a [u8]) -> Cow<'a, [u8]>,
) -> Vec<u8> {
    let (head, rest) = first.split_at(end);
    let mut lines = head.split_inclusive(|byte| *byte == b'\n');
    let mut kept = Vec::with_capacity(first.len());
    kept.extend(lines.next().unwrap_or_default());
    // A header is one line: the parser refuses folded ones.
    for (header, line) in headers.iter().zip(&mut lines) {
        kept.extend(&*edit(header, line));
    }
    kept.extend(lines.flatten());
    kept.extend(rest);
    kept
}

pub(in crate::proxy) fn is(header: &Header, name: &str) -> bool {
    header.name.eq_ignore_ascii_case(name)
}

fn is_h2c(token: &[u8]) -> bool {
    token.eq_ignore_ascii_case(b"h2c")
}

/// Of a Connection header.
pub(in crate::proxy) fn is_close(token: &[u8]) -> bool {
    token.eq_ignore_ascii_case(b"close")
}

/// The elements of a list (RFC 9110 section 5.6.1).
pub(in crate::proxy) fn tokens<'a>(
    header: &Header<'a>,
) -> impl Iterator<Item = &'a [u8]> + use<'a> {
    let elements = header.value.split(|byte| *byte == b',');
    elements
        .map(<[u8]>::trim_ascii)
        .filter(|token| !token.is_empty())
}

/// The header's `line` without the tokens that are `unwanted`: nothing if none is left.
fn without<'a>(header: &Header, line: &'a [u8], unwanted: impl Fn(&[u8]) -> bool) -> Cow<'a, [u8]> {
    let wanted: Vec<_> = tokens(header).filter(|token| !unwanted(token)).collect();
    match wanted.len() {
        kept if kept == tokens(header).count() => Cow::Borrowed(line),
        0 => Cow::Borrowed(&[]),
        _ => [
            header.name.as_bytes(),
            b": ",
            &wanted.join(&b", "[..]),
            b"\r\n",
        ]
        .concat()
        .into(),
    }
}

#[cfg(test)]
#[path = "head_tests.rs"]
mod tests;
