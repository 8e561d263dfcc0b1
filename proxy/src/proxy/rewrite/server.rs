//! The connection to the server.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::cause::Cause;
use crate::tls::{ServerStream, Stage, failure_from_io};

/// Notes why it failed: of HTTP/2, hyper tells a request nothing of it. A server that takes no more may still answer, or
/// have said why (a TLS alert), so a write that failed is told only when all was read.
pub(super) struct Server {
    stream: Box<ServerStream>,
    cause: Cause,
    unwritten: Option<io::Error>,
    all_read: bool,
    writer: Option<Waker>,
}

impl Server {
    pub(super) fn new(stream: Box<ServerStream>, cause: Cause) -> Self {
        Self {
            stream,
            cause,
            unwritten: None,
            all_read: false,
            writer: None,
        }
    }

    /// What `write` comes to.
    fn write<T>(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut ServerStream>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if self.unwritten.is_none() {
            match ready!(write(Pin::new(&mut self.stream), cx)) {
                Ok(written) => return Poll::Ready(Ok(written)),
                Err(error) => self.unwritten = Some(error),
            }
        }
        if !self.all_read {
            self.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let error = self.unwritten.take();
        let error = error.unwrap_or_else(|| io::ErrorKind::BrokenPipe.into());
        self.cause.note(|| failure_from_io(&error, Stage::Relay));
        Poll::Ready(Err(error))
    }
}

impl AsyncRead for Server {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buffer));
        if let Err(error) = &read {
            self.cause.note(|| failure_from_io(error, Stage::Relay));
        }
        if buffer.filled().len() == before {
            self.all_read = true;
            if let Some(writer) = self.writer.take() {
                writer.wake();
            }
        }
        Poll::Ready(read)
    }
}

impl AsyncWrite for Server {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.write(cx, |stream, cx| stream.poll_write(cx, bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write(cx, AsyncWrite::poll_flush)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
