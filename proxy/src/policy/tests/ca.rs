//! `caCertificateRefs` and `wellKnownCACertificates`.

use super::*;

/// Compiles with these CA references, given as (group, kind, name).
pub(super) fn with_refs(world: World, refs: &[(&str, &str, &str)]) -> Compiled {
    let mut spec = spec("web", Some("https"));
    let refs = refs
        .iter()
        .map(|(g, k, n)| json!({"group": g, "kind": k, "name": n}));
    spec["validation"]["caCertificateRefs"] = refs.collect();
    world.policy("p", spec).compile()
}

fn with_pem(pem: &str) -> Compiled {
    with_refs(
        World::new().config_map("ca", json!({"ca.crt": pem})),
        &[("", "ConfigMap", "ca")],
    )
}

/// Asserts that the sole reference is bad: both conditions, and the target is refused.
#[track_caller]
pub(super) fn assert_unusable(compiled: &Compiled, reason: Reason, parts: &[&str]) {
    assert_condition(compiled.resolved_refs("p"), false, reason, parts);
    assert_condition(
        compiled.accepted("p"),
        false,
        Reason::NoValidCaCertificate,
        parts,
    );
    let refusal = compiled.refusal("10.0.0.1:443");
    assert_eq!(refusal.reason, "NoValidCACertificate");
    for part in parts {
        assert!(refusal.message.contains(part), "{}", refusal.message);
    }
}

#[test]
fn missing_config_map() {
    let compiled = with_refs(World::new(), &[("", "ConfigMap", "absent")]);
    let parts = ["ConfigMap default/absent does not exist"];
    assert_unusable(&compiled, Reason::InvalidCaCertificateRef, &parts);
}

#[test]
fn missing_key() {
    let world = World::new().config_map("ca", json!({"ca.pem": CA[0]}));
    let compiled = with_refs(world, &[("", "ConfigMap", "ca")]);
    let parts = ["ConfigMap default/ca has no key \"ca.crt\" (keys: ca.pem): put the PEM bundle"];
    assert_unusable(&compiled, Reason::InvalidCaCertificateRef, &parts);
    let compiled = with_refs(
        World::new().config_map("ca", json!({})),
        &[("", "ConfigMap", "ca")],
    );
    assert_unusable(
        &compiled,
        Reason::InvalidCaCertificateRef,
        &["(keys: none)"],
    );
}

#[test]
fn another_namespace_is_out_of_reach() {
    let mut world = World::new();
    let ca_objects = &mut world.objects.ca_objects;
    let config_map = ca_objects
        .remove(&CaName::config_map("default", "ca"))
        .unwrap();
    ca_objects.insert(CaName::config_map("other", "ca"), config_map);
    let compiled = with_refs(world, &[("", "ConfigMap", "ca")]);
    assert_unusable(
        &compiled,
        Reason::InvalidCaCertificateRef,
        &["default/ca does not exist"],
    );
}

#[test]
fn malformed_content() {
    let not_der = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let not_base64 = "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n";
    let cut = CA[0].replace("-----END CERTIFICATE-----", "");
    let key = KeyPair::generate().unwrap().serialize_pem();
    let second_bad = format!("{}{not_der}", CA[0]);
    let trailing = {
        let mut bytes = der(&CA[0]).to_vec();
        bytes.push(0);
        pem("CERTIFICATE", &bytes)
    };
    for (content, part) in [
        ("", "is empty"),
        (" \n", "is empty"),
        ("garbage", "has no \"-----BEGIN CERTIFICATE-----\" block"),
        (&key, "has no \"-----BEGIN CERTIFICATE-----\" block"),
        (
            not_der,
            "a block that is not an X.509 certificate: number 1",
        ),
        (
            &trailing,
            "a block that is not an X.509 certificate: number 1",
        ),
        (
            not_base64,
            "is malformed at certificate 1 (it is not base64)",
        ),
        (
            &cut,
            "is malformed at certificate 1 (its \"-----END\" line is missing)",
        ),
        // A shell's \n that stayed one.
        (
            &CA[0].replace('\n', "\\n"),
            "certificate 1 (its \"-----BEGIN\" line does not end with",
        ),
        (
            &second_bad,
            "a block that is not an X.509 certificate: number 2",
        ),
    ] {
        let parts = [
            "ConfigMap default/ca, key \"ca.crt\"",
            part,
            "put the PEM bundle",
        ];
        assert_unusable(&with_pem(content), Reason::InvalidCaCertificateRef, &parts);
    }
}

/// One line of base64 is enough for the parser.
fn pem(label: &str, der: &[u8]) -> String {
    let base64 = serde_json::to_value(k8s_openapi::ByteString(der.to_vec())).unwrap();
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        base64.as_str().unwrap()
    )
}

#[test]
fn a_bundle_keeps_its_order_and_loses_comments_keys_and_duplicates() {
    let key = KeyPair::generate().unwrap().serialize_pem();
    let bundle = format!("# two\n{}\n{key}# one\r\n{}{}", CA[1], CA[0], CA[1]);
    let compiled = with_pem(&bundle);
    let roots = &compiled.origination("10.0.0.1:443").roots;
    assert_eq!(roots.certificates, [der(&CA[1]), der(&CA[0])]);
}

#[test]
fn binary_data_counts() {
    let mut world = World::new();
    let mut bytes = b"# caf\xe9\n".to_vec();
    bytes.extend_from_slice(CA[0].as_bytes());
    let config_map = ConfigMap {
        binary_data: Some([("ca.crt".into(), ByteString(bytes))].into()),
        ..ConfigMap::default()
    };
    let name = CaName::config_map("default", "ca");
    world.objects.ca_objects.insert(name, config_map.into());
    let compiled = with_refs(world, &[("", "ConfigMap", "ca")]);
    assert_eq!(
        compiled.origination("10.0.0.1:443").roots.certificates,
        [der(&CA[0])]
    );
}

#[test]
fn other_kinds() {
    for (group, kind, part) in [
        ("", "secret", "secret default/ca"),
        ("core", "Secret", "core/Secret default/ca"),
        (
            "invalid.io",
            "InvalidKind",
            "invalid.io/InvalidKind default/ca",
        ),
        ("core", "ConfigMap", "core/ConfigMap default/ca"),
    ] {
        let compiled = with_refs(World::new(), &[(group, kind, "ca")]);
        assert_unusable(&compiled, Reason::InvalidKind, &[part, "use a ConfigMap"]);
    }
}

#[test]
fn several_refs_are_united() {
    let world = World::new().config_map("ca2", json!({"ca.crt": format!("{}{}", CA[1], CA[0])}));
    let compiled = with_refs(world, &[("", "ConfigMap", "ca"), ("", "ConfigMap", "ca2")]);
    let roots = &compiled.origination("10.0.0.1:443").roots;
    assert_eq!(roots.certificates, [der(&CA[0]), der(&CA[1])]);
    assert_condition(compiled.resolved_refs("p"), true, Reason::ResolvedRefs, &[]);
}

#[test]
fn one_bad_ref_of_two_is_told_and_the_other_is_used() {
    let compiled = with_refs(
        World::new(),
        &[("", "ConfigMap", "absent"), ("", "ConfigMap", "ca")],
    );
    let reason = Reason::InvalidCaCertificateRef;
    assert_condition(
        compiled.resolved_refs("p"),
        false,
        reason,
        &["default/absent"],
    );
    assert_condition(compiled.accepted("p"), true, Reason::Accepted, &[]);
    assert_eq!(
        compiled.origination("10.0.0.1:443").roots.certificates,
        [der(&CA[0])]
    );
}

#[test]
fn two_bad_refs_are_both_named() {
    let refs = [("", "Secret", "s"), ("", "ConfigMap", "absent")];
    let parts = ["Secret default/s", "default/absent"];
    assert_unusable(&with_refs(World::new(), &refs), Reason::InvalidKind, &parts);
}

#[test]
fn policies_share_a_bundle() {
    let world = World::new().policy("p", spec("web", Some("https")));
    let compiled = world.policy("q", spec("web", Some("alt"))).compile();
    let roots = |address| &compiled.origination(address).roots;
    assert!(Arc::ptr_eq(roots("10.0.0.1:443"), roots("10.0.0.1:8443")));
}

fn system_spec(value: &str) -> Value {
    let mut spec = spec("web", Some("https"));
    let hostname = "www.example.com";
    spec["validation"] = json!({"hostname": hostname, "wellKnownCACertificates": value});
    spec
}

#[test]
fn system_trust_store() {
    let mut world = World::new().policy("p", system_spec("System"));
    let compiled = world.compile();
    let parts = ["no system trust store on this node"];
    assert_condition(compiled.accepted("p"), false, Reason::Invalid, &parts);
    assert_eq!(compiled.status("p").ancestors[0].resolved_refs, None);
    assert_eq!(compiled.refusal("10.0.0.1:443").reason, "Invalid");

    let system = Arc::new(CaBundle {
        certificates: vec![der(&CA[1])],
    });
    world.installation.system_roots = Some(system.clone());
    let compiled = world.compile();
    assert_condition(compiled.accepted("p"), true, Reason::Accepted, &[]);
    assert_condition(compiled.resolved_refs("p"), true, Reason::ResolvedRefs, &[]);
    assert!(Arc::ptr_eq(
        &compiled.origination("10.0.0.1:443").roots,
        &system
    ));
}

#[test]
fn other_well_known_values() {
    for value in ["example.com/internal", "system", ""] {
        let compiled = World::new().policy("p", system_spec(value)).compile();
        let parts = ["spec.validation.wellKnownCACertificates", "use \"System\""];
        assert_condition(compiled.accepted("p"), false, Reason::Invalid, &parts);
        assert_eq!(compiled.refusal("10.0.0.1:443").reason, "Invalid");
    }
}

#[test]
fn refs_are_told_of_also_when_the_policy_is_invalid_otherwise() {
    let mut spec = spec("web", Some("https"));
    spec["validation"]["hostname"] = "10.0.0.9".into();
    spec["validation"]["caCertificateRefs"][0]["name"] = "absent".into();
    let compiled = World::new().policy("p", spec).compile();
    assert_condition(
        compiled.accepted("p"),
        false,
        Reason::Invalid,
        &["10.0.0.9"],
    );
    let reason = Reason::InvalidCaCertificateRef;
    assert_condition(
        compiled.resolved_refs("p"),
        false,
        reason,
        &["default/absent"],
    );
}
