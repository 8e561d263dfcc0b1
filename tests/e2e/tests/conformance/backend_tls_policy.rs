//! Upstream's tests BackendTLSPolicy and BackendTLSPolicyObservedGenerationBump.

use serde_json::json;

use crate::objects::{HOSTNAME, MISMATCH_CA, Policy, service, service_with};
use crate::suite::{ACCEPTED, NO_CA, Suite};
use crate::{Group, HTTP_CLIENT, Row};

pub(crate) const BACKEND_TLS_POLICY: Group = Group {
    title: "BackendTLSPolicy",
    features: "HTTPRoute, BackendTLSPolicy",
    driven_by: HTTP_CLIENT,
    rows: &[
        Row {
            name: "backend_tls_policy::normative_with_section_name",
            asserted: "Both conditions True. Plain HTTP from either node: 200, and the server saw SNI abc.example.com.",
            test: normative,
        },
        Row {
            name: "backend_tls_policy::host_mismatch",
            asserted: "Both conditions True, as what fails at run time is no status. Plain HTTP: 502.",
            test: host_mismatch,
        },
        Row {
            name: "backend_tls_policy::cert_mismatch",
            asserted: "The same with a CA that has the name and serial number of the right one, but another key.",
            test: cert_mismatch,
        },
        Row {
            name: "backend_tls_policy::reconcile",
            asserted: "CA's ConfigMap absent: Accepted False/NoValidCACertificate, ResolvedRefs False/InvalidCACertificateRef, \
                       503. Created: both True, 200. Emptied: both False, 503. Restored: both True, 200.",
            test: reconcile,
        },
    ],
};

pub(crate) const OBSERVED_GENERATION_BUMP: Group = Group {
    title: "BackendTLSPolicyObservedGenerationBump",
    features: "HTTPRoute, BackendTLSPolicy",
    driven_by: "Status alone",
    rows: &[Row {
        name: "observed_generation_bump::service_without_endpoints",
        asserted: "After a change of hostname every condition of every ancestor has the new generation, Accepted True.",
        test: observed_generation_bump,
    }],
};

fn normative(suite: &Suite) {
    let target = "backendtlspolicy-test/btls";
    let policy = Policy::new("normative-test", target);
    suite.apply(&[service("backendtlspolicy-test"), policy.yaml()]);
    suite.expect("normative-test", target, &ACCEPTED);
    for client in ["client1", "client2"] {
        let told = suite.serves_to(client, "http://backendtlspolicy-test:443/", HOSTNAME);
        assert_eq!(told["host"], "backendtlspolicy-test:443");
    }
}

fn host_mismatch(suite: &Suite) {
    let target = "backendtlspolicy-host-mismatch-test";
    let policy = Policy::new("host-mismatch", target).hostname("mismatch.example.com");
    suite.apply(&[service(target), policy.yaml()]);
    suite.expect("host-mismatch", target, &ACCEPTED);
    suite.fails(&format!("http://{target}:443/"), 502);
}

fn cert_mismatch(suite: &Suite) {
    let target = "backendtlspolicy-cert-mismatch-test";
    let policy = Policy::new("cert-mismatch", target).ca(MISMATCH_CA);
    suite.apply(&[service(target), policy.yaml()]);
    suite.expect("cert-mismatch", target, &ACCEPTED);
    suite.fails(&format!("http://{target}:443/"), 502);
}

fn reconcile(suite: &Suite) {
    let target = "backendtlspolicy-reconcile-test";
    let url = format!("http://{target}:443/");
    let policy = Policy::new("reconcile-test", target);
    suite.apply(&[service(target), policy.yaml()]);
    suite.expect("reconcile-test", target, &ACCEPTED);
    suite.serves(&url, HOSTNAME);

    suite.apply(&[policy.ca("reconcile-ca").yaml()]);
    suite.expect("reconcile-test", target, &NO_CA);
    suite.until_status(&url, 503);
    suite.fails(&url, 503);

    suite
        .0
        .steps("kubectl create configmap reconcile-ca --from-file=ca.crt");
    suite.expect("reconcile-test", target, &ACCEPTED);
    suite.serves(&url, HOSTNAME);

    let restored = suite.get("configmap/reconcile-ca")["data"].clone();
    suite.patch("configmap/reconcile-ca", &json!({"data": {"ca.crt": ""}}));
    suite.expect("reconcile-test", target, &NO_CA);
    suite.until_status(&url, 503);
    suite.fails(&url, 503);

    suite.patch("configmap/reconcile-ca", &json!({"data": restored}));
    suite.expect("reconcile-test", target, &ACCEPTED);
    suite.serves(&url, HOSTNAME);
}

fn observed_generation_bump(suite: &Suite) {
    let target = "observed-generation-bump-test";
    let nobody = service_with(target, "nobody", "{port: 443, targetPort: 8443}");
    let policy = Policy::new("observed-generation-bump", target);
    suite.apply(&[nobody, policy.yaml()]);
    suite.expect("observed-generation-bump", target, &ACCEPTED);

    let before = suite.policy("observed-generation-bump");
    suite.rename("observed-generation-bump", "foo.example.com");
    suite.expect("observed-generation-bump", target, &ACCEPTED);
    let policy = suite.policy("observed-generation-bump");
    let generation = &policy["metadata"]["generation"];
    assert_ne!(generation, &before["metadata"]["generation"]);
    for ancestor in policy["status"]["ancestors"].as_array().unwrap() {
        for condition in ancestor["conditions"].as_array().unwrap() {
            assert_eq!(&condition["observedGeneration"], generation, "{policy:#}");
        }
    }
}
