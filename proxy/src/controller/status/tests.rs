#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::policy::{ObjectName, Reason};

const NOON: i64 = 1_800_000_000;
const NOON_TEXT: &str = "2027-01-15T08:00:00Z";

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn ancestor(service: &str, section: Option<&str>, accepted: bool) -> AncestorStatus {
    let reason = if accepted {
        Reason::Accepted
    } else {
        Reason::Conflicted
    };
    AncestorStatus {
        service: service.to_owned(),
        section_name: section.map(str::to_owned),
        accepted: Condition {
            status: accepted,
            reason,
            message: "why".to_owned(),
        },
        resolved_refs: Some(Condition {
            status: true,
            reason: Reason::ResolvedRefs,
            message: String::new(),
        }),
        refused_addresses: Vec::new(),
        warnings: Vec::new(),
    }
}

fn compiled(ancestors: Vec<AncestorStatus>) -> PolicyStatus {
    PolicyStatus {
        policy: ObjectName::new("default", "p"),
        generation: Some(3),
        ancestors,
        problems: Vec::new(),
        opted_out: false,
        warnings: Vec::new(),
    }
}

fn foreign(number: usize) -> Value {
    json!({
        "ancestorRef": {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": format!("gw-{number}")},
        "controllerName": "example.com/gateway",
        "conditions": [{"type": "Accepted", "status": "True", "observedGeneration": 99, "x": null}],
    })
}

#[test]
fn a_new_entry_is_what_the_api_asks_for() {
    let compiled = compiled(vec![ancestor("web", Some("https"), true)]);
    let written = desired(&[], &compiled, 3, at(NOON)).ancestors.unwrap();
    assert_eq!(
        written,
        [json!({
            "ancestorRef": {"group": "", "kind": "Service", "name": "web", "sectionName": "https"},
            "controllerName": "nodetls.io/controller",
            "conditions": [
                {"type": "Accepted", "status": "True", "reason": "Accepted", "message": "why",
                 "observedGeneration": 3, "lastTransitionTime": NOON_TEXT},
                {"type": "ResolvedRefs", "status": "True", "reason": "ResolvedRefs", "message": "",
                 "observedGeneration": 3, "lastTransitionTime": NOON_TEXT},
            ],
        })]
    );
}

#[test]
fn the_transition_time_moves_only_with_the_status() {
    let before = compiled(vec![ancestor("web", None, true)]);
    let first = desired(&[], &before, 3, at(NOON)).ancestors.unwrap();

    // A new generation, the same status: observedGeneration moves alone.
    let second = desired(&first, &before, 4, at(NOON + 60))
        .ancestors
        .unwrap();
    let condition = &second[0]["conditions"][0];
    assert_eq!(condition["observedGeneration"], 4);
    assert_eq!(condition["lastTransitionTime"], NOON_TEXT);

    let after = compiled(vec![ancestor("web", None, false)]);
    let third = desired(&second, &after, 4, at(NOON + 60))
        .ancestors
        .unwrap();
    let conditions = &third[0]["conditions"];
    assert_eq!(conditions[0]["status"], "False");
    assert_eq!(conditions[0]["lastTransitionTime"], "2027-01-15T08:01:00Z");
    assert_eq!(conditions[1]["lastTransitionTime"], NOON_TEXT);
}

#[test]
fn foreign_entries_and_conditions_stay_and_ours_go_when_no_longer_relevant() {
    let both = compiled(vec![
        ancestor("web", None, true),
        ancestor("old", None, true),
    ]);
    let mut existing = vec![foreign(1)];
    existing.extend(desired(&[], &both, 3, at(NOON)).ancestors.unwrap());
    existing.push(foreign(2));
    let extra = json!({"type": "example.com/Seen", "status": "True"});
    existing[1]["conditions"]
        .as_array_mut()
        .unwrap()
        .insert(0, extra.clone());

    // Without ResolvedRefs: its old value would be a stale one.
    let mut web = ancestor("web", None, true);
    web.resolved_refs = None;
    let written = desired(&existing, &compiled(vec![web]), 3, at(NOON))
        .ancestors
        .unwrap();
    assert_eq!(written.len(), 3);
    assert_eq!([&written[0], &written[2]], [&foreign(1), &foreign(2)]);
    let conditions = written[1]["conditions"].as_array().unwrap();
    let kinds: Vec<_> = conditions
        .iter()
        .map(|condition| &condition["type"])
        .collect();
    assert_eq!(kinds, ["example.com/Seen", "Accepted"]);
    assert_eq!(conditions[0], extra);

    let none = desired(&written, &compiled(Vec::new()), 3, at(NOON));
    assert_eq!(none.ancestors.unwrap(), [foreign(1), foreign(2)]);
}

#[test]
fn what_finds_sixteen_entries_is_left_out_and_named() {
    let foreign: Vec<Value> = (0..15).map(foreign).collect();
    let compiled = compiled(vec![
        ancestor("a", None, true),
        ancestor("b", Some("https"), true),
    ]);
    let first = desired(&foreign, &compiled, 3, at(NOON));
    assert_eq!(first.left_out, ["Service b, port https"]);
    let written = first.ancestors.unwrap();
    assert_eq!(written.len(), 16);
    assert_eq!(written[15]["ancestorRef"]["name"], "a");

    let again = desired(&written, &compiled, 3, at(NOON));
    assert_eq!(again.ancestors, None);
    assert_eq!(again.left_out, ["Service b, port https"]);
}

#[test]
fn a_newer_view_of_the_policy_is_not_written_over() {
    let new = compiled(vec![ancestor("web", None, true)]);
    let existing = desired(&[], &new, 5, at(NOON)).ancestors.unwrap();
    let old = compiled(vec![ancestor("web", None, false)]);
    assert_eq!(
        desired(&existing, &old, 4, at(NOON + 60)),
        Desired::default()
    );
}

#[test]
fn a_message_fits_the_api() {
    let mut long = ancestor("web", None, true);
    long.accepted.message = "ä".repeat(40_000);
    let written = desired(&[], &compiled(vec![long]), 3, at(NOON))
        .ancestors
        .unwrap();
    let message = written[0]["conditions"][0]["message"].as_str().unwrap();
    assert!((32_760..=32_768).contains(&message.len()));
}

fn ancestors() -> impl Strategy<Value = Vec<AncestorStatus>> {
    let service = select(vec!["a", "b", "c", "d", "e", "f"]);
    let section = option::of(select(vec!["http", "https", "443"]));
    let entry = (service, section, any::<bool>(), any::<bool>());
    let entry = entry.prop_map(|(service, section, accepted, resolved)| {
        let mut entry = ancestor(service, section, accepted);
        if !resolved {
            entry.resolved_refs = None;
        }
        entry
    });
    vec(entry, 0..=16)
}

/// What others may have left: their entries, ours as written, and ours in a shape we never write.
fn existing() -> impl Strategy<Value = Vec<Value>> {
    let ours = ancestors().prop_map(|ancestors| {
        let written = desired(&[], &compiled(ancestors), 2, at(NOON - 60));
        written.ancestors.unwrap_or_default()
    });
    let odd =
        json!({"controllerName": CONTROLLER_NAME, "conditions": "?", "ancestorRef": {"name": "a"}});
    let others = vec(
        prop_oneof![
            9 => (0..20_usize).prop_map(foreign),
            1 => Just(odd),
            1 => any::<bool>().prop_map(Value::from),
        ],
        0..=16,
    );
    (ours, others)
        .prop_map(|(ours, others)| [ours, others].concat())
        .prop_shuffle()
        .prop_map(|mut entries| {
            entries.truncate(MAX_ANCESTORS);
            entries
        })
}

fn others(entries: &[Value]) -> Vec<&Value> {
    entries.iter().filter(|entry| !is_ours(entry)).collect()
}

proptest! {
    #[test]
    fn never_touches_foreign_entries_and_never_exceeds_sixteen(existing in existing(), ancestors in ancestors()) {
        let compiled = compiled(ancestors);
        let result = desired(&existing, &compiled, 3, at(NOON));
        let written = result.ancestors.unwrap_or_else(|| existing.clone());
        prop_assert_eq!(others(&written), others(&existing));
        prop_assert!(written.len() <= MAX_ANCESTORS);

        // Ours: each wanted target once, or left out; every condition of this generation.
        let mut keys: Vec<Value> = Vec::new();
        for entry in written.iter().filter(|entry| is_ours(entry)) {
            prop_assert!(!keys.contains(&entry["ancestorRef"]));
            keys.push(entry["ancestorRef"].clone());
            for condition in entry["conditions"].as_array().unwrap() {
                prop_assert_eq!(&condition["observedGeneration"], 3);
            }
        }
        let mut wanted: Vec<Value> = Vec::new();
        for ancestor in &compiled.ancestors {
            let key = ancestor_ref(ancestor);
            if !wanted.contains(&key) {
                wanted.push(key);
            }
        }
        prop_assert_eq!(keys.len() + result.left_out.len(), wanted.len());
        prop_assert!(keys.iter().all(|key| wanted.contains(key)));
        prop_assert!(result.left_out.is_empty() || written.len() == MAX_ANCESTORS);
    }

    #[test]
    fn is_idempotent(existing in existing(), ancestors in ancestors(), later in 0..1000_i64) {
        let compiled = compiled(ancestors);
        let first = desired(&existing, &compiled, 3, at(NOON));
        let written = first.ancestors.unwrap_or(existing);
        let second = desired(&written, &compiled, 3, at(NOON + later));
        prop_assert_eq!(second.ancestors, None);
        prop_assert_eq!(second.left_out, first.left_out);
    }
}
