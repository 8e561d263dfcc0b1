//! Less than full verification, and never less than the mode says; fingerprints.

use rcgen::date_time_ymd;
use rustls::pki_types::pem::PemObject;
use rustls::version::{TLS12, TLS13};

use super::openssl::Lab;
use super::*;
use crate::policy::{Options, Pin, ValidationMode};

use ValidationMode::{
    InsecureAllowExpired, InsecureSkipOnlySanVerification, InsecureSkipVerification, Standard,
};

fn with_mode(policy: Origination, validation_mode: ValidationMode) -> Origination {
    let options = Options {
        validation_mode,
        ..Options::default()
    };
    Origination { options, ..policy }
}

/// In both versions of TLS, whose signatures are verified on different ways.
async fn attempt_both(policy: &Origination, leaf: &Leaf) -> Vec<Result<Session, Failure>> {
    let mut outcomes = Vec::new();
    for version in [&TLS12, &TLS13] {
        let server = Arc::new(leaf.server_of(&[version]));
        let client = TlsClient::new(policy).unwrap();
        outcomes.push(exchange(&client, &server, Alpn::None).await);
    }
    outcomes
}

#[tokio::test]
async fn each_mode_accepts_what_it_says_and_no_more() {
    let ca = Ca::new("test CA");
    let policy = origination(&[ca.der()]);
    let expired = |names: &[&str]| {
        let mut params = leaf_params(names);
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
        params
    };
    let good = ca.leaf(&[HOST]);
    let old = ca.issue(&expired(&[HOST]));
    let misnamed = ca.leaf(&["other.example"]);
    let misnamed_and_old = ca.issue(&expired(&["other.example"]));
    let unknown = Ca::new("other CA").leaf(&[HOST]);
    // Another key than the certificate's.
    let stolen = Leaf {
        key: misnamed.key.clone(),
        ..good.clone()
    };
    let (ok, bad_key) = (None, Some(Reason::BadCertificate));
    let [late, name, untrusted] =
        [Reason::Expired, Reason::NameMismatch, Reason::UnknownCa].map(Some);
    for (mode, expected) in [
        (Standard, [ok, late, name, late, untrusted, bad_key]),
        (
            InsecureAllowExpired,
            [ok, ok, name, name, untrusted, bad_key],
        ),
        (
            InsecureSkipOnlySanVerification,
            [ok, late, ok, late, untrusted, bad_key],
        ),
        (InsecureSkipVerification, [ok, ok, ok, ok, ok, bad_key]),
    ] {
        let leaves = [&good, &old, &misnamed, &misnamed_and_old, &unknown, &stolen];
        for (number, (leaf, expected)) in leaves.into_iter().zip(expected).enumerate() {
            for outcome in attempt_both(&with_mode(policy.clone(), mode), leaf).await {
                let reason = outcome.err().map(|failure| failure.reason);
                assert_eq!(reason, expected, "{mode:?}, leaf {number}");
            }
        }
    }
}

#[tokio::test]
async fn a_chain_of_which_more_than_one_has_expired() {
    let ca = Ca::new("test CA");
    let mut params = ca_params("intermediate");
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2022, 1, 1);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &ca.issuer).unwrap();
    let intermediate = Ca {
        issuer: Issuer::new(params, key),
        certificate,
    };
    let mut params = leaf_params(&[HOST]);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2021, 1, 1);
    let mut leaf = intermediate.issue(&params);
    leaf.chain.push(intermediate.der());
    let policy = origination(&[ca.der()]);
    let outcome = attempt(&with_mode(policy.clone(), InsecureAllowExpired), &leaf).await;
    outcome.unwrap();
    let outcome = attempt(&policy, &leaf).await;
    assert_failure(outcome, Reason::Expired, &[]);
    // Itself in the bundle.
    let mut params = leaf_params(&[HOST]);
    params.not_after = date_time_ymd(2021, 1, 1);
    let pinned = Leaf::self_signed(&params);
    let policy = origination(&pinned.chain);
    let outcome = attempt(&with_mode(policy.clone(), InsecureAllowExpired), &pinned).await;
    outcome.unwrap();
    assert_failure(attempt(&policy, &pinned).await, Reason::Expired, &[]);
}

#[tokio::test]
async fn the_documents_recipe_works_where_names_are_not_verified() {
    let lab = Lab::of_the_document();
    for version in ["-tls1_2", "-tls1_3"] {
        let server = lab.serve(version);
        for mode in [InsecureSkipOnlySanVerification, InsecureSkipVerification] {
            let policy = with_mode(lab.policy(), mode);
            let outcome = server.connect(&policy, Alpn::None).await;
            outcome.unwrap_or_else(|failure| panic!("{version} {mode:?}: {failure}"));
        }
        for mode in [Standard, InsecureAllowExpired] {
            let outcome = server
                .connect(&with_mode(lab.policy(), mode), Alpn::None)
                .await;
            assert_failure(outcome, Reason::NoSubjectAltName, &["X.509 v1"]);
        }
    }
}

/// An X.509 v1 certificate of the document's recipe, and a key.
fn v1(lab: &Lab, key: &str) -> Leaf {
    let key = PrivateKeyDer::from_pem_file(lab.path().join(key)).unwrap();
    Leaf {
        chain: vec![lab.certificate("www.example.com.crt")],
        key: key.secret_der().to_vec(),
    }
}

#[tokio::test]
async fn a_v1_certificate_must_be_the_ca_s() {
    let lab = Lab::of_the_document();
    let leaf = v1(&lab, "www.example.com.key");
    let mode = InsecureSkipOnlySanVerification;
    let other = Ca::new("other CA");
    // The same names, another key: a forged issuer.
    let forged = Lab::of_the_document();
    for (roots, words) in [
        (
            vec![other.der()],
            "was issued by \"example.com\", which is not trusted",
        ),
        (
            vec![forged.certificate("ca.crt")],
            "issuer's key did not make",
        ),
    ] {
        for outcome in attempt_both(&with_mode(origination(&roots), mode), &leaf).await {
            assert_failure(outcome, Reason::UnknownCa, &[words]);
        }
    }
    // Among others it is found.
    let both = [
        other.der(),
        forged.certificate("ca.crt"),
        lab.certificate("ca.crt"),
    ];
    for outcome in attempt_both(&with_mode(origination(&both), mode), &leaf).await {
        outcome.unwrap();
    }
    // What nobody verifies, nobody trusts.
    let unknown = with_mode(origination(&[other.der()]), InsecureSkipVerification);
    for outcome in attempt_both(&unknown, &leaf).await {
        outcome.unwrap();
    }
}

#[tokio::test]
async fn a_v1_certificate_without_its_key_is_stolen() {
    let lab = Lab::of_the_document();
    let stolen = v1(&lab, "ca.key");
    for mode in [InsecureSkipOnlySanVerification, InsecureSkipVerification] {
        for outcome in attempt_both(&with_mode(lab.policy(), mode), &stolen).await {
            assert_failure(
                outcome,
                Reason::BadCertificate,
                &["prove that it holds the key"],
            );
        }
    }
}

#[tokio::test]
async fn a_v1_certificate_that_was_tampered_with_or_has_expired() {
    let lab = Lab::of_the_document();
    let mut leaf = v1(&lab, "www.example.com.key");
    let policy = with_mode(lab.policy(), InsecureSkipOnlySanVerification);
    let name = b"www.example.com";
    let mut der = leaf.chain[0].to_vec();
    let place = der.windows(name.len()).position(|window| window == name);
    der[place.unwrap()] = b'v';
    leaf.chain = vec![CertificateDer::from(der)];
    for outcome in attempt_both(&policy, &leaf).await {
        assert_failure(outcome, Reason::UnknownCa, &["issuer's key did not make"]);
    }

    let config = "[ca]\ndefault_ca=d\n[d]\ndatabase=index\nnew_certs_dir=.\ndefault_md=sha256\npolicy=p\n\
                  rand_serial=yes\n[p]\ncommonName=optional\norganizationName=optional\n";
    std::fs::write(lab.path().join("config"), config).unwrap();
    std::fs::write(lab.path().join("index"), "").unwrap();
    lab.openssl(
        "ca -batch -config config -cert ca.crt -keyfile ca.key -in www.example.com.csr -out www.example.com.crt \
         -notext -startdate 200101000000Z -enddate 210101000000Z",
        &[],
    );
    for outcome in attempt_both(&policy, &v1(&lab, "www.example.com.key")).await {
        assert_failure(outcome, Reason::Expired, &["2021-01-01T00:00:00Z"]);
    }
}

#[tokio::test]
async fn a_v1_certificate_of_an_authority_that_may_not_issue_it() {
    let lab = Lab::of_the_document();
    let subject = ["-subj", "/O=example Inc./CN=example.com"];
    let policy = |lab: &Lab| with_mode(lab.policy(), InsecureSkipOnlySanVerification);
    for (extension, accepted) in [
        ("basicConstraints=critical,CA:TRUE", true),
        ("basicConstraints=critical,CA:FALSE", false),
        ("keyUsage=critical,digitalSignature", false),
        ("nameConstraints=critical,permitted;DNS:example.com", false),
    ] {
        let request = format!("req -x509 -days 9 -key ca.key -out ca.crt -addext {extension}");
        std::fs::write(
            lab.path().join("empty"),
            "[req]\ndistinguished_name=d\n[d]\n",
        )
        .unwrap();
        lab.openssl(&format!("{request} -config empty"), &subject);
        for outcome in attempt_both(&policy(&lab), &v1(&lab, "www.example.com.key")).await {
            match accepted {
                true => drop(outcome.unwrap()),
                false => assert_failure(outcome, Reason::UnknownCa, &["which is not trusted"]),
            }
        }
    }
}

#[tokio::test]
async fn fingerprints_come_on_top() {
    let ca = Ca::new("test CA");
    let leaf = ca.leaf(&[HOST]);
    let sha256 = |bytes: &[u8]| -> [u8; 32] {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
        digest.as_ref().try_into().unwrap()
    };
    let own = Pin::Certificate(sha256(&leaf.chain[0]));
    let spki = KeyPair::try_from(leaf.key.as_slice()).unwrap();
    let spki = Pin::PublicKey(sha256(&rcgen::PublicKeyData::subject_public_key_info(
        &spki,
    )));
    let other = Pin::Certificate([7; 32]);
    let policy = |pins: &[Pin], mode| {
        let mut policy = with_mode(origination(&[ca.der()]), mode);
        policy.options.pins = pins.to_vec();
        policy
    };
    for pins in [&[own][..], &[spki], &[other, spki]] {
        attempt(&policy(pins, Standard), &leaf).await.unwrap();
    }
    for mode in [Standard, InsecureSkipVerification] {
        let outcome = attempt(&policy(&[other], mode), &leaf).await;
        assert_failure(outcome, Reason::PinMismatch, &["cert:", "spki:"]);
    }
    // The right fingerprint does not make up for the rest.
    let misnamed = ca.leaf(&["other.example"]);
    let pin = Pin::Certificate(sha256(&misnamed.chain[0]));
    let outcome = attempt(&policy(&[pin], Standard), &misnamed).await;
    assert_failure(outcome, Reason::NameMismatch, &[]);
}
