//! A client's connection as an HTTP library takes it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::proxy::relay::Tally;

/// Begins with what was read already, counts, and ends by RST unless it is shut down: what is cut off must not look
/// cleanly ended.
pub(in crate::proxy) struct Client {
    unread: Vec<u8>,
    stream: TcpStream,
    sent: Tally,
    received: Tally,
}

impl Client {
    /// `stream` is one that [`abort_by_default`](crate::proxy::respond::abort_by_default) was called for.
    pub(in crate::proxy) fn new(
        unread: Vec<u8>,
        stream: TcpStream,
        sent: Tally,
        received: Tally,
    ) -> Self {
        Self {
            unread,
            stream,
            sent,
            received,
        }
    }
}

impl AsyncRead for Client {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        if self.unread.is_empty() {
            ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        } else {
            let count = self.unread.len().min(buffer.remaining());
            buffer.put_slice(&self.unread[..count]);
            self.unread.drain(..count);
        }
        self.sent.add(buffer.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Client {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.received.add(written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let _ = SockRef::from(&self.stream).set_linger(None);
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
