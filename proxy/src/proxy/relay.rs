//! Copies bytes both ways until both ends are done. Each direction closes on its own (half-close), waits for its writer
//! (backpressure), and what was read is written before an error is told.

use std::future::{pending, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use prometheus::IntCounter;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep};

use super::framing::Framing;

/// One TLS record's worth (RFC 8446 section 5.1).
const BUFFER: usize = 16 * 1024;

/// How a relay ended.
#[derive(Debug)]
pub(super) enum End {
    /// Both sides closed properly.
    Clean,
    /// The client's connection failed.
    Client(io::Error),
    /// The upstream connection failed, or ended without close_notify.
    Upstream(io::Error),
    /// The client is done, and the server's connection could serve another one.
    AtRest,
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
    /// Already read from the client.
    pub(super) first: Vec<u8>,
    /// Already read from the server.
    pub(super) greeting: Vec<u8>,
    pub(super) sent: &'a Tally,
    pub(super) received: &'a Tally,
    pub(super) idle_timeout: Option<Duration>,
    /// Follows HTTP/1.1, so that the server's connection can be left at rest. It knows `first` and `greeting` already.
    pub(super) framing: Option<&'a mut Framing>,
}

impl Relay<'_> {
    /// Relays between the two.
    pub(super) async fn between(
        self,
        client: &mut (impl AsyncRead + AsyncWrite + Unpin),
        upstream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    ) -> End {
        let Self {
            sent,
            received,
            idle_timeout,
            mut framing,
            ..
        } = self;
        let mut up = Direction::new(self.first);
        let mut down = Direction::new(self.greeting);
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
                let over = |framing: &&mut Framing| framing.at_rest() && (held || framing.last);
                if down.is_idle() && framing.as_ref().is_some_and(over) {
                    return Poll::Ready(End::AtRest);
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
fn cause(read: io::Error, write: Option<io::Error>) -> io::Error {
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

enum State {
    Copying,
    /// The reader is at its end, cleanly or not: flush, then close the writer or tell.
    Ending(Option<io::Error>),
    Done,
}

struct Direction {
    buffer: Vec<u8>,
    /// What was read and not yet written is `buffer[start..end]`.
    start: usize,
    end: usize,
    unflushed: bool,
    state: State,
}

impl Direction {
    fn new(pending: Vec<u8>) -> Self {
        Self {
            start: 0,
            end: pending.len(),
            buffer: pending,
            unflushed: false,
            state: State::Copying,
        }
    }

    /// `follow` sees what is read. With `hold` the reader's end is not passed on to the writer yet.
    fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut (impl AsyncRead + Unpin),
        writer: &mut (impl AsyncWrite + Unpin),
        tally: &Tally,
        mut follow: impl FnMut(&[u8]) -> T,
        hold: bool,
    ) -> Poll<Result<(), Failed>> {
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
                State::Copying if self.start < self.end => {
                    let pending = &self.buffer[self.start..self.end];
                    let written = ready!(Pin::new(&mut *writer).poll_write(cx, pending))
                        .map_err(Failed::Write)?;
                    if written == 0 {
                        return Poll::Ready(Err(Failed::Write(io::ErrorKind::WriteZero.into())));
                    }
                    tally.add(written);
                    self.start += written;
                    self.unflushed = true;
                }
                State::Copying => match self.poll_fill(cx, reader) {
                    Poll::Ready(Ok(0)) => self.state = State::Ending(None),
                    Poll::Ready(Ok(read)) => {
                        follow(&self.buffer[..read]);
                    }
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
    fn is_idle(&self) -> bool {
        matches!(self.state, State::Copying) && self.start == self.end
    }

    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut (impl AsyncRead + Unpin),
    ) -> Poll<io::Result<usize>> {
        self.buffer.resize(BUFFER, 0); // once: to zero it before every read would cost more than a small read does
        let mut read = ReadBuf::new(&mut self.buffer);
        ready!(Pin::new(reader).poll_read(cx, &mut read))?;
        self.start = 0;
        self.end = read.filled().len();
        Poll::Ready(Ok(self.end))
    }
}

#[cfg(test)]
#[path = "relay_tests.rs"]
mod tests;
