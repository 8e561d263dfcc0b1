//! The identity of the server: hostname or subjectAltNames.

use super::*;

#[tokio::test]
async fn a_wrong_name_lists_those_of_the_certificate() {
    let ca = Ca::new("test CA");
    let leaf = ca.leaf(&["a.example", "*.b.example", "spiffe://c/d"]);
    assert_failure(
        attempt(&origination(&[ca.der()]), &leaf).await,
        Reason::NameMismatch,
        &[
            "\"a.example\", \"*.b.example\", \"spiffe://c/d\"",
            "asks for \"www.example.com\"",
        ],
    );
}

#[tokio::test]
async fn a_certificate_without_san_is_told_the_cure() {
    let ca = Ca::new("test CA");
    let mut params = leaf_params(&[]);
    params.distinguished_name.push(DnType::CommonName, HOST);
    assert_failure(
        attempt(&origination(&[ca.der()]), &ca.issue(&params)).await,
        Reason::NoSubjectAltName,
        &[
            "\"www.example.com\"",
            "no subjectAltName",
            "subjectAltName=DNS:",
        ],
    );
}

#[tokio::test]
async fn alt_names_replace_the_hostname() {
    let ca = Ca::new("test CA");
    let roots = [ca.der()];
    let leaf = ca.leaf(&[HOST, "x.Svc.example", "spiffe://td/ns/a/sa/b"]);
    for accepted in [
        &["x.svc.example"][..],
        &["X.SVC.EXAMPLE"],
        &["*.svc.example"],
        &["*.example.com"],
        &["spiffe://td/ns/a/sa/b"],
        &["no.example", "spiffe://td/no", "x.svc.example"],
    ] {
        let outcome = attempt(&with_alt_names(&roots, accepted), &leaf).await;
        assert!(outcome.is_ok(), "{accepted:?}: {outcome:?}");
    }
    for refused in [
        &["no.example"][..],
        &["*.example"],
        &["*.x.svc.example"],
        &["svc.example"],
        &["spiffe://td/ns/a/sa"],
        &["spiffe://td/ns/a/sa/b/"],
        &["spiffe://TD/ns/a/sa/b"],
        &["spiffe://td/ns/a/sa/c", "*.www.example.com"],
    ] {
        // The hostname matches all along, and must not authenticate.
        assert_failure(
            attempt(&with_alt_names(&roots, refused), &leaf).await,
            Reason::NameMismatch,
            &["\"x.Svc.example\"", "\"spiffe://td/ns/a/sa/b\"", refused[0]],
        );
    }
}

#[tokio::test]
async fn wildcards_of_the_certificate() {
    let ca = Ca::new("test CA");
    let roots = [ca.der()];
    let leaf = ca.leaf(&["*.example.com"]);
    attempt(&origination(&roots), &leaf).await.unwrap();
    attempt(&with_alt_names(&roots, &["a.example.com"]), &leaf)
        .await
        .unwrap();
    attempt(&with_alt_names(&roots, &["*.example.com"]), &leaf)
        .await
        .unwrap();
    for refused in ["example.com", "a.b.example.com", "*.com", "*.a.example.com"] {
        let outcome = attempt(&with_alt_names(&roots, &[refused]), &leaf).await;
        assert_failure(
            outcome,
            Reason::NameMismatch,
            &["\"*.example.com\"", refused],
        );
    }
    // A name without its label is none.
    let empty = ca.leaf(&[".example.com"]);
    let outcome = attempt(&with_alt_names(&roots, &["*.example.com"]), &empty).await;
    assert_failure(outcome, Reason::NameMismatch, &["\".example.com\""]);
}

#[tokio::test]
async fn names_of_an_attacker_are_escaped_and_bounded() {
    let ca = Ca::new("test CA");
    let mut params = leaf_params(&[]);
    params
        .distinguished_name
        .push(DnType::CommonName, "\u{1b}[2J\nreason=none ".repeat(50));
    let uri = format!("x:\u{1b}[31m{}", "y".repeat(400));
    params.subject_alt_names = (0..50).map(|_| alt_name(&uri)).collect();
    let leaf = ca.issue(&params);
    let failure = attempt(&origination(&[ca.der()]), &leaf).await.unwrap_err();
    assert!(failure.detail.len() < 450, "{failure}");
    assert_failure(
        Err::<(), _>(failure),
        Reason::NameMismatch,
        &[r"\u{1b}[31m", "46 more"],
    );

    let other = origination(&[Ca::new("other").der()]);
    let failure = attempt(&other, &leaf).await.unwrap_err();
    assert_failure(
        Err::<(), _>(failure),
        Reason::UnknownCa,
        &[r"\u{1b}[2J\nreason"],
    );
}

#[test]
fn policies_that_cannot_be_verified_are_refused() {
    let roots = [Ca::new("test CA").der()];
    for name in ["10.0.0.1", "::1", "", "a b", "exa\nmple", "*.example.com"] {
        let policy = Origination {
            hostname: name.into(),
            ..origination(&roots)
        };
        assert_failure(
            TlsClient::new(&policy),
            Reason::PolicyRefused,
            &["not a DNS name"],
        );
        // Also when the subjectAltNames alone would identify the server: it is still the SNI.
        let policy = Origination {
            hostname: name.into(),
            ..with_alt_names(&roots, &["x:y"])
        };
        assert_failure(
            TlsClient::new(&policy),
            Reason::PolicyRefused,
            &["not a DNS name"],
        );
    }
    for name in ["*.", "*", "*.*.example", "a..b"] {
        let policy = with_alt_names(&roots, &[name]);
        assert_failure(
            TlsClient::new(&policy),
            Reason::PolicyRefused,
            &["not a DNS name"],
        );
    }
}
