//! Precedence, missing targets, shared addresses.

use super::*;

/// The policy in force at an address.
fn in_force(compiled: &Compiled, address: &str) -> String {
    compiled.target(address).policy.name.to_string()
}

#[test]
fn the_oldest_wins() {
    let world = World::new().policy_at(2, "a", spec("web", None));
    let compiled = world.policy_at(1, "b", spec("web", None)).compile();
    assert_eq!(in_force(&compiled, "10.0.0.1:443"), "b");
    assert_condition(compiled.accepted("b"), true, Reason::Accepted, &[]);
    let parts = [
        "BackendTLSPolicy default/b",
        "Service default/web, all ports",
    ];
    assert_condition(compiled.accepted("a"), false, Reason::Conflicted, &parts);
    assert_condition(compiled.resolved_refs("a"), true, Reason::ResolvedRefs, &[]);
}

#[test]
fn then_the_first_by_name() {
    let at_once = World::new().policy_at(1, "b", spec("web", None));
    let compiled = at_once.policy_at(1, "a", spec("web", None)).compile();
    assert_eq!(in_force(&compiled, "10.0.0.1:443"), "a");
    let files = World::new()
        .policy("b", spec("web", None))
        .policy("a", spec("web", None));
    assert_eq!(in_force(&files.compile(), "10.0.0.1:443"), "a");
    let mixed = World::new()
        .policy_at(9, "b", spec("web", None))
        .policy("a", spec("web", None));
    assert_eq!(in_force(&mixed.compile(), "10.0.0.1:443"), "b");
}

#[test]
fn a_port_policy_beats_the_service_policy_without_conflict() {
    let world = World::new().policy_at(1, "whole", spec("web", None));
    let compiled = world
        .policy_at(2, "port", spec("web", Some("https")))
        .compile();
    assert_eq!(in_force(&compiled, "10.0.0.1:443"), "port");
    assert_eq!(in_force(&compiled, "10.0.0.1:8443"), "whole");
    assert!(compiled.accepted("whole").status && compiled.accepted("port").status);
}

#[test]
fn a_port_has_one_policy_by_name_or_number() {
    let world = World::new().policy_at(1, "number", spec("web", Some("443")));
    let compiled = world
        .policy_at(2, "name", spec("web", Some("https")))
        .compile();
    assert_eq!(in_force(&compiled, "10.0.0.1:443"), "number");
    let parts = ["default/number", "https 443/TCP"];
    assert_condition(compiled.accepted("name"), false, Reason::Conflicted, &parts);
}

#[test]
fn an_older_invalid_policy_still_wins() {
    let invalid = spec_for_host("web", Some("https"), "10.0.0.9");
    let world = World::new().policy_at(1, "old", invalid);
    let compiled = world
        .policy_at(2, "new", spec("web", Some("https")))
        .compile();
    assert_eq!(compiled.refusal("10.0.0.1:443").reason, "Invalid");
    assert_condition(
        compiled.accepted("new"),
        false,
        Reason::Conflicted,
        &["default/old"],
    );
}

#[test]
fn an_invalid_port_policy_does_not_fall_back_to_the_service_policy() {
    let world = World::new().policy("whole", spec("web", None));
    let invalid = spec_for_host("web", Some("https"), "10.0.0.9");
    let compiled = world.policy("port", invalid).compile();
    assert_eq!(compiled.refusal("10.0.0.1:443").reason, "Invalid");
    assert!(compiled.target("10.0.0.1:8443").plan.is_ok());
}

#[test]
fn an_invalid_loser_is_conflicted() {
    let world = World::new().policy_at(1, "old", spec("web", None));
    let compiled = world
        .policy_at(2, "new", spec_for_host("web", None, "10.0.0.9"))
        .compile();
    assert_condition(
        compiled.accepted("new"),
        false,
        Reason::Conflicted,
        &["default/old"],
    );
    assert_ne!(compiled.status("new").problems, [""; 0]);
    assert!(compiled.target("10.0.0.1:443").plan.is_ok());
}

#[test]
fn each_target_of_a_policy_stands_alone() {
    let mut several = spec("web", None);
    for name in ["absent", "other"] {
        let target = json!({"group": "", "kind": "Service", "name": name});
        several["targetRefs"].as_array_mut().unwrap().push(target);
    }
    let other = json!({"clusterIP": "10.0.0.2", "ports": [{"port": 80}]});
    let world = World::new().service("other", other);
    let world = world
        .policy_at(1, "first", spec("web", None))
        .policy_at(2, "several", several);
    let compiled = world.compile();
    let ancestors = &compiled.status("several").ancestors;
    let reasons: Vec<Reason> = ancestors.iter().map(|a| a.accepted.reason).collect();
    assert_eq!(
        reasons,
        [Reason::Conflicted, Reason::TargetNotFound, Reason::Accepted]
    );
    assert_eq!(in_force(&compiled, "10.0.0.1:443"), "first");
    assert_eq!(in_force(&compiled, "10.0.0.2:80"), "several");
}

#[test]
fn two_names_of_a_port_in_one_policy_are_no_conflict() {
    let mut twice = spec("web", Some("https"));
    let again = json!({"group": "", "kind": "Service", "name": "web", "sectionName": "443"});
    twice["targetRefs"].as_array_mut().unwrap().push(again);
    let compiled = World::new().policy("p", twice).compile();
    assert!(
        compiled
            .status("p")
            .ancestors
            .iter()
            .all(|ancestor| ancestor.accepted.status)
    );
}

#[test]
fn a_policy_sees_its_own_namespace_only() {
    let mut world = World::new().policy("p", spec("web", None));
    let policy = world.objects.policies.remove(&default_name("p")).unwrap();
    world
        .objects
        .policies
        .insert(ObjectName::new("other", "p"), policy);
    let compiled = world.compile();
    assert_eq!(compiled.snapshot, Snapshot::default());
    let accepted = &compiled.statuses[0].ancestors[0].accepted;
    assert_condition(
        accepted,
        false,
        Reason::TargetNotFound,
        &["Service other/web"],
    );
}

#[test]
fn missing_service() {
    let compiled = World::new().policy("p", spec("absent", None)).compile();
    let parts = ["Service default/absent does not exist", "create it"];
    assert_condition(
        compiled.accepted("p"),
        false,
        Reason::TargetNotFound,
        &parts,
    );
    assert_condition(compiled.resolved_refs("p"), true, Reason::ResolvedRefs, &[]);
    assert_eq!(compiled.snapshot, Snapshot::default());
}

#[test]
fn missing_section() {
    let compiled = World::new()
        .policy("p", spec("web", Some("grpc")))
        .compile();
    let parts = ["no port named \"grpc\"", "https 443/TCP, alt 8443/TCP"];
    assert_condition(
        compiled.accepted("p"),
        false,
        Reason::TargetNotFound,
        &parts,
    );
    assert_eq!(compiled.snapshot, Snapshot::default());
}

/// Services `a` and `b`, both with external IP 192.0.2.1, port 443, and policies of these hostnames.
fn shared_address(a: &str, b: &str) -> World {
    let service = |cluster_ip: &str| {
        let ports = json!([{"port": 443}]);
        json!({"clusterIP": cluster_ip, "externalIPs": ["192.0.2.1"], "ports": ports})
    };
    let world = World::new()
        .service("a", service("10.0.1.1"))
        .service("b", service("10.0.1.2"));
    let world = world.policy("pa", spec_for_host("a", None, a));
    world.policy("pb", spec_for_host("b", None, b))
}

#[test]
fn a_shared_address_is_refused_when_its_services_disagree() {
    let compiled = shared_address("a.example.com", "b.example.com").compile();
    let refusal = compiled.refusal("192.0.2.1:443");
    assert_eq!(refusal.reason, "Conflicted");
    let both = "192.0.2.1:443 belongs to several Services (default/a, default/b)";
    assert!(refusal.message.contains(both), "{}", refusal.message);
    for policy in ["pa", "pb"] {
        assert_condition(compiled.accepted(policy), true, Reason::Accepted, &[both]);
    }
    assert!(compiled.target("10.0.1.1:443").plan.is_ok());
    assert!(compiled.target("10.0.1.2:443").plan.is_ok());
}

#[test]
fn a_shared_address_is_served_when_its_services_agree() {
    let compiled = shared_address("a.example.com", "a.example.com").compile();
    assert!(compiled.target("192.0.2.1:443").plan.is_ok());
    assert_eq!(compiled.target("192.0.2.1:443").service, default_name("a"));
}

#[test]
fn an_invalid_policy_on_a_shared_address_is_a_disagreement() {
    let compiled = shared_address("a.example.com", "10.0.0.9").compile();
    assert_eq!(compiled.refusal("192.0.2.1:443").reason, "Conflicted");
    let compiled = shared_address("10.0.0.8", "10.0.0.9").compile();
    assert_eq!(compiled.refusal("192.0.2.1:443").reason, "Conflicted");
}
