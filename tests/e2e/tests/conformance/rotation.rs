//! A server gets a certificate of another CA while requests come.

use nodetls_e2e::{ASK, script, until};
use serde_json::json;

use crate::objects::{HOSTNAME, Policy, service_with};
use crate::suite::{ACCEPTED, Suite};
use crate::{Group, HTTP_CLIENT, Row};

pub(crate) const ROTATION: Group = Group {
    title: "Rotation",
    features: "",
    driven_by: HTTP_CLIENT,
    rows: &[Row {
        name: "rotation::of_the_ca_under_load",
        asserted: "The bundle holds the old CA, both, then the new one; between, the Service moves from the server with the \
                   old CA's certificate to the one with the new CA's. A client that asks all the time: every answer 200.",
        test: rotation,
    }],
};

const PORT: &str = "{port: 443, targetPort: 8443}";
const URL: &str = "http://rotation:443/";

/// With it the probes of the old and of the new server, which tell what the agents trust by now.
fn rotation(suite: &Suite) {
    suite
        .0
        .steps("kubectl create configmap rotation-ca --from-file=ca.crt");
    let policy = Policy::new("rotation", "rotation")
        .target("rotation-old")
        .target("rotation-new");
    suite.apply(&[
        service_with("rotation", "tls-backend", PORT),
        service_with("rotation-old", "tls-backend", PORT),
        service_with("rotation-new", "renewed-backend", PORT),
        policy.ca("rotation-ca").yaml(),
    ]);
    suite.expect("rotation", "rotation", &ACCEPTED);
    suite.serves("http://rotation-old:443/", HOSTNAME);
    suite.fails("http://rotation-new:443/", 502);
    assert_eq!(suite.serves(URL, HOSTNAME)["pod"], "tls-backend");
    // By address, so that nothing else can fail.
    let url = format!("http://{}:443/", suite.cluster_ip("rotation"));
    let asking = format!("while :; do {ASK} {url}; sleep 0.02; done");
    suite.apply(&[script("rotation-loop", &asking)]);
    suite.0.wait("pod/rotation-loop", "condition=Ready");
    asked_on(suite);

    bundle(suite, "both.crt");
    suite.serves("http://rotation-new:443/", HOSTNAME);
    suite.serves("http://rotation-old:443/", HOSTNAME);
    asked_on(suite);

    let selector = json!({"spec": {"selector": {"app": "renewed-backend"}}});
    suite.patch("service/rotation", &selector);
    until("the new server answers", || {
        let told = suite.serves(URL, HOSTNAME);
        (told["pod"] == "renewed-backend")
            .then_some(())
            .ok_or(told.to_string())
    });
    asked_on(suite);

    bundle(suite, "mismatch-ca.crt");
    suite.until_status("http://rotation-old:443/", 502);
    suite.fails("http://rotation-old:443/", 502);
    assert_eq!(suite.serves(URL, HOSTNAME)["pod"], "renewed-backend");
    asked_on(suite);
}

/// Another bundle in the policy's ConfigMap.
fn bundle(suite: &Suite, file: &str) {
    let create = "kubectl create configmap rotation-ca --dry-run=client --output=yaml";
    suite.0.steps(&format!(
        "{create} --from-file=ca.crt={file} | kubectl replace --filename -"
    ));
}

/// Waits until the loop has had twenty more answers. All so far are 200.
fn asked_on(suite: &Suite) {
    let answers = || suite.0.kubectl(&["logs", "rotation-loop"]);
    let before = answers().lines().count();
    let all = until("the loop asks on", || {
        let all = answers();
        (all.lines().count() >= before + 20)
            .then_some(all.clone())
            .ok_or(all)
    });
    let failed: Vec<&str> = all.lines().filter(|line| *line != "200 ").collect();
    assert!(
        failed.is_empty(),
        "of {} answers: {failed:?}",
        all.lines().count()
    );
}
