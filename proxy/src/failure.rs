//! Why a connection failed: one vocabulary for the metric label, the log line and the Kubernetes Event.
//!
//! The client never sees any of it: it gets a generic answer or a reset.

use std::fmt;
use std::io;
use std::net::SocketAddr;

/// The cause of a failed connection, as coarse as an alert rule wants it. The particulars are in [`Failure::detail`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// No trusted CA signed the server's certificate chain, whatever names it claims.
    UnknownCa,
    /// The certificate has names, but none that the policy asks for.
    NameMismatch,
    /// The certificate cannot name a host: it has no subjectAltName, or is X.509 v1 and cannot have one.
    NoSubjectAltName,
    /// The certificate, or an intermediate one, has expired.
    Expired,
    /// The certificate, or an intermediate one, is not valid yet.
    NotYetValid,
    /// The server presents a CA certificate as its own, and it is not pinned.
    CaUsedAsLeaf,
    /// The certificate is unreadable, meant for another use, or the server does not hold its key.
    BadCertificate,
    /// The server answered the ClientHello with something that is not TLS.
    PlaintextServer,
    /// The server wants a client certificate. TLS 1.3 servers say so only after the handshake.
    ClientCertificateRequired,
    /// No TLS version, cipher suite, group or application protocol (ALPN) in common.
    NoCommonParameters,
    /// The server refused by a TLS alert that no other reason stands for.
    Alert,
    /// The server broke the TLS protocol.
    ProtocolError,
    /// The server closed or reset the connection before the handshake was complete.
    ClosedDuringHandshake,
    /// The server did not complete the handshake in time.
    HandshakeTimeout,
    /// The TCP connection was not established in time.
    ConnectTimeout,
    /// The TCP connection was refused: nothing listens there.
    Refused,
    /// No route to the server, or a firewall of this node forbids it.
    Unreachable,
    /// The server reset the connection after the handshake.
    Reset,
    /// The server ended the connection without TLS close_notify: what was received may be cut short.
    Truncated,
    /// The Service has no ready endpoint.
    NoEndpoints,
    /// The policy is invalid, so nothing may be sent (fail closed).
    PolicyRefused,
    /// The address that the client dialled belongs to no target, or to none that this pod may use.
    UnknownTarget,
    /// The client's ClientHello, HTTP/2 preface or request head was not complete in time, or is too long.
    ClientLimit,
    /// The client left before its connection was served.
    ClientGone,
    /// The agent was shut down before the connection came to its end.
    ShutDown,
    /// A fault on our side, such as no free port or file descriptor. Stays last: `ALL` is counted by it.
    Internal,
}

// A variant that is missing from `ALL` does not compile.
const _: () = assert!(Reason::ALL.len() == Reason::Internal as usize + 1);

impl Reason {
    /// Every reason, in order of declaration.
    pub const ALL: [Self; 26] = [
        Self::UnknownCa,
        Self::NameMismatch,
        Self::NoSubjectAltName,
        Self::Expired,
        Self::NotYetValid,
        Self::CaUsedAsLeaf,
        Self::BadCertificate,
        Self::PlaintextServer,
        Self::ClientCertificateRequired,
        Self::NoCommonParameters,
        Self::Alert,
        Self::ProtocolError,
        Self::ClosedDuringHandshake,
        Self::HandshakeTimeout,
        Self::ConnectTimeout,
        Self::Refused,
        Self::Unreachable,
        Self::Reset,
        Self::Truncated,
        Self::NoEndpoints,
        Self::PolicyRefused,
        Self::UnknownTarget,
        Self::ClientLimit,
        Self::ClientGone,
        Self::ShutDown,
        Self::Internal,
    ];

    /// The snake_case name: metric label and log field.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UnknownCa => "unknown_ca",
            Self::NameMismatch => "name_mismatch",
            Self::NoSubjectAltName => "no_subject_alt_name",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::CaUsedAsLeaf => "ca_used_as_leaf",
            Self::BadCertificate => "bad_certificate",
            Self::PlaintextServer => "plaintext_server",
            Self::ClientCertificateRequired => "client_certificate_required",
            Self::NoCommonParameters => "no_common_parameters",
            Self::Alert => "alert",
            Self::ProtocolError => "protocol_error",
            Self::ClosedDuringHandshake => "closed_during_handshake",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::ConnectTimeout => "connect_timeout",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Reset => "reset",
            Self::Truncated => "truncated",
            Self::NoEndpoints => "no_endpoints",
            Self::PolicyRefused => "policy_refused",
            Self::UnknownTarget => "unknown_target",
            Self::ClientLimit => "client_limit",
            Self::ClientGone => "client_gone",
            Self::ShutDown => "shut_down",
            Self::Internal => "internal",
        }
    }

    /// What an operator can do about it; `None` where the detail says it or nothing is to be done.
    pub const fn cure(self) -> Option<&'static str> {
        Some(match self {
            Self::UnknownCa => {
                "put the issuing CA into the policy's CA bundle, or have the server send its intermediates"
            }
            Self::NameMismatch => {
                "issue a certificate with the right name, or correct hostname or subjectAltNames in the policy"
            }
            Self::NoSubjectAltName => {
                "reissue it with a subjectAltName (openssl: -extfile with subjectAltName=DNS:…); the CN never counts"
            }
            Self::Expired => "renew it, and have the server load the new one",
            Self::NotYetValid => "compare the clocks of this node and of the issuer",
            Self::CaUsedAsLeaf => {
                "issue a certificate for the server, or pin this one: put exactly it into the policy's CA bundle"
            }
            Self::BadCertificate => "reissue the server's certificate",
            Self::PlaintextServer => "enable TLS on that port, or let the policy target another",
            Self::ClientCertificateRequired => "nodetls sends none: make it optional on the server",
            Self::NoCommonParameters => {
                "have the server offer TLS 1.2 or 1.3 with AEAD ciphers, and the protocol that the client speaks"
            }
            Self::Alert | Self::ProtocolError => "the server's log may tell more",
            Self::ClosedDuringHandshake | Self::HandshakeTimeout => {
                "check that the port speaks TLS"
            }
            Self::ConnectTimeout | Self::Refused | Self::Unreachable => {
                "check that the server runs and that NetworkPolicies allow the connection"
            }
            Self::Reset | Self::Truncated => "look for a crash or restart of the server",
            Self::NoEndpoints => "check the Service's selector and the readiness of its pods",
            Self::UnknownTarget => "dial the Service's address, not the redirected one",
            Self::ClientLimit => {
                "look at the client: its first message must be done in 10 s, an HTTP/1 head in 64 KiB"
            }
            Self::PolicyRefused | Self::ClientGone | Self::ShutDown | Self::Internal => {
                return None;
            }
        })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A failed connection. `Display` gives one sentence: what was found, then what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The cause.
    pub reason: Reason,
    /// What was found. Text that came from a peer is bounded and free of control characters.
    pub detail: String,
}

impl Failure {
    /// A failure with its particulars; strings that come from a peer must have gone through [`quoted`].
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self { reason, detail }
    }

    /// A TCP connect to `server` that failed with `error`.
    pub fn connect(error: &io::Error, server: SocketAddr) -> Self {
        use io::ErrorKind as Kind;
        match error.kind() {
            Kind::ConnectionRefused => Self::new(
                Reason::Refused,
                format!("{server} refused the connection: nothing listens there"),
            ),
            Kind::HostUnreachable | Kind::NetworkUnreachable | Kind::NetworkDown => Self::new(
                Reason::Unreachable,
                format!("{server} is unreachable ({error})"),
            ),
            // What eBPF and netfilter rules answer to a local connect.
            Kind::PermissionDenied => Self::new(
                Reason::Unreachable,
                format!("a firewall or NetworkPolicy of this node forbids connections to {server}"),
            ),
            Kind::TimedOut => Self::new(
                Reason::ConnectTimeout,
                format!("{server} did not answer the TCP connection request"),
            ),
            Kind::ConnectionReset | Kind::ConnectionAborted => Self::new(
                Reason::Reset,
                format!("{server} reset the connection before the TLS handshake"),
            ),
            Kind::AddrNotAvailable => Self::new(
                Reason::Internal,
                format!("no local port is free for a connection to {server}"),
            ),
            _ => Self::new(
                Reason::Internal,
                format!("connecting to {server} failed: {error}"),
            ),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)?;
        match self.reason.cure() {
            Some(cure) => write!(f, "; {cure}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}

/// Text from a peer, fit for a log line: in quotes, control and invisible characters escaped, at most 63 characters.
pub fn quoted(text: &str) -> String {
    let mut escaped = text.chars().flat_map(char::escape_debug);
    let shown: String = escaped.by_ref().take(60).collect();
    let more = if escaped.next().is_some() { "…" } else { "" };
    format!("\"{shown}{more}\"")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_distinct_and_in_order() {
        let names: BTreeSet<_> = Reason::ALL.iter().map(|r| r.as_str()).collect();
        assert_eq!(names.len(), Reason::ALL.len());
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
        }
    }

    #[test]
    fn display_names_finding_and_cure() {
        let failure = Failure::new(Reason::Expired, "it expired");
        assert_eq!(
            failure.to_string(),
            "it expired; renew it, and have the server load the new one"
        );
        assert_eq!(Failure::new(Reason::Internal, "oops").to_string(), "oops");
    }

    #[test]
    fn connect_errors_have_their_reasons() {
        let server: SocketAddr = "10.0.0.1:443".parse().unwrap();
        for (errno, reason) in [
            (111, Reason::Refused),
            (113, Reason::Unreachable),
            (101, Reason::Unreachable),
            (1, Reason::Unreachable),
            (13, Reason::Unreachable),
            (110, Reason::ConnectTimeout),
            (104, Reason::Reset),
            (99, Reason::Internal),
            (24, Reason::Internal),
        ] {
            let failure = Failure::connect(&io::Error::from_raw_os_error(errno), server);
            assert_eq!(failure.reason, reason, "errno {errno}");
            assert!(failure.detail.contains("10.0.0.1:443"), "{failure}");
        }
    }

    #[test]
    fn text_of_peers_is_escaped_and_bounded() {
        assert_eq!(quoted("ok.example"), "\"ok.example\"");
        assert_eq!(
            quoted("a\u{1b}[31m\n\u{202e}\""),
            r#""a\u{1b}[31m\n\u{202e}\"""#
        );
        for text in ["x", "é", "\n", "\u{202e}", "\u{10ffff}"] {
            let shown = quoted(&text.repeat(5000));
            assert!(shown.chars().count() <= 63 && shown.ends_with("…\""));
        }
    }
}
