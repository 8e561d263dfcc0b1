//! Which of two policies for one target is in force.

use nodetls_e2e::until;
use serde_json::Value;

use crate::objects::{HOSTNAME, OTHER_HOSTNAME, Policy, service};
use crate::suite::{ACCEPTED, CONFLICTED, NO_CA, Suite};
use crate::{Group, HTTP_CLIENT, Row};

pub(crate) const PRECEDENCE: Group = Group {
    title: "Precedence",
    features: "",
    driven_by: HTTP_CLIENT,
    rows: &[
        Row {
            name: "precedence::older_before_name",
            asserted: "The older one, last by name: Accepted; the newer one: False/Conflicted. When the older one is deleted, \
                       the newer one: Accepted; plain HTTP: 200, with its SNI.",
            test: older_then_promoted,
        },
        Row {
            name: "precedence::same_second_by_name",
            asserted: "Of two with the same creationTimestamp the first by name, although created last, is Accepted.",
            test: same_second,
        },
        Row {
            name: "precedence::older_invalid_still_wins",
            asserted: "The older one without a valid CA: False/NoValidCACertificate; the newer one, valid: False/Conflicted. \
                       Plain HTTP: 503.",
            test: older_invalid,
        },
    ],
};

fn older_then_promoted(suite: &Suite) {
    let target = "promoted-test";
    let url = "http://promoted-test:443/";
    let older = Policy::new("promoted-z-older", target).hostname(OTHER_HOSTNAME);
    suite.apply(&[service(target), older.yaml()]);
    create_later(
        suite,
        "promoted-z-older",
        "promoted-a-newer",
        &Policy::new("promoted-a-newer", target),
    );
    suite.expect("promoted-z-older", target, &ACCEPTED);
    suite.expect("promoted-a-newer", target, &CONFLICTED);
    suite.serves(url, OTHER_HOSTNAME);

    suite
        .0
        .kubectl(&["delete", "backendtlspolicy", "promoted-z-older"]);
    suite.expect("promoted-a-newer", target, &ACCEPTED);
    suite.serves(url, HOSTNAME);
}

fn same_second(suite: &Suite) {
    let target = "same-second-test";
    let first = Policy::new("same-second-z-first", target);
    let second = Policy::new("same-second-a-second", target).hostname(OTHER_HOSTNAME);
    suite.apply(&[service(target)]);
    until("both are created within a second", || {
        let delete = ["delete", "backendtlspolicy", "--ignore-not-found"];
        let names = ["same-second-z-first", "same-second-a-second"];
        suite
            .0
            .kubectl(&[delete, [names[0], names[1], "--wait=true"]].concat());
        suite.apply(&[first.yaml(), second.yaml()]);
        let created = names.map(|name| created(suite, name));
        (created[0] == created[1])
            .then_some(())
            .ok_or(format!("{created:?}"))
    });
    suite.expect("same-second-a-second", target, &ACCEPTED);
    suite.expect("same-second-z-first", target, &CONFLICTED);
    suite.serves("http://same-second-test:443/", OTHER_HOSTNAME);
}

fn older_invalid(suite: &Suite) {
    let target = "older-invalid-test";
    let older = Policy::new("older-invalid-z-older", target).ca("absent-ca");
    suite.apply(&[service(target), older.yaml()]);
    let newer = Policy::new("older-invalid-a-newer", target);
    create_later(
        suite,
        "older-invalid-z-older",
        "older-invalid-a-newer",
        &newer,
    );
    suite.expect("older-invalid-z-older", target, &NO_CA);
    suite.expect("older-invalid-a-newer", target, &CONFLICTED);
    suite.fails("http://older-invalid-test:443/", 503);
}

/// Creates a policy in a later second than `older` was, which is as exactly as the API server tells time.
fn create_later(suite: &Suite, older: &str, name: &str, policy: &Policy) {
    let older = created(suite, older);
    until("a later second", || {
        suite
            .0
            .kubectl(&["delete", "backendtlspolicy", name, "--ignore-not-found"]);
        suite.apply(&[policy.yaml()]);
        let newer = created(suite, name);
        (newer != older).then_some(()).ok_or(newer.to_string())
    });
}

fn created(suite: &Suite, policy: &str) -> Value {
    suite.policy(policy)["metadata"]["creationTimestamp"].clone()
}
