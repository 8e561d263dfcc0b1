//! Follows HTTP/1.1 messages (RFC 9112) that go through unchanged, to know when a server's connection is at rest: every
//! request answered, no message begun. Such a connection can serve another client.
//!
//! It is a strict reader, and it gives up for good on whatever two readers could take differently (two lengths, a bare
//! LF, a folded header), on a connection that ends after this answer, and on one that stands for who uses it (NTLM,
//! Negotiate). A connection that is given up goes on as bytes, for this one client.

mod head;

use std::collections::VecDeque;

use self::head::{Body, Head, number, request, response};

/// Longer heads are given up.
const MAX_HEAD: usize = 64 * 1024;
/// Longer lines within a chunked body are given up.
const MAX_LINE: usize = 8 * 1024;
/// Clients that pipeline more requests are given up.
const MAX_UNANSWERED: usize = 64;

/// The two directions of a connection to a server.
#[derive(Debug, Default)]
pub(super) struct Framing {
    requests: Reader,
    responses: Reader,
    /// The requests without an answer yet: whether each is a HEAD.
    unanswered: VecDeque<bool>,
    given_up: bool,
    /// The client wants no more than this answer, which was not told to the server.
    pub(super) last: bool,
}

/// Not followed any more: see the module.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct GiveUp;

/// Where a direction is.
#[derive(Debug, Default)]
struct Reader {
    state: State,
    /// What has come of a head or a line that is not complete.
    partial: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Head,
    /// So many bytes of a body, at least one.
    Body(u64),
    ChunkSize,
    /// So many bytes of a chunk.
    Chunk(u64),
    ChunkEnd,
    Trailers,
}

impl Framing {
    /// `bytes` are on their way to the server.
    pub(super) fn requests(&mut self, bytes: &[u8]) {
        let unanswered = &mut self.unanswered;
        let head = |bytes: &[u8]| {
            let Some((head, is_head)) = request(bytes)? else {
                return Ok(None);
            };
            if unanswered.len() == MAX_UNANSWERED {
                return Err(GiveUp);
            }
            unanswered.push_back(is_head);
            Ok(Some(head))
        };
        self.given_up = self.given_up || self.requests.read(bytes, head).is_err();
    }

    /// `bytes` have come from the server.
    pub(super) fn responses(&mut self, bytes: &[u8]) {
        let unanswered = &mut self.unanswered;
        let head = |bytes: &[u8]| {
            let is_head = *unanswered.front().ok_or(GiveUp)?;
            let Some((head, interim)) = response(bytes, is_head)? else {
                return Ok(None);
            };
            if !interim {
                unanswered.pop_front();
            }
            Ok(Some(head))
        };
        self.given_up = self.given_up || self.responses.read(bytes, head).is_err();
    }

    /// Whether the server's connection can serve another client.
    pub(super) fn at_rest(&self) -> bool {
        self.unanswered.is_empty() && self.between_messages()
    }

    /// Whether `first`, all that was sent, is one whole request that may be sent again on another connection when this one
    /// turns out to be closed (RFC 9110 section 9.2.2; of a safe method).
    pub(super) fn may_be_sent_again(&self, first: &[u8]) -> bool {
        let methods = ["GET ", "HEAD ", "OPTIONS ", "TRACE "];
        let safe = methods
            .iter()
            .any(|method| first.starts_with(method.as_bytes()));
        safe && self.is_one_request()
    }

    /// Whether all that was sent is one whole request.
    pub(super) fn is_one_request(&self) -> bool {
        self.unanswered.len() == 1 && self.between_messages()
    }

    fn between_messages(&self) -> bool {
        !self.given_up && self.requests.between_messages() && self.responses.between_messages()
    }
}

impl Reader {
    /// `head` reads a head from the beginning of bytes; none if it is not complete.
    fn read(
        &mut self,
        mut bytes: &[u8],
        mut head: impl FnMut(&[u8]) -> Result<Option<Head>, GiveUp>,
    ) -> Result<(), GiveUp> {
        while !bytes.is_empty() {
            self.state = match self.state {
                State::Head => match self.head(&mut bytes, &mut head)? {
                    None | Some(Body::Length(0)) => State::Head,
                    Some(Body::Length(length)) => State::Body(length),
                    Some(Body::Chunked) => State::ChunkSize,
                },
                State::Body(left) => match skip(&mut bytes, left) {
                    0 => State::Head,
                    left => State::Body(left),
                },
                State::Chunk(left) => match skip(&mut bytes, left) {
                    0 => State::ChunkEnd,
                    left => State::Chunk(left),
                },
                line => match self.line(&mut bytes)? {
                    Some(text) => after(line, &text)?,
                    None => line,
                },
            };
        }
        Ok(())
    }

    fn head(
        &mut self,
        bytes: &mut &[u8],
        head: &mut impl FnMut(&[u8]) -> Result<Option<Head>, GiveUp>,
    ) -> Result<Option<Body>, GiveUp> {
        let before = self.partial.len();
        if before == 0 {
            // As a rule it comes at once.
            if let Some(Head {
                bytes: length,
                body,
            }) = head(bytes)?
            {
                *bytes = &bytes[length..];
                return Ok(Some(body));
            }
        }
        self.partial.extend_from_slice(bytes);
        let mut found = None;
        // Not byte by byte, over and over.
        if before > 0 && bytes.contains(&b'\n') {
            found = head(&self.partial)?;
        }
        let Some(Head {
            bytes: length,
            body,
        }) = found
        else {
            *bytes = &[];
            return match self.partial.len() {
                ..=MAX_HEAD => Ok(None),
                _ => Err(GiveUp),
            };
        };
        *bytes = bytes.get(length - before..).ok_or(GiveUp)?;
        self.partial.clear();
        Ok(Some(body))
    }

    /// A line without its end, once it is complete.
    fn line(&mut self, bytes: &mut &[u8]) -> Result<Option<Vec<u8>>, GiveUp> {
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let (line, rest) = bytes.split_at(end.map_or(bytes.len(), |end| end + 1));
        *bytes = rest;
        self.partial.extend_from_slice(line);
        if self.partial.len() > MAX_LINE {
            return Err(GiveUp);
        }
        if end.is_none() {
            return Ok(None);
        }
        let mut line = std::mem::take(&mut self.partial);
        if !line.ends_with(b"\r\n") {
            return Err(GiveUp);
        }
        line.truncate(line.len() - 2);
        Ok(Some(line))
    }

    fn between_messages(&self) -> bool {
        self.state == State::Head && self.partial.is_empty()
    }
}

/// Takes up to `left` bytes away; how many are still to come.
fn skip(bytes: &mut &[u8], left: u64) -> u64 {
    let here = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
    *bytes = &bytes[here..];
    left - here as u64
}

/// What comes after a `line` of a chunked body (RFC 9112 section 7.1).
fn after(state: State, line: &[u8]) -> Result<State, GiveUp> {
    match (state, line) {
        (State::ChunkSize, size) => match number(size, 16)? {
            0 => Ok(State::Trailers),
            size => Ok(State::Chunk(size)),
        },
        (State::ChunkEnd, []) => Ok(State::ChunkSize),
        (State::Trailers, []) => Ok(State::Head),
        (State::Trailers, [first, ..]) if !first.is_ascii_whitespace() => Ok(State::Trailers),
        _ => Err(GiveUp),
    }
}

#[cfg(test)]
#[path = "framing_tests.rs"]
mod tests;
