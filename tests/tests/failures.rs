//! What can't be secured fails, with a reason, and never as plaintext.
#![allow(clippy::unwrap_used, clippy::panic)]

use serde_json::Value;

use nodetls_tests::{
    ADDRESS, CLUSTER_IP, Ca, HOST, URL, World, config_map, occurrences, policy, policy_with,
    service, without_ready_endpoint,
};

/// Every reason has a test in `reasons/`; here is what is the same for all.
#[test]
fn every_kind_of_client_is_refused_and_told_no_more() {
    let world = World::serving(&Ca::new("trusted"), |world| {
        world.echo(&Ca::new("other").sign(HOST), 8443);
    });
    let answer = world.curl(&[URL]);
    assert!(answer.ends_with("502"), "{answer}");
    assert!(!answer.contains("certificate"), "{answer}");
    // Once the client's connection has ended too.
    world.wait("it is counted", |world| {
        let unknown_ca = ["reason=\"unknown_ca\""];
        world.metric("nodetls_connection_failures_total", &unknown_ca) == 1.0
    });
    let (_, said) = world.ask(&["status", "--output", "json"]);
    let status: Value = serde_json::from_str(&said).unwrap();
    let [error] = status["errors"].as_array().unwrap().as_slice() else {
        panic!("{said}")
    };
    assert_eq!(
        (&error["service"], &error["reason"], &error["failing"]),
        (
            &"default/tls-backend".into(),
            &"unknown_ca".into(),
            &true.into()
        )
    );
    // A client that is not HTTP sees a reset, not a clean end.
    let answer = world.dial(&[ADDRESS, "--send", "\u{1}binary"]);
    assert!(answer.contains("error: ConnectionReset"), "{answer}");
    let answer = world.curl(&["-I", URL]);
    assert!(answer.ends_with("502"), "HEAD: {answer}");
}

#[test]
fn a_refused_policy_answers_503_and_keeps_the_rest_working() {
    let (mut world, ca) = World::with_echo();
    for (name, manifest, message) in [
        ("ca.yaml", config_map("example-ca", ""), "example-ca"),
        ("ca.yaml", config_map("example-ca", "garbage"), "example-ca"),
        ("policy.yaml", policy("10.0.0.1"), "hostname"),
    ] {
        world.manifest(name, &manifest);
        let refused = "nodetls: this Service can't be reached securely\n\n503";
        world.wait("503", |world| world.curl(&[URL]).ends_with(refused));
        assert!(world.log().contains(message), "{message}");
        // It refuses plaintext only.
        let answer = world.curl(&["-k", &URL.replace("http:", "https:")]);
        assert!(answer.ends_with("200"), "a TLS client: {answer}");
        world.manifest("ca.yaml", &config_map("example-ca", &ca.pem));
        world.manifest("policy.yaml", &policy(HOST));
        world.wait("200 again", |world| world.curl(&[URL]).ends_with("200"));
    }
    // Malformed: the last good version stays.
    world.manifest("policy.yaml", "kind: [\n");
    world.manifest("more.yaml", "kind: {\n");
    world.manifest(
        "missing.yaml",
        &policy("a.example")
            .replace("tls-backend", "nowhere")
            .replace("name: tls}", "name: lost}"),
    );
    let section = policy("a.example")
        .replace("'443'", "nope")
        .replace("name: tls}", "name: section}");
    world.manifest("section.yaml", &section);
    world.wait("all are reported", |world| {
        let log = world.log();
        ["policy.yaml", "more.yaml", "nowhere", "nope"]
            .iter()
            .all(|word| log.contains(word))
    });
    assert_eq!(world.metric("nodetls_config_errors", &[]), 2.0);
    assert!(world.curl(&[URL]).ends_with("200"));
    // The targets of earlier agents are refused while none runs, and served by the next.
    world.kill_agent();
    assert!(world.dial(&[ADDRESS]).contains("error: ConnectionRefused"));
}

#[test]
fn no_ready_endpoint_answers_503() {
    let (world, _ca) = World::with_echo();
    world.manifest("service.yaml", &without_ready_endpoint());
    world.wait("503", |world| world.curl(&[URL]).ends_with("503"));
    assert!(world.metric("nodetls_connection_failures_total", &["no_endpoints"]) >= 1.0);
}

#[test]
fn a_forged_id_is_reset() {
    let (world, _ca) = World::with_echo();
    let answer = world.dial(&["127.129.1.1:443", "--send", "x"]);
    assert!(is_reset(&answer), "{answer}");
    // The right id at another port is a claim that fails too.
    let answer = world.dial(&["127.128.0.1:444", "--send", "x"]);
    assert!(is_reset(&answer), "{answer}");
    assert_eq!(
        world.metric("nodetls_unknown_target_connections_total", &[]),
        2.0
    );
}

/// The reset may come before the client has asked for its peer's name.
fn is_reset(answer: &str) -> bool {
    answer.contains("error: ConnectionReset") || answer.contains("error: NotConnected")
}

#[test]
fn a_peer_is_named_by_id_and_port() {
    let (world, _ca) = World::with_echo();
    // Connections wait in the backlog, so that no reset comes before the question.
    world.agent().stop();
    for (address, peer) in [
        ("127.128.0.1:443", ADDRESS),
        ("127.128.0.1:444", "127.128.0.1:444"),
        ("127.129.1.1:443", "127.129.1.1:443"),
    ] {
        let said = world.dialling(&[address]).read_until("peer:");
        assert_eq!(said, format!("peer: {peer}\n"));
    }
    world.agent().signal("CONT");
    assert_eq!(world.connects("translated", "getpeername"), 1.0);
}

/// Else a client that goes by an id that it was given before would reach another Service.
#[test]
fn a_freed_id_rests() {
    let (mut world, _ca) = World::with_echo();
    let other = "10.96.0.11";
    let publish = |world: &World, address: &str| {
        let generation = world.metric("nodetls_config_generation", &[]);
        world.manifest("service.yaml", &service("tls-backend", address, 443, 8443));
        world.wait("it is published", |world| {
            world.metric("nodetls_config_generation", &[]) > generation
        });
    };
    assert_eq!(turned_to(&world, CLUSTER_IP), "127.128.0.1:443");
    publish(&world, other);
    assert_eq!(turned_to(&world, other), "127.128.0.2:443");
    // It is pinned that it rests.
    world.kill_agent();
    world.start_agent();
    publish(&world, "10.96.0.12");
    assert_eq!(turned_to(&world, "10.96.0.12"), "127.128.0.3:443");
    publish(&world, CLUSTER_IP);
    assert_eq!(turned_to(&world, CLUSTER_IP), "127.128.0.1:443");
}

/// Where a client of this Service address is connected to.
fn turned_to(world: &World, address: &str) -> String {
    let mut client = world.dialling(&[&format!("{address}:443"), "--hold", "1"]);
    client.read_until("held: 1");
    let mut ss = world.in_pod("ss");
    ss.args(["-Htn", "state", "established", "dst", "127.128.0.0/15"]);
    let connections = String::from_utf8(ss.output().unwrap().stdout).unwrap();
    connections.split_whitespace().nth(3).unwrap().to_owned()
}

#[test]
fn ten_thousand_connections_while_the_ca_is_replaced() {
    let (mut world, ca) = World::without_agent();
    // A handshake for each of them.
    world.manifest(
        "policy.yaml",
        &policy_with(HOST, &[("http-pooling", "off")]),
    );
    world.start_agent();
    let mut results = [String::new(), String::new()];
    let wire = world.capture(|world| {
        let good = config_map("example-ca", &ca.pem);
        results[0] = world.load(10_000, |world, turn| {
            // Equal in meaning, another file.
            world.manifest("ca.yaml", &format!("# {turn}\n{good}"));
        });
        let wrong = config_map("example-ca", &Ca::new("wrong").pem);
        results[1] = world.load(2_000, |world, turn| {
            world.manifest("ca.yaml", if turn % 2 == 0 { &wrong } else { &good });
        });
    });
    assert!(
        results[0].contains("ok=10000 502=0 refused=0 other=0"),
        "{}",
        results[0]
    );
    assert!(
        results[1].contains("refused=0 other=0") && !results[1].contains(" 502=0"),
        "{}",
        results[1]
    );
    assert!(wire.len() > 10_000_000, "{} bytes captured", wire.len());
    assert_eq!(occurrences(&wire, "marked"), 0, "plaintext on the wire");
}
