//! The rules for `targetRefs`, and what is a target in spite of a mistake.

use super::validate::{assert_invalid, assert_valid, changed};
use super::*;

#[test]
fn target_refs_of_one_service() {
    let target = |section: Value| json!({"group": "", "kind": "Service", "name": "web", "sectionName": section});
    for (sections, part) in [
        ([json!("https"), json!("https")], "must be set and unique"),
        ([json!(null), json!(null)], "must be set and unique"),
        (
            [json!("https"), json!(null)],
            "must be set in every reference",
        ),
        (
            [json!(null), json!("https")],
            "must be set in every reference",
        ),
    ] {
        let spec = changed(|spec| spec["targetRefs"] = sections.map(target).to_vec().into());
        let compiled = World::new().policy("p", spec).compile();
        let status = compiled.status("p");
        let [problem] = status.problems.as_slice() else {
            panic!("{:?}", status.problems)
        };
        assert!(
            problem.starts_with("spec.targetRefs[1].sectionName: "),
            "{problem}"
        );
        assert!(problem.contains(part), "{problem}");
        assert!(
            status
                .ancestors
                .iter()
                .all(|a| a.accepted.reason == Reason::Invalid)
        );
        assert_eq!(compiled.refusal("10.0.0.1:443").reason, "Invalid");
    }
    let both = ["https", "alt"].map(|section| target(section.into()));
    assert_valid(|spec| spec["targetRefs"] = both.to_vec().into());
}

#[test]
fn a_broken_target_ref_is_still_a_target() {
    for (field, value, problem) in [
        (
            "group",
            json!(null),
            "[0].group: required, and missing: write group: \"\"",
        ),
        ("group", json!(1), "[0].group: must be a string"),
        ("group", json!("core"), "[0].group: \"core\" is no group"),
        ("kind", json!(null), "[0].kind: required, and missing"),
        ("kind", json!([]), "[0].kind: must be a string"),
        (
            "sectionName",
            json!(443),
            "[0].sectionName: must be a string",
        ),
        (
            "sectionName",
            json!(""),
            "[0].sectionName: must not be empty",
        ),
        (
            "sectionName",
            json!(true),
            "[0].sectionName: must be a string",
        ),
    ] {
        assert_invalid(&format!("spec.targetRefs{problem}"), |s| {
            s["targetRefs"][0][field] = value
        });
    }
    assert_invalid("spec.targetRefs: must be a list", |spec| {
        spec["targetRefs"] = spec["targetRefs"][0].clone();
    });
    let spec = changed(|spec| spec["targetRefs"][0]["sectionName"] = 443.into());
    let compiled = World::new().policy("p", spec).compile();
    assert_eq!(
        compiled.addresses(),
        ["10.0.0.1:443"],
        "a number stands for its port"
    );
    let spec = changed(|spec| spec["targetRefs"][0]["sectionName"] = true.into());
    let compiled = World::new().policy("p", spec).compile();
    assert_eq!(
        compiled.addresses().len(),
        2,
        "what can't be read stands for all ports"
    );
}

#[test]
fn one_broken_target_ref_refuses_the_others() {
    for (broken, problem) in [
        (json!("web"), "spec.targetRefs[1]: must be an object"),
        (
            json!({"group": "", "kind": "Service"}),
            "spec.targetRefs[1].name: required, and missing",
        ),
    ] {
        assert_invalid(problem, |s| {
            s["targetRefs"].as_array_mut().unwrap().push(broken)
        });
    }
}

#[test]
fn too_many_target_refs_are_all_refused() {
    let target = |i| json!({"group": "", "kind": "Service", "name": format!("s{i}")});
    let spec = changed(|spec| {
        let targets = spec["targetRefs"].as_array_mut().unwrap();
        targets.extend((0..16).map(target));
    });
    let compiled = World::new().policy("p", spec).compile();
    assert_eq!(
        compiled.status("p").problems,
        ["spec.targetRefs: has 17 entries: at most 16 are allowed"]
    );
    assert_eq!(compiled.status("p").ancestors.len(), 17);
    assert_eq!(compiled.refusal("10.0.0.1:443").reason, "Invalid");
}

#[test]
fn a_policy_without_readable_targets_is_visible() {
    let valid = spec("web", None)["validation"].clone();
    for (spec, problem) in [
        (json!(null), "spec: required, and missing"),
        (json!("x"), "spec: must be an object"),
        (
            json!({"validation": valid}),
            "spec.targetRefs: required, and missing",
        ),
        (
            json!({"validation": valid, "targetRefs": []}),
            "spec.targetRefs: must not be empty",
        ),
        (
            json!({"validation": valid, "targetRefs": 1}),
            "spec.targetRefs: must be a list",
        ),
    ] {
        let compiled = World::new().policy("p", spec).compile();
        let status = compiled.status("p");
        assert_eq!(status.ancestors, []);
        assert_eq!(status.problems.len(), 1, "{:?}", status.problems);
        assert!(
            status.problems[0].starts_with(problem),
            "{:?}",
            status.problems
        );
    }
}

#[test]
fn other_kinds_of_targets_are_not_ours() {
    for (group, kind) in [
        ("inference.networking.k8s.io", "InferencePool"),
        ("", "ConfigMap"),
        ("serving.knative.dev", "Service"),
    ] {
        let spec = changed(|spec| {
            spec["targetRefs"] = json!([{"group": group, "kind": kind, "name": "web"}]);
        });
        let compiled = World::new().policy("p", spec).compile();
        assert_eq!(compiled.status("p").ancestors, []);
        assert_eq!(compiled.status("p").problems, [""; 0]);
        assert_eq!(compiled.snapshot, Snapshot::default());
    }
}

#[test]
fn a_policy_created_again_makes_another_target() {
    let target = |uid: &str| {
        let mut world = World::new().policy("p", spec("web", None));
        let policy = world.objects.policies.values_mut().next().unwrap();
        Arc::make_mut(policy).metadata.uid = Some(uid.to_owned());
        world.compile().target("10.0.0.1:443").clone()
    };
    assert_eq!(target("a"), target("a"));
    assert_ne!(target("a"), target("b"));
}
