//! What is wrong with a server's certificate, in words.

use rustls::pki_types::{CertificateDer, UnixTime};

use super::super::describe;
use super::Verifier;
use crate::failure::{Failure, Reason, quoted};
use crate::policy::SubjectAltName;

impl Verifier {
    pub(super) fn misnamed(&self, certificate: &CertificateDer<'_>) -> Failure {
        let subject = describe::subject(certificate);
        match describe::alt_names(certificate) {
            Some(names) => Failure::new(
                Reason::NameMismatch,
                format!(
                    "the server's certificate is for {names}, but the policy asks for {}",
                    self.wanted()
                ),
            ),
            None => Failure::new(
                Reason::NoSubjectAltName,
                format!("the server's certificate (CN {subject}) has no subjectAltName"),
            ),
        }
    }

    fn wanted(&self) -> String {
        let names = match self.origination.subject_alt_names.as_slice() {
            [] => return quoted(&self.origination.hostname),
            names => names.iter().map(|name| match name {
                SubjectAltName::Hostname(name) | SubjectAltName::Uri(name) => quoted(name),
            }),
        };
        names.collect::<Vec<_>>().join(" or ")
    }

    /// Words for the error of path building. `error` is the most specific one that webpki met on any path.
    pub(super) fn untrusted(
        &self,
        certificate: &CertificateDer<'_>,
        sent: &[CertificateDer<'_>],
        error: webpki::Error,
    ) -> Failure {
        use webpki::Error as E;
        let subject = describe::subject(certificate);
        match error {
            E::UnknownIssuer => self.unknown_ca(certificate, sent),
            // A CA of the right name but with another key. webpki names only one of the two algorithms that differ.
            E::InvalidSignatureForPublicKey
            | E::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => Failure::new(
                Reason::UnknownCa,
                format!(
                    "the chain of the server's certificate {subject} up to {} has a signature that the issuer's key \
                     did not make (a CA created anew under its old name?)",
                    describe::last_issuer(certificate, sent)
                ),
            ),
            E::CertExpired { time, not_after } => expired(&subject, time, not_after),
            E::CertNotValidYet { time, not_before } => not_yet_valid(&subject, time, not_before),
            E::CaUsedAsEndEntity => Failure::new(
                Reason::CaUsedAsLeaf,
                format!("the server presents the CA certificate {subject} as its own"),
            ),
            E::RequiredEkuNotFoundContext(_) | E::EmptyEkuExtension => not_for_servers(&subject),
            E::UnsupportedSignatureAlgorithmContext(_) => bad(
                &subject,
                "its chain is signed with an algorithm that is not supported (SHA-1?)",
            ),
            E::NameConstraintViolation => {
                bad(&subject, "its CA may not issue certificates for its names")
            }
            E::EndEntityUsedAsCa => bad(
                &subject,
                "a certificate in its chain is used as a CA but is none",
            ),
            other => bad(
                &subject,
                &format!("its chain does not verify: {}", quoted(&other.to_string())),
            ),
        }
    }

    fn unknown_ca(&self, certificate: &CertificateDer<'_>, sent: &[CertificateDer<'_>]) -> Failure {
        let subject = describe::subject(certificate);
        let trusted = describe::subjects(&self.origination.roots.certificates);
        let issued = if describe::is_self_issued(certificate) {
            "is self-signed and not itself trusted".to_owned()
        } else {
            let issuer = describe::last_issuer(certificate, sent);
            format!("was issued by {issuer}, which is not trusted")
        };
        Failure::new(
            Reason::UnknownCa,
            format!("the server's certificate {subject} {issued}; trusted CAs: {trusted}"),
        )
    }
}

/// Words for a leaf that webpki does not even read.
pub(super) fn unusable(certificate: &CertificateDer<'_>, error: &webpki::Error) -> Failure {
    let subject = describe::subject(certificate);
    match error {
        webpki::Error::UnsupportedCertVersion => Failure::new(
            Reason::NoSubjectAltName,
            format!(
                "the server's certificate (CN {subject}) is X.509 v1, which has no subjectAltName"
            ),
        ),
        other => bad(
            &subject,
            &format!("it cannot be read: {}", quoted(&other.to_string())),
        ),
    }
}

pub(super) fn bad(subject: &str, fault: &str) -> Failure {
    Failure::new(
        Reason::BadCertificate,
        format!("the server's certificate {subject} is not usable: {fault}"),
    )
}

pub(super) fn not_for_servers(subject: &str) -> Failure {
    bad(
        subject,
        "its extendedKeyUsage, or its CA's, does not allow serverAuth",
    )
}

fn date(time: UnixTime) -> String {
    describe::date(i64::try_from(time.as_secs()).unwrap_or(i64::MAX))
}

pub(super) fn expired(subject: &str, now: UnixTime, not_after: UnixTime) -> Failure {
    let (end, now) = (date(not_after), date(now));
    Failure::new(
        Reason::Expired,
        format!(
            "the server's certificate {subject} or its CA's expired at {end}; this node's clock says {now}"
        ),
    )
}

pub(super) fn not_yet_valid(subject: &str, now: UnixTime, not_before: UnixTime) -> Failure {
    let (start, now) = (date(not_before), date(now));
    Failure::new(
        Reason::NotYetValid,
        format!(
            "the server's certificate {subject} or its CA's is valid from {start}; this node's clock says {now}"
        ),
    )
}
