//! Records after the handshake (RFC 8446 section 5, RFC 5246 section 6.2): rustls' own protection, with the keys that its
//! handshake has negotiated, but in our buffers. rustls' connections copy every record, and read 4 KiB at a time.

use std::ops::Range;

use rustls::crypto::cipher::{
    AeadKey, InboundOpaqueMessage, Iv, MessageDecrypter, MessageEncrypter, OutboundChunks,
    OutboundPlainMessage,
};
use rustls::{
    ConnectionTrafficSecrets, ContentType, Error, InvalidMessage, ProtocolVersion,
    SupportedCipherSuite,
};

/// The most plaintext of one record.
pub(super) const MAX_PLAINTEXT: usize = 16 * 1024;
/// Type, version, length.
const HEADER: usize = 5;
/// The most that TLS 1.2 allows protection to add; TLS 1.3 allows less.
const MAX_ADDED: usize = 2048;

/// Opens what the server sends.
pub(super) struct Opening {
    protection: Box<dyn MessageDecrypter>,
    sequence: u64,
}

/// Seals what we send.
pub(super) struct Sealing {
    protection: Box<dyn MessageEncrypter>,
    sequence: u64,
    /// How many records may be sealed with these keys (RFC 8446 section 5.5).
    limit: u64,
}

/// How long the record is that `bytes` begin with; `None` while it is not complete.
pub(super) fn record_length(bytes: &[u8]) -> Result<Option<usize>, Error> {
    let &[kind, major, _, high, low, ..] = bytes else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    let invalid = match ContentType::from(kind) {
        ContentType::Unknown(_) => InvalidMessage::InvalidContentType,
        _ if major != 3 => InvalidMessage::UnknownProtocolVersion,
        _ if length > MAX_PLAINTEXT + MAX_ADDED => InvalidMessage::MessageTooLarge,
        _ => return Ok((bytes.len() - HEADER >= length).then_some(HEADER + length)),
    };
    Err(invalid.into())
}

impl Opening {
    /// With secrets of a handshake, or of an update of keys.
    pub(super) fn new(
        suite: SupportedCipherSuite,
        (sequence, secrets): (u64, ConnectionTrafficSecrets),
    ) -> Result<Self, Error> {
        let (key, iv) = parts(secrets)?;
        let protection = match suite {
            SupportedCipherSuite::Tls13(suite) => suite.aead_alg.decrypter(key, iv),
            SupportedCipherSuite::Tls12(suite) => {
                let fixed = suite.aead_alg.key_block_shape().fixed_iv_len;
                suite.aead_alg.decrypter(key, &iv.as_ref()[..fixed])
            }
        };
        Ok(Self {
            protection,
            sequence,
        })
    }

    /// Opens a whole record in place: its type, and where in it the plaintext is.
    pub(super) fn open(&mut self, record: &mut [u8]) -> Result<(ContentType, Range<usize>), Error> {
        let base = record.as_ptr().addr();
        let (header, payload) = record.split_at_mut(HEADER);
        let version = ProtocolVersion::from(u16::from_be_bytes([header[1], header[2]]));
        let kind = ContentType::from(header[0]);
        let sealed = InboundOpaqueMessage::new(kind, version, payload);
        let opened = self.protection.decrypt(sealed, self.sequence)?;
        self.sequence += 1;
        let start = opened.payload.as_ptr().addr() - base;
        Ok((opened.typ, start..start + opened.payload.len()))
    }
}

impl Sealing {
    /// As [`Opening::new`].
    pub(super) fn new(
        suite: SupportedCipherSuite,
        (sequence, secrets): (u64, ConnectionTrafficSecrets),
    ) -> Result<Self, Error> {
        let (key, iv) = parts(secrets)?;
        let (protection, limit) = match suite {
            SupportedCipherSuite::Tls13(suite) => {
                let limit = suite.common.confidentiality_limit;
                (suite.aead_alg.encrypter(key, iv), limit)
            }
            SupportedCipherSuite::Tls12(suite) => {
                let fixed = suite.aead_alg.key_block_shape().fixed_iv_len;
                let (fixed, explicit) = iv.as_ref().split_at(fixed);
                let limit = suite.common.confidentiality_limit;
                (suite.aead_alg.encrypter(key, fixed, explicit), limit)
            }
        };
        let mut sealing = Self {
            protection,
            sequence: 0,
            limit,
        };
        if sequence > 0 {
            // aws-lc takes the first nonce that it sees for the first of all. Nobody gets what is sealed with it.
            sealing.seal(ContentType::ApplicationData, &[])?;
            sealing.sequence = sequence;
        }
        Ok(sealing)
    }

    /// Whether the keys are used up.
    pub(super) fn is_worn(&self) -> bool {
        self.sequence >= self.limit
    }

    /// One record with `payload`, of [`MAX_PLAINTEXT`] at most.
    pub(super) fn seal(&mut self, kind: ContentType, payload: &[u8]) -> Result<Vec<u8>, Error> {
        let message = OutboundPlainMessage {
            typ: kind,
            version: ProtocolVersion::TLSv1_2,
            payload: OutboundChunks::Single(payload),
        };
        let sealed = self.protection.encrypt(message, self.sequence)?;
        self.sequence += 1;
        Ok(sealed.encode())
    }
}

fn parts(secrets: ConnectionTrafficSecrets) -> Result<(AeadKey, Iv), Error> {
    match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv }
        | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
        | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => Ok((key, iv)),
        _ => Err(Error::General("a cipher suite of an unknown kind".into())),
    }
}
