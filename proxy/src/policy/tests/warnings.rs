//! What is no mistake, but the author should know.

use super::validate::changed;
use super::*;

/// Warnings of a spec, which is valid all the same.
fn of_spec(change: impl FnOnce(&mut Value)) -> Vec<String> {
    let compiled = World::new().policy("p", changed(change)).compile();
    let status = compiled.status("p");
    assert_eq!(status.problems, [""; 0]);
    assert!(compiled.accepted("p").status);
    status.warnings.clone()
}

/// Warnings of a policy for all ports of a Service `svc`.
fn of_service(spec_of_service: Value) -> Vec<String> {
    let world = World::new().service("svc", spec_of_service);
    let compiled = world.policy("p", spec("svc", None)).compile();
    compiled.status("p").ancestors[0].warnings.clone()
}

#[test]
fn a_plain_policy_has_none() {
    let compiled = World::new().policy("p", spec("web", None)).compile();
    let status = compiled.status("p");
    assert_eq!(status.warnings, [""; 0]);
    assert_eq!(status.ancestors[0].warnings, [""; 0]);
    assert_eq!(status.ancestors[0].refused_addresses, [""; 0]);
}

#[test]
fn unknown_fields_at_every_level() {
    let san = json!([{"type": "Hostname", "hostname": "a.example.com", "dns": "b"}]);
    let warnings = of_spec(|spec| {
        spec["tls"] = json!({});
        spec["targetRefs"][0]["namespace"] = "other".into();
        spec["validation"]["hostName"] = Value::Null;
        spec["validation"]["caCertificateRefs"][0]["key"] = "tls.crt".into();
        spec["validation"]["subjectAltNames"] = san;
        spec["options"] = json!({"example.com/any": "x"});
    });
    let paths = [
        "spec[\"tls\"]: unknown field",
        "spec.targetRefs[0][\"namespace\"]: unknown field",
        "spec.validation[\"hostName\"]: unknown field",
        "spec.validation.caCertificateRefs[0][\"key\"]: unknown field",
        "spec.validation.subjectAltNames[0][\"dns\"]: unknown field",
    ];
    for path in paths {
        assert!(
            warnings.iter().any(|warning| warning.contains(path)),
            "{path} is not in {warnings:#?}"
        );
    }
    assert_eq!(warnings.len(), paths.len(), "{warnings:#?}");
    assert!(warnings[0].contains("kubectl apply; known are: targetRefs, validation, options"));
}

#[test]
fn options_without_a_domain() {
    let warnings = of_spec(|spec| spec["options"] = json!({"min-version": "1.3"}));
    assert_eq!(warnings.len(), 1);
    assert!(
        warnings[0].starts_with("spec.options[\"min-version\"]: has no domain"),
        "{warnings:?}"
    );
}

#[test]
fn app_protocols() {
    let protocol = |protocol: &str| {
        let port = json!({"name": "p", "port": 80, "appProtocol": protocol});
        of_service(json!({"clusterIP": "10.0.0.2", "ports": [port]}))
    };
    let plaintext = [
        "http",
        "HTTP",
        "ws",
        "h2c",
        "kubernetes.io/h2c",
        "kubernetes.io/ws",
    ];
    for plaintext in plaintext {
        let warnings = protocol(plaintext);
        assert_eq!(warnings.len(), 1, "{plaintext}");
        let part = format!(
            "Service default/svc, port p 80/TCP: appProtocol \"{plaintext}\" says plaintext"
        );
        assert!(warnings[0].starts_with(&part), "{warnings:?}");
    }
    for fine in ["https", "tls", "wss", "kubernetes.io/wss", "grpc", ""] {
        assert_eq!(protocol(fine), [""; 0], "{fine}");
    }
}

/// A port's own policy answers for it, not the Service's.
#[test]
fn app_protocols_concern_the_policy_in_force() {
    let ports =
        json!([{"name": "a", "port": 80, "appProtocol": "http"}, {"name": "b", "port": 81}]);
    let world = World::new().service("svc", json!({"clusterIP": "10.0.0.2", "ports": ports}));
    let compiled = world
        .policy("all", spec("svc", None))
        .policy("one", spec("svc", Some("a")))
        .policy("two", spec("svc", Some("a")))
        .compile();
    let warnings = |policy| &compiled.status(policy).ancestors[0].warnings;
    assert_eq!(warnings("all").len(), 0);
    assert_eq!(warnings("one").len(), 1);
    assert_eq!(warnings("two").len(), 0, "it lost to one");
}

#[test]
fn ports_that_are_not_tcp() {
    let ports =
        json!([{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dot", "port": 853}]);
    let warnings = of_service(json!({"clusterIP": "10.0.0.2", "ports": ports}));
    let expected = "Service default/svc: not covered, because not TCP: dns 53/UDP";
    assert_eq!(warnings, [expected]);
    // Without any TCP port the policy is refused, which says it all.
    let port = json!({"port": 53, "protocol": "UDP"});
    let only_udp = json!({"clusterIP": "10.0.0.2", "ports": [port]});
    assert_eq!(of_service(only_udp), [""; 0]);
}

#[test]
fn policies_that_are_in_force_nowhere() {
    let headless = json!({"clusterIP": "None", "ports": [{"port": 443}]});
    assert!(of_service(headless)[0].contains("is headless"));
    let without_ip = json!({"ports": [{"port": 443}]});
    assert!(of_service(without_ip)[0].contains("no address to cover"));
    let without_port = json!({"clusterIP": "10.0.0.2"});
    assert!(of_service(without_port)[0].contains("has no port"));

    let world = World::new().policy("all", spec("web", None));
    let world = world.policy("one", spec("web", Some("https")));
    assert_eq!(world.compile().status("all").ancestors[0].warnings, [""; 0]);
    let compiled = world.policy("two", spec("web", Some("alt"))).compile();
    let warnings = &compiled.status("all").ancestors[0].warnings;
    assert_eq!(warnings.len(), 1);
    assert!(
        warnings[0].contains("this one is in force on none"),
        "{warnings:?}"
    );
}

#[test]
fn addresses_that_are_refused_are_told_apart() {
    let service =
        |ip: &str| json!({"clusterIP": ip, "externalIPs": ["192.0.2.1"], "ports": [{"port": 443}]});
    let world = World::new()
        .service("a", service("10.0.0.2"))
        .service("b", service("10.0.0.3"));
    let world = world.policy("p", spec_for_host("a", None, "a.example.com"));
    let compiled = world
        .policy("q", spec_for_host("b", None, "b.example.com"))
        .compile();
    for policy in ["p", "q"] {
        let ancestor = &compiled.status(policy).ancestors[0];
        assert!(ancestor.accepted.status);
        assert_eq!(ancestor.refused_addresses.len(), 1);
        assert!(ancestor.refused_addresses[0].starts_with("192.0.2.1:443 belongs to several"));
    }
}

#[test]
fn ca_bundles_of_each_policy() {
    let mut two = spec("absent", None);
    let refs = ["ca2", "missing", "ca"];
    let refs = refs.map(|name| json!({"group": "", "kind": "ConfigMap", "name": name}));
    two["validation"]["caCertificateRefs"] = json!(refs);
    let system = json!({"hostname": "a.example.com", "wellKnownCACertificates": "System"});
    let world = World::new()
        .config_map("ca2", json!({"ca.crt": CA[1]}))
        .policy("broken", json!({"validation": 5}))
        .policy("system", changed(|spec| spec["validation"] = system))
        .policy("two", two);
    let bundles = ca_bundles(&world.objects);
    let names = |policy: &str| -> Vec<ObjectName> {
        let bundles = &bundles[&default_name(policy)];
        bundles
            .iter()
            .map(|(name, _)| name.object.clone())
            .collect()
    };
    assert_eq!(names("broken"), []);
    assert_eq!(names("system"), []);
    assert_eq!(names("two"), [default_name("ca2"), default_name("ca")]);
    assert_eq!(
        bundles[&default_name("two")][0].1.certificates,
        [der(&CA[1])]
    );
}
