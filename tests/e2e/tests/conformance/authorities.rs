//! CAs, where upstream tests nothing: the system's, several references, several certificates in one.

use crate::objects::{GOOD_CA, HOSTNAME, Policy, config_map, service};
use crate::suite::{ACCEPTED, Suite};
use crate::{Group, HTTP_CLIENT, Row};

pub(crate) const AUTHORITIES: Group = Group {
    title: "CA certificates",
    features: "",
    driven_by: HTTP_CLIENT,
    rows: &[
        Row {
            name: "authorities::system",
            asserted: "`wellKnownCACertificates: System`: both conditions True. Plain HTTP to a server whose CA is not in \
                       the store: 502. (One whose CA is there: `tests/e2e/tests/node_roots.rs`, with the component.)",
            test: system,
        },
        Row {
            name: "authorities::several_references_some_invalid",
            asserted: "Accepted True; ResolvedRefs False/InvalidCACertificateRef, and its message names both that are \
                       invalid. Plain HTTP: 200, by the valid one.",
            test: some_invalid,
        },
        Row {
            name: "authorities::bundle_in_one_reference",
            asserted: "Two CAs of one name in a ConfigMap, the right one last: both conditions True. Plain HTTP: 200.",
            test: bundle,
        },
    ],
};

fn system(suite: &Suite) {
    let policy = Policy::new("system", "system-test").system();
    suite.apply(&[service("system-test"), policy.yaml()]);
    suite.expect("system", "system-test", &ACCEPTED);
    suite.fails("http://system-test:443/", 502);
}

fn some_invalid(suite: &Suite) {
    let refs = ["absent-ca", "malformed-ca-certificate", GOOD_CA].map(config_map);
    let refs = refs.each_ref().map(String::as_str);
    let policy = Policy::new("some-invalid", "some-invalid-test").refs(&refs);
    suite.apply(&[service("some-invalid-test"), policy.yaml()]);
    let conditions = [
        "Accepted=True/Accepted",
        "ResolvedRefs=False/InvalidCACertificateRef",
    ];
    let messages = suite.expect("some-invalid", "some-invalid-test", &conditions);
    for name in ["absent-ca", "malformed-ca-certificate"] {
        assert!(messages[1].contains(name), "{messages:?}");
    }
    assert!(!messages[1].contains(GOOD_CA), "{messages:?}");
    suite.serves("http://some-invalid-test:443/", HOSTNAME);
}

fn bundle(suite: &Suite) {
    let policy = Policy::new("bundle", "bundle-test").ca("both-ca-certificates");
    suite.apply(&[service("bundle-test"), policy.yaml()]);
    suite.expect("bundle", "bundle-test", &ACCEPTED);
    suite.serves("http://bundle-test:443/", HOSTNAME);
}
