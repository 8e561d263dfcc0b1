//! Targets and hostnames that a policy can't be in force on.

use serde_json::json;

use crate::objects::{HOSTNAME, Policy, service, service_with};
use crate::suite::{ACCEPTED, Suite};
use crate::{Group, HTTP_CLIENT, Row};

pub(crate) const TARGETS: Group = Group {
    title: "Targets",
    features: "",
    driven_by: HTTP_CLIENT,
    rows: &[
        Row {
            name: "targets::udp_section_name",
            asserted: "Accepted False/Invalid, and its message names port and protocol.",
            test: udp_section_name,
        },
        Row {
            name: "targets::udp_only_service",
            asserted: "The same without sectionName, for a Service whose sole port is UDP.",
            test: udp_only_service,
        },
        Row {
            name: "targets::tcp_and_udp",
            asserted: "Accepted True, and its message warns of the UDP port. Plain HTTP to the TCP port: 200.",
            test: tcp_and_udp,
        },
        Row {
            name: "targets::service_not_found",
            asserted: "Accepted False/TargetNotFound. When the Service is created: True. Plain HTTP: 200.",
            test: service_not_found,
        },
        Row {
            name: "targets::section_name_not_found",
            asserted: "Accepted False/TargetNotFound, and its message names the ports that exist. When it is corrected: True. \
                       Plain HTTP: 200.",
            test: section_name_not_found,
        },
        Row {
            name: "targets::hostname_that_is_an_ip_address",
            asserted: "`hostname: 10.0.0.1`, which the CRD lets through: Accepted False/Invalid. Plain HTTP: 503. When it is \
                       corrected: True, 200.",
            test: ip_address,
        },
    ],
};

const TARGET_NOT_FOUND: [&str; 2] = [
    "Accepted=False/TargetNotFound",
    "ResolvedRefs=True/ResolvedRefs",
];
const INVALID: [&str; 2] = ["Accepted=False/Invalid", "ResolvedRefs=True/ResolvedRefs"];
const TCP: &str = "{name: https, port: 443, targetPort: 8443}";
const UDP: &str = "{name: quic, port: 443, protocol: UDP, targetPort: 8443}";

fn udp_section_name(suite: &Suite) {
    let target = "udp-section-name-test/quic";
    let ports = format!("{TCP}, {UDP}");
    let service = service_with("udp-section-name-test", "tls-backend", &ports);
    suite.apply(&[service, Policy::new("udp-section-name", target).yaml()]);
    let messages = suite.expect("udp-section-name", target, &INVALID);
    assert!(messages[0].contains("quic 443/UDP"), "{messages:?}");
}

fn udp_only_service(suite: &Suite) {
    let target = "udp-only-test";
    let service = service_with(target, "tls-backend", UDP);
    suite.apply(&[service, Policy::new("udp-only", target).yaml()]);
    let messages = suite.expect("udp-only", target, &INVALID);
    assert!(messages[0].contains("quic 443/UDP"), "{messages:?}");
}

fn tcp_and_udp(suite: &Suite) {
    let target = "tcp-and-udp-test";
    let service = service_with(target, "tls-backend", &format!("{TCP}, {UDP}"));
    suite.apply(&[service, Policy::new("tcp-and-udp", target).yaml()]);
    let messages = suite.expect("tcp-and-udp", target, &ACCEPTED);
    assert!(
        messages[0].contains("not TCP: quic 443/UDP"),
        "{messages:?}"
    );
    suite.serves("http://tcp-and-udp-test:443/", HOSTNAME);
}

fn service_not_found(suite: &Suite) {
    let target = "not-there-yet-test";
    suite.apply(&[Policy::new("not-there-yet", target).yaml()]);
    let messages = suite.expect("not-there-yet", target, &TARGET_NOT_FOUND);
    assert!(messages[0].contains(target), "{messages:?}");
    suite.apply(&[service(target)]);
    suite.expect("not-there-yet", target, &ACCEPTED);
    suite.serves("http://not-there-yet-test:443/", HOSTNAME);
}

fn section_name_not_found(suite: &Suite) {
    let (name, service_name) = ("bad-section-name", "bad-section-name-test");
    let (wrong, right) = ("bad-section-name-test/http", "bad-section-name-test/btls");
    suite.apply(&[service(service_name), Policy::new(name, wrong).yaml()]);
    let messages = suite.expect(name, wrong, &TARGET_NOT_FOUND);
    assert!(messages[0].contains("btls 443/TCP"), "{messages:?}");
    suite.apply(&[Policy::new(name, right).yaml()]);
    suite.expect(name, right, &ACCEPTED);
    let policy = suite.policy(name);
    // Of the target that it does not name any more nothing is left.
    let ancestors = policy["status"]["ancestors"].as_array().unwrap();
    assert_eq!(ancestors.len(), 1, "{policy:#}");
    assert_eq!(ancestors[0]["ancestorRef"]["sectionName"], json!("btls"));
    suite.serves("http://bad-section-name-test:443/", HOSTNAME);
}

fn ip_address(suite: &Suite) {
    let (name, target) = ("ip-address", "ip-address-test");
    let url = "http://ip-address-test:443/";
    suite.apply(&[
        service(target),
        Policy::new(name, target).hostname("10.0.0.1").yaml(),
    ]);
    let messages = suite.expect(name, target, &INVALID);
    assert!(
        messages[0].contains("\"10.0.0.1\" is an IP address"),
        "{messages:?}"
    );
    suite.fails(url, 503);
    suite.rename(name, HOSTNAME);
    suite.expect(name, target, &ACCEPTED);
    suite.serves(url, HOSTNAME);
}
