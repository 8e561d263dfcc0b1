//! Plain clients in a pod, TLS on the wire: every protocol, every kind of client.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nodetls_tests::{
    ADDRESS, BACKEND_IP, CLUSTER_IP, Ca, HOST, POD_IP, URL, World, binary, occurrences,
    service_without_slice,
};

const GET: &str = "GET /get HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\n\\r\\n";

#[test]
fn a_plain_client_is_secured_and_a_removed_policy_is_plaintext_again() {
    let (mut world, _ca) = World::with_echo();
    let mut answer = String::new();
    let wire = world.capture(|world| answer = world.curl(&["-H", "X-Mark: marked-plaintext", URL]));
    assert!(
        answer.contains("\"serverName\": \"www.example.com\"") && answer.ends_with("200"),
        "{answer}"
    );
    assert!(
        answer.contains("\"negotiatedProtocol\": \"http/1.1\""),
        "{answer}"
    );
    assert!(wire.len() > 1000, "{} bytes captured", wire.len());
    for plaintext in ["marked-plaintext", "GET /get", "Host:"] {
        assert_eq!(
            occurrences(&wire, plaintext),
            0,
            "{plaintext} is on the wire"
        );
    }
    assert_eq!(
        world.metric("nodetls_tls_handshakes_total", &["result=\"ok\""]),
        1.0
    );

    world.remove_manifest("policy.yaml");
    world.wait("the policy is gone", |world| {
        world.metric("nodetls_targets", &[]) == 0.0
    });
    // Without a policy nobody picks the endpoint.
    world.echo(&Ca::new("other").sign(HOST), 443);
    let wire = world.capture(|world| answer = world.curl(&["-H", "X-Mark: marked-plaintext", URL]));
    assert!(
        answer.ends_with("400"),
        "a TLS server answers plaintext so: {answer}"
    );
    assert!(occurrences(&wire, "marked-plaintext") > 0);
}

/// kube-proxy leads to its endpoints for a moment longer, and clients must not get there in plaintext.
#[test]
fn a_deleted_service_keeps_its_addresses_for_a_moment() {
    let (world, _ca) = World::with_echo();
    world.remove_manifest("service.yaml");
    world.wait("the Service is gone", |world| {
        world.log().contains("TargetNotFound")
    });
    let answer = world.curl(&[URL]);
    assert!(answer.ends_with("200"), "{answer}");
    world.wait("the moment is over", |world| {
        world.metric("nodetls_targets", &[]) == 0.0
    });
}

#[test]
fn a_service_without_slices_is_dialled_by_its_own_address() {
    let (mut world, ca) = World::without_agent();
    world.echo(&ca.sign(HOST), 443);
    let alone = service_without_slice("tls-backend", CLUSTER_IP, 443, 8443);
    world.manifest("service.yaml", &alone);
    world.start_agent();
    let answer = world.curl(&[URL]);
    assert!(
        answer.contains("\"serverName\": \"www.example.com\"") && answer.ends_with("200"),
        "{answer}"
    );
    // The proxy's own connect, from the pod's netns to the targeted address.
    assert_eq!(world.connects("bypassed", "own_socket"), 1.0);
    assert_eq!(world.connects("redirected", "pod"), 1.0);
}

#[test]
fn what_is_not_covered_passes_and_is_counted() {
    let (mut world, _ca) = World::with_echo();
    world.echo(&Ca::new("other").sign(HOST), 443);
    // The backend's netns has a name that matches no pattern.
    let mut dial = world.in_netns(&world.backend, &binary("dial"));
    let output = dial.args([ADDRESS, "--send", GET]).output().unwrap();
    let answer = String::from_utf8(output.stdout).unwrap();
    assert!(answer.contains("400 Bad Request"), "{answer}");
    assert_eq!(world.connects("bypassed", "netns"), 1.0);

    let wire = world.capture(|world| {
        let mut udp = world.in_pod("bash");
        udp.args(["-c", "echo marked > /dev/udp/10.96.0.10/443"]);
        assert!(udp.status().unwrap().success());
    });
    assert_eq!(occurrences(&wire, "marked"), 1);
    assert_eq!(world.connects("bypassed", "udp"), 1.0);
    assert_eq!(world.connects("redirected", "pod"), 0.0);
}

/// Looked up in copies of the agent's own descriptors: no tool shows TCP_NODELAY.
#[test]
fn both_legs_have_no_nagle_delay_and_keepalive() {
    let (world, _ca) = World::with_echo();
    let _exchange = world.exchange();
    let agent = i32::try_from(world.agent().id()).unwrap();
    let agent = rustix::process::Pid::from_raw(agent).unwrap();
    let pid_fd = rustix::process::pidfd_open(agent, rustix::process::PidfdFlags::empty()).unwrap();
    let mut legs = BTreeSet::new();
    for entry in std::fs::read_dir(format!("/proc/{agent}/fd")).unwrap() {
        let number = entry
            .unwrap()
            .file_name()
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        let flags = rustix::process::PidfdGetfdFlags::empty();
        let copy: OwnedFd = rustix::process::pidfd_getfd(&pid_fd, number, flags).unwrap();
        let stream = TcpStream::from(copy);
        let (Ok(local), Ok(peer)) = (stream.local_addr(), stream.peer_addr()) else {
            continue;
        };
        let leg = match (local.to_string().as_str(), peer.to_string().as_str()) {
            ("127.128.0.1:443", _) => "client",
            (_, "10.99.0.2:8443") => "upstream",
            _ => continue,
        };
        assert!(stream.nodelay().unwrap(), "{leg}");
        let options = socket2::SockRef::from(&stream);
        assert!(options.keepalive().unwrap(), "{leg}");
        let times = (
            options.tcp_keepalive_time(),
            options.tcp_keepalive_interval(),
        );
        let seconds = |time: std::io::Result<Duration>| time.unwrap().as_secs();
        assert_eq!((seconds(times.0), seconds(times.1)), (60, 15), "{leg}");
        legs.insert(leg);
    }
    assert_eq!(legs, BTreeSet::from(["client", "upstream"]));
}

#[test]
fn http2_with_prior_knowledge_gets_alpn_h2() {
    let (world, _ca) = World::with_echo();
    let answer = world.curl(&["--http2-prior-knowledge", URL]);
    assert!(
        answer.contains("\"negotiatedProtocol\": \"h2\"") && answer.ends_with("200"),
        "{answer}"
    );
}

#[test]
fn a_tls_client_passes_through() {
    let (world, ca) = World::with_echo();
    let ca_file = world.file("client-ca.crt", &ca.pem);
    let resolve = format!("www.example.com:443:{CLUSTER_IP}");
    let url = "https://www.example.com/get";
    let answer = world.curl(&[
        "--cacert",
        ca_file.to_str().unwrap(),
        "--resolve",
        &resolve,
        url,
    ]);
    assert!(answer.ends_with("200"), "{answer}");
    // The client's own SNI and ALPN, not the policy's.
    let url = "https://from.client.example/get";
    let resolve = format!("from.client.example:443:{CLUSTER_IP}");
    let answer = world.curl(&["-k", "--resolve", &resolve, url]);
    for seen in [
        "\"serverName\": \"from.client.example\"",
        "\"negotiatedProtocol\": \"h2\"",
    ] {
        assert!(answer.contains(seen) && answer.ends_with("200"), "{answer}");
    }
    // Its own verification: without the CA an error of its own (curl's 60).
    let mut curl = world.in_pod("curl");
    let own = curl.args(["-s", "--resolve", &resolve, url]).status();
    assert_eq!(own.unwrap().code(), Some(60));
    let passed = world.metric(
        "nodetls_passthrough_connections_total",
        &["reason=\"already_tls\""],
    );
    assert_eq!(passed, 3.0);
    assert_eq!(world.metric("nodetls_tls_handshakes_total", &[]), 0.0);
}

#[test]
fn every_kind_of_client_socket() {
    let (world, _ca) = World::with_echo();
    let answer = world.dial(&[ADDRESS, "--send", GET]);
    assert!(
        answer.contains("peer: 10.96.0.10:443") && answer.contains("200 OK"),
        "{answer}"
    );
    let answer = world.dial(&["[::ffff:10.96.0.10]:443", "--send", GET]);
    assert!(
        answer.contains("peer: [::ffff:10.96.0.10]:443") && answer.contains("200 OK"),
        "{answer}"
    );
    let answer = world.dial(&[ADDRESS, "--send", GET, "--nonblocking"]);
    assert!(answer.contains("200 OK"), "{answer}");
    let answer = world.dial(&[ADDRESS, "--send", GET, "--bind", &format!("{POD_IP}:0")]);
    assert!(answer.contains("200 OK"), "{answer}");
    let answer = world.dial(&[ADDRESS, "--send", GET, "--device", "eth0"]);
    assert!(answer.contains("error: ConnectionRefused"), "{answer}");
    let answer = world.dial(&[ADDRESS, "--send", GET, "--mptcp"]);
    assert!(answer.contains("200 OK"), "MPTCP: {answer}");
    let answer = world.dial(&[ADDRESS, "--send", GET, "--half-close"]);
    assert!(answer.contains("200 OK"), "{answer}");
    // Not a target: untouched.
    let answer = world.dial(&[&format!("{BACKEND_IP}:8443"), "--send", GET]);
    assert!(answer.contains("400 Bad Request"), "{answer}");
}

#[test]
fn first_bytes_late_or_one_at_a_time() {
    let (world, _ca) = World::with_echo();
    for slowly in [["--delay", "150"], ["--each", "10"]] {
        let answer = world.dial(&[&[ADDRESS, "--send", GET][..], &slowly].concat());
        assert!(
            answer.contains("\"negotiatedProtocol\": \"http/1.1\""),
            "{slowly:?}: {answer}"
        );
    }
}

#[test]
fn a_server_may_speak_first() {
    let ca = Ca::new("test-ca");
    let world = World::serving(&ca, |_| {});
    let serve = || {
        let server = world.s_server(&ca.sign(HOST), 8443, "-quiet");
        world.serve_talking(server, 8443)
    };

    // It has something to say before anybody connects: the client waits for our patience, 50 ms, and the handshake.
    let at_once = fastest(|| {
        let mut server = serve();
        server.say("220 ready\n");
        let answer = world.dial(&[ADDRESS, "--first"]);
        assert!(answer.contains("220 ready"), "{answer}");
        let (_, after) = answer.split_once("after: ").unwrap();
        let milliseconds = after.split(' ').next().unwrap().parse().unwrap();
        Duration::from_millis(milliseconds)
    });
    assert!(at_once < BOUND, "{at_once:?}");

    // It speaks when the connection has long been made.
    let later = fastest(|| {
        let mut server = serve();
        let handshakes = || world.metric("nodetls_tls_handshakes_total", &["ok"]);
        let before = handshakes();
        let mut client = world.dialling(&[ADDRESS, "--first"]);
        world.wait("the handshake", |_| handshakes() > before);
        let spoken = Instant::now();
        server.say("220 ready\n");
        client.read_until("220 ready");
        spoken.elapsed()
    });
    assert!(later < BOUND, "{later:?}");
}

/// How late what a server says first may reach a client.
const BOUND: Duration = Duration::from_millis(100);

/// The fastest of five: what a busy machine adds, it does not add each time; a delay of ours it would.
fn fastest(attempt: impl FnMut() -> Duration) -> Duration {
    std::iter::repeat_with(attempt).take(5).min().unwrap()
}

#[test]
fn nginx_serves_a_large_body() {
    let ca = Ca::new("test-ca");
    let body = "0123456789abcdef".repeat(500_000);
    let world = World::serving(&ca, |world| {
        world.file("body", &body);
        world.nginx_tls(&ca.sign(HOST), 8443, "");
    });
    let answer = world.curl(&["http://10.96.0.10:443/body"]);
    assert!(answer == format!("{body}\n200"), "{} bytes", answer.len());
    // Both legs are counted: the endpoint's has a handshake and records' headers and tags in it.
    let bytes = |name: &str| world.metric(&format!("nodetls_{name}_bytes_total"), &[]);
    let (plain, tls) = (bytes("received"), bytes("tls_received"));
    assert!(plain > 8_000_000.0, "{plain}");
    assert!(
        tls > plain * 1.001 && tls < plain * 1.01 + 10_000.0,
        "{plain} {tls}"
    );
    assert!(bytes("tls_sent") > bytes("sent") + 500.0);
}
