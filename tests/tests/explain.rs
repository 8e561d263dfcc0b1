//! `nodetls explain`: what becomes of a client's connections, for each way that there is, and why.
#![allow(clippy::unwrap_used, clippy::panic)] // A test's way to fail.

use std::process::Command;

use nodetls_tests::{
    CLUSTER_IP, Ca, HOST, URL, World, assert_line, config_map, policy, policy_with,
    service_without_slice, text, without_ready_endpoint,
};
use serde_json::Value;

const SERVICE: &str = "tls-backend:443";

fn explain(world: &World, client: &str, service: &str) -> (i32, String) {
    world.ask(&["explain", client, service])
}

fn json(world: &World, client: &str, service: &str) -> (i32, Value) {
    world.ask_json(&["explain", client, service])
}

/// Waits until the pod's connections to the Service have this outcome; the whole then.
#[track_caller]
fn until(world: &World, outcome: &str) -> Value {
    world.wait(outcome, |world| {
        json(world, &world.pod, SERVICE).1["outcome"] == outcome
    });
    json(world, &world.pod, SERVICE).1
}

/// What OpenSSL calls a certificate's fingerprint.
fn fingerprint(world: &World, pem: &str) -> String {
    let file = world.file("fingerprint.pem", pem);
    let mut openssl = Command::new("openssl");
    openssl.args(["x509", "-noout", "-fingerprint", "-sha256", "-in"]);
    let said = text(&openssl.arg(file).output().unwrap());
    let (_, sum) = said.trim().split_once('=').unwrap();
    sum.replace(':', "").to_lowercase()
}

#[test]
fn a_secured_connection_shows_what_is_in_force_and_the_last_handshake() {
    let (world, ca) = World::with_echo();
    world.manifest(
        "policy.yaml",
        &policy_with(HOST, &[("min-tls-version", "1.3")]),
    );
    let said = until(&world, "secured");
    assert_eq!(said["targets"][0]["lastHandshake"], Value::Null, "{said}");
    // A handshake by the policy's first version is not told of once the second is in force.
    world.wait("TLS, by the policy's new version", |world| {
        let ok = world.curl(&[URL]).ends_with("200");
        let (_, said) = explain(world, &world.pod, SERVICE);
        ok && said.contains("nodetls.io/min-tls-version: 1.3") && said.contains("TLSv1.3")
    });
    for service in [
        SERVICE,
        "default/tls-backend:443",
        "tls-backend:https",
        "tls-backend.default.svc.cluster.local:443",
        "10.96.0.10:443",
    ] {
        let (code, said) = explain(&world, &world.pod, service);
        assert_eq!(code, 0, "{service}: {said}");
        let head = format!(
            "{} -> default/tls-backend:443: TLS is originated",
            world.pod
        );
        assert_line(&said, &[&head]);
        assert_line(&said, &["why: ", &world.pod, "default/tls", "in force"]);
        assert_line(&said, &["SNI ", HOST]);
        assert_line(&said, &["CA ", "CN=test-ca", " days)"]);
        assert_line(&said, &["sha256", &fingerprint(&world, &ca.pem)]);
        assert_line(&said, &["endpoints ", "10.99.0.2:8443"]);
        assert_line(
            &said,
            &[
                "last handshake",
                "TLSv1.3, TLS_AES_256_GCM_SHA384, X25519MLKEM768",
            ],
        );
        assert_line(&said, &["default/tls (port 443): Accepted"]);
        assert!(!said.contains("last error"), "{said}");
    }
}

#[test]
fn a_failing_handshake_tells_cause_and_cure() {
    let (world, _ca) = World::with_echo();
    world.manifest(
        "ca.yaml",
        &config_map("example-ca", &Ca::new("another CA").pem),
    );
    world.wait("it fails", |world| world.curl(&[URL]).ends_with("502"));
    let said = until(&world, "failing");
    let error = &said["targets"][0]["lastError"];
    assert_eq!(
        (&error["reason"], &error["failing"]),
        (&Value::from("unknown_ca"), &Value::from(true)),
        "{said}"
    );
    let (code, said) = explain(&world, &world.pod, SERVICE);
    assert_eq!(code, 1, "{said}");
    assert_line(
        &said,
        &["why: the last TLS handshake failed (unknown_ca)", "test-ca"],
    );
    assert_line(
        &said,
        &["  cure: put the issuing CA into the policy's CA bundle"],
    );
    world.manifest("service.yaml", &without_ready_endpoint());
    world.wait("no endpoint", |world| {
        let (_, said) = explain(world, &world.pod, SERVICE);
        said.contains("has no ready endpoint")
            && said.contains("cure: check the Service's selector")
    });
}

#[test]
fn a_refused_policy_tells_its_reason_and_who_lost_a_conflict() {
    let (world, _ca) = World::with_echo();
    world.remove_manifest("ca.yaml");
    let said = until(&world, "refused");
    let target = &said["targets"][0];
    assert_eq!(target["reason"], "NoValidCACertificate", "{said}");
    let other = policy(HOST).replace("name: tls}", "name: younger}");
    world.manifest("other.yaml", &other);
    world.wait("both are shown", |world| {
        explain(world, &world.pod, SERVICE)
            .1
            .contains("default/younger")
    });
    let (code, said) = explain(&world, &world.pod, SERVICE);
    assert_eq!(code, 1, "{said}");
    assert_line(&said, &["plaintext is refused"]);
    assert_line(
        &said,
        &[
            "why: ",
            "ConfigMap default/example-ca does not exist: create it",
        ],
    );
    assert_line(
        &said,
        &[
            "default/younger (port 443): Conflicted",
            "default/tls",
            "remove one of the two",
        ],
    );
}

#[test]
fn what_is_no_target_tells_why() {
    let (world, _ca) = World::with_echo();
    let (pod, why) = (&world.pod, |service: &str| {
        let (code, said) = explain(&world, &world.pod, service);
        assert_eq!(code, 1, "{said}");
        assert_line(&said, &["left as the client makes it"]);
        said
    });
    let said = why("absent:443");
    assert_line(&said, &["why: Service default/absent does not exist"]);
    assert_line(&said, &["cure: create it"]);
    assert_line(
        &why("tls-backend:444"),
        &["why: Service default/tls-backend has no port 444: it has 443 (https)"],
    );
    assert_line(
        &why("10.96.0.99:443"),
        &["why: 10.96.0.99:443 is no address of a Service"],
    );
    let other = service_without_slice("plain", "10.96.0.11", 80, 8080);
    world.manifest("plain.yaml", &other);
    world.wait("the Service is known", |world| {
        explain(world, &world.pod, "plain:80")
            .1
            .contains("no BackendTLSPolicy targets")
    });
    assert_line(
        &why("plain:80"),
        &["cure: ", "create one in namespace default"],
    );
    let two = service_without_slice("tls-backend", CLUSTER_IP, 443, 8443)
        + "  - {name: http, port: 80, targetPort: 8080}\n";
    world.manifest("service.yaml", &two);
    world.wait("the port is known", |world| {
        let (_, said) = explain(world, &world.pod, "tls-backend:80");
        said.contains("BackendTLSPolicy default/tls targets port 443 of the Service, not 80")
    });
    let opted_out = policy(HOST).replace(
        "{name: tls}",
        "{name: tls, annotations: {nodetls.io/redirect: disabled}}",
    );
    world.manifest("policy.yaml", &opted_out);
    world.wait("the policy is left to others", |world| {
        explain(world, &world.pod, SERVICE)
            .1
            .contains("default/tls: OptedOut")
    });
    assert_line(&why(SERVICE), &["why: ", "default/tls", "left to gateways"]);
    assert_line(&why(SERVICE), &["cure: remove the annotation"]);
    for (service, cure) in [
        (
            "tls-backend:imaps",
            "has no port imaps: it has 443 (https), 80 (http)",
        ),
        ("tls-backend", "write [NAMESPACE/]NAME:PORT"),
        ("absent:https", "does not exist: create it"),
    ] {
        let (code, said) = explain(&world, pod, service);
        assert_eq!(code, 1, "{said}");
        assert_line(&said, &["error: ", cure]);
    }
}

#[test]
fn a_client_that_is_left_alone_or_unknown_tells_why() {
    let (mut world, _ca) = World::with_echo();
    let (code, said) = explain(&world, &world.backend, SERVICE);
    assert_eq!(code, 1, "{said}");
    assert_line(&said, &["left as the client makes it"]);
    assert_line(
        &said,
        &["why: its name matches no pattern of the agent's --netns"],
    );
    assert_line(&said, &["cure: add a pattern"]);
    // What would be in force is shown all the same.
    assert_line(&said, &["SNI ", HOST]);
    let (code, said) = explain(&world, "(the agent's own)", SERVICE);
    assert_eq!(code, 1, "{said}");
    assert_line(&said, &["why: it uses the node's own network namespace"]);
    let (code, said) = explain(&world, "nobody", SERVICE);
    assert_eq!(code, 1, "{said}");
    assert_line(
        &said,
        &["error: the agent knows no network namespace nobody: `ip netns` lists"],
    );
    world.kill_agent();
    let (code, said) = explain(&world, &world.pod, SERVICE);
    assert_eq!(code, 1, "{said}");
    assert_line(
        &said,
        &[
            "error: no agent of this version answers at 127.0.0.1",
            "--admin",
            "nodetls status",
        ],
    );
    world.agent_flags = vec!["--mode", "audit"];
    world.start_agent();
    let (code, said) = explain(&world, &world.pod, SERVICE);
    assert_eq!(code, 1, "{said}");
    assert_line(
        &said,
        &["why: the agent runs in audit mode: nothing is redirected"],
    );
    assert_line(&said, &["cure: start the agent without --mode audit"]);
}

/// A text whose words with digits, or of one run of this test alone, are all the same.
fn shape(text: &str) -> Vec<String> {
    let word = |word: &str| match word.contains(|c: char| c.is_ascii_digit()) {
        true => "#".to_owned(),
        false => word.to_owned(),
    };
    let line = |line: &str| {
        line.split_whitespace()
            .map(word)
            .collect::<Vec<_>>()
            .join(" ")
    };
    text.lines().map(line).collect()
}

#[test]
fn the_readmes_example_is_what_is_said() {
    let readme = include_str!("../../README.md");
    let (_, block) = readme
        .split_once("$ nodetls explain pod-1 tls-backend:443\n")
        .unwrap();
    let (block, _) = block.split_once("```").unwrap();
    let (world, _ca) = World::with_echo();
    world.manifest(
        "policy.yaml",
        &policy_with(HOST, &[("min-tls-version", "1.3")]),
    );
    world.wait("TLS with the option", |world| {
        let answers = world.curl(&[URL]).ends_with("200");
        let (_, said) = explain(world, &world.pod, SERVICE);
        answers && said.contains("nodetls.io/min-tls-version") && said.contains("TLSv1.3")
    });
    let (code, said) = explain(&world, &world.pod, SERVICE);
    assert_eq!(code, 0, "{said}");
    assert_eq!(shape(&said), shape(block), "{said}");
}
