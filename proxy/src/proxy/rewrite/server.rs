//! The connection to the server.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::cause::Cause;
use crate::failure::Failure;
use crate::proxy::relay::cause;

/// Notes why it failed: of HTTP/2, hyper tells a request nothing of it. A server whose socket takes no more may have
/// answered, or have said why (a TLS alert), but an HTTP library whose write failed reads no more, and one whose write
/// waits may be about to. So such a write is taken as done, and its error is told where the reading ends, as it must.
pub(super) struct Server<S> {
    stream: S,
    cause: Cause,
    describe: fn(&io::Error, &S) -> Failure,
    unwritten: Option<io::Error>,
}

impl<S> Server<S> {
    pub(super) fn new(stream: S, cause: Cause, describe: fn(&io::Error, &S) -> Failure) -> Self {
        Self {
            stream,
            cause,
            describe,
            unwritten: None,
        }
    }

    /// What `write` comes to, which is `lost` where the socket takes nothing more.
    fn write<T>(
        &mut self,
        lost: T,
        write: impl FnOnce(Pin<&mut S>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>>
    where
        S: Unpin,
    {
        if self.unwritten.is_some() {
            return Poll::Ready(Ok(lost));
        }
        match ready!(write(Pin::new(&mut self.stream))) {
            Err(error) if is_of_socket(&error) => {
                self.unwritten = Some(error);
                Poll::Ready(Ok(lost))
            }
            written => Poll::Ready(written.map_err(|error| self.failed(error))),
        }
    }

    fn failed(&self, error: io::Error) -> io::Error {
        self.cause.note(|| (self.describe)(&error, &self.stream));
        error
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Server<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buffer));
        // A proper end is none of a failure: what we had to say after it is of no use.
        Poll::Ready(read.map_err(|error| {
            let error = cause(error, self.unwritten.take());
            self.failed(error)
        }))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Server<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.write(bytes.len(), |stream| stream.poll_write(cx, bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write((), |stream| stream.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write((), |stream| stream.poll_shutdown(cx))
    }
}

/// Whether the connection itself can't be written to: then reading it ends soon. Other errors stop nobody else.
fn is_of_socket(error: &io::Error) -> bool {
    use io::ErrorKind::{
        BrokenPipe, ConnectionAborted, ConnectionReset, HostUnreachable, NetworkUnreachable,
        TimedOut,
    };
    matches!(
        error.kind(),
        BrokenPipe
            | ConnectionAborted
            | ConnectionReset
            | HostUnreachable
            | NetworkUnreachable
            | TimedOut
    )
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
