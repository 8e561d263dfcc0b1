//! A certificate as reports show it.

use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{GeneralName, X509Certificate};

use super::describe::{date, parse};
use crate::digest::{hex, sha256};

/// Longer names are nobody's (RFC 1035: 255 octets).
const SHOWN: usize = 255;
/// How many alternative names are shown.
const NAMES: usize = 100;

/// What a certificate says. Text of it is escaped, so that it can be shown on a terminal, and bounded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Certificate {
    /// Its distinguished name; `(unreadable)` if nothing can be read, and then only `sha256` is known.
    pub subject: String,
    /// The distinguished name of who signed it.
    pub issuer: String,
    /// `DNS:www.example.com`, `URI:spiffe://…`, `IP:192.0.2.1`; no more than 100.
    pub subject_alt_names: Vec<String>,
    /// From when it is valid, as RFC 3339.
    pub not_before: String,
    /// Until when.
    pub not_after: String,
    /// The same in seconds since 1970, to reckon with.
    pub not_after_seconds: i64,
    /// SHA-256 of the certificate (DER): what the option pinned-sha256 calls `cert:`.
    pub sha256: String,
    /// SHA-256 of its SubjectPublicKeyInfo: `spki:`.
    pub public_key_sha256: String,
}

impl Certificate {
    /// Reads a certificate, leniently.
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        let sha256 = hex(&self::sha256(certificate));
        let Some(parsed) = parse(certificate) else {
            return Self {
                subject: "(unreadable)".to_owned(),
                sha256,
                ..Self::default()
            };
        };
        let validity = parsed.validity();
        Self {
            subject: shown(&parsed.subject().to_string()),
            issuer: shown(&parsed.issuer().to_string()),
            subject_alt_names: alt_names(&parsed),
            not_before: date(validity.not_before.timestamp()),
            not_after: date(validity.not_after.timestamp()),
            not_after_seconds: validity.not_after.timestamp(),
            sha256,
            public_key_sha256: hex(&self::sha256(parsed.public_key().raw)),
        }
    }

    /// Whole days from `now`, in seconds since 1970, to its end; negative after it.
    pub fn days_left(&self, now: i64) -> i64 {
        (self.not_after_seconds - now).div_euclid(86_400)
    }
}

fn alt_names(parsed: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = parsed.subject_alternative_name() else {
        return Vec::new();
    };
    let names = extension.value.general_names.iter().take(NAMES);
    let names = names.map(|name| match name {
        GeneralName::DNSName(name) => format!("DNS:{}", shown(name)),
        GeneralName::URI(uri) => format!("URI:{}", shown(uri)),
        GeneralName::RFC822Name(name) => format!("email:{}", shown(name)),
        GeneralName::IPAddress(bytes) => format!("IP:{}", ip(bytes)),
        _ => "(a name of another kind)".to_owned(),
    });
    names.collect()
}

fn ip(bytes: &[u8]) -> String {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return std::net::Ipv4Addr::from(v4).to_string();
    }
    match <[u8; 16]>::try_from(bytes) {
        Ok(v6) => std::net::Ipv6Addr::from(v6).to_string(),
        Err(_) => hex(bytes),
    }
}

/// What others chose, fit for a terminal.
fn shown(text: &str) -> String {
    let escaped = text.escape_debug().to_string();
    let escaped = escaped.replace("\\'", "'").replace("\\\"", "\"");
    escaped.chars().take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    #[test]
    fn a_certificate_is_shown_without_what_a_terminal_would_obey() {
        let mut params = CertificateParams::new(vec!["www.example.com".to_owned()]).unwrap();
        params
            .distinguished_name
            .push(DnType::CommonName, "a\u{1b}[31m\u{202e}");
        params
            .subject_alt_names
            .push(SanType::IpAddress("192.0.2.1".parse().unwrap()));
        let key = KeyPair::generate().unwrap();
        let made = params.self_signed(&key).unwrap();
        let shown = Certificate::of(made.der());
        assert!(
            shown.subject.contains(r"\u{1b}[31m\u{202e}"),
            "{}",
            shown.subject
        );
        assert_eq!(
            shown.subject_alt_names,
            ["DNS:www.example.com", "IP:192.0.2.1"]
        );
        assert_eq!(shown.sha256.len(), 64);
        assert_eq!(shown.days_left(shown.not_after_seconds), 0);
        assert_eq!(shown.days_left(shown.not_after_seconds + 1), -1);
        let none = Certificate::of(&CertificateDer::from(vec![0; 3]));
        assert_eq!(none.subject, "(unreadable)");
    }
}
