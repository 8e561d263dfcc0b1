//! `nodetls diagnose`: a bundle has what it should, and no key that the agent holds.
#![allow(clippy::unwrap_used, clippy::panic)] // A test's way to fail.

use std::fs;

use nodetls_tests::{
    CLUSTER_IP, Ca, HOST, URL, World, assert_line, config_map, policy_with_client_certificate,
    service, tls_secret,
};

const FILES: [&str; 10] = [
    "about.txt",
    "connections.json",
    "kernel.txt",
    "log.txt",
    "metrics.txt",
    "pins.txt",
    "policies.json",
    "processes.txt",
    "ready.txt",
    "status.json",
];

/// One agent with a client certificate in use, and the key that goes with it.
fn world() -> (World, String) {
    let ca = Ca::new("test-ca");
    let mut world = World::new();
    world.file("ca.pem", &ca.pem);
    let directives =
        "ssl_client_certificate ca.pem; ssl_verify_client on; location / { return 200 ok; }";
    world.nginx_tls(&ca.sign(HOST), 8443, directives);
    world.manifest(
        "service.yaml",
        &service("tls-backend", CLUSTER_IP, 443, 8443),
    );
    world.manifest("ca.yaml", &config_map("example-ca", &ca.pem));
    world.manifest("policy.yaml", &policy_with_client_certificate(HOST));
    let client = ca.client("client-a");
    world.manifest("client.yaml", &tls_secret("client", &client));
    world.start_agent();
    world.wait("the certificate is shown", |world| {
        world.curl(&[URL]).ends_with("200")
    });
    (world, client.key)
}

#[test]
fn a_bundle_has_all_that_a_bug_report_needs_and_no_key() {
    let (mut world, key) = world();
    let dir = world.dir.path().join("report").display().to_string();
    // A log that somebody has let a key into.
    let log = format!("{}\nleaked: {key}\n", world.log());
    let log = world.file("agent-copy.log", &log).display().to_string();
    let pins = world.pins.display().to_string();
    let command = ["diagnose", &dir, "--log", &log, "--pins", &pins];
    let (code, said) = world.ask(&command);
    assert_eq!(code, 0, "{said}");
    let read = |name: &str| fs::read_to_string(format!("{dir}/{name}")).unwrap();
    let mut found: Vec<_> = fs::read_dir(&dir)
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    found.sort();
    assert_eq!(found, FILES);
    let secret = key.lines().nth(1).unwrap();
    for name in FILES {
        assert_line(&said, &[&format!("{dir}/{name}")]);
        let text = read(name);
        assert!(!text.starts_with("not to be had"), "{name}: {text}");
        assert!(
            !text.contains(secret) && !text.contains("PRIVATE KEY"),
            "{name}: {text}"
        );
    }
    assert_line(&read("log.txt"), &["leaked: (taken out)"]);
    assert_line(&read("about.txt"), &["nodetls ", env!("CARGO_PKG_VERSION")]);
    assert_line(&read("status.json"), &["\"healthy\": true"]);
    assert_line(&read("policies.json"), &["\"policy\": \"default/tls\""]);
    assert_line(
        &read("metrics.txt"),
        &["nodetls_tls_handshakes_total{", "\"ok\""],
    );
    assert_line(&read("pins.txt"), &["v1/links/connect4"]);
    assert_line(&read("processes.txt"), &["nodetls agent ", "--manifests"]);
    assert_line(&read("kernel.txt"), &[" - bpf "]);
    let (code, said) = world.ask(&command);
    assert_eq!(code, 1, "{said}");
    assert_line(
        &said,
        &["error: ", "name a directory that is not there yet"],
    );
    // Without an agent the rest is told all the same.
    world.kill_agent();
    let (code, bundle) = world.ask_json(&["diagnose", "--pins", &pins]);
    assert_eq!(code, 0, "{bundle}");
    let metrics = bundle["metrics.txt"].as_str().unwrap();
    assert!(metrics.starts_with("not to be had: "), "{metrics}");
    let status = bundle["status.json"].as_str().unwrap();
    assert!(status.contains("no agent runs"), "{status}");
}
