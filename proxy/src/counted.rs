//! A server's connection, below its TLS, whose bytes are counted.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use prometheus::IntCounter;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Counts what it sends and receives.
#[derive(Debug)]
pub struct Counted {
    socket: TcpStream,
    /// Where it leads, asked once: a pooled connection serves many clients.
    pub endpoint: Option<SocketAddr>,
    sent: IntCounter,
    received: IntCounter,
}

impl Counted {
    /// Adds to these two.
    pub fn new(socket: TcpStream, sent: IntCounter, received: IntCounter) -> Self {
        Self {
            endpoint: socket.peer_addr().ok(),
            socket,
            sent,
            received,
        }
    }

    /// Has the current runtime tell of its events, and no other one.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub fn move_here(self) -> io::Result<Self> {
        let socket = TcpStream::from_std(self.socket.into_std()?)?;
        Ok(Self { socket, ..self })
    }
}

impl AsFd for Counted {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        read: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = read.filled().len();
        let polled = Pin::new(&mut self.socket).poll_read(cx, read);
        self.received.inc_by((read.filled().len() - before) as u64);
        polled
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let sent = ready!(Pin::new(&mut self.socket).poll_write(cx, bytes))?;
        self.sent.inc_by(sent as u64);
        Poll::Ready(Ok(sent))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::runtime::{Builder, Runtime};

    use super::*;

    fn runtime() -> Runtime {
        Builder::new_current_thread().enable_all().build().unwrap()
    }

    #[test]
    fn a_connection_goes_on_in_another_runtime() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (first, second) = (runtime(), runtime());
        let counter = || IntCounter::new("bytes", "of a test").unwrap();
        let connecting = TcpStream::connect(listener.local_addr().unwrap());
        let socket = first.block_on(connecting).unwrap();
        let made = Counted::new(socket, counter(), counter());
        let (mut server, _) = listener.accept().unwrap();
        server.write_all(b"ab").unwrap();
        second.block_on(async {
            let mut moved = made.move_here().unwrap();
            drop(std::thread::spawn(|| drop(first)).join());
            moved.write_all(b"cde").await.unwrap();
            let mut read = [0; 2];
            moved.read_exact(&mut read).await.unwrap();
            assert_eq!((&read, moved.sent.get()), (b"ab", 3));
        });
        let mut read = [0; 3];
        server.read_exact(&mut read).unwrap();
        assert_eq!(&read, b"cde");
    }
}
