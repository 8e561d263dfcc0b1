//! Upstream's test BackendTLSPolicySANValidation.

use crate::objects::{HOSTNAME, Policy, service};
use crate::suite::{ACCEPTED, Suite};
use crate::{Group, HTTP_CLIENT, Row};

const RIGHT: &str = "Accepted True. Plain HTTP: 200, SNI abc.example.com.";
const WRONG: &str =
    "Accepted True. Plain HTTP: 502, although the certificate has the name `hostname`.";

pub(crate) const SAN_VALIDATION: Group = Group {
    title: "BackendTLSPolicySANValidation",
    features: "HTTPRoute, BackendTLSPolicy, BackendTLSPolicySANValidation",
    driven_by: HTTP_CLIENT,
    rows: &[
        Row {
            name: "san_validation::san_dns",
            asserted: RIGHT,
            test: |suite| right(suite, "san-dns", &[HOSTNAME]),
        },
        Row {
            name: "san_validation::san_dns_mismatch",
            asserted: WRONG,
            test: |suite| wrong(suite, "san-dns-mismatch", &["dce.example.com"]),
        },
        Row {
            name: "san_validation::san_uri",
            asserted: RIGHT,
            test: |suite| right(suite, "san-uri", &[URI]),
        },
        Row {
            name: "san_validation::san_uri_mismatch",
            asserted: WRONG,
            test: |suite| wrong(suite, "san-uri-mismatch", &[OTHER_URI]),
        },
        Row {
            name: "san_validation::multiple_sans",
            asserted: RIGHT,
            test: |suite| right(suite, "multiple-sans", &[URI, HOSTNAME]),
        },
        Row {
            name: "san_validation::multiple_mismatch_sans",
            asserted: WRONG,
            test: |suite| {
                wrong(
                    suite,
                    "multiple-mismatch-sans",
                    &[OTHER_URI, "dce.example.com"],
                )
            },
        },
    ],
};

const URI: &str = "spiffe://abc.example.com/test-identity";
const OTHER_URI: &str = "spiffe://def.example.com/test-identity";

fn right(suite: &Suite, name: &str, names: &[&str]) {
    suite.serves(&accepted(suite, name, names), HOSTNAME);
}

fn wrong(suite: &Suite, name: &str, names: &[&str]) {
    suite.fails(&accepted(suite, name, names), 502);
}

/// The URL of a Service whose policy has these names.
fn accepted(suite: &Suite, name: &str, names: &[&str]) -> String {
    let target = format!("{name}-test");
    let policy = Policy::new(name, &target).subject_alt_names(names);
    suite.apply(&[service(&target), policy.yaml()]);
    suite.expect(name, &target, &ACCEPTED);
    format!("http://{target}:443/")
}
