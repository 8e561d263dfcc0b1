//! Upstream's tests BackendTLSPolicyInvalidCACertificateRef and BackendTLSPolicyInvalidKind.

use crate::objects::{Policy, service};
use crate::suite::{NO_CA, Suite};
use crate::{Group, HTTP_CLIENT, Row};

pub(crate) const INVALID_CA_CERTIFICATE_REF: Group = Group {
    title: "BackendTLSPolicyInvalidCACertificateRef",
    features: "HTTPRoute, BackendTLSPolicy",
    driven_by: HTTP_CLIENT,
    rows: &[
        Row {
            name: "invalid_ca_certificate_ref::nonexistent",
            asserted: "Accepted False/NoValidCACertificate; ResolvedRefs False/InvalidCACertificateRef, and its message \
                       names the ConfigMap. Plain HTTP: 503.",
            test: nonexistent,
        },
        Row {
            name: "invalid_ca_certificate_ref::malformed",
            asserted: "The same for a ConfigMap with `data: {}`.",
            test: malformed,
        },
    ],
};

pub(crate) const INVALID_KIND: Group = Group {
    title: "BackendTLSPolicyInvalidKind",
    features: "HTTPRoute, BackendTLSPolicy",
    driven_by: HTTP_CLIENT,
    rows: &[Row {
        name: "invalid_kind::unknown",
        asserted: "Accepted False/NoValidCACertificate; ResolvedRefs False/InvalidKind, and its message names the kind. \
                   Plain HTTP: 503.",
        test: unknown_kind,
    }],
};

fn nonexistent(suite: &Suite) {
    let policy = Policy::new("nonexistent-ca-certificate-ref", "nonexistent-ca-test");
    refused(
        suite,
        "nonexistent-ca-certificate-ref",
        "nonexistent-ca-test",
        &policy.ca("absent-ca"),
        "absent-ca",
    );
}

fn malformed(suite: &Suite) {
    let policy = Policy::new("malformed-ca-certificate-ref", "malformed-ca-test")
        .ca("malformed-ca-certificate");
    refused(
        suite,
        "malformed-ca-certificate-ref",
        "malformed-ca-test",
        &policy,
        "malformed-ca-certificate",
    );
}

fn refused(suite: &Suite, name: &str, target: &str, policy: &Policy, named: &str) {
    suite.apply(&[service(target), policy.yaml()]);
    let messages = suite.expect(name, target, &NO_CA);
    assert!(messages[1].contains(named), "{messages:?}");
    suite.fails(&format!("http://{target}:443/"), 503);
}

fn unknown_kind(suite: &Suite) {
    let reference = "{group: invalid.io, kind: InvalidKind, name: nonexistent}";
    let policy = Policy::new("invalid-kind", "invalid-kind-test").refs(&[reference]);
    suite.apply(&[service("invalid-kind-test"), policy.yaml()]);
    let conditions = [
        "Accepted=False/NoValidCACertificate",
        "ResolvedRefs=False/InvalidKind",
    ];
    let messages = suite.expect("invalid-kind", "invalid-kind-test", &conditions);
    assert!(messages[1].contains("InvalidKind"), "{messages:?}");
    suite.fails("http://invalid-kind-test:443/", 503);
}
