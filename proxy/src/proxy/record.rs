//! A client's connection that remembers what was read from it, until there is an answer.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Enough for the requests of a client that has seen no answer yet.
const MAX_RECORD: usize = 64 * 1024;

/// Reads and writes go through to `client`.
#[derive(Debug)]
pub(super) struct Recorded<'a, IO> {
    client: &'a mut IO,
    record: Option<Vec<u8>>,
}

impl<'a, IO> Recorded<'a, IO> {
    /// `record` is what has been read already; `None` records nothing.
    pub(super) fn new(client: &'a mut IO, record: Option<Vec<u8>>) -> Self {
        Self { client, record }
    }

    /// All that was read, if nothing was written yet and it is not too long.
    pub(super) fn into_record(self) -> Option<Vec<u8>> {
        self.record
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Recorded<'_, IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut *self.client).poll_read(cx, buffer))?;
        let read = &buffer.filled()[before..];
        self.record = self
            .record
            .take()
            .filter(|record| record.len() + read.len() <= MAX_RECORD);
        if let Some(record) = &mut self.record {
            record.extend_from_slice(read);
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Recorded<'_, IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.record = None;
        Pin::new(&mut *self.client).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.client).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.client).poll_shutdown(cx)
    }
}
