//! Services that stand for a host outside of the cluster.

use super::*;

/// A policy `p` on Service `svc` with this spec and annotation.
fn compiled(annotation: &str, service: Value) -> Compiled {
    let mut world = World::new()
        .service("svc", service)
        .policy("p", spec("svc", None));
    let service = world.objects.services.get_mut(&default_name("svc"));
    let annotation = ("nodetls.io/external-host".to_owned(), annotation.to_owned());
    Arc::make_mut(service.unwrap()).metadata.annotations = Some([annotation].into());
    world.compile()
}

fn host(name: &str, port: u16) -> Upstream {
    let name = name.to_owned();
    Upstream::Host { name, port }
}

#[test]
fn the_port_is_the_annotation_s_or_the_target_port_or_the_service_s() {
    let ports = json!([{"name": "a", "port": 80, "targetPort": 8443}, {"name": "b", "port": 443},
        {"name": "c", "port": 81, "targetPort": "https"}, {"name": "d", "port": 82, "targetPort": 65536}]);
    let service = json!({"clusterIP": "10.0.0.2", "ports": ports, "selector": {}});
    let of_service = compiled("httpbin.org", service.clone());
    let given = compiled("httpbin.org:444", service);
    for (address, port) in [
        ("10.0.0.2:80", 8443),
        ("10.0.0.2:443", 443),
        ("10.0.0.2:81", 81),
        ("10.0.0.2:82", 82),
    ] {
        let target = of_service.target(address);
        assert_eq!(target.upstream, host("httpbin.org", port), "{address}");
        assert!(target.plan.is_ok());
        assert_eq!(given.target(address).upstream, host("httpbin.org", 444));
    }
    assert_condition(of_service.accepted("p"), true, Reason::Accepted, &[]);
}

#[test]
fn endpoint_slices_do_not_count() {
    let slice = json!({"addressType": "IPv4", "ports": [{"name": "https", "port": 8443}],
        "endpoints": [{"addresses": ["10.1.0.1"]}]});
    let mut world = World::new().slice("s", slice);
    let web = world.objects.services.get_mut(&default_name("web"));
    let annotation = ("nodetls.io/external-host".into(), "a.example".into());
    Arc::make_mut(web.unwrap()).metadata.annotations = Some([annotation].into());
    let compiled = world.policy("p", spec("web", None)).compile();
    assert_eq!(
        compiled.target("10.0.0.1:443").upstream,
        host("a.example", 443)
    );
}

#[test]
fn an_annotation_that_can_t_be_honoured_refuses_the_target() {
    let service = json!({"clusterIP": "10.0.0.2", "ports": [{"port": 443}]});
    let selector =
        json!({"clusterIP": "10.0.0.2", "ports": [{"port": 443}], "selector": {"a": "b"}});
    for (annotation, service, part) in [
        ("httpbin.org", &selector, "has a selector and annotation"),
        ("", &service, "must not be empty"),
        ("http://httpbin.org", &service, "is not a port"),
        ("httpbin.org/get", &service, "is not a DNS name"),
        ("HTTPBIN.org", &service, "lower-case"),
        ("*.org", &service, "wildcard"),
        ("192.0.2.1", &service, "give the Service an EndpointSlice"),
        ("192.0.2.1:443", &service, "is an IP address"),
        ("2001:db8::1", &service, "is an IP address"),
        ("[2001:db8::1]:443", &service, "is an IP address"),
        ("httpbin.org:", &service, "\"\" is not a port"),
        (
            "httpbin.org:0",
            &service,
            "\"0\" is not a port: write httpbin.org:443",
        ),
        ("httpbin.org:65536", &service, "is not a port"),
        ("httpbin.org:https", &service, "is not a port"),
    ] {
        let compiled = compiled(annotation, service.clone());
        let parts = ["Service default/svc", "nodetls.io/external-host", part];
        assert_condition(compiled.accepted("p"), false, Reason::Invalid, &parts);
        let refusal = compiled.refusal("10.0.0.2:443");
        assert_eq!(refusal.reason, "Invalid", "{annotation}");
        assert!(refusal.message.contains(part), "{}", refusal.message);
    }
}

#[test]
fn a_service_without_cluster_ip_can_t_stand_for_a_host() {
    let ports = json!([{"port": 443}]);
    for service in [
        json!({"clusterIP": "None", "ports": ports}),
        json!({"type": "ExternalName", "externalName": "x.org", "ports": ports}),
    ] {
        let compiled = compiled("httpbin.org", service);
        let parts = ["Service default/svc", "needs a clusterIP"];
        assert_condition(compiled.accepted("p"), false, Reason::Invalid, &parts);
    }
}

#[test]
fn only_the_service_s_own_targets_are_refused() {
    let mut both = spec("svc", None);
    let web = json!({"group": "", "kind": "Service", "name": "web"});
    both["targetRefs"].as_array_mut().unwrap().push(web);
    let service = json!({"clusterIP": "10.0.0.2", "ports": [{"port": 443}]});
    let mut world = World::new().service("svc", service).policy("p", both);
    let service = world.objects.services.get_mut(&default_name("svc"));
    let annotation = ("nodetls.io/external-host".into(), "?".into());
    Arc::make_mut(service.unwrap()).metadata.annotations = Some([annotation].into());
    let compiled = world.compile();
    let status = compiled.status("p");
    assert!(!status.ancestors[0].accepted.status && status.ancestors[1].accepted.status);
    assert!(compiled.target("10.0.0.1:443").plan.is_ok());
    assert!(compiled.target("10.0.0.2:443").plan.is_err());
}

#[test]
fn an_external_name_is_told_what_to_do() {
    let service =
        json!({"type": "ExternalName", "externalName": "x.org", "ports": [{"port": 443}]});
    let world = World::new().service("svc", service);
    let compiled = world.policy("p", spec("svc", None)).compile();
    let parts = [
        "Service default/svc is an ExternalName",
        "type: ClusterIP and without selector",
        "nodetls.io/external-host: x.org",
    ];
    assert_condition(compiled.accepted("p"), true, Reason::Accepted, &parts);
    assert_eq!(compiled.snapshot, Snapshot::default());
}
