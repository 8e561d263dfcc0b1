//! The rules for `spec`.

use super::*;

/// A spec for `web`, port https, after `change`.
pub(super) fn changed(change: impl FnOnce(&mut Value)) -> Value {
    let mut spec = spec("web", Some("https"));
    change(&mut spec);
    spec
}

/// Asserts that the change makes the policy invalid with this problem, and that its port is refused.
#[track_caller]
pub(super) fn assert_invalid(problem: &str, change: impl FnOnce(&mut Value)) {
    let compiled = World::new().policy("p", changed(change)).compile();
    let problems = &compiled.status("p").problems;
    assert!(
        problems.iter().any(|p| p.contains(problem)),
        "{problem:?} is not in {problems:#?}"
    );
    assert_condition(compiled.accepted("p"), false, Reason::Invalid, &[problem]);
    let refusal = compiled.refusal("10.0.0.1:443");
    assert_eq!(refusal.reason, "Invalid");
    assert!(
        refusal.message.contains("BackendTLSPolicy default/p"),
        "{}",
        refusal.message
    );
    assert!(refusal.message.contains(problem), "{}", refusal.message);
}

#[track_caller]
pub(super) fn assert_valid(change: impl FnOnce(&mut Value)) {
    let compiled = World::new().policy("p", changed(change)).compile();
    assert_eq!(compiled.status("p").problems, [""; 0]);
    assert!(compiled.target("10.0.0.1:443").plan.is_ok());
}

#[test]
fn hostname() {
    let long = format!("{}.example.com", "a".repeat(64));
    let very_long = vec!["a".repeat(63); 4].join(".");
    for (hostname, part) in [
        (json!(null), "required, and missing"),
        (json!(5), "must be a string"),
        (json!(""), "must not be empty"),
        (json!("10.0.0.9"), "is an IP address"),
        (json!("fd00::9"), "is an IP address"),
        (json!("[::1]"), "is an IP address"),
        (json!("10.9"), "ends in a number"),
        (json!("*.example.com"), "has a wildcard"),
        (json!("Example.com"), "is not a DNS name"),
        (json!("example.com."), "is not a DNS name"),
        (json!("a_b.example.com"), "is not a DNS name"),
        (json!("-a.example.com"), "is not a DNS name"),
        (json!("a-.example.com"), "is not a DNS name"),
        (json!(long), "a label of more than 63 characters"),
        (json!(very_long), "longer than 253 characters"),
    ] {
        assert_invalid("spec.validation.hostname: ", |spec| {
            spec["validation"]["hostname"] = hostname.clone();
        });
        assert_invalid(part, |spec| spec["validation"]["hostname"] = hostname);
    }
    for hostname in [
        "localhost",
        "a.b-c.example",
        "1.example.com",
        "xn--bcher-kva.example",
    ] {
        assert_valid(|spec| spec["validation"]["hostname"] = hostname.into());
    }
    let longest = "a".repeat(63);
    assert_valid(|spec| spec["validation"]["hostname"] = longest.into());
}

#[test]
fn validation_is_required() {
    for (value, part) in [
        (json!(null), "required, and missing"),
        (json!("x"), "must be an object"),
    ] {
        let problem = format!("spec.validation: {part}");
        assert_invalid(&problem, |spec| spec["validation"] = value);
    }
    let spec = changed(|spec| spec["validation"] = Value::Null);
    let compiled = World::new().policy("p", spec).compile();
    assert_eq!(compiled.status("p").problems.len(), 1);
    assert_eq!(compiled.status("p").ancestors[0].resolved_refs, None);
}

#[test]
fn one_source_of_trust() {
    let either = "spec.validation: must specify either caCertificateRefs or wellKnown";
    assert_invalid(either, |spec| {
        spec["validation"] = json!({"hostname": "a.example.com"})
    });
    assert_invalid(either, |spec| {
        spec["validation"]["caCertificateRefs"] = json!([])
    });
    assert_invalid("spec.validation: must not contain both", |spec| {
        spec["validation"]["wellKnownCACertificates"] = "System".into();
    });
    assert_invalid("wellKnownCACertificates: must be a string", |spec| {
        spec["validation"] = json!({"hostname": "a.example.com", "wellKnownCACertificates": 1});
    });
    assert_valid(|spec| spec["validation"]["wellKnownCACertificates"] = Value::Null);
}

#[test]
fn ca_certificate_refs() {
    let path = "spec.validation.caCertificateRefs";
    let change = |value: Value| |spec: &mut Value| spec["validation"]["caCertificateRefs"] = value;
    let ca = json!({"group": "", "kind": "ConfigMap", "name": "ca"});
    assert_invalid(&format!("{path}: must be a list"), change(json!("ca")));
    assert_invalid(&format!("{path}: must be a list"), change(ca.clone()));
    assert_invalid(
        &format!("{path}: has 9 entries"),
        change(vec![ca.clone(); 9].into()),
    );
    assert_invalid(
        &format!("{path}[1]: must be an object"),
        change(json!([ca, "ca"])),
    );
    for (field, value, part) in [
        (
            "group",
            json!(null),
            "required, and missing: write group: \"\"",
        ),
        ("group", json!("a b"), "must be lower-case"),
        (
            "kind",
            json!(null),
            "required, and missing: write kind: ConfigMap",
        ),
        ("kind", json!("9"), "is not a kind"),
        ("kind", json!("Config-"), "is not a kind"),
        ("kind", json!("K".repeat(64)), "longer than 63"),
        ("name", json!(null), "required, and missing"),
        ("name", json!(""), "must not be empty"),
        ("name", json!("n".repeat(254)), "longer than 253"),
    ] {
        let mut broken = ca.clone();
        broken[field] = value;
        assert_invalid(
            &format!("{path}[0].{field}: "),
            change(json!([broken.clone()])),
        );
        assert_invalid(part, change(json!([broken])));
    }
    assert_valid(change(vec![ca; 8].into()));
}

#[test]
fn subject_alt_names() {
    let path = "spec.validation.subjectAltNames";
    let change = |value: Value| |spec: &mut Value| spec["validation"]["subjectAltNames"] = value;
    let dns = json!({"type": "Hostname", "hostname": "*.example.com"});
    assert_invalid(&format!("{path}: must be a list"), change(json!(true)));
    assert_invalid(
        &format!("{path}: has 6 entries"),
        change(vec![dns.clone(); 6].into()),
    );
    for (san, part) in [
        (json!("x"), ": must be an object"),
        (json!({"hostname": "x"}), ".type: required, and missing"),
        (
            json!({"type": "IP", "hostname": "x"}),
            ".type: \"IP\" is not a type",
        ),
        (
            json!({"type": "Hostname"}),
            ".hostname: required, and missing: type is Hostname",
        ),
        (
            json!({"type": "Hostname", "hostname": "a.org", "uri": "a://b"}),
            ".uri: must be left out",
        ),
        (
            json!({"type": "Hostname", "hostname": "10.0.0.9"}),
            ".hostname: \"10.0.0.9\" is an IP",
        ),
        (
            json!({"type": "Hostname", "hostname": "*.10.0.0.9"}),
            ".hostname: \"10.0.0.9\" is an IP",
        ),
        (
            json!({"type": "Hostname", "hostname": "*"}),
            ".hostname: \"*\" is not a DNS name",
        ),
        (
            json!({"type": "Hostname", "hostname": "*.*.org"}),
            ".hostname: \"*.org\" has a wildcard",
        ),
        (
            json!({"type": "URI"}),
            ".uri: required, and missing: type is URI",
        ),
        (
            json!({"type": "URI", "uri": "a://b", "hostname": "a"}),
            ".hostname: must be left out",
        ),
        (
            json!({"type": "URI", "uri": "urn:x"}),
            ".uri: \"urn:x\" has no \"scheme://\"",
        ),
        (
            json!({"type": "URI", "uri": "://x"}),
            ".uri: \"://x\" has no \"scheme://\"",
        ),
        (
            json!({"type": "URI", "uri": "/a://x"}),
            ".uri: \"/a://x\" has no \"scheme://\"",
        ),
        (
            json!({"type": "URI", "uri": "spiffe://"}),
            ".uri: \"spiffe://\" has no host",
        ),
        (
            json!({"type": "URI", "uri": "spiffe:///ns"}),
            ".uri: \"spiffe:///ns\" has no host",
        ),
        (
            json!({"type": "URI", "uri": "a://u@:1/x"}),
            ".uri: \"a://u@:1/x\" has no host",
        ),
        (json!({"type": "URI", "uri": ""}), ".uri: must not be empty"),
        (
            json!({"type": "URI", "uri": format!("a://{}", "b".repeat(250))}),
            ".uri: \"a://bbb",
        ),
    ] {
        assert_invalid(&format!("{path}[0]{part}"), change(json!([san])));
    }
    let uri = json!({"type": "URI", "uri": "spiffe://example.org/ns/a?b#c"});
    let compiled = World::new()
        .policy("p", changed(change(json!([dns, uri]))))
        .compile();
    let expected = [
        SubjectAltName::Hostname("*.example.com".into()),
        SubjectAltName::Uri("spiffe://example.org/ns/a?b#c".into()),
    ];
    assert_eq!(
        compiled.origination("10.0.0.1:443").subject_alt_names,
        expected
    );
}

#[test]
fn a_client_certificate_is_named_as_a_secret_is() {
    for name in ["a,b", "shop/client", ""] {
        let wrong = format!("{name:?} can't be the name of a Secret: write the name of a Secret");
        assert_invalid(&wrong, |spec| {
            spec["options"] = json!({"nodetls.io/client-certificate": name})
        });
    }
}

#[test]
fn options() {
    let change = |value: Value| |spec: &mut Value| spec["options"] = value;
    let many: serde_json::Map<_, _> = (0..17)
        .map(|i| (format!("example.com/{i}"), json!("")))
        .collect();
    assert_invalid("spec.options: has 17 entries", change(many.into()));
    assert_invalid("spec.options: must be an object", change(json!([])));
    assert_invalid(
        "spec.options[\"a.com/b\"]: must be a string",
        change(json!({"a.com/b": 1})),
    );
    let long = "x".repeat(4097);
    assert_invalid("longer than 4096", change(json!({"a.com/b": long})));
    assert_valid(change(json!({"example.com/x": "y", "bare": ""})));
}

#[test]
fn every_problem_is_told() {
    let spec = changed(|spec| {
        spec["validation"]["hostname"] = "10.0.0.9".into();
        spec["validation"]["caCertificateRefs"] = json!([{}]);
        spec["options"] = json!({"nodetls.io/x": "y"});
    });
    let compiled = World::new().policy("p", spec).compile();
    assert_eq!(
        compiled.status("p").problems.len(),
        5,
        "{:#?}",
        compiled.status("p").problems
    );
}
