//! Peers that mean harm, or are only broken: bounded in time, memory and descriptors, and never without a reason.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use nodetls_tests::{ADDRESS, Ca, HOST, Identity, Running, URL, World, binary, text};

const GET: &str = "GET / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n";

/// The failures for `reason` come to be `count`.
fn counted(world: &World, reason: &str, count: f64) {
    let label = format!("reason=\"{reason}\"");
    world.wait(&format!("{count} times {reason}"), |world| {
        world.metric("nodetls_connection_failures_total", &[&label]) == count
    });
}

fn open_connections(world: &World) -> f64 {
    world.metric("nodetls_open_connections", &[])
}

/// Clock ticks (10 ms) that the agent has computed for.
fn cpu_ticks(world: &World) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", world.agent().id())).unwrap();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split(' ').collect();
    // proc(5): 14 and 15 of all, utime and stime; the first two are cut off.
    fields[12].parse::<u64>().unwrap() + fields[13].parse::<u64>().unwrap()
}

/// Peak memory, KiB.
fn peak_memory(world: &World) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", world.agent().id())).unwrap();
    let peak = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    peak.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// What `server` does ends within the time limits, with this reason; the agent takes no more memory for it.
fn harmless(server: &str, reason: &str, serve: impl FnOnce(&mut World, &Identity)) {
    let ca = Ca::new("ca");
    let world = World::serving(&ca, |world| serve(world, &ca.sign(HOST)));
    let memory = peak_memory(&world);
    let started = Instant::now();
    for client in ["--http1.1", "--http2-prior-knowledge"] {
        let answer = world.curl(&[client, URL]);
        assert!(
            answer.ends_with("\n502"),
            "{server}: {answer}\n{}",
            world.log()
        );
    }
    let took = started.elapsed();
    assert!(took < Duration::from_secs(5), "{server}: {took:?}");
    counted(&world, reason, 2.0);
    let more = peak_memory(&world).saturating_sub(memory);
    assert!(more < 20 * 1024, "{server}: {more} KiB more");
    world.wait("none is open", |world| open_connections(world) == 0.0);
}

fn hostile(harm: &str, reason: &str) {
    harmless(harm, reason, |world, identity| {
        world.agent_flags = vec!["--handshake-timeout", "1"];
        serve_hostile(world, harm, identity)
    });
}

fn serve_hostile(world: &mut World, harm: &str, identity: &Identity) {
    let mut server = world.tls_server("hostile", identity, 8443);
    server.arg(harm);
    world.serve(server, 8443);
}

#[test]
fn garbage_instead_of_tls() {
    hostile("garbage", "plaintext_server");
}

#[test]
fn alerts_without_end() {
    hostile("alerts", "protocol_error");
}

#[test]
fn a_handshake_message_without_end() {
    hostile("handshake", "protocol_error");
}

#[test]
fn change_cipher_spec_without_end() {
    hostile("change-cipher-spec", "protocol_error");
}

#[test]
fn a_handshake_byte_by_byte() {
    hostile("trickle", "handshake_timeout");
}

#[test]
fn records_that_nobody_encrypted() {
    hostile("corrupt", "protocol_error");
}

#[test]
fn key_updates_without_end() {
    hostile("key-updates", "protocol_error");
}

#[test]
fn ten_thousand_session_tickets() {
    hostile("tickets", "protocol_error");
}

#[test]
fn a_chain_of_100_kib() {
    harmless("chain", "protocol_error", |world, identity| {
        let mut chain = identity.certificate.clone();
        // Base64 takes four thirds.
        while chain.len() < 100 * 1024 * 4 / 3 {
            chain.push_str(&Ca::new("intermediate").pem);
        }
        world.file("chain.crt", &chain);
        let options = "-www -alpn h2,http/1.1 -cert_chain chain.crt";
        let server = world.s_server(identity, 8443, options);
        world.serve(server, 8443);
    });
}

#[test]
fn records_that_nobody_encrypted_after_the_answer_has_begun() {
    let ca = Ca::new("ca");
    let world = World::serving(&ca, |world| {
        serve_hostile(world, "corrupt-later", &ca.sign(HOST))
    });
    let answer = world.dial(&[ADDRESS, "--send", GET]);
    assert!(answer.contains("begun"), "{answer}");
    assert!(
        answer.contains("error: ConnectionReset"),
        "a cut is no clean end: {answer}"
    );
    counted(&world, "protocol_error", 1.0);
}

#[test]
fn a_client_that_leaves_takes_its_handshake_along_but_one_that_is_half_closed_stays() {
    let world = World::serving(&Ca::new("ca"), |world| {
        world.agent_flags = vec!["--handshake-timeout", "60"];
        let silent = world.in_backend(&binary("silent"));
        world.serve(silent, 8443);
    });
    let files = world.open_files();
    let send = ["--send", GET, "--patience", "60"];
    let dialling = |arguments: &[&str]| world.dialling(&[&[ADDRESS], arguments].concat());
    let half_closed = dialling(&[&["--half-close"], &send[..]].concat());
    let clients: Vec<Running> = (0..10)
        .map(|number| match number % 2 {
            0 => dialling(&send),
            _ => dialling(&["--patience", "60"]),
        })
        .collect();
    world.wait("all handshakes hang", |world| {
        upstream_connections(world) == 11 && open_connections(world) == 11.0
    });
    let started = Instant::now();
    drop(clients);
    world.wait("the clients' handshakes are dropped", |world| {
        upstream_connections(world) == 1 && open_connections(world) == 1.0
    });
    assert!(
        started.elapsed() < Duration::from_secs(3),
        "{:?}",
        started.elapsed()
    );
    counted(&world, "client_gone", 10.0);
    thread::sleep(Duration::from_millis(500));
    assert_eq!(
        world.metric("nodetls_open_connections", &[]),
        1.0,
        "half-closed"
    );
    drop(half_closed);
    world.wait("nothing is left", |world| {
        upstream_connections(world) == 0 && world.open_files() <= files
    });
    counted(&world, "client_gone", 11.0);
}

#[test]
fn what_a_client_said_before_it_left_reaches_the_server_unless_it_asked_for_an_answer() {
    let ca = Ca::new("ca");
    let world = World::serving(&ca, |world| {
        world.agent_flags = vec!["--handshake-timeout", "60"];
        serve_hostile(world, "late", &ca.sign(HOST))
    });
    let said = |world: &World, word: &str| {
        let log = fs::read_to_string(world.dir.path().join("server-0.log")).unwrap();
        log.contains(&format!("said: {word}"))
    };
    let sent = world.dial(&[ADDRESS, "--send", "marked 1\\n", "--leave"]);
    assert!(!sent.contains("error"), "{sent}");
    world.wait("what was said arrives", |world| said(world, "marked 1"));
    world.dial(&[ADDRESS, "--send", GET, "--leave"]);
    counted(&world, "client_gone", 1.0);
    assert!(!said(&world, "GET"));
}

/// Established connections at the backend.
fn upstream_connections(world: &World) -> usize {
    let output = world
        .in_backend("ss")
        .args(["-Hnt", "state", "established", "sport = :8443"])
        .output();
    output
        .unwrap()
        .stdout
        .iter()
        .filter(|byte| **byte == b'\n')
        .count()
}

#[test]
fn a_head_of_1_mib_is_not_kept() {
    let (world, _ca) = World::with_echo();
    // What any first request takes: code, buffers, a session.
    assert!(world.curl(&[URL]).ends_with("200"));
    let memory = peak_memory(&world);
    let script = r#"{ printf 'GET / HTTP/1.1\r\nHost: a\r\nx: '; head -c 1048576 /dev/zero | tr '\0' x; printf '\r\n\r\n'; } | "$0" "$1" --talk"#;
    let client = |_| {
        let mut client = world.in_pod("sh");
        client.args(["-c", script, &binary("dial"), ADDRESS]);
        client.stdout(Stdio::piped()).spawn().unwrap()
    };
    let clients: Vec<_> = (0..16).map(client).collect();
    for client in clients {
        let answer = text(&client.wait_with_output().unwrap());
        assert!(answer.contains("HTTP/1.1 431 "), "{answer}");
    }
    counted(&world, "client_limit", 16.0);
    // Half of what they sent: the allocator takes 2 MiB at a time from the kernel.
    let more = peak_memory(&world).saturating_sub(memory);
    assert!(more < 8 * 1024, "{more} KiB more");
}

#[test]
fn a_netns_has_a_limit_of_open_connections() {
    let (mut world, _ca) = World::with_echo();
    world.kill_agent();
    world.agent_flags = vec!["--connections-per-netns", "5"];
    world.start_agent();
    let held = world.dialling(&[ADDRESS, "--hold", "5"]);
    world.wait("five are open", |world| open_connections(world) == 5.0);
    for _ in 0..3 {
        let answer = world.dial(&[ADDRESS, "--send", GET]);
        let reset = ["ConnectionReset", "NotConnected", "BrokenPipe"];
        assert!(reset.iter().any(|kind| answer.contains(kind)), "{answer}");
    }
    let label = ["reason=\"netns_limit\""];
    assert_eq!(
        world.metric("nodetls_rejected_connections_total", &label),
        3.0
    );
    assert_eq!(world.log().matches("too many open connections").count(), 1);
    drop(held);
    world.wait("none is open", |world| open_connections(world) == 0.0);
    assert!(world.curl(&[URL]).ends_with("200"));
}

#[test]
fn when_files_run_short_more_connections_are_reset_and_open_ones_go_on() {
    let (mut world, _ca) = World::with_echo();
    world.kill_agent();
    // It raises the soft limit to the hard one.
    world.file_limit = Some("50:400");
    world.start_agent();
    let exchange = world.exchange();
    let held = world.dialling(&[ADDRESS, "--hold", "300"]);
    world.wait("more are reset", |world| {
        rejected(world, "open_files") > 100.0
    });
    let before = cpu_ticks(&world);
    thread::sleep(Duration::from_secs(2));
    let ticks = cpu_ticks(&world) - before;
    assert!(ticks < 20, "{ticks}0 ms of CPU in 2 s");
    assert!(world.open_files() < 400);
    let log = world.log();
    assert_eq!(
        log.matches("too many open connections on this node")
            .count(),
        1,
        "{log}"
    );
    world.end_of_exchange(exchange);
    drop(held);
    world.wait("it serves again", |world| {
        world.curl(&["-m", "1", URL]).ends_with("200")
    });
    assert_eq!(world.metric("nodetls_accept_errors_total", &[]), 0.0);
}

#[test]
fn when_memory_would_run_short_more_connections_are_reset_and_open_ones_go_on() {
    let (mut world, _ca) = World::with_echo();
    world.kill_agent();
    // 20 of 256 KiB, and as much again.
    world.agent_flags = vec!["--memory-limit", "10485760"];
    world.start_agent();
    let exchange = world.exchange();
    let held = world.dialling(&[ADDRESS, "--hold", "50"]);
    world.wait("more are reset", |world| rejected(world, "memory") == 36.0);
    assert!(world.curl(&[URL]).ends_with("000"));
    assert!(
        world
            .log()
            .contains("more of this netns are reset (--memory-limit)")
    );
    world.end_of_exchange(exchange);
    drop(held);
    world.wait("it serves again", |world| {
        world.curl(&["-m", "1", URL]).ends_with("200")
    });
}

fn rejected(world: &World, reason: &str) -> f64 {
    let reason = format!("reason=\"{reason}\"");
    world.metric("nodetls_rejected_connections_total", &[&reason])
}
