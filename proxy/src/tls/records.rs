//! Records after the handshake (RFC 8446 section 5, RFC 5246 section 6.2), with the keys that rustls' handshake has
//! negotiated, in our buffers: rustls' connections copy every record, and read 4 KiB at a time. Its own protection opens
//! them, and seals those of TLS 1.2. Those of TLS 1.3 are sealed here, as rustls does it but from one buffer into another:
//! its copy of the plaintext took three times what the cipher takes.

use std::ops::Range;

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, TlsProtocolId,
    TlsRecordSealingKey, UnboundKey,
};
use aws_lc_rs::error::Unspecified;
use rustls::crypto::cipher::{
    self, AeadKey, InboundOpaqueMessage, Iv, MessageDecrypter, MessageEncrypter, OutboundChunks,
    OutboundPlainMessage, make_tls13_aad,
};
use rustls::{
    ConnectionTrafficSecrets, ContentType, Error, InvalidMessage, ProtocolVersion,
    SupportedCipherSuite,
};

use super::unsent::Unsent;

/// The most plaintext of one record.
pub(super) const MAX_PLAINTEXT: usize = 16 * 1024;
/// Type, version, length.
const HEADER: usize = 5;
/// Of all ciphers of TLS 1.3 here.
const TAG: usize = 16;
/// The most that TLS 1.2 allows protection to add; TLS 1.3 allows less.
const MAX_ADDED: usize = 2048;

/// Opens what the server sends.
pub(super) struct Opening {
    protection: Box<dyn MessageDecrypter>,
    sequence: u64,
}

/// Seals what we send.
pub(super) struct Sealing {
    protection: Protection,
    sequence: u64,
    /// How many records may be sealed with these keys (RFC 8446 section 5.5).
    limit: u64,
}

enum Protection {
    Tls13(Key, Iv),
    Tls12(Box<dyn MessageEncrypter>),
}

/// Of a cipher of TLS 1.3.
enum Key {
    /// Refuses to seal with a nonce twice.
    Gcm(TlsRecordSealingKey),
    ChaCha20Poly1305(LessSafeKey),
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
        let (protection, limit) = match suite {
            SupportedCipherSuite::Tls13(suite) => {
                let limit = suite.common.confidentiality_limit;
                (Protection::tls13(secrets)?, limit)
            }
            SupportedCipherSuite::Tls12(suite) => {
                let (key, iv) = parts(secrets)?;
                let fixed = suite.aead_alg.key_block_shape().fixed_iv_len;
                let (fixed, explicit) = iv.as_ref().split_at(fixed);
                let protection = suite.aead_alg.encrypter(key, fixed, explicit);
                let limit = suite.common.confidentiality_limit;
                (Protection::Tls12(protection), limit)
            }
        };
        let mut sealing = Self {
            protection,
            sequence: 0,
            limit,
        };
        if sequence > 0 {
            // aws-lc takes the first nonce that it sees for the first of all. Nobody gets what is sealed with it.
            sealing.seal(ContentType::ApplicationData, &[], &mut Unsent::default())?;
            sealing.sequence = sequence;
        }
        Ok(sealing)
    }

    /// Whether the keys are used up.
    pub(super) fn is_worn(&self) -> bool {
        self.sequence >= self.limit
    }

    /// One record more to be sent, with `payload`, of [`MAX_PLAINTEXT`] at most. After an error there may be anything in its
    /// place.
    pub(super) fn seal(
        &mut self,
        kind: ContentType,
        payload: &[u8],
        unsent: &mut Unsent,
    ) -> Result<(), Error> {
        match &mut self.protection {
            Protection::Tls13(key, iv) => {
                let nonce = cipher::Nonce::new(iv, self.sequence).0;
                key.seal(nonce, kind, payload, unsent)
                    .map_err(|Unspecified| Error::EncryptError)?;
            }
            Protection::Tls12(protection) => {
                let message = OutboundPlainMessage {
                    typ: kind,
                    version: ProtocolVersion::TLSv1_2,
                    payload: OutboundChunks::Single(payload),
                };
                let record = protection.encrypt(message, self.sequence)?.encode();
                unsent.room(record.len()).copy_from_slice(&record);
            }
        }
        self.sequence += 1;
        Ok(())
    }
}

impl Protection {
    fn tls13(secrets: ConnectionTrafficSecrets) -> Result<Self, Error> {
        let gcm = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { .. } => Some(&AES_128_GCM),
            ConnectionTrafficSecrets::Aes256Gcm { .. } => Some(&AES_256_GCM),
            _ => None,
        };
        let (key, iv) = parts(secrets)?;
        let key = match gcm {
            Some(gcm) => {
                TlsRecordSealingKey::new(gcm, TlsProtocolId::TLS13, key.as_ref()).map(Key::Gcm)
            }
            None => UnboundKey::new(&CHACHA20_POLY1305, key.as_ref())
                .map(|key| Key::ChaCha20Poly1305(LessSafeKey::new(key))),
        };
        let key = key.map_err(|Unspecified| Error::EncryptError)?;
        Ok(Self::Tls13(key, iv))
    }
}

impl Key {
    /// RFC 8446 section 5.2: the type goes behind the plaintext, and the header is authenticated.
    fn seal(
        &mut self,
        nonce: [u8; cipher::NONCE_LEN],
        kind: ContentType,
        payload: &[u8],
        unsent: &mut Unsent,
    ) -> Result<(), Unspecified> {
        let kind = [u8::from(kind)];
        let added = kind.len() + TAG;
        let header = make_tls13_aad(payload.len() + added);
        let (nonce, aad) = (Nonce::assume_unique_for_key(nonce), Aad::from(header));
        let record = unsent.room(HEADER + payload.len() + added);
        let (head, body) = record.split_at_mut(HEADER);
        head.copy_from_slice(&header);
        let (sealed, tag) = body.split_at_mut(payload.len());
        match self {
            Self::Gcm(key) => {
                key.seal_out_of_place_scatter(nonce, aad, payload, sealed, &kind, tag)
            }
            Self::ChaCha20Poly1305(key) => {
                key.seal_out_of_place_scatter(nonce, aad, payload, sealed, &kind, tag)
            }
        }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::future::poll_fn;

    use rustls::crypto::aws_lc_rs::cipher_suite::{
        TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
    };

    use super::*;

    fn secrets(suite: SupportedCipherSuite) -> ConnectionTrafficSecrets {
        let (key, iv) = (AeadKey::from([7; 32]), Iv::new([9; cipher::NONCE_LEN]));
        match suite == TLS13_AES_256_GCM_SHA384 {
            true => ConnectionTrafficSecrets::Aes256Gcm { key, iv },
            false => ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv },
        }
    }

    /// All that a sealing has made.
    async fn sent(mut unsent: Unsent) -> Vec<u8> {
        let mut sent = Vec::new();
        poll_fn(|cx| unsent.poll_send(cx, &mut sent)).await.unwrap();
        sent
    }

    #[tokio::test]
    async fn records_are_byte_for_byte_those_that_rustls_seals() {
        for suite in [TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256] {
            let (key, iv) = parts(secrets(suite)).unwrap();
            let mut theirs = suite.tls13().unwrap().aead_alg.encrypter(key, iv);
            let mut ours = Sealing::new(suite, (0, secrets(suite))).unwrap();
            let (mut unsent, mut expected) = (Unsent::default(), Vec::new());
            for (sequence, length) in [0, 1, 15, 16, 17, 4096, MAX_PLAINTEXT]
                .into_iter()
                .enumerate()
            {
                let (payload, typ) = match length {
                    1 => (vec![1; length], ContentType::Alert),
                    _ => (vec![2; length], ContentType::ApplicationData),
                };
                ours.seal(typ, &payload, &mut unsent).unwrap();
                let message = OutboundPlainMessage {
                    typ,
                    version: ProtocolVersion::TLSv1_2,
                    payload: OutboundChunks::Single(&payload),
                };
                let record = theirs.encrypt(message, sequence as u64).unwrap();
                expected.extend(record.encode());
            }
            assert!(sent(unsent).await == expected, "{suite:?}");
        }
    }

    #[tokio::test]
    async fn what_begins_amid_a_sequence_has_its_number() {
        let suite = TLS13_AES_256_GCM_SHA384;
        let seal = async |begin: u64, before: u64| {
            let mut sealing = Sealing::new(suite, (begin, secrets(suite))).unwrap();
            for _ in 0..before {
                let mut unsent = Unsent::default();
                sealing
                    .seal(ContentType::ApplicationData, b"before", &mut unsent)
                    .unwrap();
            }
            let mut unsent = Unsent::default();
            sealing
                .seal(ContentType::ApplicationData, b"data", &mut unsent)
                .unwrap();
            sent(unsent).await
        };
        assert_eq!(seal(3, 0).await, seal(0, 3).await);
    }
}
