//! X.509 v1 certificates of servers, which webpki does not read: what `openssl x509 -req` makes without extensions. They
//! have no subjectAltName, so they are only good where names are not verified (GEP-4152).

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use rustls::{CertificateError, DigitallySignedStruct, Error};
use webpki::{EndEntityCert, RawPublicKeyEntity};
use x509_parser::asn1_rs::{Any, FromDer as _};
use x509_parser::certificate::X509Certificate;

use super::describe;

/// Whether webpki refuses the certificate for its version alone.
pub(super) fn is_v1(certificate: &CertificateDer<'_>) -> bool {
    let error = EndEntityCert::try_from(certificate).err();
    matches!(error, Some(webpki::Error::UnsupportedCertVersion))
}

/// Verifies that one of the `authorities` signed the certificate itself (no intermediates). Dates are left to the
/// caller.
///
/// # Errors
/// `BadDer`; `UnknownIssuer` when no authority has the issuer's name and may sign certificates without limits on their
/// names; `InvalidSignatureForPublicKey` when one has and did not make the signature.
pub(super) fn verify_issued(
    certificate: &CertificateDer<'_>,
    authorities: &[CertificateDer<'_>],
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<(), webpki::Error> {
    let leaf = describe::parse(certificate).ok_or(webpki::Error::BadDer)?;
    let named = authorities.iter().filter_map(describe::parse);
    let named = named.filter(|authority| {
        authority.subject().as_raw() == leaf.issuer().as_raw() && may_issue(authority)
    });
    let mut error = webpki::Error::UnknownIssuer;
    for authority in named {
        match verify_signature(certificate, &leaf, &authority, algorithms) {
            Some(()) => return Ok(()),
            None => error = webpki::Error::InvalidSignatureForPublicKey,
        }
    }
    Err(error)
}

/// A trust anchor is a CA by the policy's word; but it may say itself that it is none, or that its names are limited,
/// which can't be checked of a certificate without any.
fn may_issue(authority: &X509Certificate<'_>) -> bool {
    let ca = match authority.basic_constraints() {
        Ok(Some(constraints)) => constraints.value.ca,
        Ok(None) => true,
        Err(_) => false,
    };
    let signs = match authority.key_usage() {
        Ok(Some(usage)) => usage.value.key_cert_sign(),
        Ok(None) => true,
        Err(_) => false,
    };
    ca && signs && matches!(authority.name_constraints(), Ok(None))
}

fn verify_signature(
    certificate: &CertificateDer<'_>,
    leaf: &X509Certificate<'_>,
    authority: &X509Certificate<'_>,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Option<()> {
    // RFC 5280 section 4.1.1.2: the algorithm that is signed and the one that is not must be the same.
    if leaf.tbs_certificate.signature != leaf.signature_algorithm {
        return None;
    }
    let signed = leaf.tbs_certificate.as_ref();
    let (_, whole) = Any::from_der(certificate).ok()?;
    let (_, algorithm) = Any::from_der(whole.data.get(signed.len()..)?).ok()?;
    let spki = SubjectPublicKeyInfoDer::from(authority.public_key().raw);
    let key = RawPublicKeyEntity::try_from(&spki).ok()?;
    let named = algorithms.all.iter();
    let mut named = named.filter(|known| known.signature_alg_id().as_ref() == algorithm.data);
    let valid = named.any(|known| {
        key.verify_signature(*known, signed, &leaf.signature_value.data)
            .is_ok()
    });
    valid.then_some(())
}

/// Verifies that the server holds the certificate's key, in TLS 1.2 (RFC 5246 section 7.4.3).
pub(super) fn verify_tls12_signature(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Error> {
    let leaf = describe::parse(certificate).ok_or(CertificateError::BadEncoding)?;
    let spki = SubjectPublicKeyInfoDer::from(leaf.public_key().raw);
    let key = RawPublicKeyEntity::try_from(&spki).map_err(|_| CertificateError::BadEncoding)?;
    let possible = algorithms.mapping.iter();
    let mut possible = possible
        .filter(|(scheme, _)| *scheme == signed.scheme)
        .flat_map(|(_, algorithms)| algorithms.iter());
    let valid = possible.any(|known| {
        key.verify_signature(*known, message, signed.signature())
            .is_ok()
    });
    if valid {
        Ok(HandshakeSignatureValid::assertion())
    } else {
        Err(CertificateError::BadSignature.into())
    }
}

/// The same in TLS 1.3 (RFC 8446 section 4.4.3).
pub(super) fn verify_tls13_signature(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Error> {
    let leaf = describe::parse(certificate).ok_or(CertificateError::BadEncoding)?;
    let spki = SubjectPublicKeyInfoDer::from(leaf.public_key().raw);
    verify_tls13_signature_with_raw_key(message, &spki, signed, algorithms)
}
