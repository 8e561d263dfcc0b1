//! Copies bytes both ways until both ends are done. Each direction closes on its own (half-close), waits for its writer
//! (backpressure), and what was read is written before an error is told.

use std::future::{pending, poll_fn};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use prometheus::IntCounter;
use tokio::io::AsyncWrite;
use tokio::time::{Instant, sleep};

use super::framing::Framing;
use crate::buffer::{Lend, MAX_SLICES};

/// How many bytes one direction moves, roughly, before other connections have their turn.
const TURN: usize = 1024 * 1024;

/// How a relay ended.
#[derive(Debug)]
pub(super) enum End {
    /// Both sides closed properly.
    Clean,
    /// The client's connection failed.
    Client(io::Error),
    /// The upstream connection failed, or ended without close_notify.
    Upstream(io::Error),
    /// The client is done, and the server has answered all; it was not told of the client's end.
    Answered,
    /// Neither side sent a byte for as long as the policy allows.
    Idle,
}

/// Bytes moved, of this connection and of all of its target's.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    bytes: Arc<AtomicU64>,
    total: IntCounter,
}

impl Tally {
    /// Starts at zero; `total` goes on.
    pub(super) fn new(total: IntCounter) -> Self {
        let bytes = Arc::default();
        Self { bytes, total }
    }

    /// Of this connection.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.total.inc_by(bytes as u64);
    }
}

/// What there is to relay.
pub(super) struct Relay<'a> {
    pub(super) sent: &'a Tally,
    pub(super) received: &'a Tally,
    pub(super) idle_timeout: Option<Duration>,
    /// Follows HTTP/1.1, so that the server's connection can be left at rest. It knows already what was
    /// read before.
    pub(super) framing: Option<&'a mut Framing>,
    /// The client wants no more than this answer.
    pub(super) last: bool,
}

impl Relay<'_> {
    /// Relays between the two, beginning with what they have read already.
    pub(super) async fn between(
        self,
        client: &mut (impl Lend + AsyncWrite + Unpin),
        upstream: &mut (impl Lend + AsyncWrite + Unpin),
    ) -> End {
        let Self {
            sent,
            received,
            idle_timeout,
            mut framing,
            last,
        } = self;
        let (mut up, mut down) = (Direction::default(), Direction::default());
        let mut unwritten = None;
        // The client's end is passed on, but not to a server that can be left at rest.
        let mut hold = framing.is_some();
        let ended = poll_fn(|cx| {
            loop {
                let follow = |bytes: &[u8]| {
                    framing
                        .as_deref_mut()
                        .map(|framing| framing.requests(bytes))
                };
                match up.poll(cx, client, upstream, sent, follow, hold) {
                    Poll::Ready(Err(Failed::Read(error))) => {
                        return Poll::Ready(End::Client(error));
                    }
                    // A server that takes no more may still answer, or have said why: a TLS alert.
                    Poll::Ready(Err(Failed::Write(error))) => {
                        unwritten = Some(error);
                        up.state = State::Done;
                    }
                    Poll::Ready(Ok(())) | Poll::Pending => {}
                }
                let follow = |bytes: &[u8]| {
                    framing
                        .as_deref_mut()
                        .map(|framing| framing.responses(bytes))
                };
                match down.poll(cx, upstream, client, received, follow, false) {
                    Poll::Ready(Err(Failed::Read(error))) => {
                        return Poll::Ready(End::Upstream(cause(error, unwritten.take())));
                    }
                    Poll::Ready(Err(Failed::Write(error))) => {
                        return Poll::Ready(End::Client(error));
                    }
                    Poll::Ready(Ok(())) if matches!(up.state, State::Done) => {
                        return Poll::Ready(End::Clean);
                    }
                    Poll::Ready(Ok(())) | Poll::Pending => {}
                }
                let held = hold && up.at_end();
                let over = |framing: &&mut Framing| {
                    hold && down.is_idle(upstream)
                        && !client.has_remaining()
                        && (held && framing.at_rest() || last && framing.is_answered())
                };
                if framing.as_ref().is_some_and(over) {
                    return Poll::Ready(End::Answered);
                }
                if !held {
                    return Poll::Pending;
                }
                hold = false;
            }
        });
        tokio::select! {
            end = ended => end,
            () = until_idle(sent, received, idle_timeout) => End::Idle,
        }
    }
}

/// Ends when no byte was moved for `limit`, or a quarter longer; without one never.
pub(super) async fn until_idle(sent: &Tally, received: &Tally, limit: Option<Duration>) {
    let Some(limit) = limit else {
        return pending().await;
    };
    let (mut moved, mut since) = (0, Instant::now());
    while since.elapsed() < limit {
        sleep(limit / 4).await;
        let now = sent.bytes() + received.bytes();
        if now != moved {
            (moved, since) = (now, Instant::now());
        }
    }
}

/// A failed write takes the socket's error, such as a reset: the read after it finds a bare end.
pub(super) fn cause(read: io::Error, write: Option<io::Error>) -> io::Error {
    use io::ErrorKind::{BrokenPipe, UnexpectedEof};
    match write {
        // A broken pipe says no more than that the end came before.
        Some(write) if read.kind() == UnexpectedEof && write.kind() != BrokenPipe => write,
        _ => read,
    }
}

enum Failed {
    Read(io::Error),
    Write(io::Error),
}

#[derive(Default)]
enum State {
    #[default]
    Copying,
    /// The reader is at its end, cleanly or not: flush, then close the writer or tell.
    Ending(Option<io::Error>),
    Done,
}

#[derive(Default)]
struct Direction {
    unflushed: bool,
    state: State,
}

impl Direction {
    /// `follow` sees what is read. With `hold` the reader's end is not passed on to the writer yet.
    fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut impl Lend,
        writer: &mut (impl AsyncWrite + Unpin),
        tally: &Tally,
        mut follow: impl FnMut(&[u8]) -> T,
        hold: bool,
    ) -> Poll<Result<(), Failed>> {
        let mut moved = 0;
        loop {
            match &mut self.state {
                State::Done => return Poll::Ready(Ok(())),
                State::Ending(None) if hold => return Poll::Pending,
                State::Ending(error) => {
                    if error.is_some() {
                        // Best effort: the reader's error is the one to tell.
                        let _ = ready!(Pin::new(&mut *writer).poll_flush(cx));
                    } else {
                        ready!(Pin::new(&mut *writer).poll_shutdown(cx)).map_err(Failed::Write)?;
                    }
                    let error = error.take();
                    self.state = State::Done;
                    return Poll::Ready(error.map_or(Ok(()), |error| Err(Failed::Read(error))));
                }
                State::Copying if reader.has_remaining() => {
                    if moved >= TURN {
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    let written = ready!(poll_write(cx, reader, writer)).map_err(Failed::Write)?;
                    if written == 0 {
                        return Poll::Ready(Err(Failed::Write(io::ErrorKind::WriteZero.into())));
                    }
                    tally.add(written);
                    moved += written;
                    reader.advance(written);
                    self.unflushed = true;
                }
                State::Copying => match reader.poll_fill(cx) {
                    Poll::Ready(Ok(false)) => self.state = State::Ending(None),
                    Poll::Ready(Ok(true)) => each(reader, &mut follow),
                    Poll::Ready(Err(error)) => self.state = State::Ending(Some(error)),
                    Poll::Pending => {
                        if self.unflushed {
                            ready!(Pin::new(&mut *writer).poll_flush(cx)).map_err(Failed::Write)?;
                            self.unflushed = false;
                        }
                        return Poll::Pending;
                    }
                },
            }
        }
    }

    fn at_end(&self) -> bool {
        matches!(self.state, State::Ending(None))
    }

    /// Nothing is left to write, and more may come.
    fn is_idle(&self, reader: &impl Lend) -> bool {
        matches!(self.state, State::Copying) && !reader.has_remaining()
    }
}

/// Writes what `reader` lends, by one system call.
fn poll_write(
    cx: &mut Context<'_>,
    reader: &impl Lend,
    writer: &mut (impl AsyncWrite + Unpin),
) -> Poll<io::Result<usize>> {
    let writer = Pin::new(writer);
    let chunk = reader.chunk();
    if chunk.len() == reader.remaining() || !writer.is_write_vectored() {
        return writer.poll_write(cx, chunk);
    }
    let mut slices = [IoSlice::new(&[]); MAX_SLICES];
    let count = reader.chunks_vectored(&mut slices);
    writer.poll_write_vectored(cx, &slices[..count])
}

/// Shows what `reader` lends to `follow`.
pub(super) fn each<T>(reader: &impl Lend, mut follow: impl FnMut(&[u8]) -> T) {
    let mut slices = [IoSlice::new(&[]); MAX_SLICES];
    let count = reader.chunks_vectored(&mut slices);
    for slice in &slices[..count] {
        follow(slice);
    }
}

#[cfg(test)]
#[path = "relay_tests.rs"]
mod tests;
