//! Certificates in words, for the detail of a failure. Runs only when something is wrong, on what an attacker may
//! have sent: every string is quoted and every list is short.

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate, X509Name};

use crate::failure::quoted;

/// How many names a list shows.
pub(crate) const LISTED: usize = 4;

/// The certificate's subject: its common name, else its whole distinguished name.
pub(crate) fn subject(certificate: &CertificateDer<'_>) -> String {
    parse(certificate).map_or_else(unreadable, |parsed| name(parsed.subject()))
}

/// The issuer at which the chain that the server sent ends.
pub(super) fn last_issuer(leaf: &CertificateDer<'_>, sent: &[CertificateDer<'_>]) -> String {
    let Some(mut top) = parse(leaf) else {
        return unreadable();
    };
    let sent: Vec<_> = sent.iter().take(8).filter_map(|c| parse(c)).collect();
    // One step per certificate at most: a loop of issuers ends too.
    for _ in &sent {
        let issuer = sent
            .iter()
            .find(|c| c.subject().as_raw() == top.issuer().as_raw());
        match issuer {
            Some(issuer) => top = issuer.clone(),
            None => break,
        }
    }
    name(top.issuer())
}

/// Whether the certificate names itself as its issuer.
pub(super) fn is_self_issued(certificate: &CertificateDer<'_>) -> bool {
    parse(certificate).is_some_and(|c| c.subject().as_raw() == c.issuer().as_raw())
}

/// The names of the subjectAltName extension, as a short list; `None` if there are none.
pub(super) fn alt_names(certificate: &CertificateDer<'_>) -> Option<String> {
    let parsed = parse(certificate)?;
    let names = &parsed.subject_alternative_name().ok()??.value.general_names;
    let shown = names.iter().take(LISTED).map(|name| match name {
        GeneralName::DNSName(dns) => quoted(dns),
        GeneralName::URI(uri) => quoted(uri),
        GeneralName::IPAddress(_) => "an IP address".to_owned(),
        _ => "a name of another kind".to_owned(),
    });
    (!names.is_empty()).then(|| list(shown, names.len()))
}

/// The subjects of some CA certificates, as a short list.
pub(super) fn subjects(certificates: &[CertificateDer<'_>]) -> String {
    list(
        certificates.iter().take(LISTED).map(subject),
        certificates.len(),
    )
}

/// Seconds since the epoch as RFC 3339.
pub(crate) fn date(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(
        |_| format!("{seconds} s after 1970"),
        |date| date.to_string(),
    )
}

/// When a certificate expires, in Unix time (seconds).
pub(crate) fn not_after(certificate: &CertificateDer<'_>) -> Option<i64> {
    Some(parse(certificate)?.validity().not_after.timestamp())
}

/// Reads a certificate leniently: the verifier has its own, strict reader.
pub(crate) fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(parsed)
}

/// The common name, else the whole distinguished name.
pub(crate) fn name(name: &X509Name<'_>) -> String {
    let common = name.iter_common_name().next();
    match common.and_then(|attribute| attribute.as_str().ok()) {
        Some(common) => quoted(common),
        None => quoted(&name.to_string()),
    }
}

fn unreadable() -> String {
    "(unreadable)".to_owned()
}

/// `a, b and 3 more`.
fn list(shown: impl Iterator<Item = String>, total: usize) -> String {
    let shown: Vec<_> = shown.collect();
    let joined = shown.join(", ");
    match total - shown.len() {
        0 => joined,
        more => format!("{joined} and {more} more"),
    }
}
