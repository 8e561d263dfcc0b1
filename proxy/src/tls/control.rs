//! What a server says after the handshake besides data: alerts, session tickets, new keys. It is bounded as rustls bounds
//! it, so that a server can't keep us busy with nothing.

use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::{
    AlertDescription, ContentType, Error, HandshakeType, InvalidMessage, PeerMisbehaved,
    SupportedCipherSuite,
};

use super::records::{Opening, Sealing};

/// Longer handshake messages are refused.
const MAX_MESSAGE: usize = 0xffff;
/// Longer tickets are not worth their memory.
const MAX_TICKET: usize = 4096;
const WARNING: u8 = 1;
const FATAL: u8 = 2;

/// What the connection has to do about a record.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Nothing,
    /// Hand it on.
    Data,
    /// The server sends no more.
    Closed,
    /// The server has new keys, and wants us to have new ones too (`true`).
    NewKeys(bool),
    /// The server wants another handshake, which it does not get (RFC 5246 section 7.2.2).
    Renegotiation,
}

/// The part of a connection that listens to the server.
pub(super) struct Control {
    suite: SupportedCipherSuite,
    /// Of TLS 1.3: takes tickets, and makes new keys.
    kernel: Option<KernelConnection<ClientConnectionData>>,
    /// The beginning of a handshake message.
    partial: Vec<u8>,
    warnings: u8,
    renegotiations: u8,
    key_updates: u8,
    tickets: u8,
    empty_records: u8,
}

impl Control {
    /// `kernel` is what remains of the handshake.
    pub(super) fn new(kernel: KernelConnection<ClientConnectionData>) -> Self {
        let suite = kernel.negotiated_cipher_suite();
        let tls13 = matches!(suite, SupportedCipherSuite::Tls13(_));
        Self::of(suite, tls13.then_some(kernel))
    }

    fn of(
        suite: SupportedCipherSuite,
        kernel: Option<KernelConnection<ClientConnectionData>>,
    ) -> Self {
        Self {
            suite,
            kernel,
            partial: Vec::new(),
            warnings: 0,
            renegotiations: 0,
            key_updates: 0,
            tickets: 0,
            empty_records: 0,
        }
    }

    /// Takes the content of a record of this `kind`.
    pub(super) fn hear(&mut self, kind: ContentType, content: &[u8]) -> Result<Heard, Error> {
        if !self.partial.is_empty() && kind != ContentType::Handshake {
            return Err(PeerMisbehaved::MessageInterleavedWithHandshakeMessage.into());
        }
        if !content.is_empty() {
            self.empty_records = 0;
        } else if !up_to(&mut self.empty_records, 32) {
            return Err(PeerMisbehaved::TooManyEmptyFragments.into());
        }
        match kind {
            ContentType::ApplicationData if content.is_empty() => Ok(Heard::Nothing),
            ContentType::ApplicationData => {
                (self.key_updates, self.tickets) = (0, 0);
                Ok(Heard::Data)
            }
            ContentType::Alert => self.alert(content),
            ContentType::Handshake => self.handshake(content),
            kind => Err(Error::InappropriateMessage {
                expect_types: vec![ContentType::ApplicationData, ContentType::Alert],
                got_type: kind,
            }),
        }
    }

    /// RFC 8446 section 6, RFC 5246 section 7.2.
    fn alert(&mut self, content: &[u8]) -> Result<Heard, Error> {
        let &[level, description] = content else {
            return Err(InvalidMessage::MessageTooShort.into());
        };
        let description = AlertDescription::from(description);
        match (level, description) {
            (WARNING | FATAL, AlertDescription::CloseNotify) => Ok(Heard::Closed),
            (WARNING, description)
                if self.kernel.is_none() || description == AlertDescription::UserCanceled =>
            {
                match up_to(&mut self.warnings, 4) {
                    true => Ok(Heard::Nothing),
                    false => Err(PeerMisbehaved::TooManyWarningAlertsReceived.into()),
                }
            }
            (_, description) => Err(Error::AlertReceived(description)),
        }
    }

    /// Messages may share a record, or be cut by its end.
    fn handshake(&mut self, content: &[u8]) -> Result<Heard, Error> {
        self.partial.extend_from_slice(content);
        let mut messages = std::mem::take(&mut self.partial);
        let (mut heard, mut start) = (Heard::Nothing, 0);
        while let Some(&[kind, a, b, c]) = messages[start..].first_chunk() {
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            if length > MAX_MESSAGE {
                return Err(InvalidMessage::HandshakePayloadTooLarge.into());
            }
            let end = start + 4 + length;
            let Some(message) = messages.get(start + 4..end) else {
                break;
            };
            if heard != Heard::Nothing {
                // What comes after new keys must be sealed with them.
                return Err(PeerMisbehaved::KeyEpochWithPendingFragment.into());
            }
            heard = self.message(HandshakeType::from(kind), message)?;
            start = end;
        }
        if heard != Heard::Nothing && start < messages.len() {
            return Err(PeerMisbehaved::KeyEpochWithPendingFragment.into());
        }
        messages.drain(..start);
        self.partial = messages;
        Ok(heard)
    }

    fn message(&mut self, kind: HandshakeType, message: &[u8]) -> Result<Heard, Error> {
        match (&mut self.kernel, kind) {
            (Some(kernel), HandshakeType::NewSessionTicket) => {
                if !up_to(&mut self.tickets, 32) {
                    return Err(Error::InappropriateHandshakeMessage {
                        expect_types: Vec::new(),
                        got_type: kind,
                    });
                }
                if message.len() <= MAX_TICKET {
                    kernel.handle_new_session_ticket(message)?;
                }
                Ok(Heard::Nothing)
            }
            (Some(_), HandshakeType::KeyUpdate) => {
                if !up_to(&mut self.key_updates, 32) {
                    return Err(PeerMisbehaved::TooManyKeyUpdateRequests.into());
                }
                match message {
                    [0] => Ok(Heard::NewKeys(false)),
                    [1] => Ok(Heard::NewKeys(true)),
                    _ => Err(InvalidMessage::InvalidKeyUpdate.into()),
                }
            }
            (None, HandshakeType::HelloRequest) if message.is_empty() => {
                match up_to(&mut self.renegotiations, 1) {
                    true => Ok(Heard::Renegotiation),
                    false => Err(PeerMisbehaved::TooManyRenegotiationRequests.into()),
                }
            }
            (_, kind) => Err(Error::InappropriateHandshakeMessage {
                expect_types: vec![HandshakeType::NewSessionTicket, HandshakeType::KeyUpdate],
                got_type: kind,
            }),
        }
    }

    /// The server's next keys.
    pub(super) fn next_opening(&mut self) -> Result<Opening, Error> {
        let kernel = self.kernel.as_mut().ok_or(Error::DecryptError)?;
        Opening::new(self.suite, kernel.update_rx_secret()?)
    }

    /// Our next keys; TLS 1.2 has none.
    pub(super) fn next_sealing(&mut self) -> Result<Sealing, Error> {
        let kernel = self.kernel.as_mut().ok_or(Error::EncryptError)?;
        Sealing::new(self.suite, kernel.update_tx_secret()?)
    }
}

/// Counts, and says whether that was within `limit`.
fn up_to(count: &mut u8, limit: u8) -> bool {
    *count = count.saturating_add(1);
    *count <= limit
}

/// What a server is told of an error that it has caused, if anything.
pub(super) fn alert_of(error: &Error) -> Option<AlertDescription> {
    match error {
        Error::AlertReceived(_) => None,
        Error::DecryptError => Some(AlertDescription::BadRecordMac),
        Error::PeerSentOversizedRecord => Some(AlertDescription::RecordOverflow),
        Error::InvalidMessage(InvalidMessage::InvalidKeyUpdate) => {
            Some(AlertDescription::IllegalParameter)
        }
        Error::InvalidMessage(_) => Some(AlertDescription::DecodeError),
        _ => Some(AlertDescription::UnexpectedMessage),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use ContentType::{Alert, ApplicationData, ChangeCipherSpec, Handshake};
    use rustls::crypto::aws_lc_rs::ALL_CIPHER_SUITES;

    use super::*;

    /// A connection of TLS 1.2.
    fn control() -> Control {
        let mut suites = ALL_CIPHER_SUITES.iter();
        let suite = suites.find(|suite| suite.tls13().is_none()).unwrap();
        Control::of(*suite, None)
    }

    #[test]
    fn alerts() {
        let mut control = control();
        assert_eq!(control.hear(Alert, &[1, 0]).unwrap(), Heard::Closed);
        let fatal = control.hear(Alert, &[2, 40]).unwrap_err();
        assert_eq!(
            fatal,
            Error::AlertReceived(AlertDescription::HandshakeFailure)
        );
        assert_eq!(alert_of(&fatal), None);
        for _ in 0..4 {
            assert_eq!(control.hear(Alert, &[1, 112]).unwrap(), Heard::Nothing);
        }
        assert!(control.hear(Alert, &[1, 112]).is_err());
        assert!(control.hear(Alert, &[1]).is_err() && control.hear(Alert, &[3, 9]).is_err());
    }

    #[test]
    fn a_message_that_is_cut_is_put_together_and_nothing_comes_between() {
        let mut control = control();
        assert_eq!(control.hear(Handshake, &[0, 0]).unwrap(), Heard::Nothing);
        assert_eq!(
            control.hear(Handshake, &[0, 0]).unwrap(),
            Heard::Renegotiation
        );
        // Once is enough.
        assert!(control.hear(Handshake, &[0; 4]).is_err());
        assert_eq!(control.hear(Handshake, &[0]).unwrap(), Heard::Nothing);
        let error = control.hear(ApplicationData, b"data").unwrap_err();
        assert_eq!(alert_of(&error), Some(AlertDescription::UnexpectedMessage));
    }

    #[test]
    fn what_has_no_place_after_a_handshake() {
        for (kind, content) in [
            (ChangeCipherSpec, &[1][..]),
            // A ServerHello; a ticket and new keys, which TLS 1.2 does not have here; a message without end.
            (Handshake, &[2, 0, 0, 0]),
            (Handshake, &[4, 0, 0, 0]),
            (Handshake, &[24, 0, 0, 1, 0]),
            (Handshake, &[4, 255, 255, 255]),
        ] {
            assert!(
                control().hear(kind, content).is_err(),
                "{kind:?} {content:?}"
            );
        }
    }

    #[test]
    fn empty_records_are_heard_with_patience_but_not_for_ever() {
        let mut control = control();
        for _ in 0..2 {
            for _ in 0..32 {
                assert_eq!(control.hear(ApplicationData, &[]).unwrap(), Heard::Nothing);
            }
            assert_eq!(control.hear(ApplicationData, &[7]).unwrap(), Heard::Data);
        }
        let mut heard = (0..33).map(|_| control.hear(ApplicationData, &[]));
        assert!(heard.any(|heard| heard.is_err()));
    }
}
