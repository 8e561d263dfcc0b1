//! `status.ancestors` is shared with other controllers.

use nodetls_e2e::until;
use serde_json::{Value, json};

use crate::objects::{HOSTNAME, OTHER_HOSTNAME, Policy, service};
use crate::suite::{ACCEPTED, OUR_NAME, Suite, told};
use crate::{Group, HTTP_CLIENT, Row};

pub(crate) const OTHERS_ENTRIES: Group = Group {
    title: "Other controllers' entries",
    features: "",
    driven_by: HTTP_CLIENT,
    rows: &[
        Row {
            name: "others_entries::sixteen_of_them",
            asserted: "With 16 entries of others none is added, and none changed; an Event StatusFull on the policy tells of \
                       it. Plain HTTP: 200, also after a change of hostname. When there is room, our entry comes last.",
            test: sixteen,
        },
        Row {
            name: "others_entries::kept_in_order",
            asserted: "Of entries before and after ours not a field changes, nor their order, when ours is written anew.",
            test: kept,
        },
        Row {
            name: "others_entries::ours_taken_away",
            asserted: "When another controller writes a list without our entry, it comes back, after the other's.",
            test: taken_away,
        },
    ],
};

/// An entry as another controller may write it, with what we never write.
fn entry(number: u32) -> Value {
    json!({
        "ancestorRef": {
            "group": "gateway.networking.k8s.io", "kind": "Gateway", "namespace": "infra",
            "name": format!("gateway-{number}"), "sectionName": "https", "port": 443,
        },
        "controllerName": "example.net/gateway-controller",
        "conditions": [
            {
                "type": "Programmed", "status": "Unknown", "reason": "Pending", "message": " \u{1f512}\n",
                "lastTransitionTime": "2001-02-03T04:05:06Z",
            },
            {
                "type": "Accepted", "status": "False", "reason": "Invalid", "message": "", "observedGeneration": 1,
                "lastTransitionTime": "2001-02-03T04:05:06Z",
            },
        ],
    })
}

fn sixteen(suite: &Suite) {
    let (name, target) = ("sixteen", "sixteen-test");
    let (object, url) = ("backendtlspolicy/sixteen", "http://sixteen-test:443/");
    suite.apply(&[service(target), Policy::new(name, target).yaml()]);
    suite.expect(name, target, &ACCEPTED);
    let mut entries: Vec<Value> = (0..16).map(entry).collect();
    suite.patch_status(object, &json!({"status": {"ancestors": entries}}));
    told_of_full_status(suite, name);
    assert_eq!(suite.policy(name)["status"]["ancestors"], json!(entries));
    suite.serves(url, HOSTNAME);
    suite.rename(name, OTHER_HOSTNAME);
    suite.serves(url, OTHER_HOSTNAME);
    assert_eq!(suite.policy(name)["status"]["ancestors"], json!(entries));

    entries.pop();
    suite.patch_status(object, &json!({"status": {"ancestors": entries}}));
    suite.expect(name, target, &ACCEPTED);
    let ancestors = suite.policy(name)["status"]["ancestors"].clone();
    assert_eq!(ancestors.as_array().unwrap()[..15], entries);
    assert_eq!(ancestors[15]["controllerName"], OUR_NAME);
}

fn told_of_full_status(suite: &Suite, policy: &str) {
    until("an Event tells that the status is full", || {
        let about = format!("--field-selector=involvedObject.name={policy},reason=StatusFull");
        let show = "--output=jsonpath={.items[*].message}";
        let told = suite.0.kubectl(&["get", "events", &about, show]);
        told.contains("16 entries").then_some(()).ok_or(told)
    });
}

fn kept(suite: &Suite) {
    let (name, target) = ("kept", "kept-test");
    suite.apply(&[service(target), Policy::new(name, target).yaml()]);
    suite.expect(name, target, &ACCEPTED);
    let ours = suite.policy(name)["status"]["ancestors"][0].clone();
    let entries = json!([entry(1), entry(2), ours, entry(3)]);
    suite.patch_status(
        "backendtlspolicy/kept",
        &json!({"status": {"ancestors": entries}}),
    );
    suite.rename(name, OTHER_HOSTNAME);
    suite.expect(name, target, &ACCEPTED);
    let policy = suite.policy(name);
    let mut now = policy["status"]["ancestors"].clone();
    assert!(told(&policy, target).is_some());
    assert_ne!(now[2], ours, "not written anew");
    now[2] = ours;
    // As text, since that is what others compare.
    assert_eq!(now.to_string(), entries.to_string());
}

fn taken_away(suite: &Suite) {
    let (name, target) = ("taken-away", "taken-away-test");
    suite.apply(&[service(target), Policy::new(name, target).yaml()]);
    suite.expect(name, target, &ACCEPTED);
    let status = json!({"status": {"ancestors": [entry(1)]}});
    suite.patch_status("backendtlspolicy/taken-away", &status);
    suite.expect(name, target, &ACCEPTED);
    let ancestors = suite.policy(name)["status"]["ancestors"].clone();
    assert_eq!(ancestors[0], entry(1));
    assert_eq!(ancestors[1]["controllerName"], OUR_NAME);
}
