//! A TLS connection to a server after its handshake. It lends what it has opened in place, many records of one read, and
//! holds a buffer only while there is something in it.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Buf;
use rustls::{AlertDescription, Error};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::client_certificate::ClientCertificate;
use super::control::{Control, Heard, alert_of};
use super::outgoing::Outgoing;
use super::records::{Opening, record_length};
use super::session::Session;
use crate::buffer::{Buffer, Lend, MAX_SLICES};

/// Shorter plaintext is moved to the end of the plaintext before it.
const SHORT: usize = 1024;

/// A TLS connection to a server.
pub struct TlsStream<IO> {
    io: IO,
    session: Session,
    /// What was shown to a server that has asked.
    certificate: Option<Arc<ClientCertificate>>,
    control: Control,
    opening: Opening,
    incoming: Incoming,
    outgoing: Outgoing,
    ended: Option<Ended>,
    /// Why something could not be sent while we read.
    unsent: Option<io::Error>,
}

/// What a handshake leaves.
pub(super) struct Established<IO> {
    pub(super) io: IO,
    pub(super) session: Session,
    pub(super) certificate: Option<Arc<ClientCertificate>>,
    pub(super) control: Control,
    pub(super) opening: Opening,
    /// Read already.
    pub(super) unread: Vec<u8>,
    /// May still have to send the handshake's last message: together with the first data.
    pub(super) outgoing: Outgoing,
}

/// How the server's half has ended, once all before is consumed.
#[derive(Clone)]
enum Ended {
    /// With close_notify.
    Closed,
    /// Without.
    Truncated,
    Failed(Error),
}

/// What has come and is not consumed.
#[derive(Default)]
struct Incoming {
    buffer: Option<Buffer>,
    /// Where in the buffer there is plaintext.
    plain: VecDeque<Range<usize>>,
    /// Where in the buffer there are records to open.
    sealed: Range<usize>,
    /// Such records while there is no buffer: as a rule the beginning of one, or nothing.
    unread: Vec<u8>,
}

impl Incoming {
    /// The buffer, with what was put aside, and where in it there are records to open.
    fn buffer(&mut self) -> (&mut Buffer, &mut Range<usize>) {
        let buffer = self.buffer.get_or_insert_with(|| {
            let mut buffer = Buffer::borrow();
            let unread = std::mem::take(&mut self.unread);
            buffer[..unread.len()].copy_from_slice(&unread);
            self.sealed = 0..unread.len();
            buffer
        });
        (buffer, &mut self.sealed)
    }

    /// Whether there is anything to open.
    fn is_begun(&self) -> bool {
        self.buffer.is_some() || !self.unread.is_empty()
    }

    /// Gives the buffer back if it has no plaintext.
    fn put_aside(&mut self) {
        if self.plain.is_empty()
            && let Some(buffer) = self.buffer.take()
        {
            self.unread = buffer[self.sealed.clone()].to_vec();
        }
    }

    /// Adds plaintext that is behind all other.
    fn push(&mut self, range: Range<usize>) {
        if let (Some(last), Some(buffer)) = (self.plain.back_mut(), &mut self.buffer)
            && range.len() < SHORT
        {
            let end = last.end + range.len();
            buffer.copy_within(range, last.end);
            last.end = end;
        } else {
            self.plain.push_back(range);
        }
    }
}

impl<IO> TlsStream<IO> {
    pub(super) fn new(established: Established<IO>) -> Self {
        let Established {
            io,
            session,
            certificate,
            control,
            opening,
            unread,
            outgoing,
        } = established;
        Self {
            io,
            session,
            certificate,
            control,
            opening,
            incoming: Incoming {
                unread,
                ..Incoming::default()
            },
            outgoing,
            ended: None,
            unsent: None,
        }
    }

    /// The connection below.
    pub fn get_ref(&self) -> &IO {
        &self.io
    }

    /// The same on what `map` makes of the connection below.
    ///
    /// # Errors
    /// Those of `map`.
    pub fn try_map(self, map: impl FnOnce(IO) -> io::Result<IO>) -> io::Result<Self> {
        let io = map(self.io)?;
        Ok(Self { io, ..self })
    }

    /// What the handshake has negotiated.
    pub fn session(&self) -> Session {
        self.session
    }

    /// What was shown to a server that has asked.
    pub(super) fn certificate(&self) -> Option<&ClientCertificate> {
        self.certificate.as_deref()
    }

    #[cfg(test)]
    pub(super) fn holds_buffer(&self) -> bool {
        self.incoming.buffer.is_some()
    }

    /// The same on another connection, and the one below.
    #[cfg(test)]
    pub(super) fn replace(mut self, io: IO) -> (Self, IO) {
        let before = std::mem::replace(&mut self.io, io);
        (self, before)
    }

    /// Opens the whole records that there are, and heeds those that are no data.
    fn open(&mut self) -> Result<(), Error> {
        let incoming = &mut self.incoming;
        while self.ended.is_none() && incoming.plain.len() < MAX_SLICES {
            let (buffer, sealed) = incoming.buffer();
            let record = &mut buffer[sealed.clone()];
            let Some(length) = record_length(record)? else {
                break;
            };
            let (kind, plain) = self.opening.open(&mut record[..length])?;
            let heard = self.control.hear(kind, &record[plain.clone()])?;
            let start = sealed.start;
            sealed.start += length;
            match heard {
                Heard::Nothing => {}
                Heard::Data => incoming.push(start + plain.start..start + plain.end),
                Heard::Closed => self.ended = Some(Ended::Closed),
                Heard::NewKeys(ours_too) => {
                    self.opening = self.control.next_opening()?;
                    self.outgoing.new_keys |= ours_too;
                }
                Heard::Renegotiation => {
                    let refusal = AlertDescription::NoRenegotiation;
                    self.outgoing.warn(refusal)?;
                }
            }
        }
        Ok(())
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Lend for TlsStream<IO> {
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        self.send_while_reading(cx);
        loop {
            if self.has_remaining() {
                return Poll::Ready(Ok(true));
            }
            if self.ended.is_some() {
                self.incoming = Incoming::default();
            }
            match &self.ended {
                None => {}
                Some(Ended::Closed) => return Poll::Ready(Ok(false)),
                Some(Ended::Truncated) => return Poll::Ready(Err(truncated())),
                Some(Ended::Failed(error)) => return Poll::Ready(Err(invalid(error.clone()))),
            }
            if self.incoming.is_begun()
                && let Err(error) = self.open()
            {
                self.outgoing.fail(alert_of(&error));
                // Best effort: the error itself is the one to tell.
                let _ = self.outgoing.poll_send(cx, &mut self.io);
                self.ended = Some(Ended::Failed(error));
            }
            if self.has_remaining() || self.ended.is_some() {
                continue;
            }
            self.send_while_reading(cx);
            match self.poll_more(cx) {
                Poll::Ready(Ok(0)) => match self.unsent.take() {
                    Some(error) => return Poll::Ready(Err(error)),
                    None => self.ended = Some(Ended::Truncated),
                },
                Poll::Ready(Ok(_)) => {}
                ended => {
                    self.incoming.put_aside();
                    return ended.map_ok(|_| false);
                }
            }
        }
    }
}

impl<IO: AsyncWrite + Unpin> TlsStream<IO> {
    /// What the server waits for, if anything: the handshake's last message, an answer to new keys.
    fn send_while_reading(&mut self, cx: &mut Context<'_>) {
        if let Poll::Ready(Err(error)) = self.outgoing.poll_send(cx, &mut self.io) {
            self.unsent = Some(error);
        }
    }
}

impl<IO: AsyncRead + Unpin> TlsStream<IO> {
    /// Reads behind the beginning of a record.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let incoming = &mut self.incoming;
        let (buffer, sealed) = incoming.buffer();
        buffer.copy_within(sealed.clone(), 0);
        *sealed = 0..sealed.len();
        let mut read = ReadBuf::new(&mut buffer[sealed.end..]);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut read))?;
        let count = read.filled().len();
        sealed.end += count;
        Poll::Ready(Ok(count))
    }
}

impl<IO> Buf for TlsStream<IO> {
    fn remaining(&self) -> usize {
        self.incoming.plain.iter().map(Range::len).sum()
    }

    fn has_remaining(&self) -> bool {
        !self.incoming.plain.is_empty()
    }

    fn chunk(&self) -> &[u8] {
        match (self.incoming.plain.front(), &self.incoming.buffer) {
            (Some(range), Some(buffer)) => &buffer[range.clone()],
            _ => &[],
        }
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let Some(buffer) = &self.incoming.buffer else {
            return 0;
        };
        let ranges = self.incoming.plain.iter();
        let pairs = slices.iter_mut().zip(ranges);
        pairs
            .map(|(slice, range)| *slice = IoSlice::new(&buffer[range.clone()]))
            .count()
    }

    fn advance(&mut self, mut count: usize) {
        while let Some(range) = self.incoming.plain.front_mut() {
            let here = count.min(range.len());
            range.start += here;
            count -= here;
            if range.start < range.end {
                break;
            }
            self.incoming.plain.pop_front();
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        read: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_fill(cx))?;
        while this.has_remaining() && read.remaining() > 0 {
            let chunk = this.chunk();
            let count = chunk.len().min(read.remaining());
            read.put_slice(&chunk[..count]);
            this.advance(count);
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for TlsStream<IO> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.outgoing.is_full() {
            ready!(this.outgoing.poll_send(cx, &mut this.io))?;
        }
        let taken = this.outgoing.seal_data(&mut this.control, bytes)?;
        // What is not sent now is sent by the next call, or when it is flushed.
        match this.outgoing.poll_send(cx, &mut this.io) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(taken)),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.outgoing.poll_send(cx, &mut this.io))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.outgoing.close().map_err(invalid)?;
        ready!(this.outgoing.poll_send(cx, &mut this.io))?;
        match ready!(Pin::new(&mut this.io).poll_shutdown(cx)) {
            // The server was faster.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            ended => Poll::Ready(ended),
        }
    }
}

impl<IO> fmt::Debug for TlsStream<IO> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TlsStream({:?})", self.session)
    }
}

fn truncated() -> io::Error {
    let detail = "the server ended the connection without TLS close_notify";
    io::Error::new(io::ErrorKind::UnexpectedEof, detail)
}

pub(super) fn invalid(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
