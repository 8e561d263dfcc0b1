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

/// Relays between `client` and `upstream`; `first` and `greeting` are bytes already read from them.
pub(super) async fn relay(
    client: &mut (impl AsyncRead + AsyncWrite + Unpin),
    upstream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    first: Vec<u8>,
    greeting: Vec<u8>,
    sent: &Tally,
    received: &Tally,
    idle_timeout: Option<Duration>,
) -> End {
    let mut up = Direction::new(first);
    let mut down = Direction::new(greeting);
    let mut unwritten = None;
    let ended = poll_fn(|cx| {
        if let Poll::Ready(Err(failed)) = up.poll(cx, client, upstream, sent) {
            match failed {
                Failed::Read(error) => return Poll::Ready(End::Client(error)),
                // A server that takes no more may still answer, or have said why: a TLS alert.
                Failed::Write(error) => {
                    unwritten = Some(error);
                    up.state = State::Done;
                }
            }
        }
        match down.poll(cx, upstream, client, received) {
            Poll::Ready(Err(Failed::Read(error))) => {
                Poll::Ready(End::Upstream(cause(error, unwritten.take())))
            }
            Poll::Ready(Err(Failed::Write(error))) => Poll::Ready(End::Client(error)),
            Poll::Ready(Ok(())) if matches!(up.state, State::Done) => Poll::Ready(End::Clean),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        }
    });
    tokio::select! {
        end = ended => end,
        () = until_idle(sent, received, idle_timeout) => End::Idle,
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

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut (impl AsyncRead + Unpin),
        writer: &mut (impl AsyncWrite + Unpin),
        tally: &Tally,
    ) -> Poll<Result<(), Failed>> {
        loop {
            match &mut self.state {
                State::Done => return Poll::Ready(Ok(())),
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
                    Poll::Ready(Ok(_)) => {}
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
