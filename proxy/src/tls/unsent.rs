//! Bytes that wait to be sent to the server: in a buffer that is held only while there are any.

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::AsyncWrite;

use crate::buffer::{Buffer, SIZE};

#[derive(Default)]
pub(super) struct Unsent {
    buffer: Option<Buffer>,
    /// What of the buffer waits.
    filled: Range<usize>,
    /// Waits behind that: what no room was left for, which is rare, and what a handshake has left.
    more: BytesMut,
}

impl Unsent {
    /// Begins with these.
    pub(super) fn new(bytes: &[u8]) -> Self {
        Self {
            more: bytes.into(),
            ..Self::default()
        }
    }

    pub(super) fn len(&self) -> usize {
        self.filled.len() + self.more.len()
    }

    /// Room for `length` bytes behind all others, for the caller to fill: whatever is in it will be sent.
    pub(super) fn room(&mut self, length: usize) -> &mut [u8] {
        if self.filled.len() + length > SIZE || !self.more.is_empty() {
            let start = self.more.len();
            self.more.resize(start + length, 0);
            return &mut self.more[start..];
        }
        let buffer = self.buffer.get_or_insert_with(Buffer::borrow);
        if self.filled.end + length > SIZE {
            buffer.copy_within(self.filled.clone(), 0);
            self.filled = 0..self.filled.len();
        }
        let start = self.filled.end;
        self.filled.end += length;
        &mut buffer[start..self.filled.end]
    }

    /// Nothing waits any more.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        while self.len() > 0 {
            let waiting = match &self.buffer {
                Some(buffer) => &buffer[self.filled.clone()],
                None => &self.more,
            };
            let sent = ready!(Pin::new(&mut *io).poll_write(cx, waiting))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(sent);
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, count: usize) {
        if self.buffer.is_none() {
            self.more.advance(count);
        } else {
            self.filled.start += count;
        }
        if self.filled.is_empty() {
            (self.buffer, self.filled) = (None, 0..0);
        }
        if self.more.is_empty() {
            self.more = BytesMut::new();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::future::poll_fn;

    use proptest::prelude::*;

    use super::*;

    /// Takes a part of what it is given, and every third time nothing.
    struct Slow {
        took: Vec<u8>,
        most: usize,
        turn: u8,
    }

    impl AsyncWrite for Slow {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.turn = (self.turn + 1) % 3;
            if self.turn == 0 {
                return Poll::Pending;
            }
            let taken = bytes.len().min(self.most);
            self.took.extend_from_slice(&bytes[..taken]);
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    proptest! {
        #[test]
        fn all_is_sent_in_order_and_no_buffer_is_held_after_it(
            first in 0_usize..300,
            lengths in prop::collection::vec(1_usize..30_000, 0..30),
            most in 1_usize..50_000,
            sends in any::<u32>(),
        ) {
            let mut byte = 0_u8;
            let mut fill = |bytes: &mut [u8]| {
                for one in bytes {
                    byte = byte.wrapping_mul(5).wrapping_add(3);
                    *one = byte;
                }
            };
            let mut begun = vec![0; first];
            fill(&mut begun);
            let mut expected = begun.clone();
            let mut unsent = Unsent::new(&begun);
            let mut slow = Slow { took: Vec::new(), most, turn: 0 };
            let mut cx = Context::from_waker(std::task::Waker::noop());
            for (number, length) in lengths.into_iter().enumerate() {
                let room = unsent.room(length);
                prop_assert_eq!(room.len(), length);
                fill(room);
                expected.extend_from_slice(room);
                if sends >> number & 1 == 1 {
                    let _ = unsent.poll_send(&mut cx, &mut slow);
                }
                prop_assert_eq!(unsent.len(), expected.len() - slow.took.len());
            }
            while unsent.poll_send(&mut cx, &mut slow).is_pending() {}
            prop_assert!(slow.took == expected);
            prop_assert!(unsent.buffer.is_none() && unsent.more.capacity() == 0);
        }
    }

    #[tokio::test]
    async fn a_connection_that_takes_nothing_is_an_error() {
        let mut unsent = Unsent::new(b"x");
        let mut full = Slow {
            took: Vec::new(),
            most: 0,
            turn: 0,
        };
        let error = poll_fn(|cx| unsent.poll_send(cx, &mut full))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WriteZero);
    }
}
