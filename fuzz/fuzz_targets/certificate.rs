//! What a server sends as its certificate chain, to the verifier in every mode: refused in words, unless our CA signed it.
#![no_main]

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use nodetls::fuzzing::verifier;
use nodetls::policy::{CaBundle, Origination, ValidationMode};
use nodetls_fuzz::origination;
use rustls::DigitallySignedStruct;
use rustls::client::danger::ServerCertVerifier;
use rustls::internal::msgs::codec::{Codec, Reader};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::EndEntityCert;

/// `seeds.sh` made them all.
const CA: &[u8] = include_bytes!("../seeds/ca.der");
/// Chains whose first certificate our CA signed, itself or through another.
const SIGNED: [&[u8]; 8] = [
    include_bytes!("../corpus/certificate/chain"),
    include_bytes!("../corpus/certificate/client"),
    include_bytes!("../corpus/certificate/ed25519"),
    include_bytes!("../corpus/certificate/expired"),
    include_bytes!("../corpus/certificate/leaf"),
    include_bytes!("../corpus/certificate/names"),
    include_bytes!("../corpus/certificate/rsa"),
    include_bytes!("../corpus/certificate/v1"),
];
/// 2030-01-01, when they are valid, but for `expired`.
const NOW: Duration = Duration::from_secs(1_893_456_000);

static CA_ONLY: LazyLock<Arc<CaBundle>> = LazyLock::new(|| bundle([CA]));
static SIGNED_PARTS: LazyLock<Vec<&[u8]>> = LazyLock::new(|| {
    let leaves = SIGNED.iter().filter_map(|chain| elements(chain).next());
    leaves.filter_map(signed_part).collect()
});

fn bundle<const N: usize>(certificates: [&[u8]; N]) -> Arc<CaBundle> {
    let certificates = certificates.map(|one| CertificateDer::from(one.to_vec()));
    Arc::new(CaBundle {
        certificates: certificates.into(),
    })
}

/// The bytes cut after each DER element, by its length (X.690 section 8.1.3); what has none is the last.
fn elements(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (one, rest) = bytes.split_at(whole_element(bytes).min(bytes.len()));
        bytes = rest;
        (!one.is_empty()).then_some(one)
    })
}

fn whole_element(bytes: &[u8]) -> usize {
    match bytes {
        [_, short @ ..=0x7f, ..] => 2 + usize::from(*short),
        [_, 0x81, length, ..] => 3 + usize::from(*length),
        [_, 0x82, high, low, ..] => 4 + usize::from(u16::from_be_bytes([*high, *low])),
        _ => bytes.len(),
    }
}

/// The TBSCertificate (RFC 5280 section 4.1); a signature itself can be written in more ways than one.
fn signed_part(certificate: &[u8]) -> Option<&[u8]> {
    elements(certificate.get(4..)?).next()
}

/// Whether the chain is accepted.
fn judge(origination: &Origination, leaf: &CertificateDer, sent: &[CertificateDer]) -> bool {
    let host = ServerName::try_from("a.example").unwrap();
    let now = UnixTime::since_unix_epoch(NOW);
    // A bundle of nothing usable is refused before there is a connection.
    let Ok(verifier) = verifier(origination) else {
        return false;
    };
    let verdict = verifier.verify_server_cert(leaf, sent, &host, &[], now);
    if let Err(refusal) = &verdict {
        assert!(!refusal.to_string().is_empty());
    }
    verdict.is_ok()
}

/// That the server holds the key is not believed for the last bytes it sent, whatever it calls them.
fn sign(origination: &Origination, leaf: &CertificateDer, last: &[u8]) {
    let verifier = verifier(origination).unwrap();
    let (tail, scheme) = last.split_at(last.len().saturating_sub(1));
    let tail = &tail[tail.len().saturating_sub(80)..];
    let schemes = verifier.supported_verify_schemes();
    let scheme = schemes[usize::from(scheme.first().copied().unwrap_or(0)) % schemes.len()];
    let bytes = [
        &u16::from(scheme).to_be_bytes(),
        &[0, tail.len() as u8],
        tail,
    ]
    .concat();
    let signed = DigitallySignedStruct::read(&mut Reader::init(&bytes)).unwrap();
    assert!(
        verifier
            .verify_tls12_signature(b"message", leaf, &signed)
            .is_err()
    );
    assert!(
        verifier
            .verify_tls13_signature(b"message", leaf, &signed)
            .is_err()
    );
}

fuzz_target!(|bytes: &[u8]| {
    let chain: Vec<_> = elements(bytes).map(CertificateDer::from).collect();
    let Some((leaf, sent)) = chain.split_first() else {
        return;
    };
    let known = signed_part(leaf).is_some_and(|part| SIGNED_PARTS.contains(&part));
    let named = EndEntityCert::try_from(leaf).is_ok_and(|leaf| {
        let mut names = leaf.valid_dns_names();
        names.any(|name| name.eq_ignore_ascii_case("a.example") || name == "*.example")
    });
    for mode in ValidationMode::ALL {
        let mut origination = origination(CA_ONLY.clone());
        origination.options.validation_mode = mode;
        sign(&origination, leaf, sent.last().unwrap_or(leaf));
        let accepted = judge(&origination, leaf, sent);
        assert!(
            !accepted || known || mode == ValidationMode::InsecureSkipVerification,
            "{mode:?}"
        );
        assert!(!accepted || named || mode.skips_names(), "{mode:?}");
        // Itself in the bundle.
        origination.roots = bundle([CA, leaf]);
        let accepted = judge(&origination, leaf, sent);
        assert!(!accepted || named || mode.skips_names(), "{mode:?}");
    }
});
