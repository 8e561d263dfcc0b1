//! Chains, pins, dates and keys: what the verifier accepts and refuses.

use rcgen::{GeneralSubtree, NameConstraints, date_time_ymd};
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::UnixTime;

use super::*;

#[tokio::test]
async fn a_trusted_certificate_with_the_right_name_is_accepted() {
    let ca = Ca::new("test CA");
    let session = attempt(&origination(&[ca.der()]), &ca.leaf(&["a.example", HOST]))
        .await
        .unwrap();
    assert_eq!(session.version, "TLSv1.3");
    assert_eq!(session.cipher_suite, "TLS_AES_256_GCM_SHA384");
    assert_eq!((session.group, session.alpn), ("X25519MLKEM768", "none"));
    assert!(!session.resumed);
}

#[tokio::test]
async fn intermediates_that_the_server_sends_are_used() {
    let root = Ca::new("root");
    let intermediate = root.intermediate("middle");
    let mut leaf = intermediate.leaf(&[HOST]);
    let policy = origination(&[root.der()]);
    assert_failure(
        attempt(&policy, &leaf).await,
        Reason::UnknownCa,
        &[
            "\"leaf\"",
            "issued by \"middle\"",
            "trusted CAs: \"root\"",
            "intermediates",
        ],
    );
    leaf.chain.push(intermediate.der());
    attempt(&policy, &leaf).await.unwrap();
    // The end of the chain is named, not its first step.
    assert_failure(
        attempt(&origination(&[Ca::new("other").der()]), &leaf).await,
        Reason::UnknownCa,
        &["issued by \"root\"", "trusted CAs: \"other\""],
    );
}

#[tokio::test]
async fn unknown_ca_lists_a_few_trusted_ones() {
    let trusted: Vec<_> = (0..9).map(|i| Ca::new(&format!("ca {i}")).der()).collect();
    assert_failure(
        attempt(&origination(&trusted), &Ca::new("evil").leaf(&[HOST])).await,
        Reason::UnknownCa,
        &["issued by \"evil\"", "\"ca 0\", \"ca 1\"", "and 5 more"],
    );
}

#[tokio::test]
async fn an_impostor_ca_with_the_same_subject_is_unknown() {
    let (ca, impostor) = (Ca::new("test CA"), Ca::new("test CA"));
    assert_failure(
        attempt(&origination(&[ca.der()]), &impostor.leaf(&[HOST])).await,
        Reason::UnknownCa,
        &["\"test CA\"", "issuer's key did not make"],
    );
    // Another kind of key is another error of webpki.
    let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let certificate = ca_params("test CA").self_signed(&key).unwrap();
    assert_failure(
        attempt(
            &origination(&[certificate.der().clone()]),
            &impostor.leaf(&[HOST]),
        )
        .await,
        Reason::UnknownCa,
        &["\"test CA\""],
    );
    // Both in the bundle: a rotation.
    attempt(
        &origination(&[ca.der(), impostor.der()]),
        &impostor.leaf(&[HOST]),
    )
    .await
    .unwrap();
}

#[tokio::test]
async fn dates_are_checked() {
    let ca = Ca::new("test CA");
    let policy = origination(&[ca.der()]);
    let mut params = leaf_params(&[HOST]);
    params.not_after = date_time_ymd(2021, 3, 4);
    assert_failure(
        attempt(&policy, &ca.issue(&params)).await,
        Reason::Expired,
        &["2021-03-04T00:00:00Z", "clock says 20"],
    );
    params.not_before = date_time_ymd(2090, 1, 2);
    params.not_after = date_time_ymd(2091, 1, 2);
    assert_failure(
        attempt(&policy, &ca.issue(&params)).await,
        Reason::NotYetValid,
        &["2090-01-02T00:00:00Z", "clock says 20"],
    );
}

#[tokio::test]
async fn a_self_signed_certificate_in_the_bundle_is_pinned() {
    let mut params = ca_params(HOST);
    params.subject_alt_names = vec![alt_name(HOST)];
    let pinned = Leaf::self_signed(&params);
    let policy = origination(&pinned.chain);
    attempt(&policy, &pinned).await.unwrap();

    // Its name still counts.
    let policy = Origination {
        hostname: "other.example".into(),
        ..policy
    };
    assert_failure(
        attempt(&policy, &pinned).await,
        Reason::NameMismatch,
        &["other.example", HOST],
    );

    // Not in the bundle: neither another self-signed one nor its twin (same name, new key).
    let twin = Leaf::self_signed(&params);
    for roots in [vec![Ca::new("test CA").der()], twin.chain.clone()] {
        assert_failure(
            attempt(&origination(&roots), &pinned).await,
            Reason::CaUsedAsLeaf,
            &["CA certificate \"www.example.com\"", "pin this one"],
        );
    }

    // The pinned certificate is public: without its key it proves nothing.
    let thief = Leaf {
        key: twin.key,
        ..pinned.clone()
    };
    let policy = origination(&pinned.chain);
    assert_failure(
        attempt(&policy, &thief).await,
        Reason::BadCertificate,
        &["holds the key"],
    );
}

#[tokio::test]
async fn a_pinned_certificate_without_ca_flag_works_too() {
    let leaf = Leaf::self_signed(&leaf_params(&[HOST]));
    attempt(&origination(&leaf.chain), &leaf).await.unwrap();
    assert_failure(
        attempt(&origination(&[Ca::new("test CA").der()]), &leaf).await,
        Reason::UnknownCa,
        &["\"leaf\" is self-signed", "trusted CAs: \"test CA\""],
    );
}

#[tokio::test]
async fn dates_and_usage_of_a_pinned_certificate_are_checked() {
    let mut params = ca_params(HOST);
    params.subject_alt_names = vec![alt_name(HOST)];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let leaf = Leaf::self_signed(&params);
    let outcome = attempt(&origination(&leaf.chain), &leaf).await;
    assert_failure(outcome, Reason::BadCertificate, &["serverAuth"]);

    params.not_after = date_time_ymd(2021, 3, 4);
    let leaf = Leaf::self_signed(&params);
    let outcome = attempt(&origination(&leaf.chain), &leaf).await;
    assert_failure(outcome, Reason::Expired, &["2021-03-04"]);

    params.not_before = date_time_ymd(2090, 1, 2);
    params.not_after = date_time_ymd(2091, 1, 2);
    let leaf = Leaf::self_signed(&params);
    let outcome = attempt(&origination(&leaf.chain), &leaf).await;
    assert_failure(outcome, Reason::NotYetValid, &["2090-01-02"]);
}

#[tokio::test]
async fn a_ca_certificate_issued_by_a_trusted_ca_is_no_server() {
    let ca = Ca::new("test CA");
    let mut params = ca_params("sub CA");
    params.subject_alt_names = vec![alt_name(HOST)];
    let outcome = attempt(&origination(&[ca.der()]), &ca.issue(&params)).await;
    assert_failure(outcome, Reason::CaUsedAsLeaf, &["\"sub CA\""]);
}

#[tokio::test]
async fn a_certificate_in_the_bundle_that_is_not_self_signed_is_not_pinned() {
    let ca = Ca::new("test CA");
    let leaf = ca.leaf(&[HOST]);
    let outcome = attempt(&origination(&leaf.chain), &leaf).await;
    assert_failure(outcome, Reason::UnknownCa, &["issued by \"test CA\""]);
}

#[tokio::test]
async fn other_faults_of_a_chain() {
    let ca = Ca::new("test CA");
    let mut params = leaf_params(&[HOST]);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let outcome = attempt(&origination(&[ca.der()]), &ca.issue(&params)).await;
    assert_failure(outcome, Reason::BadCertificate, &["serverAuth"]);

    let key = KeyPair::generate().unwrap();
    let mut narrow = ca_params("narrow CA");
    narrow.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName("b.example".into())],
        excluded_subtrees: Vec::new(),
    });
    let certificate = narrow.self_signed(&key).unwrap();
    let narrow = Ca {
        issuer: Issuer::new(narrow, key),
        certificate,
    };
    let outcome = attempt(&origination(&[narrow.der()]), &narrow.leaf(&[HOST])).await;
    assert_failure(outcome, Reason::BadCertificate, &["may not issue"]);

    let garbage = Leaf {
        chain: vec![vec![0x30, 3, 2, 1, 1].into()],
        ..ca.leaf(&[HOST])
    };
    let outcome = attempt(&origination(&[ca.der()]), &garbage).await;
    assert_failure(
        outcome,
        Reason::BadCertificate,
        &["(unreadable)", "cannot be read"],
    );
}

#[tokio::test]
async fn a_certificate_without_its_key_is_refused_in_both_versions() {
    let ca = Ca::new("test CA");
    let stolen = Leaf {
        key: ca.leaf(&[]).key,
        ..ca.leaf(&[HOST])
    };
    let client = TlsClient::new(&origination(&[ca.der()])).unwrap();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let config = Arc::new(stolen.server_of(&[version]));
        let outcome = exchange(&client, &config, Alpn::None).await;
        assert_failure(outcome, Reason::BadCertificate, &["does not prove", "key"]);
    }
}

#[tokio::test]
async fn a_bad_ca_certificate_does_not_spoil_the_others() {
    let ca = Ca::new("test CA");
    let garbage = CertificateDer::from(vec![0x30, 0x00]);
    let policy = origination(&[garbage.clone(), ca.der()]);
    attempt(&policy, &ca.leaf(&[HOST])).await.unwrap();
    let outcome = TlsClient::new(&origination(&[garbage]));
    assert_failure(outcome, Reason::PolicyRefused, &["trust anchor"]);
}

#[test]
fn no_altered_certificate_is_accepted() {
    let ca = Ca::new("test CA");
    let algorithms =
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
    let mut params = ca_params(HOST);
    params.subject_alt_names = vec![alt_name(HOST)];
    let pinned = Leaf::self_signed(&params).chain.remove(0);
    let policy = origination(&[ca.der(), pinned.clone()]);
    let verifier = super::super::verifier::Verifier::new(&policy, algorithms).unwrap();
    let sni = HOST.try_into().unwrap();
    let now = UnixTime::now();
    let accepts = |certificate: &[u8]| {
        let certificate = CertificateDer::from(certificate);
        // As a leaf, and as an intermediate of itself: descriptions read both.
        let sent = [certificate.clone()];
        verifier
            .verify_server_cert(&certificate, &sent, &sni, &[], now)
            .is_ok()
    };
    for certificate in [ca.leaf(&[HOST, "x:y"]).chain.remove(0), pinned] {
        assert!(accepts(&certificate));
        for at in 0..certificate.len() {
            assert!(!accepts(&certificate[..at]));
            for flip in [0x01, 0x20, 0x80, 0xff] {
                let mut altered = certificate.to_vec();
                altered[at] ^= flip;
                assert!(!accepts(&altered), "byte {at} xor {flip}");
            }
        }
    }
}
