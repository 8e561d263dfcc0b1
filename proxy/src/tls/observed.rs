//! What a handshake's errors don't tell: the server's first bytes, and whether it asked for a client certificate.

use std::cell::RefCell;

/// How many of the server's first bytes are kept.
const KEPT: usize = 48;
/// How plaintext protocols begin in which a server answers a ClientHello, or speaks first.
const GREETINGS: [(&[u8], &str); 5] = [
    (b"HTTP/1.", "HTTP"),
    (b"SSH-", "SSH"),
    (b"220", "SMTP or FTP"),
    (b"+OK", "POP3"),
    (b"* OK", "IMAP"),
];

tokio::task_local! {
    /// Of the handshake that this task runs.
    pub(super) static OBSERVED: RefCell<Observed>;
}

/// What was seen of the server during the handshake.
#[derive(Debug, Default)]
pub(super) struct Observed {
    /// It has asked for a client certificate.
    pub(super) certificate_requested: bool,
    /// Its first bytes, [`KEPT`] at most.
    pub(super) first: Vec<u8>,
}

impl Observed {
    /// What was read.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        let room = KEPT - self.first.len();
        self.first.extend(bytes.iter().take(room));
    }

    /// What the server speaks if it is not TLS, in words; no TLS record begins like it (RFC 8446 section 5.1).
    pub(super) fn plaintext(&self) -> Option<String> {
        let kind = *self.first.first()?;
        if (20..=24).contains(&kind) {
            return None;
        }
        let line = self.first.split(|byte| b"\r\n".contains(byte)).next();
        let shown = format!("\"{}\"", line.unwrap_or_default().escape_ascii());
        let known = GREETINGS
            .iter()
            .find(|(start, _)| self.first.starts_with(start));
        // An HTTP/2 server begins with a SETTINGS frame (RFC 9113 section 3.4).
        let settings = kind == 0 && self.first.get(3..5) == Some(&[4, 0]);
        Some(match known {
            Some((_, protocol)) => format!("{protocol}, not TLS: {shown}"),
            None if settings => "HTTP/2, not TLS".to_owned(),
            None => format!("something that is not TLS: {shown}"),
        })
    }
}
