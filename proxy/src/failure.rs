//! Why a connection failed: one vocabulary for the metric label, the log line and the Kubernetes Event.
//!
//! The client never sees any of it: it gets a generic answer or a reset. `docs/errors.md` is made from it.

#[cfg(test)]
mod docs;
mod reason;

use std::fmt;
use std::io;
use std::net::SocketAddr;

pub use reason::Reason;

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
        write!(f, "{}; {}", self.detail, self.reason.cure())
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
    fn each_reason_has_a_label_and_two_sentences_of_its_own() {
        for text in [Reason::as_str, Reason::meaning] {
            let texts: BTreeSet<_> = Reason::ALL.iter().map(|r| text(*r)).collect();
            assert_eq!(texts.len(), Reason::ALL.len());
        }
        for reason in Reason::ALL {
            let (label, meaning, cure) = (reason.as_str(), reason.meaning(), reason.cure());
            let snake = |c: char| c.is_ascii_lowercase() || c == '_';
            assert!(label.chars().all(snake), "{label}");
            assert!(meaning.ends_with('.') && !cure.ends_with('.'), "{label}");
            assert!(cure.starts_with(|c: char| c.is_lowercase()), "{label}");
        }
    }

    #[test]
    fn display_names_finding_and_cure() {
        let failure = Failure::new(Reason::Expired, "it expired");
        assert_eq!(
            failure.to_string(),
            "it expired; renew it and have the server load the new one; if the clock is wrong, set it"
        );
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
