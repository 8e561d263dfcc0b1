//! Headless Services: their endpoints are what clients dial.

use super::*;

/// A world with a headless Service `db` (ports sql 5432 and metrics 9187), without slices.
fn world() -> World {
    let ports = json!([{"name": "sql", "port": 5432}, {"name": "metrics", "port": 9187}]);
    World::new().service("db", json!({"clusterIP": "None", "ports": ports}))
}

/// A slice of a headless Service, whose port `sql` has the number 15432.
fn slice(family: &str, ips: &[&str]) -> Value {
    let endpoints: Vec<_> = ips.iter().map(|ip| json!({"addresses": [ip]})).collect();
    let ports = json!([{"name": "sql", "port": 15432, "protocol": "TCP"}]);
    json!({"addressType": family, "ports": ports, "endpoints": endpoints})
}

impl World {
    fn slice_of(self, service: &str, name: &str, slice: Value) -> Self {
        let labels = json!({
            "kubernetes.io/service-name": service, "service.kubernetes.io/headless": "",
        });
        self.slice_with_labels(name, labels, slice)
    }
}

#[test]
fn every_endpoint_at_the_port_of_its_slice_is_a_target_of_the_services_port() {
    let mut metrics = slice("IPv4", &["10.1.0.3"]);
    metrics["ports"] = json!([{"name": "sql", "port": 5432}, {"name": "metrics", "port": 9187},
        {"name": "metrics", "port": 1, "protocol": "UDP"}, {"name": "other", "port": 2}, {"name": "sql"}]);
    let world = world()
        .slice_of("db", "4", slice("IPv4", &["10.1.0.1", "10.1.0.2", "x"]))
        .slice_of("db", "6", slice("IPv6", &["fd01::1"]))
        .slice_of("db", "dns", slice("FQDN", &["db.example.com"]))
        .slice_of("db", "more", metrics)
        .slice_of("other", "others", slice("IPv4", &["10.1.0.9"]));
    let sql = [
        "10.1.0.1:15432",
        "10.1.0.2:15432",
        "10.1.0.3:5432",
        "[fd01::1]:15432",
    ];
    let of_port = world.clone().policy("p", spec("db", Some("sql"))).compile();
    assert_eq!(of_port.addresses(), sql);
    for address in sql {
        let target = of_port.target(address);
        assert_eq!(
            (target.port, &target.upstream),
            (5432, &Upstream::ServiceAddress)
        );
        assert_eq!(target.service, default_name("db"));
    }
    let accepted = of_port.accepted("p");
    assert_eq!(accepted.message, "Service default/db, sql 5432/TCP");
    assert_eq!(of_port.status("p").ancestors[0].warnings, [""; 0]);

    let of_all = world.policy("p", spec("db", None)).compile();
    assert_eq!(of_all.addresses().len(), 5);
    assert_eq!(of_all.target("10.1.0.3:9187").port, 9187);
}

/// A client that knows the address may dial it.
#[test]
fn whatever_the_conditions_of_an_endpoint() {
    let mut slice = slice("IPv4", &["10.1.0.1", "10.1.0.2", "10.1.0.3"]);
    slice["endpoints"][0]["conditions"] = json!({"ready": false, "serving": false});
    slice["endpoints"][1]["conditions"] =
        json!({"ready": false, "serving": true, "terminating": true});
    let world = world().slice_of("db", "s", slice);
    let compiled = world.policy("p", spec("db", None)).compile();
    assert_eq!(compiled.addresses().len(), 3);
}

#[test]
fn a_slice_without_the_label_counts_and_the_unnamed_port_is_found() {
    let service = json!({"clusterIP": "None", "ports": [{"port": 5432}]});
    let mut slice = slice("IPv4", &["10.1.0.1"]);
    slice["ports"] = json!([{"port": 15432, "protocol": "tcp"}]);
    let world = World::new().service("web", service).slice("s", slice);
    let compiled = world.policy("p", spec("web", None)).compile();
    assert_eq!(compiled.addresses(), ["10.1.0.1:15432"]);
}

#[test]
fn no_special_address_and_nobodys_cluster_ip() {
    let ips = ["127.0.0.1", "169.254.1.1", "10.0.0.1", "10.1.0.1"];
    let world = world().slice_of("db", "4", slice("IPv4", &ips)).slice_of(
        "db",
        "6",
        slice("IPv6", &["::1", "fe80::1", "::ffff:10.0.0.1"]),
    );
    let compiled = world.policy("p", spec("db", None)).compile();
    assert_eq!(compiled.addresses(), ["10.1.0.1:15432"]);
    let parts = [
        "not covered",
        "10.0.0.1, 127.0.0.1, 169.254.1.1, ::1, fe80::1",
    ];
    assert_condition(compiled.accepted("p"), true, Reason::Accepted, &parts);
    assert!(compiled.status("p").ancestors[0].warnings[0].contains("not covered"));
}

/// A cluster shows slices with this label only, and one may be left over: kube-proxy knows the others.
#[test]
fn slices_of_headless_services_are_none_to_dial_for_others() {
    let mut slice = slice("IPv4", &["10.1.0.1"]);
    slice["ports"] = json!([{"name": "https", "port": 8443}]);
    let world = World::new().slice_of("web", "s", slice);
    let compiled = world.policy("p", spec("web", None)).compile();
    assert_eq!(compiled.addresses(), ["10.0.0.1:443", "10.0.0.1:8443"]);
    let upstream = &compiled.target("10.0.0.1:443").upstream;
    assert_eq!(*upstream, Upstream::ServiceAddress);
}

#[test]
fn an_endpoint_of_two_services_with_different_policies_is_refused() {
    let ports = json!([{"name": "sql", "port": 5432}]);
    let ips: Vec<String> = (0..3000)
        .map(|i| format!("10.1.{}.{}", i / 250, i % 250))
        .collect();
    let ips: Vec<&str> = ips.iter().map(String::as_str).collect();
    let world = world()
        .service("db2", json!({"clusterIP": "None", "ports": ports}))
        .slice_of("db", "1", slice("IPv4", &ips))
        .slice_of("db2", "2", slice("IPv4", &ips[1..]));
    let same = world
        .clone()
        .policy("p", spec("db", None))
        .policy("p2", spec("db2", None))
        .compile();
    assert!(
        same.target("10.1.0.1:15432").plan.is_ok(),
        "the same policy in effect"
    );
    let compiled = world
        .policy("p", spec("db", None))
        .policy("p2", spec_for_host("db2", None, "other.example.com"))
        .compile();
    assert!(compiled.target("10.1.0.0:15432").plan.is_ok());
    let refusal = compiled.refusal("10.1.0.1:15432");
    assert_eq!(refusal.reason, "Conflicted");
    assert!(
        refusal.message.contains("default/db, default/db2"),
        "{refusal:?}"
    );
    for policy in ["p", "p2"] {
        let ancestor = &compiled.status(policy).ancestors[0];
        assert_eq!(ancestor.refused_addresses.len(), 9);
        let last = ancestor.refused_addresses.last().unwrap();
        assert!(last.starts_with("and 2991 more addresses"), "{last}");
        assert!(
            ancestor.accepted.message.len() < 4096,
            "{}",
            ancestor.accepted.message
        );
    }
}

#[test]
fn thousands_of_endpoints_share_one_target() {
    let ips: Vec<String> = (0..5000)
        .map(|i| format!("10.1.{}.{}", i / 250, i % 250))
        .collect();
    let ips: Vec<&str> = ips.iter().map(String::as_str).collect();
    let world = world().slice_of("db", "1", slice("IPv4", &ips));
    let compiled = world.policy("p", spec("db", None)).compile();
    let mut targets = compiled.snapshot.targets.values();
    let first = targets.next().unwrap();
    assert_eq!(
        targets.filter(|target| Arc::ptr_eq(target, first)).count(),
        4999
    );
    assert!(compiled.accepted("p").message.len() < 200);
}
