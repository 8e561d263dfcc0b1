//! Records on their way to the server.

use std::io;
use std::task::{Context, Poll, ready};

use rustls::{AlertDescription, ContentType, Error};
use tokio::io::AsyncWrite;

use super::control::Control;
use super::records::{MAX_PLAINTEXT, Sealing};
use super::stream::invalid;
use super::unsent::Unsent;
use crate::buffer::PLAINTEXT;

/// No data is taken while so many bytes wait to be sent.
const FULL: usize = MAX_PLAINTEXT;
/// A KeyUpdate message that asks for none in return (RFC 8446 section 4.6.3).
const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];
const WARNING: u8 = 1;
const FATAL: u8 = 2;

/// Seals, and keeps what is sealed until it is sent.
pub(super) struct Outgoing {
    sealing: Sealing,
    unsent: Unsent,
    /// Nothing more may be sealed.
    closed: bool,
    /// To be taken before the next data.
    pub(super) new_keys: bool,
}

impl Outgoing {
    /// Begins with `unsent`, the handshake's last records.
    pub(super) fn new(sealing: Sealing, unsent: &[u8]) -> Self {
        Self {
            sealing,
            unsent: Unsent::new(unsent),
            closed: false,
            new_keys: false,
        }
    }

    /// Whether some must be sent before more is taken.
    pub(super) fn is_full(&self) -> bool {
        self.unsent.len() >= FULL
    }

    /// Takes from the beginning of `bytes`, as many as fit: at least one.
    pub(super) fn seal_data(&mut self, control: &mut Control, bytes: &[u8]) -> io::Result<usize> {
        if self.closed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let most = PLAINTEXT - self.unsent.len().next_multiple_of(MAX_PLAINTEXT);
        let taken = &bytes[..bytes.len().min(most)];
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
        let sealed = self.sealing.seal(kind, payload, &mut self.unsent);
        if sealed.is_err() {
            // Whatever is there instead of a record is not for the server.
            self.unsent.clear();
            self.closed = true;
        }
        sealed
    }

    /// Sends all that is sealed. After an error, which is told once, nothing is sent any more.
    pub(super) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        let sent = ready!(self.unsent.poll_send(cx, io));
        if sent.is_err() {
            self.closed = true;
            self.unsent.clear();
        }
        Poll::Ready(sent)
    }
}
