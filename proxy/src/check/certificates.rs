//! What is wrong with CA certificates that can be read: dates, and certificates that are no CA's.

use std::sync::Arc;

use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{X509Certificate, X509Version};

use crate::policy::{CaBundle, CaName};
use crate::tls::describe::{self, date};

/// Something to tell a policy's author.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Finding {
    Error(String),
    Warning(String),
}

/// Judges the certificates that a policy trusts.
pub(super) fn judge(
    bundles: &[(CaName, Arc<CaBundle>)],
    now: Timestamp,
    expiry_days: u16,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (source, bundle) in bundles {
        for certificate in &bundle.certificates {
            let Some(judged) = Judged::new(source, certificate) else {
                let text = format!("{source}: a certificate's dates can't be read");
                findings.push(Finding::Warning(text));
                continue;
            };
            findings.extend(judged.dates(now, expiry_days));
            findings.extend(judged.no_ca().map(Finding::Warning));
        }
    }
    findings
}

/// A certificate of a ConfigMap or Secret.
struct Judged<'a> {
    /// In words.
    name: String,
    parsed: X509Certificate<'a>,
}

impl<'a> Judged<'a> {
    fn new(source: &CaName, certificate: &'a CertificateDer<'_>) -> Option<Self> {
        let parsed = describe::parse(certificate)?;
        let subject = describe::name(parsed.subject());
        let name = format!("{source}: certificate {subject}");
        Some(Self { name, parsed })
    }

    /// A CA's own dates bind other TLS clients, not webpki; a pinned leaf's bind all.
    fn dates(&self, now: Timestamp, expiry_days: u16) -> Option<Finding> {
        let Self { name, parsed } = self;
        let validity = parsed.validity();
        let (start, end) = (
            validity.not_before.timestamp(),
            validity.not_after.timestamp(),
        );
        let left = end - now.as_second();
        if left < 0 {
            let effect = if self.is_ca() {
                "other TLS clients no longer trust what it signed (nodetls looks at the server's certificate only)"
            } else {
                "a server that presents it is refused"
            };
            let end = date(end);
            return Some(Finding::Error(format!(
                "{name} expired at {end}: {effect}: remove or renew it"
            )));
        }
        if left <= i64::from(expiry_days) * 86_400 {
            let (end, days) = (date(end), left / 86_400);
            return Some(Finding::Warning(format!(
                "{name} expires at {end}, in {days} days: add its successor now"
            )));
        }
        (now.as_second() < start).then(|| {
            let start = date(start);
            Finding::Warning(format!("{name} is not valid before {start}"))
        })
    }

    /// For a certificate that is no CA's, what it is good for: see `tls::verifier`, which takes a self-signed one of
    /// the bundle as the server's own.
    fn no_ca(&self) -> Option<String> {
        let Self { name, parsed } = self;
        if self.is_ca() {
            return None;
        }
        let cause = match parsed.basic_constraints() {
            Ok(Some(_)) => "is no CA's (basicConstraints CA:FALSE)",
            _ => "is no CA's (it has no basicConstraints)",
        };
        let issuer = describe::name(parsed.issuer());
        let (effect, cure) = if parsed.subject().as_raw() != parsed.issuer().as_raw() {
            (
                format!(
                    "it was issued by {issuer}, and whoever presents it is trusted only by that CA's certificate"
                ),
                "put that here instead",
            )
        } else if parsed.version() != X509Version::V3 {
            (
                "as X.509 before v3 it vouches for what it signed, but no server may present it, and other TLS clients \
                 may not trust it"
                    .to_owned(),
                "make it anew with CA:TRUE",
            )
        } else if !self.serves() {
            (
                "its extendedKeyUsage lacks serverAuth, so no server may present it".to_owned(),
                "make it anew",
            )
        } else {
            (
                "it works for a server that presents this very certificate (a pinned leaf)"
                    .to_owned(),
                "use a CA's unless that is meant",
            )
        };
        Some(format!("{name} {cause}: {effect}: {cure}"))
    }

    fn is_ca(&self) -> bool {
        let constraints = self.parsed.basic_constraints();
        matches!(constraints, Ok(Some(extension)) if extension.value.ca)
    }

    /// Whether its extendedKeyUsage, if any, allows it to be a server's.
    fn serves(&self) -> bool {
        match self.parsed.extended_key_usage() {
            Ok(usage) => usage.is_none_or(|usage| usage.value.server_auth),
            Err(_) => false,
        }
    }
}
