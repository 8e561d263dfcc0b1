//! What can't be secured fails, with a reason, and never as plaintext.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nodetls_tests::{
    CLUSTER_IP, Ca, World, binary as program, config_map, occurrences, policy, service,
};

const URL: &str = "http://10.96.0.10:443/get";
const ADDRESS: &str = "10.96.0.10:443";

/// A policy for what `serve` starts on port 8443; what curl says, and the reason that was counted.
fn refused(reason: &str, ca: &Ca, hostname: &str, serve: impl FnOnce(&mut World)) {
    let mut world = World::new();
    serve(&mut world);
    world.manifest(
        "service.yaml",
        &service("tls-backend", CLUSTER_IP, 443, 8443),
    );
    world.manifest("ca.yaml", &config_map("example-ca", &ca.pem));
    world.manifest("policy.yaml", &policy(hostname));
    world.start_agent();
    let answer = world.curl(&[URL]);
    assert!(answer.ends_with("502"), "{reason}: {answer}");
    assert!(
        !answer.contains("certificate"),
        "the client is told no more than that: {answer}"
    );
    let label = format!("reason=\"{reason}\"");
    assert_eq!(
        world.metric("nodetls_connection_failures_total", &[&label]),
        1.0,
        "{}",
        world.log()
    );
    assert!(world.log().contains(reason));
    // A client that is not HTTP sees a reset, not a clean end.
    let answer = world.dial(&[ADDRESS, "--send", "\u{1}binary"]);
    assert!(
        answer.contains("error: ConnectionReset"),
        "{reason}: {answer}"
    );
    let answer = world.curl(&["-I", URL]);
    assert!(answer.ends_with("502"), "HEAD: {answer}");
}

fn echo(ca: &Ca, name: &str, days: i64) -> impl FnOnce(&mut World) + use<> {
    let (certificate, key) = ca.sign(name, days);
    move |world| world.echo(&certificate, &key, "0.0.0.0:8443")
}

#[test]
fn unknown_ca() {
    refused(
        "unknown_ca",
        &Ca::new("trusted"),
        "www.example.com",
        echo(&Ca::new("other"), "www.example.com", 1),
    );
}

#[test]
fn name_mismatch() {
    let ca = Ca::new("ca");
    refused(
        "name_mismatch",
        &ca,
        "other.example.com",
        echo(&ca, "www.example.com", 1),
    );
}

#[test]
fn expired() {
    let ca = Ca::new("ca");
    refused(
        "expired",
        &ca,
        "www.example.com",
        echo(&ca, "www.example.com", -1),
    );
}

#[test]
fn nothing_listens() {
    refused("refused", &Ca::new("ca"), "www.example.com", |_| {});
}

#[test]
fn plaintext_server() {
    refused(
        "plaintext_server",
        &Ca::new("ca"),
        "www.example.com",
        |world| {
            let dir = world.dir.path().display().to_string();
            let config = world.file("nginx.conf", &format!(
            "daemon off; master_process off; pid {dir}/nginx.pid; error_log {dir}/nginx.err; user root; events {{}}\n\
             http {{ access_log off; server {{ listen 8443; root {dir}; }} }}\n"
        ));
            let mut nginx = world.in_backend("nginx");
            nginx.arg("-c").arg(config);
            world.serve(nginx, "0.0.0.0:8443");
        },
    );
}

#[test]
fn handshake_timeout() {
    // Accepts, reads, and never answers.
    refused(
        "handshake_timeout",
        &Ca::new("ca"),
        "www.example.com",
        |world| {
            let silent = world.in_backend(&program("silent"));
            world.serve(silent, "0.0.0.0:8443");
        },
    );
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
        world.wait("503", |world| world.curl(&[URL]).ends_with("503"));
        assert!(world.log().contains(message), "{message}");
        world.manifest("ca.yaml", &config_map("example-ca", &ca.pem));
        world.manifest("policy.yaml", &policy("www.example.com"));
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
fn a_killed_agent_means_refused_and_a_restart_picks_up() {
    let (mut world, _ca) = World::with_echo();
    assert!(world.curl(&[URL]).ends_with("200"));
    world.kill_agent();
    let wire = world.capture(|world| {
        // Also with another process of the pod listening on the port.
        let mut other = world.in_pod(&program("silent")).spawn().unwrap();
        thread::sleep(Duration::from_millis(200));
        for _ in 0..20 {
            assert!(
                world
                    .dial(&[ADDRESS, "--send", "marked"])
                    .contains("error: ConnectionRefused")
            );
        }
        other.kill().unwrap();
        other.wait().unwrap();
    });
    assert_eq!(occurrences(&wire, "marked"), 0);
    world.start_agent();
    assert!(world.curl(&[URL]).ends_with("200"));
}

#[test]
fn what_was_a_target_is_not_plaintext_after_a_restart_with_an_unreadable_manifest() {
    let (mut world, _ca) = World::with_echo();
    world.kill_agent();
    world.manifest("policy.yaml", "kind: [");
    let manifests = world.dir.path().join("manifests");
    let _agent = world.start_beside(&manifests);
    world.wait("it publishes what it can", |world| {
        world.log().matches("published targets=").count() == 2
    });
    let answer = world.dial(&[ADDRESS, "--send", "GET / HTTP/1.1\\r\\n\\r\\n"]);
    assert!(is_reset(&answer), "{answer}");
    world.manifest("policy.yaml", &policy("www.example.com"));
    world.wait("served again", |world| world.curl(&[URL]).ends_with("200"));
}

#[test]
fn our_own_netns_is_never_enrolled_nor_forgotten() {
    let (mut world, _ca) = World::with_echo();
    world.kill_agent();
    world.start_agent_for(&format!("{}*", world.pod));
    let name = format!("{}-own", world.pod);
    let pid = std::process::id().to_string();
    let ip = |arguments: &[&str]| {
        assert!(
            Command::new("ip")
                .args(arguments)
                .status()
                .unwrap()
                .success()
        );
    };
    let bypassed = |world: &World| {
        let mut dial = world.in_cgroup(&program("dial"));
        dial.args([ADDRESS, "--nonblocking"]).output().unwrap();
        world.metric("nodetls_ebpf_connects_total", &["bypassed", "\"netns\""])
    };
    ip(&["netns", "attach", &name, &pid]);
    // A later netns shows that the agent has seen the name.
    let late = format!("{}-late", world.pod);
    ip(&["netns", "add", &late]);
    world.wait("seen", |world| {
        world.metric("nodetls_pods_enrolled", &[]) == 2.0
    });
    let first = bypassed(&world);
    ip(&["netns", "del", &name]);
    ip(&["netns", "del", &late]);
    world.wait("gone", |world| {
        world.metric("nodetls_pods_enrolled", &[]) == 1.0
    });
    assert_eq!(first, 1.0);
    assert_eq!(bypassed(&world), 2.0);
}

#[test]
fn connect_timeout() {
    // Nobody answers for the endpoint's address.
    refused(
        "connect_timeout",
        &Ca::new("ca"),
        "www.example.com",
        |world| {
            let mut flush = world.in_backend("ip");
            assert!(
                flush
                    .args(["addr", "flush", "dev", "eth0"])
                    .status()
                    .unwrap()
                    .success()
            );
        },
    );
}

#[test]
fn no_ready_endpoint_answers_503() {
    let (world, _ca) = World::with_echo();
    let none = service("tls-backend", CLUSTER_IP, 443, 8443).replace(
        "- addresses: [10.99.0.2]",
        "- addresses: [10.99.0.2]\n  conditions: {ready: false}",
    );
    world.manifest("service.yaml", &none);
    world.wait("503", |world| world.curl(&[URL]).ends_with("503"));
    assert!(world.metric("nodetls_connection_failures_total", &["no_endpoints"]) >= 1.0);
}

#[test]
fn a_second_sigterm_ends_at_once() {
    let (mut world, _ca) = World::with_echo();
    let mut open = world.in_pod(&program("dial"));
    open.args([ADDRESS, "--send", "GET / HTTP/1.1"])
        .stdout(std::process::Stdio::piped());
    let open = open.spawn().unwrap();
    world.wait("a connection is open", |world| {
        world.metric("nodetls_open_connections", &[]) == 1.0
    });
    world.terminate_agent();
    world.wait("it drains", |world| world.log().contains("draining"));
    thread::sleep(Duration::from_millis(200));
    let started = Instant::now();
    world.terminate_agent();
    assert!(world.wait_agent());
    assert!(
        started.elapsed() < Duration::from_secs(3),
        "{:?}",
        started.elapsed()
    );
    let output = open.wait_with_output().unwrap();
    let answer = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        answer.contains("ConnectionReset"),
        "cut off is not a clean end: {answer}"
    );
    assert!(world.log().contains("shut_down"));
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
fn a_netns_that_appears_later_is_enrolled_and_released_when_it_goes() {
    let (mut world, _ca) = World::with_echo();
    world.kill_agent();
    let pattern = format!("{}*", world.pod);
    world.start_agent_for(&pattern);
    let late = format!("{}-late", world.pod);
    let netns = |verb: &str| {
        assert!(
            Command::new("ip")
                .args(["netns", verb, &late])
                .status()
                .unwrap()
                .success()
        );
    };
    netns("add");
    world.wait("the new netns is enrolled", |world| {
        world.metric("nodetls_pods_enrolled", &[]) == 2.0
    });
    netns("del");
    world.wait("it is released", |world| {
        world.metric("nodetls_pods_enrolled", &[]) == 1.0
    });
    assert!(world.curl(&[URL]).ends_with("200"));
}

#[test]
fn sigterm_lets_open_connections_end() {
    let (mut world, _ca) = World::with_echo();
    let mut slow = world.in_pod("curl");
    slow.args([
        "-s",
        "-m",
        "20",
        "--limit-rate",
        "3M",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code} %{size_download}",
    ]);
    let slow = slow
        .arg("http://10.96.0.10:443/bytes/9000000")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    world.wait("the download has begun", |world| {
        world.metric("nodetls_received_bytes_total", &[]) > 0.0
    });
    world.terminate_agent();
    world.wait("new connections are refused", |world| {
        world.dial(&[ADDRESS]).contains("ConnectionRefused")
    });
    let output = slow.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "200 9000000");
    assert!(world.wait_agent());
}

#[test]
fn ten_thousand_connections_while_the_ca_is_replaced() {
    let (mut world, ca) = World::with_echo();
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
