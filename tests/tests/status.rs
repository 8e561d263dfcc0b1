//! `nodetls status`: from the agent, and from the pins alone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A test's way to fail.

use std::fs;
use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use nodetls_tests::{World, assert_line, binary, policy};
use serde_json::Value;

const URL: &str = "http://10.96.0.10:443/get";

fn json(world: &World) -> (i32, Value) {
    let (code, said) = world.status(&["-o", "json"]);
    let value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
    (code, value)
}

#[test]
fn a_healthy_agent_shows_what_it_does() {
    let (world, _ca) = World::with_echo();
    assert!(world.curl(&[URL]).ends_with("200"));
    world.wait("it is settled", |world| world.status(&[]).0 == 0);
    let (_, said) = world.status(&[]);
    let cgroup = world.cgroup.display().to_string();
    for program in ["connect4", "connect6", "getpeername4", "getpeername6"] {
        assert_line(&said, &[program, " attached ", &cgroup]);
    }
    assert_line(&said, &["epoch 1", "in charge"]);
    assert_line(&said, &[&world.pod, " enrolled "]);
    assert_line(&said, &[&world.backend, " bypassed "]);
    assert_line(&said, &["the agent's own", " bypassed "]);
    assert_line(
        &said,
        &[
            "default/tls-backend:443  10.96.0.10:443  accepted  default/tls  www.example.com  \"test-ca\"  \
             10.99.0.2:8443  0",
        ],
    );
    assert_line(&said, &["redirected", "pod", " 1"]);
    assert_line(&said, &["handshakes, ok", " 1"]);
    assert!(said.ends_with("\nall is well\n"), "{said}");
    let (code, value) = json(&world);
    assert_eq!(
        (code, &value["healthy"]),
        (0, &Value::Bool(true)),
        "{value}"
    );
    assert!(!value.to_string().contains("BEGIN"), "{value}");
}

#[test]
fn a_refused_policy_is_a_problem_and_tells_its_reason() {
    let (world, _ca) = World::with_echo();
    world.remove_manifest("ca.yaml");
    world.wait("it is refused", |world| {
        world
            .status(&[])
            .1
            .contains("refused (NoValidCACertificate)")
    });
    let (code, said) = world.status(&[]);
    assert_eq!(code, 1, "{said}");
    assert_line(&said, &["problem: ", "default/tls", "tls-backend"]);
    assert_line(
        &said,
        &[
            "cure: ",
            "ConfigMap default/example-ca does not exist: create it",
        ],
    );
    world.manifest("policy.yaml", &policy("not a hostname"));
    world.manifest("broken.yaml", "kind: [");
    world.wait("both are told", |world| {
        let (_, said) = world.status(&[]);
        said.contains("refused (Invalid)") && said.contains("broken.yaml")
    });
}

#[test]
fn a_dead_agent_is_told_of_by_the_pins() {
    let (mut world, _ca) = World::with_echo();
    world.wait("it is settled", |world| world.status(&[]).0 == 0);
    world.kill_agent();
    let (code, said) = world.status(&[]);
    assert_eq!(code, 1, "{said}");
    assert_line(&said, &["no agent answers; from the pins alone"]);
    assert_line(&said, &["epoch 1", "dead"]);
    assert_line(&said, &["connect4", " attached "]);
    assert_line(&said, &[&world.pod, " enrolled "]);
    assert_line(&said, &["10.96.0.10:443", "refused (NoAgent)"]);
    assert_line(
        &said,
        &["problem: no agent runs: connects to targets are refused"],
    );
    assert_line(&said, &["cure: start `nodetls agent`"]);
    assert!(
        world
            .dial(&["10.96.0.10:443"])
            .contains("ConnectionRefused")
    );
    world.start_agent();
    world.wait("all is well again", |world| world.status(&[]).0 == 0);
    // Alive, but asked at an address that is none of its own.
    let mut elsewhere = Command::new(binary("nodetls"));
    elsewhere.args(["status", "--admin", "127.0.0.1:1", "--pins"]);
    let output = elsewhere.arg(&world.pins).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_line(
        &said,
        &["an agent runs (epoch 2), but does not answer at 127.0.0.1:1"],
    );
    assert_line(&said, &["10.96.0.10:443", "unknown"]);
}

#[test]
fn what_somebody_detached_is_a_problem_until_the_agent_has_started_again() {
    let (mut world, _ca) = World::with_echo();
    world.wait("it is settled", |world| world.status(&[]).0 == 0);
    fs::remove_file(world.pins.join("v1/links/connect4")).unwrap();
    let netns = fs::read_dir(world.pins.join("v1/netns")).unwrap();
    for entry in netns.flatten() {
        fs::remove_file(entry.path().join("link")).unwrap();
    }
    let (code, said) = world.status(&[]);
    assert_eq!(code, 1, "{said}");
    assert_line(&said, &["connect4", "not attached"]);
    assert_line(&said, &["connect6", " attached "]);
    assert_line(&said, &["problem: connect4 is not attached", "plaintext"]);
    assert_line(&said, &["problem: ", &world.pod, "not attached", "refused"]);
    assert_line(&said, &["cure: (re)start the agent"]);
    world.kill_agent();
    world.start_agent();
    world.wait("all is well again", |world| world.status(&[]).0 == 0);
    assert!(world.curl(&[URL]).ends_with("200"));
}

#[test]
fn a_running_exec_is_shown_with_and_without_an_agent() {
    let (mut world, _ca) = World::without_agent();
    let (code, said) = world.status(&[]);
    assert_eq!(code, 1, "{said}");
    assert_line(
        &said,
        &["no agent runs, and no program is pinned", "not secured"],
    );
    let mut command = world.exec(&["sh", "-c", "echo ready; read line"]);
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut ready = [0; 6];
    let stdout = child.stdout.as_mut().unwrap();
    stdout.read_exact(&mut ready).unwrap();
    let pid = child.id().to_string();
    let (code, said) = world.status(&[]);
    assert_eq!(code, 0, "`nodetls exec` needs no agent: {said}");
    assert_line(&said, &["running", &pid, "sh", "nodetls-exec-"]);
    world.start_agent();
    world.wait("the agent shows it too", |world| world.status(&[]).0 == 0);
    let (_, said) = world.status(&[]);
    assert_line(&said, &["running", &pid, "sh"]);
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    child.wait().unwrap();
    world.wait("it is gone", |world| {
        !world.status(&[]).1.contains("nodetls-exec-")
    });
}
