//! Ports, addresses and endpoints.

use super::*;

/// Service `svc` with this spec, and a policy `p` on it.
fn compiled(service: Value, section: Option<&str>) -> Compiled {
    World::new()
        .service("svc", service)
        .policy("p", spec("svc", section))
        .compile()
}

#[test]
fn all_addresses_of_both_families() {
    let service = json!({
        "clusterIP": "10.0.0.2", "clusterIPs": ["10.0.0.2", "fd00::2"],
        "externalIPs": ["192.0.2.1", "::ffff:192.0.2.3"], "ports": [{"port": 443}],
    });
    let status = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.2"}, {"hostname": "lb"}]}});
    let world = World::new().service_with_status("svc", service, status);
    let compiled = world.policy("p", spec("svc", None)).compile();
    let expected = [
        "10.0.0.2",
        "192.0.2.1",
        "192.0.2.2",
        "192.0.2.3",
        "[fd00::2]",
    ];
    assert_eq!(compiled.addresses(), expected.map(|ip| format!("{ip}:443")));
}

#[test]
fn section_by_name_or_number() {
    let ports = json!([{"name": "443", "port": 1}, {"name": "b", "port": 443},
        {"name": "udp", "port": 53, "protocol": "UDP"}, {"name": "tcp", "port": 53}]);
    let service = json!({"clusterIP": "10.0.0.2", "ports": ports});
    let addresses = |section| compiled(service.clone(), Some(section)).addresses();
    assert_eq!(addresses("b"), ["10.0.0.2:443"]);
    assert_eq!(
        addresses("443"),
        ["10.0.0.2:1"],
        "a name comes before a number"
    );
    assert_eq!(addresses("1"), ["10.0.0.2:1"]);
    assert_eq!(addresses("53"), ["10.0.0.2:53"], "TCP comes before UDP");
    assert_eq!(addresses("0443"), [""; 0]);
}

#[test]
fn udp_and_sctp_only() {
    for protocol in ["UDP", "SCTP"] {
        let ports = json!([{"name": "q", "port": 443, "protocol": protocol}]);
        let service = json!({"clusterIP": "10.0.0.2", "ports": ports});
        for section in [None, Some("q"), Some("443")] {
            let compiled = compiled(service.clone(), section);
            let port = format!("q 443/{protocol}");
            let parts = ["default/svc", &port, "target a TCP port"];
            assert_condition(compiled.accepted("p"), false, Reason::Invalid, &parts);
            assert_eq!(compiled.snapshot, Snapshot::default());
        }
    }
}

#[test]
fn mixed_protocols_are_covered_on_tcp() {
    let ports =
        json!([{"name": "tcp", "port": 53}, {"name": "udp", "port": 53, "protocol": "UDP"}]);
    let service = json!({"clusterIP": "10.0.0.2", "ports": ports});
    let whole = compiled(service.clone(), None);
    assert_condition(
        whole.accepted("p"),
        true,
        Reason::Accepted,
        &["not TCP: udp 53/UDP"],
    );
    assert_eq!(whole.addresses(), ["10.0.0.2:53"]);
    let udp = compiled(service, Some("udp"));
    assert_condition(udp.accepted("p"), false, Reason::Invalid, &["udp 53/UDP"]);
    assert_eq!(udp.snapshot, Snapshot::default());
}

#[test]
fn a_udp_policy_does_not_conflict_with_tcp_of_the_same_number() {
    let ports =
        json!([{"name": "udp", "port": 53, "protocol": "UDP"}, {"name": "tcp", "port": 53}]);
    let service = json!({"clusterIP": "10.0.0.2", "ports": ports});
    let world = World::new()
        .service("svc", service)
        .policy("a", spec("svc", Some("udp")));
    let compiled = world.policy("b", spec("svc", Some("tcp"))).compile();
    assert_condition(compiled.accepted("a"), false, Reason::Invalid, &[]);
    assert_condition(compiled.accepted("b"), true, Reason::Accepted, &[]);
    assert!(compiled.target("10.0.0.2:53").plan.is_ok());
}

#[test]
fn a_misspelt_protocol_is_covered() {
    let ports = json!([{"port": 443, "protocol": "tcp"}]);
    let compiled = compiled(json!({"clusterIP": "10.0.0.2", "ports": ports}), None);
    assert_eq!(compiled.addresses(), ["10.0.0.2:443"]);
}

#[test]
fn headless_is_accepted_with_a_warning() {
    let ports = json!([{"port": 443}]);
    for (service, part) in [
        (
            json!({"clusterIP": "None", "ports": ports}),
            "no endpoint at the moment: there is nothing to cover",
        ),
        (
            json!({"clusterIPs": ["None"], "ports": ports}),
            "EndpointSlices of your own service.kubernetes.io/headless",
        ),
    ] {
        let compiled = compiled(service, None);
        let parts = ["default/svc", part];
        assert_condition(compiled.accepted("p"), true, Reason::Accepted, &parts);
        assert_eq!(compiled.snapshot, Snapshot::default());
    }
}

#[test]
fn a_service_without_usable_address_says_so() {
    let ports = json!([{"port": 443}]);
    let none = compiled(json!({"ports": ports}), None);
    assert_condition(
        none.accepted("p"),
        true,
        Reason::Accepted,
        &["set spec.clusterIP"],
    );
    let bad = compiled(json!({"clusterIP": "10.0.0.300", "ports": ports}), None);
    let parts = ["clusterIP \"10.0.0.300\": not an IP address"];
    assert_condition(bad.accepted("p"), true, Reason::Accepted, &parts);
    let empty = compiled(json!({}), Some("https"));
    assert_condition(
        empty.accepted("p"),
        false,
        Reason::TargetNotFound,
        &["(ports: none)"],
    );
}

#[test]
fn a_port_number_out_of_range_is_no_port() {
    let ports = json!([{"name": "a", "port": 0}, {"name": "b", "port": 65536},
        {"name": "c", "port": -1}, {"name": "d", "port": 65535}]);
    let compiled = compiled(json!({"clusterIP": "10.0.0.2", "ports": ports}), None);
    assert_eq!(compiled.addresses(), ["10.0.0.2:65535"]);
}

#[test]
fn nobody_gets_anothers_cluster_ip_or_a_special_address() {
    let chosen = json!([
        "10.0.0.1",
        "127.0.0.1",
        "0.0.0.0",
        "169.254.1.1",
        "224.0.0.1",
        "::1",
        "fe80::1",
        "192.0.2.1",
        "10.0.0.2",
        "x"
    ]);
    let service = json!({"clusterIP": "10.0.0.2", "externalIPs": chosen, "ports": [{"port": 443}]});
    let compiled = compiled(service, None);
    assert_eq!(compiled.addresses(), ["10.0.0.2:443", "192.0.2.1:443"]);
    let parts = [
        "10.0.0.1: not covered, it is default/web's",
        "127.0.0.1",
        "\"x\": not an IP",
    ];
    assert_condition(compiled.accepted("p"), true, Reason::Accepted, &parts);
}

fn endpoints(compiled: &Compiled, address: &str) -> Vec<String> {
    match &compiled.target(address).upstream {
        Upstream::Endpoints(found) => found.iter().map(ToString::to_string).collect(),
        other => panic!("{address}: {other:?}"),
    }
}

#[test]
fn without_slices_the_service_address_is_dialled() {
    let compiled = World::new().policy("p", spec("web", None)).compile();
    assert_eq!(
        compiled.target("10.0.0.1:443").upstream,
        Upstream::ServiceAddress
    );
}

#[test]
fn slices_of_others_do_not_count() {
    let slice = json!({"addressType": "IPv4", "endpoints": []});
    let mut world = World::new()
        .policy("p", spec("web", None))
        .slice("s", slice);
    let slice = world
        .objects
        .endpoint_slices
        .remove(&default_name("s"))
        .unwrap();
    world
        .objects
        .endpoint_slices
        .insert(ObjectName::new("other", "s"), slice.clone());
    assert_eq!(
        world.compile().target("10.0.0.1:443").upstream,
        Upstream::ServiceAddress
    );
    world
        .objects
        .endpoint_slices
        .insert(default_name("s"), slice);
    assert_eq!(
        endpoints(&world.compile(), "10.0.0.1:443"),
        [""; 0],
        "none is ready"
    );
}

#[test]
fn ready_endpoints_by_port_name_sorted_and_without_duplicates() {
    let ready = |ip: &str, ready: Value| json!({"addresses": [ip], "conditions": {"ready": ready}});
    let first = json!({
        "addressType": "IPv4",
        "ports": [{"name": "https", "port": 8443}, {"name": "alt", "port": 9443},
            {"name": "https", "port": 1, "protocol": "UDP"}, {"name": "https", "port": 0}],
        "endpoints": [ready("10.1.0.3", json!(true)), ready("10.1.0.2", Value::Null),
            ready("10.1.0.4", json!(false)), {"addresses": ["10.1.0.1", "fd00::9", "x"]}],
    });
    let second = json!({
        "addressType": "IPv4", "ports": [{"name": "https", "port": 8443, "protocol": "TCP"}],
        "endpoints": [{"addresses": ["10.1.0.3"]}],
    });
    let world = World::new().slice("s1", first).slice("s2", second);
    let compiled = world.policy("p", spec("web", None)).compile();
    let expected = ["10.1.0.1:8443", "10.1.0.2:8443", "10.1.0.3:8443"];
    assert_eq!(endpoints(&compiled, "10.0.0.1:443"), expected);
    assert_eq!(endpoints(&compiled, "10.0.0.1:8443").len(), 3);
}

#[test]
fn endpoints_have_the_family_of_the_dialled_address() {
    let slice = |family: &str, ip: &str| {
        let ports = json!([{"name": "", "port": 8443}]);
        json!({"addressType": family, "ports": ports, "endpoints": [{"addresses": [ip]}]})
    };
    let service = json!({"clusterIPs": ["10.0.0.1", "fd00::1"], "ports": [{"port": 443}]});
    let world = World::new()
        .service("web", service)
        .policy("p", spec("web", None));
    let world = world
        .slice("s4", slice("IPv4", "10.1.0.1"))
        .slice("s6", slice("IPv6", "fd01::1"));
    let compiled = world.slice("dns", slice("FQDN", "x.example.com")).compile();
    assert_eq!(endpoints(&compiled, "10.0.0.1:443"), ["10.1.0.1:8443"]);
    assert_eq!(endpoints(&compiled, "[fd00::1]:443"), ["[fd01::1]:8443"]);
}

#[test]
fn a_null_port_name_is_the_unnamed_port() {
    let slice = json!({"addressType": "IPv4", "ports": [{"port": 8443}],
        "endpoints": [{"addresses": ["10.1.0.1"]}]});
    let service = json!({"clusterIP": "10.0.0.1", "ports": [{"name": "", "port": 443}]});
    let world = World::new()
        .service("web", service)
        .slice("s", slice.clone());
    let compiled = world.policy("p", spec("web", None)).compile();
    assert_eq!(endpoints(&compiled, "10.0.0.1:443"), ["10.1.0.1:8443"]);
    let compiled = World::new()
        .slice("s", slice)
        .policy("p", spec("web", None))
        .compile();
    assert_eq!(
        endpoints(&compiled, "10.0.0.1:443"),
        [""; 0],
        "https is another port"
    );
}
