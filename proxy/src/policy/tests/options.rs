//! `spec.options`.

use std::num::NonZeroU32;
use std::time::Duration;

use rustls::{CipherSuite, NamedGroup};

use super::*;

fn with_options(options: Value) -> Value {
    let mut spec = spec("web", None);
    spec["options"] = options;
    spec
}

/// What a policy with these options (without the domain) asks for.
#[track_caller]
fn read(options: &[(&str, &str)]) -> Options {
    let options = options
        .iter()
        .map(|(key, value)| (format!("nodetls.io/{key}"), Value::from(*value)));
    let mut world = World::new().policy("p", with_options(Value::Object(options.collect())));
    world.installation.insecure_validation = true;
    world.compile().origination("10.0.0.1:443").options.clone()
}

/// Why a policy with one option is refused.
#[track_caller]
fn refused(key: &str, value: Value) -> String {
    let mut world = World::new().policy("p", with_options(json!({ (key): value })));
    world.installation.insecure_validation = true;
    let compiled = world.compile();
    let accepted = &compiled.status("p").ancestors[0].accepted;
    assert_eq!(accepted.reason, Reason::Invalid, "{key}");
    assert!(
        compiled
            .snapshot
            .targets
            .values()
            .all(|target| target.plan.is_err())
    );
    accepted.message.clone()
}

#[test]
fn all_options_are_read() {
    assert_eq!(read(&[]), Options::default());
    let sum = "Ab:".repeat(31) + "cD";
    let pins = format!("cert:{sum},spki:{}", "00".repeat(32));
    let options = read(&[
        ("min-tls-version", "1.2"),
        ("max-tls-version", "1.3"),
        (
            "cipher-suites",
            "TLS_AES_256_GCM_SHA384, TLS_AES_128_GCM_SHA256",
        ),
        ("key-exchange-groups", "X25519,secp256r1"),
        ("alpn", "h2, http/1.1"),
        ("client-first", "true"),
        ("client-tls", "wrap"),
        ("connect-timeout", "1m30s"),
        ("handshake-timeout", "500ms"),
        ("idle-timeout", "24h"),
        ("http-pooling", "off"),
        ("access-log", "off"),
        ("rewrite-host", "true"),
        ("validation-mode", "InsecureAllowExpired"),
        ("pinned-sha256", &pins),
        ("client-certificate", "client-identity"),
    ]);
    let mut sum = [0xab; 32];
    sum[31] = 0xcd;
    let expected = Options {
        min_version: Some(TlsVersion::Tls12),
        max_version: Some(TlsVersion::Tls13),
        cipher_suites: vec![
            CipherSuite::TLS13_AES_256_GCM_SHA384,
            CipherSuite::TLS13_AES_128_GCM_SHA256,
        ],
        groups: vec![NamedGroup::X25519, NamedGroup::secp256r1],
        alpn: Some(vec!["h2".to_owned(), "http/1.1".to_owned()]),
        client_first: true,
        client_tls: ClientTls::Wrap,
        connect_timeout: Some(Duration::from_secs(90)),
        handshake_timeout: Some(Duration::from_millis(500)),
        idle_timeout: Some(Duration::from_secs(86_400)),
        unpooled: true,
        access_log: AccessLog::Off,
        rewrite_host: true,
        validation_mode: ValidationMode::InsecureAllowExpired,
        pins: vec![Pin::Certificate(sum), Pin::PublicKey([0; 32])],
        client_certificate: Some("client-identity".to_owned()),
    };
    assert_eq!(options, expected);
    assert_eq!(read(&[("alpn", "none")]).alpn, Some(Vec::new()));
    let sampled = AccessLog::OneIn(NonZeroU32::new(100).unwrap());
    assert_eq!(read(&[("access-log", "1/100")]).access_log, sampled);
}

#[test]
fn an_unknown_key_is_refused_with_all_that_there_are() {
    let message = refused("nodetls.io/min-tls", "1.3".into());
    let wanted = "spec.options[\"nodetls.io/min-tls\"]: is no option; those of nodetls.io/ are: min-tls-version, max-";
    assert!(
        message.starts_with(wanted) && message.ends_with("pinned-sha256, client-certificate"),
        "{message}"
    );
    assert_eq!(read(&[]), Options::default());
    let others = json!({"example.com/min-tls-version": "1.3", "bare": "x"});
    let compiled = World::new().policy("p", with_options(others)).compile();
    assert_eq!(
        compiled.origination("10.0.0.1:443").options,
        Options::default()
    );
}

#[test]
fn a_value_that_can_t_be_is_refused_with_those_that_can() {
    for (key, value, wrong) in [
        (
            "min-tls-version",
            "1.1",
            "\"1.1\" is no value: write 1.2 or 1.3",
        ),
        (
            "cipher-suites",
            "TLS_RSA_WITH_RC4_128_MD5",
            "has TLS_RSA_WITH_RC4_128_MD5, which is not supported: write a list of TLS_AES_",
        ),
        ("cipher-suites", "", "has an empty element"),
        (
            "key-exchange-groups",
            "X25519,,secp256r1",
            "has an empty element",
        ),
        ("key-exchange-groups", "X25519,X25519", "has X25519 twice"),
        ("alpn", "h2,none of these", "is no protocol's name"),
        ("client-first", "yes", "write true or false"),
        ("client-tls", "double", "write pass-through or wrap"),
        (
            "connect-timeout",
            "10",
            "is no duration: write a duration such as",
        ),
        ("connect-timeout", "1 hour", "is no duration"),
        ("handshake-timeout", "-1s", "is no duration"),
        ("idle-timeout", "0s", "is not between 1ms and 24h"),
        ("idle-timeout", "25h", "is not between 1ms and 24h"),
        ("access-log", "true", "write on, off, or 1/N"),
        ("access-log", "1/0", "is no value"),
        ("http-pooling", "true", "write on or off"),
        ("rewrite-host", "on", "write true or false"),
        (
            "client-certificate",
            "Not_A_Name",
            "can't be the name of a Secret: write the name of a Secret",
        ),
        (
            "validation-mode",
            "standard",
            "write Standard, InsecureAllowExpired",
        ),
        (
            "pinned-sha256",
            "cert:00",
            "has cert:00, which is no fingerprint",
        ),
        ("pinned-sha256", &"0".repeat(64), "which is no fingerprint"),
        (
            "pinned-sha256",
            &format!("cert:{}", "g".repeat(64)),
            "which is no fingerprint",
        ),
    ] {
        let message = refused(&format!("nodetls.io/{key}"), value.into());
        assert!(message.contains(wrong), "{key}: {message}");
    }
    let message = refused("nodetls.io/client-first", true.into());
    assert!(message.contains("must be a string"), "{message}");
}

#[test]
fn versions_cipher_suites_and_groups_must_agree() {
    let both = |options: Value| {
        let compiled = World::new().policy("p", with_options(options)).compile();
        compiled.status("p").ancestors[0].accepted.message.clone()
    };
    let message =
        both(json!({"nodetls.io/min-tls-version": "1.3", "nodetls.io/max-tls-version": "1.2"}));
    assert!(message.contains("is above"), "{message}");
    let suite = "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256";
    let message =
        both(json!({"nodetls.io/min-tls-version": "1.3", "nodetls.io/cipher-suites": suite}));
    assert!(
        message.contains("has none for the versions allowed"),
        "{message}"
    );
    let hybrid = |key: &str, value: &str| {
        let groups = "X25519MLKEM768, MLKEM768";
        both(json!({"nodetls.io/key-exchange-groups": groups, (key): value}))
    };
    for only_tls12 in [
        hybrid("nodetls.io/max-tls-version", "1.2"),
        hybrid("nodetls.io/cipher-suites", suite),
    ] {
        let wanted = "key-exchange-groups has none for TLS 1.2, the only version offered";
        assert!(only_tls12.contains(wanted), "{only_tls12}");
    }
    for possible in [
        hybrid("nodetls.io/max-tls-version", "1.3"),
        both(
            json!({"nodetls.io/key-exchange-groups": "X25519MLKEM768, X25519",
            "nodetls.io/max-tls-version": "1.2"}),
        ),
    ] {
        assert_eq!(possible, "Service default/web, all ports");
    }
}

#[test]
fn less_verification_needs_the_installation_s_word_and_is_told_of() {
    for mode in ValidationMode::ALL {
        let options = json!({"nodetls.io/validation-mode": mode.as_str()});
        let mut world = World::new().policy("p", with_options(options));
        let compiled = world.compile();
        let ancestor = &compiled.status("p").ancestors[0];
        let standard = mode == ValidationMode::Standard;
        assert_eq!(ancestor.accepted.status, standard, "{mode:?}");
        let cure = "--allow-insecure-validation of agent and controller";
        assert_eq!(ancestor.accepted.message.contains(cure), !standard);

        world.installation.insecure_validation = true;
        let compiled = world.compile();
        let ancestor = &compiled.status("p").ancestors[0];
        assert!(ancestor.accepted.status, "{mode:?}");
        let warning = mode.warning().unwrap_or("not told");
        assert_eq!(ancestor.accepted.message.contains(warning), !standard);
        assert_eq!(ancestor.warnings.len(), usize::from(!standard));
    }
}

#[test]
fn a_policy_that_opted_out_takes_part_in_nothing() {
    let opted_out = |value: &str| {
        let mut world =
            World::new().policy_at(1, "out", spec_for_host("web", None, "out.example.com"));
        world = world.policy_at(2, "in", spec_for_host("web", None, "in.example.com"));
        let policy = world
            .objects
            .policies
            .get_mut(&default_name("out"))
            .unwrap();
        let annotation = ("nodetls.io/redirect".to_owned(), value.to_owned());
        Arc::make_mut(policy).metadata.annotations = Some([annotation].into());
        world.compile()
    };
    let compiled = opted_out("disabled");
    assert_eq!(
        compiled.origination("10.0.0.1:443").hostname,
        "in.example.com"
    );
    let status = compiled.status("out");
    assert!(status.opted_out && status.ancestors.is_empty() && status.problems.is_empty());
    assert_eq!(status.warnings.len(), 1);
    for (value, warnings) in [("enabled", 0), ("Disabled", 1)] {
        let compiled = opted_out(value);
        assert_eq!(
            compiled.origination("10.0.0.1:443").hostname,
            "out.example.com"
        );
        assert_eq!(compiled.status("out").warnings.len(), warnings, "{value}");
    }
}
