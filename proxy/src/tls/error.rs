//! From the errors of a TLS stream to reasons.

use std::io;

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage};

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
    match error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Error>())
    {
        Some(tls) => from_tls(tls, stage),
        None => from_socket(error, stage),
    }
}

/// Whether `error` is an alert that a server may send when it misses a client certificate, among other causes.
pub(super) fn may_mean_no_certificate(error: &io::Error) -> bool {
    use AlertDescription::{AccessDenied, HandshakeFailure};
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref());
    matches!(
        tls,
        Some(Error::AlertReceived(HandshakeFailure | AccessDenied))
    )
}

/// The failure of a server that asked for a client certificate.
pub(super) fn no_client_certificate() -> Failure {
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
        Error::PeerIncompatible(what) => Failure::new(
            Reason::NoCommonParameters,
            format!(
                "the server supports nothing that we do: {}",
                quoted(&format!("{what:?}"))
            ),
        ),
        Error::InvalidMessage(InvalidMessage::InvalidContentType) if stage == Stage::Handshake => {
            Failure::new(
                Reason::PlaintextServer,
                "the server answered with something that is not TLS (an HTTP server?)",
            )
        }
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
    let nothing_common = |what: &str| {
        Failure::new(
            Reason::NoCommonParameters,
            format!("{what} (alert {alert:?})"),
        )
    };
    match alert {
        // We send no certificate, so what a server finds bad about it is that it is missing.
        A::CertificateRequired | A::BadCertificate | A::NoCertificate => no_client_certificate(),
        A::ProtocolVersion => nothing_common("the server speaks neither TLS 1.2 nor TLS 1.3"),
        A::NoApplicationProtocol => {
            nothing_common("the server does not speak the client's application protocol (ALPN)")
        }
        A::HandshakeFailure | A::InsufficientSecurity if stage == Stage::Handshake => {
            nothing_common(
                "the server found no cipher suite, group or signature algorithm in common",
            )
        }
        A::UnrecognisedName => Failure::new(
            Reason::Alert,
            "the server does not know the policy's hostname (alert UnrecognisedName on the SNI)",
        ),
        _ => Failure::new(
            Reason::Alert,
            format!("the server refused by alert {alert:?}"),
        ),
    }
}

fn from_socket(error: &io::Error, stage: Stage) -> Failure {
    use io::ErrorKind as Kind;
    let left = matches!(
        error.kind(),
        Kind::UnexpectedEof | Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe
    );
    match stage {
        // EOF or RST is a race: what it depends on is whether the server had read the whole ClientHello.
        Stage::Handshake if left => Failure::new(
            Reason::ClosedDuringHandshake,
            "the server closed the connection during the TLS handshake",
        ),
        Stage::Handshake if error.kind() == Kind::TimedOut => Failure::new(
            Reason::HandshakeTimeout,
            "the server vanished during the TLS handshake",
        ),
        Stage::Relay if error.kind() == Kind::UnexpectedEof => Failure::new(
            Reason::Truncated,
            "the server ended the connection without TLS close_notify",
        ),
        Stage::Relay if left || error.kind() == Kind::TimedOut => Failure::new(
            Reason::Reset,
            format!("the connection to the server broke: {error}"),
        ),
        Stage::Handshake | Stage::Relay => Failure::new(
            Reason::Internal,
            format!("the connection to the server failed: {error}"),
        ),
    }
}
