//! The agent's log (`docs/access-log.md`): what a line tells, and how to have less or more of them.
#![allow(clippy::unwrap_used, clippy::panic)] // A test's way to fail.

use std::collections::BTreeSet;
use std::process::Command;

use nodetls_tests::{ADDRESS, HOST, URL, World, policy, policy_with, text};
use serde_json::Value;

/// Lines that say this.
fn lines(world: &World, message: &str) -> Vec<Value> {
    let log = world.log();
    let all = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    all.filter(|line| line["message"] == message).collect()
}

fn with_json() -> World {
    let (mut world, _ca) = World::without_agent();
    world.agent_flags = vec!["--log-format=json"];
    world.start_agent();
    world
}

#[track_caller]
fn apply(world: &World, policy: &str) {
    let generation = |world: &World| world.metric("nodetls_config_generation", &[]);
    let before = generation(world);
    world.manifest("policy.yaml", policy);
    world.wait("the policy is in force", |world| generation(world) > before);
}

#[track_caller]
fn succeed(world: &World, times: usize) {
    for _ in 0..times {
        let answer = world.curl(&[URL]);
        assert!(answer.ends_with("200"), "{answer}");
    }
    world.wait("all have ended", |world| {
        world.metric("nodetls_open_connections", &[]) == 0.0
    });
}

#[test]
fn a_line_tells_who_spoke_with_whom_and_how_it_was_secured() {
    let world = with_json();
    succeed(&world, 1);
    world.wait("its line", |world| {
        !lines(world, "connection closed").is_empty()
    });
    let line = &lines(&world, "connection closed")[0];
    for (field, value) in [
        ("netns", &*world.pod),
        ("service", "default/tls-backend:443"),
        ("policy", "default/tls"),
        ("upstream", "10.99.0.2:8443"),
        ("sni", HOST),
        ("protocol", "http/1.1"),
        ("tls_version", "TLSv1.3"),
        ("group", "X25519MLKEM768"),
    ] {
        assert_eq!(line[field], value, "{field}: {line}");
    }
    assert_eq!(line["resumed"], false, "{line}");
    assert!(line["received_bytes"].as_u64() > Some(0), "{line}");

    apply(&world, &policy("other.example.com"));
    assert!(world.curl(&[URL]).ends_with("502"));
    let failed = |world: &World| lines(world, "connection failed");
    world.wait("its line", |world| !failed(world).is_empty());
    // Of a cluster, of a pooled connection, and of a flood.
    let elsewhere = ["node", "reused", "left_out"];
    let mut told = fields(line);
    told.extend(fields(&failed(&world)[0]));
    told.extend(elsewhere.map(str::to_owned));
    assert_eq!(told, documented());
}

fn fields(line: &Value) -> BTreeSet<String> {
    line.as_object().unwrap().keys().cloned().collect()
}

/// The fields that docs/access-log.md explains.
fn documented() -> BTreeSet<String> {
    let document = include_str!("../../docs/access-log.md");
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.map(|row| row.split('`').next().unwrap().to_owned())
        .collect()
}

#[test]
fn one_line_in_n_of_those_that_end_well() {
    let mut world = with_json();
    apply(&world, &policy_with(HOST, &[("access-log", "1/5")]));
    succeed(&world, 11);
    world.log_at_the_end();
    assert_eq!(lines(&world, "connection closed").len(), 3);
}

#[test]
fn a_flood_of_failures_is_cut_short_in_the_log_but_counted() {
    let world = with_json();
    apply(&world, &policy("other.example.com"));
    let said = world.dialling(&[ADDRESS, "--load", "200"]).finish();
    assert_eq!(said.trim(), "ok=0 502=200 refused=0 other=0");
    let reason = ["reason=\"name_mismatch\""];
    let counted = |world: &World| world.metric("nodetls_connection_failures_total", &reason);
    world.wait("all are counted", |world| counted(world) == 200.0);
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert!(world.curl(&[URL]).ends_with("502"));
    world.wait("the last is counted", |world| counted(world) == 201.0);
    let told = |world: &World| {
        let lines = lines(world, "connection failed");
        let left_out = lines.iter().filter_map(|line| line["left_out"].as_u64());
        (lines.len() as u64, left_out.sum::<u64>())
    };
    world.wait("the rest is told of", |world| {
        let (lines, left_out) = told(world);
        lines + left_out == 201
    });
    assert!(told(&world).0 < 201, "{}", world.log());
}

#[test]
fn the_filter_is_shown_and_changed_while_the_agent_runs() {
    let mut world = with_json();
    let url = format!("{}/logging", world.admin_address());
    let ask = |words: &[&str]| {
        let mut curl = Command::new("curl");
        text(&curl.arg("-s").args(words).output().unwrap())
    };
    assert_eq!(ask(&[&url]), "info\n");
    let without = format!("{url}?level=info,access=warn");
    assert_eq!(ask(&["-X", "POST", &without]), "info,access=warn\n");
    succeed(&world, 1);
    let refused = ask(&["-X", "POST", &format!("{url}?level=access=loud")]);
    assert!(
        refused.contains("write for example info,nodetls=debug"),
        "{refused}"
    );
    assert_eq!(ask(&[&url]), "info,access=warn\n");
    ask(&["-X", "POST", &format!("{url}?level=info")]);
    succeed(&world, 1);
    world.log_at_the_end();
    assert_eq!(lines(&world, "connection closed").len(), 1);
}
