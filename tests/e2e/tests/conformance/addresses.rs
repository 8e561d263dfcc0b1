//! The addresses of a Service.

use serde_json::json;

use crate::objects::{HOSTNAME, Policy, service};
use crate::suite::{ACCEPTED, Suite};
use crate::{Group, HTTP_CLIENT, Row};

pub(crate) const ADDRESSES: Group = Group {
    title: "Addresses",
    features: "",
    driven_by: HTTP_CLIENT,
    rows: &[
        Row {
            name: "addresses::service_created_again",
            asserted: "Deleted, and created again with another clusterIP: plain HTTP by name 200. The former clusterIP is by \
                       then that of a Service without a policy, which gets plaintext as it should.",
            test: created_again,
        },
        Row {
            name: "addresses::external_ips",
            asserted: "Plain HTTP to an address of `spec.externalIPs`: 200.",
            test: external_ips,
        },
        Row {
            name: "addresses::load_balancer_ips",
            asserted: "Plain HTTP to an address of `status.loadBalancer`, given to the Service later: 200.",
            test: load_balancer_ips,
        },
    ],
};

fn created_again(suite: &Suite) {
    let (name, target) = ("created-again", "created-again-test");
    let url = "http://created-again-test:443/";
    suite.apply(&[service(target), Policy::new(name, target).yaml()]);
    suite.expect(name, target, &ACCEPTED);
    suite.serves(url, HOSTNAME);

    let former = suite.cluster_ip(target);
    suite.0.kubectl(&["delete", "service", target]);
    let heir = service("created-again-heir");
    suite.apply(&[heir.replace("spec: {", &format!("spec: {{clusterIP: {former}, "))]);
    suite.apply(&[service(target)]);
    assert_ne!(suite.cluster_ip(target), former);
    suite.expect(name, target, &ACCEPTED);
    suite.serves(url, HOSTNAME);
    // The server's answer to plaintext.
    suite.until_status(&format!("http://{former}:443/"), 400);
}

fn external_ips(suite: &Suite) {
    let (name, target) = ("external-ips", "external-ips-test");
    suite.apply(&[service(target), Policy::new(name, target).yaml()]);
    let external = json!({"spec": {"externalIPs": ["198.51.100.7"]}});
    suite.patch("service/external-ips-test", &external);
    suite.expect(name, target, &ACCEPTED);
    suite.serves("http://198.51.100.7:443/", HOSTNAME);
    suite.serves("http://external-ips-test:443/", HOSTNAME);
}

fn load_balancer_ips(suite: &Suite) {
    let (name, target) = ("load-balancer-ips", "load-balancer-ips-test");
    let balanced = service(target).replace("spec: {", "spec: {type: LoadBalancer, ");
    suite.apply(&[balanced, Policy::new(name, target).yaml()]);
    suite.expect(name, target, &ACCEPTED);
    let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.7"}]}}});
    suite.patch_status("service/load-balancer-ips-test", &status);
    suite.serves("http://203.0.113.7:443/", HOSTNAME);
    suite.serves("http://load-balancer-ips-test:443/", HOSTNAME);
}
