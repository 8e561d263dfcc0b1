//! The server's certificate against the policy: chain or pin, then identity (GEP-1897).
//!
//! Unlike rustls' own verifier, this one knows `subjectAltNames` with URIs, takes a self-signed certificate that
//! is itself in the CA bundle, and explains every refusal.

mod words;

use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, OtherError, SignatureScheme};
use webpki::{EndEntityCert, KeyUsage};

use super::identity::{Identity, server_name};
use super::{describe, presented, v1};
use crate::digest::{hex, sha256};
use crate::failure::{Failure, Reason};
use crate::policy::{Origination, Pin, ValidationMode};
use words::{bad, expired, not_for_servers, not_yet_valid, unusable};

/// Verifies servers for one [`Origination`].
#[derive(Debug)]
pub(crate) struct Verifier {
    origination: Origination,
    anchors: Vec<TrustAnchor<'static>>,
    /// Any one of them authenticates the server.
    identities: Vec<Identity>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    /// Fails with `PolicyRefused` on a name that is none, or when no CA certificate is usable; a bundle that has some
    /// usable ones works with those.
    pub(crate) fn new(
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
        match EndEntityCert::try_from(certificate) {
            Ok(leaf) => {
                self.verify_trust(&leaf, certificate, sent, now)?;
                self.verify_name(&leaf, certificate)?;
            }
            Err(_) if self.takes_v1(certificate) => self.verify_v1(certificate, now)?,
            Err(error) => return Err(unusable(certificate, &error)),
        }
        self.verify_fingerprint(certificate)
    }

    fn mode(&self) -> ValidationMode {
        self.origination.options.validation_mode
    }

    fn verify_trust(
        &self,
        leaf: &EndEntityCert<'_>,
        certificate: &CertificateDer<'_>,
        sent: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Failure> {
        if self.mode() == ValidationMode::InsecureSkipVerification {
            return Ok(());
        }
        if self.is_pinned(certificate) {
            return self.check_pinned(certificate, now);
        }
        let mut at = now;
        loop {
            let verified = leaf.verify_for_usage(
                self.algorithms.all,
                &self.anchors,
                sent,
                at,
                KeyUsage::server_auth(),
                None,
                None,
            );
            match verified {
                Ok(_) => return Ok(()),
                // As of the last moment at which this one was valid: that of each certificate comes once at most.
                Err(webpki::Error::CertExpired { not_after, .. })
                    if self.mode() == ValidationMode::InsecureAllowExpired && not_after < at =>
                {
                    at = not_after;
                }
                Err(error) => return Err(self.untrusted(certificate, sent, error)),
            }
        }
    }

    fn verify_name(
        &self,
        leaf: &EndEntityCert<'_>,
        certificate: &CertificateDer<'_>,
    ) -> Result<(), Failure> {
        let named = || self.identities.iter().any(|identity| identity.is_of(leaf));
        if self.mode().skips_names() || named() {
            Ok(())
        } else {
            Err(self.misnamed(certificate))
        }
    }

    /// Whether this is a certificate without names, and none are asked for.
    fn takes_v1(&self, certificate: &CertificateDer<'_>) -> bool {
        self.mode().skips_names() && v1::is_v1(certificate)
    }

    fn verify_v1(&self, certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Failure> {
        if self.mode() == ValidationMode::InsecureSkipVerification {
            return Ok(());
        }
        if !self.is_pinned(certificate) {
            let authorities = &self.origination.roots.certificates;
            v1::verify_issued(certificate, authorities, &self.algorithms)
                .map_err(|error| self.untrusted(certificate, &[], error))?;
        }
        self.check_pinned(certificate, now)
    }

    fn verify_fingerprint(&self, certificate: &CertificateDer<'_>) -> Result<(), Failure> {
        let pins = &self.origination.options.pins;
        if pins.is_empty() {
            return Ok(());
        }
        let parsed = describe::parse(certificate);
        let spki = parsed.map(|parsed| sha256(parsed.public_key().raw));
        let own = sha256(certificate);
        let fits = |pin: &Pin| match pin {
            Pin::Certificate(sum) => *sum == own,
            Pin::PublicKey(sum) => Some(*sum) == spki,
        };
        if pins.iter().any(fits) {
            return Ok(());
        }
        let (subject, spki) = (describe::subject(certificate), spki.unwrap_or_default());
        Err(Failure::new(
            Reason::PinMismatch,
            format!(
                "the server's certificate {subject} has the fingerprints cert:{} and spki:{}, and neither is in the \
                 policy's list",
                hex(&own),
                hex(&spki)
            ),
        ))
    }

    /// Self-signed and itself in the bundle: what `openssl req -x509` makes, with CA:TRUE or not.
    fn is_pinned(&self, certificate: &CertificateDer<'_>) -> bool {
        self.origination.roots.certificates.contains(certificate)
            && describe::is_self_issued(certificate)
    }

    /// What webpki would check of a leaf whose trust needs no chain: dates and usage.
    fn check_pinned(&self, certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Failure> {
        let subject = describe::subject(certificate);
        let Some(parsed) = describe::parse(certificate) else {
            return Err(bad(&subject, "it cannot be parsed"));
        };
        let validity = parsed.validity();
        // A date before 1970 has passed whatever the clock says.
        let seconds =
            |t: i64| UnixTime::since_unix_epoch(Duration::from_secs(t.max(0).unsigned_abs()));
        let not_before = seconds(validity.not_before.timestamp());
        let not_after = seconds(validity.not_after.timestamp());
        if now < not_before {
            return Err(not_yet_valid(&subject, now, not_before));
        }
        if now > not_after && self.mode() != ValidationMode::InsecureAllowExpired {
            return Err(expired(&subject, now, not_after));
        }
        match parsed.extended_key_usage() {
            Ok(None) => Ok(()),
            Ok(Some(usage)) if usage.value.server_auth => Ok(()),
            Ok(Some(_)) | Err(_) => Err(not_for_servers(&subject)),
        }
    }
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
        presented::note(end_entity, intermediates);
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
        if self.takes_v1(cert) {
            return v1::verify_tls12_signature(message, cert, dss, &self.algorithms);
        }
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if self.takes_v1(cert) {
            return v1::verify_tls13_signature(message, cert, dss, &self.algorithms);
        }
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
