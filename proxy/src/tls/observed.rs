//! What a handshake's errors don't tell: the server's first bytes, and whether it asked for a client certificate.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::client_certificate::ClientCertificate;

/// How many of the server's first bytes are kept.
const KEPT: usize = 48;
/// How plaintext protocols begin in which a server answers a ClientHello, or speaks first.
const GREETINGS: [(&[u8], &str); 5] = [
    (b"HTTP/1.", "HTTP"),
    (b"SSH-", "SSH"),
    (b"220", "SMTP or FTP"),
    (b"+OK", "POP3"),
    (b"* OK", "IMAP"),
];

tokio::task_local! {
    /// Of the handshake that this task runs.
    pub(super) static OBSERVED: RefCell<Observed>;
}

/// What was seen of the server during the handshake.
#[derive(Debug, Default)]
pub(super) struct Observed {
    /// It has asked for a client certificate.
    pub(super) certificate_requested: bool,
    /// Its first bytes, [`KEPT`] at most.
    pub(super) first: Vec<u8>,
}

impl Observed {
    /// What the server speaks if it is not TLS, in words; no TLS record begins like it (RFC 8446 section 5.1).
    pub(super) fn plaintext(&self) -> Option<String> {
        let kind = *self.first.first()?;
        if (20..=24).contains(&kind) {
            return None;
        }
        let line = self.first.split(|byte| b"\r\n".contains(byte)).next();
        let shown = format!("\"{}\"", line.unwrap_or_default().escape_ascii());
        let known = GREETINGS
            .iter()
            .find(|(start, _)| self.first.starts_with(start));
        // An HTTP/2 server begins with a SETTINGS frame (RFC 9113 section 3.4).
        let settings = kind == 0 && self.first.get(3..5) == Some(&[4, 0]);
        Some(match known {
            Some((_, protocol)) => format!("{protocol}, not TLS: {shown}"),
            None if settings => "HTTP/2, not TLS".to_owned(),
            None => format!("something that is not TLS: {shown}"),
        })
    }
}

/// A connection whose first bytes are kept while its handshake goes on: rustls drops what it can't read.
#[derive(Debug)]
pub struct Observing<IO> {
    io: IO,
    /// What is shown to a server that asks.
    pub(super) certificate: Option<Arc<ClientCertificate>>,
}

impl<IO> Observing<IO> {
    pub(super) fn new(io: IO, certificate: Option<Arc<ClientCertificate>>) -> Self {
        Self { io, certificate }
    }

    /// The connection itself.
    pub fn get_ref(&self) -> &IO {
        &self.io
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Observing<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        // After the handshake there is nobody to tell.
        let _ = OBSERVED.try_with(|observed| {
            let first = &mut observed.borrow_mut().first;
            let read = &buffer.filled()[before..];
            first.extend(read.iter().take(KEPT - first.len()));
        });
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Observing<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
