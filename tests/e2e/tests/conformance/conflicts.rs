//! Upstream's test BackendTLSPolicyConflictResolution.

use crate::objects::{HOSTNAME, OTHER_HOSTNAME, Policy, service_with};
use crate::suite::{ACCEPTED, CONFLICTED, Suite};
use crate::{Group, HTTP_CLIENT, Row};

pub(crate) const CONFLICT_RESOLUTION: Group = Group {
    title: "BackendTLSPolicyConflictResolution",
    features: "HTTPRoute, BackendTLSPolicy",
    driven_by: HTTP_CLIENT,
    rows: &[
        Row {
            name: "conflict_resolution::without_section_name",
            asserted: "Two policies for a Service: the first one Accepted, the second one False/Conflicted. Plain HTTP: \
                       200, SNI of the first.",
            test: without_section_name,
        },
        Row {
            name: "conflict_resolution::with_section_name",
            asserted: "The same for two policies with one sectionName.",
            test: with_section_name,
        },
        Row {
            name: "conflict_resolution::no_conflict_between_port_and_service",
            asserted: "One policy for port 443, one for the Service: both Accepted. Plain HTTP to 443: SNI of the first; to \
                       8443: of the second.",
            test: no_conflict,
        },
    ],
};

const PORTS: &str =
    "{name: https-1, port: 443, targetPort: 8443}, {name: https-2, port: 8443, targetPort: 8443}";

fn without_section_name(suite: &Suite) {
    conflict(suite, "conflicted-without-section-name", "");
}

fn with_section_name(suite: &Suite) {
    conflict(suite, "conflicted-with-section-name", "/https-1");
}

fn conflict(suite: &Suite, service: &str, section: &str) {
    let target = format!("{service}{section}");
    let [first, second] = [1, 2].map(|number| format!("{service}-{number}"));
    suite.apply(&[
        service_with(service, "tls-backend", PORTS),
        Policy::new(&first, &target).hostname(OTHER_HOSTNAME).yaml(),
        Policy::new(&second, &target).yaml(),
    ]);
    suite.expect(&first, &target, &ACCEPTED);
    let messages = suite.expect(&second, &target, &CONFLICTED);
    assert!(messages[0].contains(&first), "{messages:?}");
    suite.serves(&format!("http://{service}:443/"), OTHER_HOSTNAME);
}

fn no_conflict(suite: &Suite) {
    let (service, section) = ("not-conflicted", "not-conflicted/https-1");
    let (with, without) = (
        "not-conflicted-with-section-name",
        "not-conflicted-without-section-name",
    );
    suite.apply(&[
        service_with(service, "tls-backend", PORTS),
        Policy::new(with, section).hostname(OTHER_HOSTNAME).yaml(),
        Policy::new(without, service).yaml(),
    ]);
    suite.expect(with, section, &ACCEPTED);
    suite.expect(without, service, &ACCEPTED);
    suite.serves(&format!("http://{service}:443/"), OTHER_HOSTNAME);
    suite.serves(&format!("http://{service}:8443/"), HOSTNAME);
}
