//! Buffers that a connection holds only while there is data in them: thousands of idle ones hold none.

use std::cell::RefCell;
use std::io;
use std::ops::{Deref, DerefMut};
use std::task::{Context, Poll};

use bytes::Buf;

/// What four TLS records carry. The relay reads no more of what is to be sealed: it would make a record, and a send, of its own.
pub(crate) const PLAINTEXT: usize = 4 * 16 * 1024;
/// Those records whole: with two, a download took 15 % more CPU time.
pub(crate) const SIZE: usize = PLAINTEXT + 4 * 32;
/// How many a thread keeps for the next one in need.
const STOCKED: usize = 16;

thread_local! {
    static STOCK: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// [`SIZE`] bytes, with whatever the last borrower has left in them.
pub(crate) struct Buffer(Box<[u8]>);

impl Buffer {
    /// One of this thread's stock, or a new one.
    pub(crate) fn borrow() -> Self {
        let stocked = STOCK.try_with(|stock| stock.borrow_mut().pop());
        let stocked = stocked.ok().flatten();
        Self(stocked.unwrap_or_else(|| vec![0; SIZE].into_boxed_slice()))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.0);
        // A thread that ends needs none.
        let _ = STOCK.try_with(|stock| {
            let mut stock = stock.borrow_mut();
            if stock.len() < STOCKED {
                stock.push(bytes);
            }
        });
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

/// A reader that lends what it has read, in place.
pub(crate) trait Lend: Buf {
    /// Reads more if nothing remains. `false`: there is no more.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>>;
}

/// In how many pieces a [`Lend`] has what remains, at most.
pub(crate) const MAX_SLICES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_lent_again_and_few_are_kept() {
        let mut first = Buffer::borrow();
        first[0] = 7;
        drop(first);
        assert_eq!(Buffer::borrow()[0], 7);
        let many: Vec<_> = (0..2 * STOCKED).map(|_| Buffer::borrow()).collect();
        drop(many);
        assert_eq!(STOCK.with_borrow(Vec::len), STOCKED);
    }
}
