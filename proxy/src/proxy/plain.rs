//! A connection without TLS, as the relay takes it.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Buf;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::buffer::{Buffer, Lend, PLAINTEXT};

/// Enough for the requests of a client that has seen no answer yet.
const MAX_RECORD: usize = 64 * 1024;

/// Lends what is read of `io`. Remembers all of it, if asked to, until something is written.
pub(super) struct Plain<'a, IO> {
    io: &'a mut IO,
    held: Held,
    /// What of it is not consumed.
    rest: Range<usize>,
    record: Option<Vec<u8>>,
}

enum Held {
    Nothing,
    /// Was read earlier.
    Early(Vec<u8>),
    Buffer(Buffer),
}

impl<'a, IO> Plain<'a, IO> {
    /// `early` is what has been read already.
    pub(super) fn new(io: &'a mut IO, early: Vec<u8>) -> Self {
        Self {
            io,
            rest: 0..early.len(),
            held: Held::Early(early),
            record: None,
        }
    }

    /// From now on remembers what is read, and `early`.
    pub(super) fn recording(mut self) -> Self {
        self.record = Some(self.chunk().to_vec());
        self
    }

    /// All that was read, if nothing was written yet and it is not too long.
    pub(super) fn into_record(self) -> Option<Vec<u8>> {
        self.record
    }
}

impl<IO> Buf for Plain<'_, IO> {
    fn remaining(&self) -> usize {
        self.rest.len()
    }

    fn chunk(&self) -> &[u8] {
        match &self.held {
            Held::Nothing => &[],
            Held::Early(early) => &early[self.rest.clone()],
            Held::Buffer(buffer) => &buffer[self.rest.clone()],
        }
    }

    fn advance(&mut self, count: usize) {
        self.rest.start += count;
    }
}

impl<IO: AsyncRead + Unpin> Lend for Plain<'_, IO> {
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if self.has_remaining() {
            return Poll::Ready(Ok(true));
        }
        let mut buffer = match std::mem::replace(&mut self.held, Held::Nothing) {
            Held::Buffer(buffer) => buffer,
            Held::Nothing | Held::Early(_) => Buffer::borrow(),
        };
        let mut read = ReadBuf::new(&mut buffer[..PLAINTEXT]);
        let polled = Pin::new(&mut *self.io).poll_read(cx, &mut read);
        let bytes = read.filled();
        if !bytes.is_empty() {
            self.record = self
                .record
                .take()
                .filter(|record| record.len() + bytes.len() <= MAX_RECORD);
            if let Some(record) = &mut self.record {
                record.extend_from_slice(bytes);
            }
            self.rest = 0..bytes.len();
            self.held = Held::Buffer(buffer);
        }
        polled.map_ok(|()| self.has_remaining())
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Plain<'_, IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.record = None;
        Pin::new(&mut *self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.record = None;
        Pin::new(&mut *self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn what_is_lent_at_a_time_fits_into_whole_records() {
        let mut client = &*vec![b'x'; 2 * PLAINTEXT];
        let mut plain = Plain::new(&mut client, Vec::new());
        assert!(poll_fn(|cx| plain.poll_fill(cx)).await.unwrap());
        assert_eq!(plain.remaining(), PLAINTEXT);
    }
}
