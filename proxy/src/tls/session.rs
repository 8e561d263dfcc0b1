//! What a handshake has negotiated.

use rustls::{CipherSuite, CommonState, HandshakeKind, ProtocolVersion};

use super::client::PROVIDER;
use super::describe::not_after;

/// What was negotiated; texts are labels of bounded number for log and metrics, `none` where nothing was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Session {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// The IANA name of the cipher suite.
    pub cipher_suite: &'static str,
    /// The key exchange group, such as `X25519MLKEM768`; `none` for a resumed TLS 1.2 session.
    pub group: &'static str,
    /// `h2`, `http/1.1` or `none`.
    pub alpn: &'static str,
    /// Whether an earlier session was resumed, so that no certificate was sent.
    pub resumed: bool,
    /// When the certificate expires that was sent, in Unix time (seconds).
    pub not_after: Option<i64>,
}

impl Session {
    /// That of a handshake that is complete.
    pub(super) fn negotiated(connection: &CommonState) -> Self {
        let resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
        let sent = connection.peer_certificates().filter(|_| !resumed);
        Self {
            version: match connection.protocol_version() {
                Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
                Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
                _ => "none",
            },
            cipher_suite: connection
                .negotiated_cipher_suite()
                .map_or("none", |suite| cipher_suite_name(suite.suite())),
            group: connection
                .negotiated_key_exchange_group()
                .and_then(|group| group.name().as_str())
                .unwrap_or("none"),
            alpn: match connection.alpn_protocol() {
                Some(b"h2") => "h2",
                Some(b"http/1.1") => "http/1.1",
                _ => "none",
            },
            resumed,
            not_after: sent.and_then(|sent| not_after(sent.first()?)),
        }
    }
}

/// Whether the cryptography is of a module validated by FIPS 140.
pub(crate) fn is_fips() -> bool {
    PROVIDER.fips()
}

/// The key-exchange groups that are offered where no policy says otherwise, in order of preference.
pub(crate) fn default_groups() -> Vec<&'static str> {
    let groups = PROVIDER.kx_groups.iter();
    groups.filter_map(|group| group.name().as_str()).collect()
}

/// Its IANA name: rustls says `TLS13_…` where IANA says `TLS_…`.
pub fn cipher_suite_name(suite: CipherSuite) -> &'static str {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        other => other.as_str().unwrap_or("none"),
    }
}
