//! Follows HTTP/1.1 messages (RFC 9112) that go through unchanged, to know when a server's connection is at rest: every
//! request answered, no message begun. Such a connection can serve another client.
//!
//! It is a strict reader. A connection is its client's own, and never another's, once a message was seen that two readers
//! could take differently (two lengths, a bare LF, trailers), that ends the connection, or that has the connection stand
//! for who uses it (NTLM, Negotiate). What can't be followed at all is given up. Both go on as bytes, for this client.

mod head;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod properties;

use std::collections::VecDeque;

use self::head::{Body, Head, number, request, response};
use super::head::MAX_HEAD;

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
    /// The connection is this client's own.
    own: bool,
    given_up: bool,
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
        self.requests.read(bytes, |bytes| {
            let Some((head, is_head)) = request(bytes)? else {
                return Ok(None);
            };
            if unanswered.len() == MAX_UNANSWERED {
                return Err(GiveUp);
            }
            unanswered.push_back(is_head);
            Ok(Some(head))
        });
    }

    /// `bytes` have come from the server.
    pub(super) fn responses(&mut self, bytes: &[u8]) {
        let Self {
            requests,
            unanswered,
            ..
        } = self;
        self.responses.read(bytes, |bytes| {
            let is_head = *unanswered.front().ok_or(GiveUp)?;
            let Some((mut head, interim)) = response(bytes, is_head)? else {
                return Ok(None);
            };
            if !interim {
                // Before the whole request: what is still to come of it might be taken for another one.
                head.own |= !requests.between_messages();
                unanswered.pop_front();
            }
            Ok(Some(head))
        });
    }

    /// Whether the server's connection can serve another client.
    pub(super) fn at_rest(&self) -> bool {
        self.is_answered() && self.requests.between_messages() && !self.is_own()
    }

    /// Whether the connection is this client's own: see the module.
    pub(super) fn is_own(&self) -> bool {
        self.requests.own || self.responses.own
    }

    /// Whether the server has said all that it was asked for.
    pub(super) fn is_answered(&self) -> bool {
        self.unanswered.is_empty() && self.responses.between_messages()
    }

    /// Whether all that was sent is one whole request.
    pub(super) fn is_one_request(&self) -> bool {
        self.unanswered.len() == 1 && self.requests.between_messages()
    }

    /// Whether `first`, all that was sent, is one whole request that may be sent again on another connection when this one
    /// turns out to be closed (RFC 9110 section 9.2.2; of a safe method).
    pub(super) fn may_be_sent_again(&self, first: &[u8]) -> bool {
        let methods = ["GET ", "HEAD ", "OPTIONS ", "TRACE "];
        let safe = methods
            .iter()
            .any(|method| first.starts_with(method.as_bytes()));
        safe && self.is_one_request() && !self.is_own()
    }
}

impl Reader {
    /// `head` reads a head from the beginning of bytes; none if it is not complete.
    fn read(&mut self, bytes: &[u8], head: impl FnMut(&[u8]) -> Result<Option<Head>, GiveUp>) {
        self.given_up = self.given_up || self.follow(bytes, head).is_err();
    }

    fn follow(
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
                State::ChunkSize | State::ChunkEnd | State::Trailers => {
                    match self.line(&mut bytes)? {
                        Some(line) => self.after(&line)?,
                        None => self.state,
                    }
                }
            };
        }
        Ok(())
    }

    /// What comes after a `line` of a chunked body (RFC 9112 section 7.1).
    fn after(&mut self, line: &[u8]) -> Result<State, GiveUp> {
        match (self.state, line) {
            (State::ChunkSize, line) => {
                // An extension, or space: not all servers skip that alike.
                let end = line.iter().position(|byte| b"; \t".contains(byte));
                self.own |= end.is_some();
                match number(&line[..end.unwrap_or(line.len())], 16)? {
                    0 => Ok(State::Trailers),
                    size => Ok(State::Chunk(size)),
                }
            }
            (State::ChunkEnd, []) => Ok(State::ChunkSize),
            (State::Trailers, []) => Ok(State::Head),
            (State::Trailers, _) => {
                // Not all servers read them.
                self.own = true;
                Ok(State::Trailers)
            }
            _ => Err(GiveUp),
        }
    }

    fn head(
        &mut self,
        bytes: &mut &[u8],
        head: &mut impl FnMut(&[u8]) -> Result<Option<Head>, GiveUp>,
    ) -> Result<Option<Body>, GiveUp> {
        let before = self.partial.len();
        let found = if before == 0 {
            // As a rule it comes at once.
            head(bytes)?
        } else {
            self.partial.extend_from_slice(bytes);
            // Not byte by byte, over and over.
            let may_end = bytes.contains(&b'\n');
            may_end.then(|| head(&self.partial)).transpose()?.flatten()
        };
        if let Some(head) = found {
            self.own |= head.own;
            *bytes = bytes.get(head.bytes - before..).ok_or(GiveUp)?;
            self.partial.clear();
            return Ok(Some(head.body));
        }
        if before == 0 {
            self.partial.extend_from_slice(bytes);
        }
        *bytes = &[];
        match self.partial.len() {
            ..=MAX_HEAD => Ok(None),
            _ => Err(GiveUp),
        }
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
        line.pop();
        self.own |= line.pop_if(|last| *last == b'\r').is_none();
        Ok(Some(line))
    }

    fn between_messages(&self) -> bool {
        !self.given_up && self.state == State::Head && self.partial.is_empty()
    }
}

/// Takes up to `left` bytes away; how many are still to come.
fn skip(bytes: &mut &[u8], left: u64) -> u64 {
    let here = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
    *bytes = &bytes[here..];
    left - here as u64
}

#[cfg(test)]
#[path = "framing_tests.rs"]
mod tests;
