//! Each option of a policy (`docs/options.md`), by what the server sees of it.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use nodetls_tests::{ADDRESS, Ca, HOST, URL, World, binary, config_map, policy_with, service};
use serde_json::Value;

fn generation(world: &World) -> f64 {
    world.metric("nodetls_config_generation", &[])
}

/// Brings these options into force, of a policy for this name.
fn apply(world: &World, hostname: &str, options: &[(&str, &str)]) {
    let policy = policy_with(hostname, options);
    let file = world.dir.path().join("manifests/policy.yaml");
    if fs::read_to_string(file).unwrap() == policy {
        return;
    }
    let before = generation(world);
    world.manifest("policy.yaml", &policy);
    world.wait("the options are in force", |world| {
        generation(world) > before
    });
}

/// What the echo server says of the session.
#[track_caller]
fn tls(world: &World, options: &[(&str, &str)]) -> Value {
    apply(world, HOST, options);
    let answer = world.curl(&[URL]);
    let body = answer.strip_suffix("\n200").unwrap_or_else(|| {
        panic!("{options:?}: {answer}\n{}", world.log());
    });
    let mut answer: Value = serde_json::from_str(body).unwrap();
    answer["tls"].take()
}

/// What a client gets that is told of a refusal.
#[track_caller]
fn refused(world: &World, hostname: &str, options: &[(&str, &str)], status: &str, words: &str) {
    apply(world, hostname, options);
    let answer = world.curl(&[URL]);
    assert!(answer.ends_with(status), "{options:?}: {answer}");
    world.wait(words, |world| world.log().contains(words));
}

#[test]
fn versions_cipher_suites_groups_and_alpn_are_what_the_server_negotiates() {
    let (world, _ca) = World::with_echo();
    let by_default = tls(&world, &[]);
    assert_eq!(by_default["version"], "TLSv1.3");
    assert_eq!(by_default["group"], "X25519MLKEM768");
    assert_eq!(by_default["negotiatedProtocol"], "http/1.1");

    let old = tls(&world, &[("max-tls-version", "1.2")]);
    assert_eq!(old["version"], "TLSv1.2");
    let new = tls(&world, &[("min-tls-version", "1.3")]);
    assert_eq!(new["version"], "TLSv1.3");

    let suite = |suite| tls(&world, &[("cipher-suites", suite)]);
    let chacha = suite("TLS_CHACHA20_POLY1305_SHA256");
    assert_eq!(chacha["cipherSuite"], "TLS_CHACHA20_POLY1305_SHA256");
    // None of TLS 1.3: that version is not offered.
    let ecdsa = suite("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256");
    assert_eq!(ecdsa["version"], "TLSv1.2");
    assert_eq!(
        ecdsa["cipherSuite"],
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"
    );

    let group = tls(&world, &[("key-exchange-groups", "secp384r1, X25519")]);
    assert_eq!(group["group"], "secp384r1");

    let none = tls(&world, &[("alpn", "none")]);
    assert_eq!(none["negotiatedProtocol"], Value::Null);
    let both = tls(&world, &[("alpn", "unknown,http/1.1")]);
    assert_eq!(both["negotiatedProtocol"], "http/1.1");
    let words = "application protocol (ALPN) offered: h2, http/1.1; the server selects h2";
    refused(&world, HOST, &[("alpn", "h2,http/1.1")], "502", words);

    refused(
        &world,
        HOST,
        &[("min-tls", "1.3")],
        "503",
        "those of nodetls.io/ are: min-tls-version,",
    );
    refused(
        &world,
        HOST,
        &[("min-tls-version", "1.1")],
        "503",
        "\\\"1.1\\\" is no value: write 1.2 or 1.3",
    );
}

#[test]
fn a_server_below_the_lowest_version_is_refused() {
    let ca = Ca::new("test-ca");
    let world = World::serving(&ca, |world| {
        let server = world.s_server(&ca.sign(HOST), 8443, "-www -tls1_2");
        world.serve(server, 8443);
    });
    let answer = world.curl(&[URL]);
    assert!(
        answer.contains("TLSv1.2") && answer.ends_with("200"),
        "{answer}"
    );
    refused(
        &world,
        HOST,
        &[("min-tls-version", "1.3")],
        "502",
        "no_common_version",
    );
}

#[test]
fn timeouts() {
    let ca = Ca::new("test-ca");
    let world = World::serving(&ca, |world| {
        let silent = world.in_backend(&binary("silent"));
        world.serve(silent, 8443);
    });
    let started = Instant::now();
    refused(
        &world,
        HOST,
        &[("handshake-timeout", "300ms")],
        "502",
        "sent nothing for 300ms after the ClientHello",
    );
    let absent = service("tls-backend", "10.96.0.10", 443, 8443).replace("10.99.0.2", "10.99.0.77");
    world.manifest("service.yaml", &absent);
    refused(
        &world,
        HOST,
        &[("connect-timeout", "300ms")],
        "502",
        "connect_timeout",
    );
    // The agent's own are 10 s.
    assert!(started.elapsed().as_secs() < 10, "{:?}", started.elapsed());
}

#[test]
fn clients_that_always_speak_first_cost_one_handshake() {
    let (world, _ca) = World::with_echo();
    let handshakes =
        |world: &World| world.metric("nodetls_tls_handshakes_total", &["result=\"ok\""]);
    let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let mut silent = world.dialling(&[ADDRESS, "--talk"]);
    world.wait("one for the silent client", |world| {
        handshakes(world) == 1.0
    });
    silent.say(request);
    assert!(silent.finish().contains("200 OK"));
    assert_eq!(handshakes(&world), 2.0);

    apply(&world, HOST, &[("client-first", "true")]);
    let mut silent = world.dialling(&[ADDRESS, "--talk"]);
    thread::sleep(Duration::from_millis(500));
    silent.say(request);
    assert!(silent.finish().contains("200 OK"));
    assert_eq!(handshakes(&world), 3.0);
}

#[test]
fn a_client_s_own_tls_goes_into_ours() {
    let ca = Ca::new("test-ca");
    let world = World::serving(&ca, |world| {
        let mut server = world.s_server(&ca.sign(HOST), 8443, "-quiet");
        server.stdin(Stdio::piped()); // at its end the server would leave
        world.serve(server, 8443);
    });
    apply(&world, HOST, &[("client-tls", "wrap")]);
    let _ = world.curl(&["-k", "-m", "1", "https://10.96.0.10:443/"]);
    // What the outer TLS carried is a ClientHello (RFC 8446 sections 4 and 5.1), with the name that curl asked for.
    let carried = fs::read(world.dir.path().join("server-0.log")).unwrap();
    assert_eq!((carried[0], carried[1], carried[5]), (22, 3, 1));
    assert_eq!(
        world.metric("nodetls_passthrough_connections_total", &[]),
        0.0
    );
}

#[test]
fn no_line_for_connections_that_end_well() {
    let (mut world, _ca) = World::with_echo();
    tls(&world, &[]);
    tls(&world, &[("access-log", "off")]);
    tls(&world, &[("access-log", "on")]);
    refused(
        &world,
        "other.example.com",
        &[("access-log", "off")],
        "502",
        "name_mismatch",
    );
    let log = world.log_at_the_end();
    assert_eq!(log.matches("connection closed").count(), 2, "{log}");
}

#[test]
fn less_is_verified_only_where_the_installation_allows_it() {
    let ca = Ca::new("test-ca");
    let expired = |ca: &Ca, name: &str| {
        ca.issue(name, |params| {
            params.not_after = rcgen::date_time_ymd(2021, 1, 1)
        })
    };
    let mut world = World::serving(&ca, |world| world.echo(&expired(&ca, HOST), 8443));
    let mode = |mode| [("validation-mode", mode)];
    let words = "this installation does not allow InsecureAllowExpired: allow it (--allow-insecure-validation";
    refused(&world, HOST, &mode("InsecureAllowExpired"), "503", words);

    world.kill_agent();
    world.agent_flags = vec!["--allow-insecure-validation"];
    world.start_agent();
    let insecure = |world: &World, mode: &str| {
        let label = format!("mode=\"{mode}\"");
        world.metric("nodetls_insecure_policies", &[&label])
    };
    tls(&world, &mode("InsecureAllowExpired"));
    assert_eq!(insecure(&world, "InsecureAllowExpired"), 1.0);
    let warning = "expired server certificates are accepted";
    assert!(world.log().contains(warning), "{}", world.log());
    refused(
        &world,
        "other.example.com",
        &mode("InsecureAllowExpired"),
        "502",
        "name_mismatch",
    );
    refused(
        &world,
        HOST,
        &mode("InsecureSkipOnlySANVerification"),
        "502",
        "expired",
    );
    refused(&world, HOST, &[], "502", "expired");
    assert_eq!(insecure(&world, "InsecureAllowExpired"), 0.0);

    // Another CA: only the last mode takes the server.
    let applied = generation(&world);
    world.manifest("ca.yaml", &config_map("example-ca", &Ca::new("other").pem));
    world.wait("the other CA is in force", |world| {
        generation(world) > applied
    });
    let lenient = mode("InsecureAllowExpired");
    refused(&world, HOST, &lenient, "502", "unknown_ca");
    apply(
        &world,
        "other.example.com",
        &mode("InsecureSkipVerification"),
    );
    let answer = world.curl(&[URL]);
    assert!(
        answer.contains("\"serverName\": \"other.example.com\""),
        "{answer}"
    );
    assert_eq!(insecure(&world, "InsecureSkipVerification"), 1.0);
}

#[test]
fn a_policy_that_its_author_left_to_others_is_left_alone() {
    let ca = Ca::new("test-ca");
    let mut world = World::serving(&ca, |world| world.echo(&ca.sign(HOST), 8443));
    let policy = policy_with(HOST, &[]).replace(
        "metadata: {name: tls}",
        "metadata: {name: tls, annotations: {nodetls.io/redirect: disabled}}",
    );
    world.manifest("policy.yaml", &policy);
    let published = |world: &World| world.metric("nodetls_targets", &[]);
    world.wait("no target", |world| published(world) == 0.0);
    assert_eq!(
        world.metric("nodetls_policy_status", &["reason=\"OptedOut\""]),
        1.0
    );
    assert!(world.log().contains("nodetls leaves this policy alone"));
    // A policy in force is not disturbed by one that is not, although the latter is the first by name.
    world.manifest(
        "second.yaml",
        &policy_with(HOST, &[]).replace("{name: tls}", "{name: zz}"),
    );
    world.wait("a target", |world| published(world) == 1.0);
    let answer = world.curl(&[URL]);
    assert!(
        answer.contains("TLSv1.3") && answer.ends_with("200"),
        "{answer}"
    );
    world.kill_agent();
}

#[test]
fn a_connection_on_which_nobody_says_a_word_ends_too() {
    let ca = Ca::new("test-ca");
    let world = World::serving(&ca, |world| {
        let server = world.s_server(&ca.sign(HOST), 8443, "-www");
        world.serve(server, 8443);
    });
    apply(&world, HOST, &[("idle-timeout", "300ms")]);
    let answer = world.dial(&[ADDRESS, "--patience", "8"]);
    assert!(answer.contains("ConnectionReset"), "{answer}");
    world.wait("idle_timeout", |world| {
        world.log().contains("no byte from either side for 300ms")
    });
}
