//! Peers that mean harm, or are only broken: bounded in time, memory and descriptors, and never without a reason.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nodetls_tests::{CLUSTER_IP, Ca, World, binary, config_map, policy, service};

const URL: &str = "http://10.96.0.10:443/get";
const ADDRESS: &str = "10.96.0.10:443";
const GET: &str = "GET / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n";

/// The agent with a policy for what `serve` starts on port 8443.
fn start(world: &mut World, ca: &Ca, serve: impl FnOnce(&mut World)) {
    serve(world);
    world.manifest(
        "service.yaml",
        &service("tls-backend", CLUSTER_IP, 443, 8443),
    );
    world.manifest("ca.yaml", &config_map("example-ca", &ca.pem));
    world.manifest("policy.yaml", &policy("www.example.com"));
    world.start_agent();
}

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

/// A client of the pod's that ends with the test.
struct Client(Child);

impl Client {
    fn dial(world: &World, arguments: &[&str]) -> Self {
        let mut dial = world.in_pod(&binary("dial"));
        dial.arg(ADDRESS).args(arguments).stdout(Stdio::null());
        Self(dial.spawn().unwrap())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn open_files(world: &World) -> usize {
    fs::read_dir(format!("/proc/{}/fd", world.agent_pid()))
        .unwrap()
        .count()
}

/// Clock ticks (10 ms) that the agent has computed for.
fn cpu_ticks(world: &World) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", world.agent_pid())).unwrap();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split(' ').collect();
    // proc(5): 14 and 15 of all, utime and stime; the first two are cut off.
    fields[12].parse::<u64>().unwrap() + fields[13].parse::<u64>().unwrap()
}

/// Peak memory, KiB.
fn peak_memory(world: &World) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", world.agent_pid())).unwrap();
    let peak = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    peak.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// What `server` does ends within the time limits, with this reason; the agent takes no more memory for it.
fn harmless(server: &str, reason: &str, serve: impl FnOnce(&mut World, &str, &str)) {
    let ca = Ca::new("ca");
    let (certificate, key) = ca.sign("www.example.com", 1);
    let mut world = World::new();
    start(&mut world, &ca, |world| serve(world, &certificate, &key));
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
    let more = peak_memory(&world) - memory;
    assert!(more < 20 * 1024, "{server}: {more} KiB more");
    world.wait("none is open", |world| open_connections(world) == 0.0);
}

fn hostile(harm: &str, reason: &str) {
    harmless(harm, reason, |world, certificate, key| {
        serve_hostile(world, harm, certificate, key)
    });
}

fn serve_hostile(world: &mut World, harm: &str, certificate: &str, key: &str) {
    let mut server = world.in_backend(&binary("hostile"));
    server
        .arg(harm)
        .arg("--cert")
        .arg(world.file("s.crt", certificate));
    server.arg("--key").arg(world.file("s.key", key));
    world.serve(server, "0.0.0.0:8443");
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
fn a_chain_of_100_kib() {
    harmless("chain", "protocol_error", |world, certificate, key| {
        let mut chain = certificate.to_owned();
        // Base64 takes four thirds.
        while chain.len() < 100 * 1024 * 4 / 3 {
            chain.push_str(&Ca::new("intermediate").pem);
        }
        let mut server = world.in_backend("openssl");
        server.args([
            "s_server",
            "-www",
            "-accept",
            "8443",
            "-alpn",
            "h2,http/1.1",
            "-cert",
        ]);
        server
            .arg(world.file("s.crt", certificate))
            .arg("-key")
            .arg(world.file("s.key", key));
        server
            .arg("-cert_chain")
            .arg(world.file("chain.crt", &chain));
        world.serve(server, "0.0.0.0:8443");
    });
}

#[test]
fn records_that_nobody_encrypted_after_the_answer_has_begun() {
    let ca = Ca::new("ca");
    let (certificate, key) = ca.sign("www.example.com", 1);
    let mut world = World::new();
    start(&mut world, &ca, |world| {
        serve_hostile(world, "corrupt-later", &certificate, &key)
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
    let ca = Ca::new("ca");
    let mut world = World::new();
    world.agent_flags = vec!["--handshake-timeout", "60"];
    start(&mut world, &ca, |world| {
        let silent = world.in_backend(&binary("silent"));
        world.serve(silent, "0.0.0.0:8443");
    });
    let files = open_files(&world);
    let send = ["--send", GET, "--patience", "60"];
    let half_closed = Client::dial(&world, &[&["--half-close"], &send[..]].concat());
    let clients: Vec<_> = (0..10)
        .map(|number| match number % 2 {
            0 => Client::dial(&world, &send),
            _ => Client::dial(&world, &["--patience", "60"]),
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
        upstream_connections(world) == 0 && open_files(world) <= files
    });
    counted(&world, "client_gone", 11.0);
}

#[test]
fn what_a_client_said_before_it_left_reaches_the_server_unless_it_asked_for_an_answer() {
    let ca = Ca::new("ca");
    let (certificate, key) = ca.sign("www.example.com", 1);
    let mut world = World::new();
    world.agent_flags = vec!["--handshake-timeout", "60"];
    start(&mut world, &ca, |world| {
        serve_hostile(world, "late", &certificate, &key)
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
fn a_netns_has_a_limit_of_open_connections() {
    let (mut world, _ca) = World::with_echo();
    world.kill_agent();
    world.agent_flags = vec!["--connections-per-netns", "5"];
    world.start_agent();
    let held = Client::dial(&world, &["--hold", "5"]);
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
fn without_file_descriptors_the_agent_waits_and_goes_on() {
    let (mut world, _ca) = World::with_echo();
    world.kill_agent();
    world.file_limit = Some(100);
    world.start_agent();
    let held = Client::dial(&world, &["--hold", "150"]);
    world.wait("no descriptor is left", |world| open_files(world) >= 100);
    let before = cpu_ticks(&world);
    thread::sleep(Duration::from_secs(2));
    let ticks = cpu_ticks(&world) - before;
    assert!(ticks < 20, "{ticks}0 ms of CPU in 2 s");
    let log = world.log();
    let complaints = log.matches("can't be accepted").count();
    assert!((1..=4).contains(&complaints), "{complaints}: {log}");
    drop(held);
    world.wait("it serves again", |world| {
        world.curl(&["-m", "1", URL]).ends_with("200")
    });
    assert!(world.metric("nodetls_accept_errors_total", &[]) > 0.0);
}
