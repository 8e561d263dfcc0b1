//! Records on their way to the server.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::{AlertDescription, ContentType, Error};
use tokio::io::AsyncWrite;

use super::control::Control;
use super::records::{MAX_PLAINTEXT, Sealing};
use super::stream::invalid;

/// No data is taken while so many bytes wait to be sent.
const FULL: usize = MAX_PLAINTEXT;
/// How many records of data are sent by one system call.
const RECORDS: usize = 4;
/// A KeyUpdate message that asks for none in return (RFC 8446 section 4.6.3).
const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];
const WARNING: u8 = 1;
const FATAL: u8 = 2;

/// Seals, and keeps what is sealed until it is sent.
pub(super) struct Outgoing {
    sealing: Sealing,
    sealed: VecDeque<Vec<u8>>,
    /// How much of the first one is sent.
    sent: usize,
    /// Nothing more may be sealed.
    closed: bool,
    /// To be taken before the next data.
    pub(super) new_keys: bool,
}

impl Outgoing {
    /// Begins with `unsent`, the handshake's last records.
    pub(super) fn new(sealing: Sealing, unsent: Vec<u8>) -> Self {
        let mut outgoing = Self {
            sealing,
            sealed: VecDeque::new(),
            sent: 0,
            closed: false,
            new_keys: false,
        };
        if !unsent.is_empty() {
            outgoing.sealed.push_back(unsent);
        }
        outgoing
    }

    /// Whether some must be sent before more is taken.
    pub(super) fn is_full(&self) -> bool {
        let waiting: usize = self.sealed.iter().map(Vec::len).sum();
        waiting - self.sent >= FULL
    }

    /// Takes from the beginning of `bytes`, as many as fit: at least one.
    pub(super) fn seal_data(&mut self, control: &mut Control, bytes: &[u8]) -> io::Result<usize> {
        if self.closed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let taken = &bytes[..bytes.len().min(RECORDS * MAX_PLAINTEXT)];
        for payload in taken.chunks(MAX_PLAINTEXT) {
            if self.new_keys || self.sealing.is_worn() {
                self.update_keys(control)?;
            }
            self.seal(ContentType::ApplicationData, payload)
                .map_err(invalid)?;
        }
        Ok(taken.len())
    }

    fn update_keys(&mut self, control: &mut Control) -> io::Result<()> {
        let worn = |_| io::Error::other("its keys are used up, and TLS 1.2 has no other ones");
        let next = control.next_sealing().map_err(worn)?;
        self.seal(ContentType::Handshake, &KEY_UPDATE)
            .map_err(invalid)?;
        self.sealing = next;
        self.new_keys = false;
        Ok(())
    }

    /// Tells something that ends nothing.
    pub(super) fn warn(&mut self, description: AlertDescription) -> Result<(), Error> {
        match self.closed {
            true => Ok(()),
            false => self.seal(ContentType::Alert, &[WARNING, description.into()]),
        }
    }

    /// The last record: close_notify.
    pub(super) fn close(&mut self) -> Result<(), Error> {
        self.warn(AlertDescription::CloseNotify)?;
        self.closed = true;
        Ok(())
    }

    /// The last record: why the connection has failed, if the server has to be told.
    pub(super) fn fail(&mut self, description: Option<AlertDescription>) {
        if let Some(description) = description
            && !self.closed
        {
            let _ = self.seal(ContentType::Alert, &[FATAL, description.into()]);
        }
        self.closed = true;
    }

    fn seal(&mut self, kind: ContentType, payload: &[u8]) -> Result<(), Error> {
        self.sealed.push_back(self.sealing.seal(kind, payload)?);
        Ok(())
    }

    /// Sends all that is sealed. After an error, which is told once, nothing is sent any more.
    pub(super) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        let sent = ready!(self.poll_send_all(cx, io));
        if sent.is_err() {
            self.closed = true;
            self.sealed.clear();
            self.sent = 0;
        }
        Poll::Ready(sent)
    }

    fn poll_send_all(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        while let Some(first) = self.sealed.front() {
            let mut io = Pin::new(&mut *io);
            let count = if self.sealed.len() == 1 {
                ready!(io.poll_write(cx, &first[self.sent..]))?
            } else {
                let mut slices = [IoSlice::new(&[]); 2 * RECORDS];
                let pairs = slices.iter_mut().zip(&self.sealed);
                let count = pairs
                    .map(|(slice, record)| *slice = IoSlice::new(record))
                    .count();
                slices[0] = IoSlice::new(&first[self.sent..]);
                ready!(io.as_mut().poll_write_vectored(cx, &slices[..count]))?
            };
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += count;
            while let Some(first) = self.sealed.front()
                && self.sent >= first.len()
            {
                self.sent -= first.len();
                self.sealed.pop_front();
            }
        }
        Poll::Ready(Ok(()))
    }
}
