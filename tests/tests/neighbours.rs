//! What one pod or one server does at its worst is nobody else's matter.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::{Duration, Instant};

use nodetls_tests::{ADDRESS, Ca, HOST, Running, URL, World, binary};

/// Requests from another pod, which all succeed, and how long the slowest took.
#[track_caller]
fn others_are_served(world: &World, other: &str) -> Duration {
    let request = |_| {
        let started = Instant::now();
        let mut curl = world.in_netns(other, "curl");
        let answer = curl.args([
            "-s",
            "-m",
            "5",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            URL,
        ]);
        let answer = answer.output().unwrap();
        assert_eq!(String::from_utf8_lossy(&answer.stdout), "200");
        started.elapsed()
    };
    (0..20).map(request).max().unwrap()
}

#[test]
fn a_pod_that_does_its_worst_disturbs_no_other() {
    let (mut world, _ca) = World::without_agent();
    let other = world.backend.clone();
    world.agent_flags = vec!["--connections-per-netns", "40"];
    world.start_agent_for(&world.pod.replace("-pod-", "-*-"));
    others_are_served(&world, &other);
    let files = world.open_files();

    // A head and a ClientHello byte by byte, garbage; idle ones up to the limit; those beyond it, opened and abandoned.
    let drip = |send: &str| world.dialling(&[ADDRESS, "--send", send, "--each", "500"]);
    let mut bad: Vec<Running> = vec![
        drip("GET / HTTP/1.1\\r\\nHost: abcdefghijklmnopqrstuvwxyz"),
        drip("\u{16}\u{3}\u{1}\u{1}\u{1}\u{1}abcdefghijklmnopqrstuvwxyz"),
        world.dialling(&[ADDRESS, "--send", "\u{1}\u{2}garbage", "--patience", "60"]),
        world.dialling(&[ADDRESS, "--hold", "100"]),
    ];
    let rejected = |world: &World| world.metric("nodetls_rejected_connections_total", &[]);
    world.wait("the pod is at its limit", |world| rejected(world) > 50.0);
    let abandon = "while :; do \"$0\" \"$1\" --leave > /dev/null; done";
    let mut abandoning = world.in_pod("sh");
    abandoning.args(["-c", abandon, &binary("dial"), ADDRESS]);
    bad.push(Running::talking(abandoning));
    let before = rejected(&world);
    world.wait("it goes on and on", |world| rejected(world) > before + 20.0);

    let slowest = others_are_served(&world, &other);
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    assert!(world.open_files() <= files + 2 * 40 + 20, "{files}");
    drop(bad);
    world.wait("nothing is left of it", |world| {
        world.metric("nodetls_open_connections", &[]) == 0.0 && world.open_files() <= files
    });
}

#[test]
fn a_pod_that_has_its_share_of_the_node_leaves_places_to_others() {
    let (mut world, _ca) = World::without_agent();
    let other = world.backend.clone();
    // 20 connections of 256 KiB, and as much again.
    world.agent_flags = vec!["--memory-limit", "10485760"];
    world.start_agent_for(&world.pod.replace("-pod-", "-*-"));
    let rejected = |world: &World| world.metric("nodetls_rejected_connections_total", &[]);
    let _held = world.dialling(&[ADDRESS, "--hold", "50"]);
    world.wait("the pod has its share", |world| rejected(world) == 35.0);
    others_are_served(&world, &other);
    assert_eq!(rejected(&world), 35.0);
}

#[test]
fn a_pod_that_scans_ids_and_ports_disturbs_no_other_and_floods_no_log() {
    let (mut world, _ca) = World::without_agent();
    let other = world.backend.clone();
    world.start_agent_for(&world.pod.replace("-pod-", "-*-"));
    others_are_served(&world, &other);
    world.wait("their lines", |world| {
        world.log().matches("connection closed").count() == 20
    });
    let (files, lines) = (world.open_files(), world.log().lines().count());
    // No id but 1 is given: 20 are scanned, at 500 ports each.
    let mut scan = world.dialling(&["127.128.0.2:1", "--scan", "20"]);
    let slowest = others_are_served(&world, &other);
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    scan.read_until("scanned: 10000");
    world.wait("nothing is left of it", |world| {
        let unknown = world.metric("nodetls_unknown_target_connections_total", &[]);
        unknown == 10_000.0 && world.open_files() <= files
    });
    let lines = world.log().lines().count() - lines;
    assert!(lines < 50, "{lines} lines");
}

#[test]
fn a_server_that_renegotiates_ends_its_own_connection_only() {
    let ca = Ca::new("ca");
    let mut server = None;
    let world = World::serving(&ca, |world| {
        let command = world.s_server(&ca.sign(HOST), 8443, "-tls1_2");
        server = Some(world.serve_talking(command, 8443));
    });
    let mut server = server.unwrap();
    // It serves one at a time: that the next one is served shows that the one before has ended.
    for _ in 0..3 {
        let mut client = world.dialling(&[ADDRESS, "--talk", "--patience", "20"]);
        client.say("hello\n");
        server.say("before\n");
        client.read_until("before");
        let started = Instant::now();
        // openssl-s_server(1): R asks for a new handshake. We decline it (RFC 5246 section 7.2.2), and it gives up.
        server.say("R\n");
        client.read_until("error: ConnectionReset");
        assert!(started.elapsed() < Duration::from_secs(5));
    }
    world.wait("each is told of", |world| {
        world.log().matches("reason=\"alert\"").count() == 3
    });
    assert_eq!(world.metric("nodetls_open_connections", &[]), 0.0);
}
