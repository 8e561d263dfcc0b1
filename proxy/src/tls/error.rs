//! From the errors of a TLS stream to reasons.

use std::io;
use std::time::Duration;

use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible, PeerMisbehaved};

use super::client_certificate::ClientCertificate;
use super::observed::Observed;
use super::stream::TlsStream;
use crate::failure::{Failure, Reason, quoted};

/// When an error of a TLS stream happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Before the handshake was complete.
    Handshake,
    /// After it.
    Relay,
}

/// The failure behind an error of a TLS stream. What rustls found is inside the `io::Error`.
pub fn failure_from_io(error: &io::Error, stage: Stage) -> Failure {
    match tls_error(error) {
        Some(tls) => from_tls(tls, stage),
        None => from_socket(error, stage),
    }
}

/// The failure behind an error of an established stream. With TLS 1.3 a server's word on our certificate comes only there.
pub fn failure_of_stream<IO>(error: &io::Error, stream: &TlsStream<IO>) -> Failure {
    let rejected = stream
        .certificate()
        .and_then(|shown| rejected(error, shown));
    rejected.unwrap_or_else(|| failure_from_io(error, Stage::Relay))
}

/// The same during the handshake, with what was seen of the server, and what it was shown if it asked.
pub(super) fn handshake_failure(
    error: &io::Error,
    seen: &Observed,
    offered: &[Vec<u8>],
    certificate: Option<&ClientCertificate>,
) -> Failure {
    use AlertDescription as A;
    if let Some(words) = seen.plaintext() {
        return plaintext_server(&words);
    }
    let shown = certificate.filter(|_| seen.certificate_requested);
    if let Some(rejected) = shown.and_then(|shown| rejected(error, shown)) {
        return rejected;
    }
    match tls_error(error) {
        Some(Error::AlertReceived(alert @ A::HandshakeFailure)) if let Some(shown) = shown => {
            shown.rejected(&words(*alert))
        }
        // TLS 1.2 servers have no alert of its own for it (RFC 5246 section 7.4.6).
        Some(Error::AlertReceived(A::HandshakeFailure | A::AccessDenied))
            if seen.certificate_requested =>
        {
            no_client_certificate()
        }
        Some(Error::AlertReceived(A::NoApplicationProtocol)) => no_common_alpn(
            offered,
            &format!(
                "the server refuses it by {}",
                words(A::NoApplicationProtocol)
            ),
        ),
        Some(Error::PeerMisbehaved(PeerMisbehaved::SelectedUnofferedApplicationProtocol)) => {
            no_common_alpn(offered, "the server selects another")
        }
        _ => failure_from_io(error, Stage::Handshake),
    }
}

/// The failure of a handshake that was not complete after `limit`.
pub(super) fn handshake_timeout(limit: Duration, seen: &Observed) -> Failure {
    match (seen.plaintext(), seen.first.is_empty()) {
        (Some(words), _) => plaintext_server(&words),
        (None, true) => Failure::new(
            Reason::HandshakeTimeout,
            format!(
                "the server accepted the connection, but sent nothing for {limit:?} after the ClientHello"
            ),
        ),
        (None, false) => Failure::new(
            Reason::HandshakeTimeout,
            format!("the server began the TLS handshake, but did not complete it within {limit:?}"),
        ),
    }
}

/// The failure of a server that does not take the application protocol that was offered.
pub(super) fn no_common_alpn(offered: &[Vec<u8>], found: &str) -> Failure {
    let offered = match offered {
        [] => "none".to_owned(),
        names => String::from_utf8_lossy(&names.join(&b", "[..])).into_owned(),
    };
    Failure::new(
        Reason::NoCommonAlpn,
        format!("application protocol (ALPN) offered: {offered}; {found}"),
    )
}

/// The failure, if the error is a server's word on our certificate (RFC 8446 section 6.2).
fn rejected(error: &io::Error, shown: &ClientCertificate) -> Option<Failure> {
    use AlertDescription as A;
    let Some(Error::AlertReceived(alert)) = tls_error(error) else {
        return None;
    };
    let of_certificates = matches!(
        alert,
        A::BadCertificate
            | A::NoCertificate
            | A::UnsupportedCertificate
            | A::CertificateRevoked
            | A::CertificateExpired
            | A::CertificateUnknown
            | A::CertificateRequired
            | A::UnknownCA
            | A::AccessDenied
    );
    of_certificates.then(|| shown.rejected(&words(*alert)))
}

fn tls_error(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

fn plaintext_server(words: &str) -> Failure {
    Failure::new(
        Reason::PlaintextServer,
        format!("the server answered with {words}"),
    )
}

fn no_client_certificate() -> Failure {
    Failure::new(
        Reason::ClientCertificateRequired,
        "the server requires a client certificate",
    )
}

fn from_tls(error: &Error, stage: Stage) -> Failure {
    match error {
        Error::InvalidCertificate(CertificateError::Other(other)) => match other.0.downcast_ref() {
            Some(failure) => Failure::clone(failure),
            None => Failure::new(Reason::BadCertificate, quoted(&other.to_string())),
        },
        // Only the signature over the handshake: those of the chain are the verifier's, with their own words.
        Error::InvalidCertificate(_) => Failure::new(
            Reason::BadCertificate,
            "the server does not prove that it holds the key of its certificate \
             (another key, or an RSA key below 2048 bits)",
        ),
        Error::AlertReceived(alert) => from_alert(*alert, stage),
        Error::PeerIncompatible(
            PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
        ) => Failure::new(
            Reason::NoCommonVersion,
            "the server selects a version before TLS 1.2",
        ),
        Error::PeerIncompatible(what) => Failure::new(
            Reason::NoCommonCipher,
            format!(
                "the server supports nothing that we do: {}",
                quoted(&format!("{what:?}"))
            ),
        ),
        other => Failure::new(
            Reason::ProtocolError,
            format!(
                "the server broke the TLS protocol: {}",
                quoted(&other.to_string())
            ),
        ),
    }
}

fn from_alert(alert: AlertDescription, stage: Stage) -> Failure {
    use AlertDescription as A;
    let words = words(alert);
    let (reason, detail) = match alert {
        // Where we show none (else see `rejected`), what a server finds bad about it is that it is missing.
        A::CertificateRequired | A::BadCertificate | A::NoCertificate => {
            return no_client_certificate();
        }
        A::ProtocolVersion => (
            Reason::NoCommonVersion,
            format!("the server speaks neither TLS 1.2 nor TLS 1.3 ({words})"),
        ),
        A::HandshakeFailure | A::InsufficientSecurity if stage == Stage::Handshake => (
            Reason::NoCommonCipher,
            format!(
                "the server found no cipher suite, group or signature algorithm in common ({words})"
            ),
        ),
        A::UnrecognisedName => (
            Reason::Alert,
            // RFC 6066 spells it so, rustls does not.
            "the server does not know the policy's hostname, sent as SNI (alert unrecognized_name (112))".to_owned(),
        ),
        _ => (Reason::Alert, format!("the server refused by {words}")),
    };
    Failure::new(reason, detail)
}

/// `alert handshake_failure (40)`: the name of RFC 8446 section 6 and IANA's number.
fn words(alert: AlertDescription) -> String {
    let number = u8::from(alert);
    let Some(camel) = alert.as_str() else {
        return format!("alert {number}");
    };
    let mut name = String::new();
    let mut after_capital = true;
    for (at, c) in camel.char_indices() {
        let word_follows = camel[at + 1..].starts_with(|next: char| next.is_lowercase());
        if c.is_uppercase() && at > 0 && (!after_capital || word_follows) {
            name.push('_');
        }
        after_capital = c.is_uppercase();
        name.push(c.to_ascii_lowercase());
    }
    format!("alert {name} ({number})")
}

fn from_socket(error: &io::Error, stage: Stage) -> Failure {
    use io::ErrorKind as Kind;
    let left = matches!(
        error.kind(),
        Kind::UnexpectedEof | Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe
    );
    let vanished = matches!(
        error.kind(),
        Kind::TimedOut | Kind::HostUnreachable | Kind::NetworkUnreachable
    );
    match stage {
        // EOF or RST is a race: what it depends on is whether the server had read the whole ClientHello.
        Stage::Handshake if left => Failure::new(
            Reason::ClosedDuringHandshake,
            "the server closed the connection during the TLS handshake",
        ),
        Stage::Handshake if vanished => Failure::new(
            Reason::HandshakeTimeout,
            format!("the server vanished during the TLS handshake: {error}"),
        ),
        Stage::Relay if error.kind() == Kind::UnexpectedEof => Failure::new(
            Reason::Truncated,
            "the server ended the connection without TLS close_notify",
        ),
        Stage::Relay if left || vanished => Failure::new(
            Reason::Reset,
            format!("the connection to the server broke: {error}"),
        ),
        Stage::Handshake | Stage::Relay => Failure::new(
            Reason::Internal,
            format!("the connection to the server failed: {error}"),
        ),
    }
}
