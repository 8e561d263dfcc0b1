//! The server's certificate against the policy: chain or pin, then identity (GEP-1897).
//!
//! Unlike rustls' own verifier, this one knows `subjectAltNames` with URIs, takes a self-signed certificate that
//! is itself in the CA bundle, and explains every refusal.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, OtherError, SignatureScheme};
use webpki::{EndEntityCert, KeyUsage};

use super::describe;
use super::identity::{Identity, server_name};
use crate::failure::{Failure, Reason, quoted};
use crate::policy::{Origination, SubjectAltName};

/// Verifies servers for one [`Origination`].
#[derive(Debug)]
pub(super) struct Verifier {
    origination: Origination,
    anchors: Vec<TrustAnchor<'static>>,
    /// Any one of them authenticates the server.
    identities: Vec<Identity>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    /// Fails with `PolicyRefused` on a name that is none, or when no CA certificate is usable; a bundle that has some
    /// usable ones works with those.
    pub(super) fn new(
        origination: &Origination,
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Result<Self, Failure> {
        let certificates = &origination.roots.certificates;
        let anchors: Vec<_> = certificates
            .iter()
            .filter_map(|certificate| webpki::anchor_from_trusted_cert(certificate).ok())
            .map(|anchor| anchor.to_owned())
            .collect();
        if anchors.is_empty() {
            return Err(Failure::new(
                Reason::PolicyRefused,
                "the policy's CA bundle has no certificate that can serve as a trust anchor",
            ));
        }
        let identities = match origination.subject_alt_names.as_slice() {
            [] => vec![Identity::Name(server_name(&origination.hostname)?)],
            names => names.iter().map(Identity::new).collect::<Result<_, _>>()?,
        };
        Ok(Self {
            origination: origination.clone(),
            anchors,
            identities,
            algorithms,
        })
    }

    fn verify(
        &self,
        certificate: &CertificateDer<'_>,
        sent: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Failure> {
        let leaf = EndEntityCert::try_from(certificate).map_err(|e| unusable(certificate, &e))?;
        if self.is_pinned(&leaf, certificate) {
            check_pinned(certificate, now)?;
        } else {
            leaf.verify_for_usage(
                self.algorithms.all,
                &self.anchors,
                sent,
                now,
                KeyUsage::server_auth(),
                None,
                None,
            )
            .map_err(|error| self.untrusted(certificate, sent, error))?;
        }
        if self.identities.iter().any(|identity| identity.is_of(&leaf)) {
            Ok(())
        } else {
            Err(self.misnamed(certificate))
        }
    }

    /// Self-signed and itself in the bundle: what `openssl req -x509` makes, with CA:TRUE or not.
    fn is_pinned(&self, leaf: &EndEntityCert<'_>, certificate: &CertificateDer<'_>) -> bool {
        leaf.issuer() == leaf.subject() && self.origination.roots.certificates.contains(certificate)
    }

    fn misnamed(&self, certificate: &CertificateDer<'_>) -> Failure {
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
    fn untrusted(
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

/// What webpki would check of a leaf whose trust needs no chain: dates and usage.
fn check_pinned(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Failure> {
    let subject = describe::subject(certificate);
    let Some(parsed) = describe::parse(certificate) else {
        return Err(bad(&subject, "it cannot be parsed"));
    };
    let validity = parsed.validity();
    // A date before 1970 has passed whatever the clock says.
    let seconds = |t: i64| UnixTime::since_unix_epoch(Duration::from_secs(t.max(0).unsigned_abs()));
    let not_before = seconds(validity.not_before.timestamp());
    let not_after = seconds(validity.not_after.timestamp());
    if now < not_before {
        return Err(not_yet_valid(&subject, now, not_before));
    }
    if now > not_after {
        return Err(expired(&subject, now, not_after));
    }
    match parsed.extended_key_usage() {
        Ok(None) => Ok(()),
        Ok(Some(usage)) if usage.value.server_auth => Ok(()),
        Ok(Some(_)) | Err(_) => Err(not_for_servers(&subject)),
    }
}

/// Words for a leaf that webpki does not even read.
fn unusable(certificate: &CertificateDer<'_>, error: &webpki::Error) -> Failure {
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

fn bad(subject: &str, fault: &str) -> Failure {
    Failure::new(
        Reason::BadCertificate,
        format!("the server's certificate {subject} is not usable: {fault}"),
    )
}

fn not_for_servers(subject: &str) -> Failure {
    bad(
        subject,
        "its extendedKeyUsage, or its CA's, does not allow serverAuth",
    )
}

fn date(time: UnixTime) -> String {
    describe::date(i64::try_from(time.as_secs()).unwrap_or(i64::MAX))
}

fn expired(subject: &str, now: UnixTime, not_after: UnixTime) -> Failure {
    let (end, now) = (date(not_after), date(now));
    Failure::new(
        Reason::Expired,
        format!(
            "the server's certificate {subject} or its CA's expired at {end}; this node's clock says {now}"
        ),
    )
}

fn not_yet_valid(subject: &str, now: UnixTime, not_before: UnixTime) -> Failure {
    let (start, now) = (date(not_before), date(now));
    Failure::new(
        Reason::NotYetValid,
        format!(
            "the server's certificate {subject} or its CA's is valid from {start}; this node's clock says {now}"
        ),
    )
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _sni: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.verify(end_entity, intermediates, now) {
            Ok(()) => Ok(ServerCertVerified::assertion()),
            Err(failure) => Err(CertificateError::Other(OtherError(Arc::new(failure))).into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
