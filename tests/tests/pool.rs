//! HTTP/1 clients of a pod share connections to a server: one after the other, and only where nobody can tell but by the
//! time it takes.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use nodetls_tests::{ADDRESS, Ca, HOST, URL, World, config_map, ip, policy_with};

/// Tells which of nginx's connections it is, which of its requests, and what it says of the connection.
const TELL: &str = "default_type text/plain; \
    location / { return 200 \"$connection $connection_requests [$http_connection]\"; }";

/// nginx's answer: connection, request, the request's Connection header.
#[derive(Debug, PartialEq, Eq)]
struct Told(u32, u32, String);

fn nginx(directives: &str) -> (World, Ca) {
    let ca = Ca::new("ca");
    let directives = format!("{directives} {TELL}");
    let world = World::serving(&ca, |world| {
        world.nginx_tls(&ca.sign(HOST), 8443, &directives)
    });
    (world, ca)
}

#[track_caller]
fn ask(world: &World, arguments: &[&str]) -> Told {
    let answer = world.curl(&[&[URL], arguments].concat());
    let words = answer
        .strip_suffix("\n200")
        .map(|body| body.split(' ').collect::<Vec<_>>());
    let Some([connection, request, said]) = words.as_deref() else {
        panic!("{answer}\n{}", world.log());
    };
    Told(
        connection.parse().unwrap(),
        request.parse().unwrap(),
        (*said).to_owned(),
    )
}

fn reused(world: &World) -> f64 {
    world.metric(
        "nodetls_reused_connections_total",
        &["service=\"tls-backend\""],
    )
}

fn at_rest(world: &World) -> f64 {
    world.metric("nodetls_pooled_connections", &[])
}

#[test]
fn a_connection_left_at_rest_serves_the_next_client() {
    let (world, _ca) = nginx("");
    let Told(connection, 1, _) = ask(&world, &[]) else {
        panic!("not the first request");
    };
    world.wait("it is at rest", |world| at_rest(world) == 1.0);
    assert_eq!(ask(&world, &[]), Told(connection, 2, "[]".to_owned()));
    // Two requests of a client that keeps its connection.
    let answer = world.curl(&[URL, URL]);
    assert!(
        answer.contains(&format!("{connection} 3 []"))
            && answer.contains(&format!("{connection} 4 []")),
        "{answer}"
    );
    assert_eq!(reused(&world), 2.0);
    world.wait("they are told apart in the log", |world| {
        world
            .log()
            .lines()
            .filter(|line| line.contains("reused=true"))
            .count()
            == 2
    });
    let handshakes = world.metric("nodetls_tls_handshakes_total", &["result=\"ok\""]);
    assert_eq!(handshakes, 1.0);
    world.wait("at last it is closed", |world| at_rest(world) == 0.0);
    let Told(another, 1, _) = ask(&world, &[]) else {
        panic!("not the first request");
    };
    assert_ne!(another, connection);
}

#[test]
fn a_pod_s_connections_are_its_own() {
    let (mut world, _ca) = nginx("");
    world.kill_agent();
    let pattern = format!("{}*", world.pod);
    world.start_agent_for(&pattern);
    let (pod, other) = (&world.pod, world.neighbour());
    world.wait("both are enrolled", |world| {
        world.metric("nodetls_pods_enrolled", &[]) == 2.0
    });
    let connection = |netns: &str| {
        let mut curl = world.in_netns(netns, "curl");
        let output = curl.args(["-s", URL]).output().unwrap();
        let answer = String::from_utf8(output.stdout).unwrap();
        answer.split(' ').next().unwrap().to_owned()
    };
    let first = connection(pod);
    world.wait("it is at rest", |world| at_rest(world) == 1.0);
    let second = connection(&other);
    assert_ne!(first, second);
    assert_eq!(connection(pod), first);
    assert_eq!(connection(&other), second);
    ip(&format!("netns del {other}"));
    world.wait("those of a pod that is gone are closed", |world| {
        at_rest(world) <= 1.0
    });
}

#[test]
fn a_client_that_wants_its_connection_closed_has_it_closed_and_the_server_s_stays() {
    let (world, _ca) = nginx("");
    let Told(connection, ..) = ask(&world, &["-H", "Connection: close"]);
    // Without a word of the server's the client's connection ends.
    let closing = "GET / HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\n\\r\\n";
    let answer = world.dial(&[ADDRESS, "--send", closing]);
    assert!(answer.contains(&format!("{connection} 2 []")), "{answer}");
    assert!(
        answer.ends_with("closed\n") || !answer.contains("error"),
        "{answer}"
    );
    assert_eq!(ask(&world, &[]), Told(connection, 3, "[]".to_owned()));
}

/// As a rule all of it is written, and the connection closed, long before the client has read it.
#[test]
fn a_slow_client_that_wants_its_connection_closed_gets_its_whole_answer() {
    const SIZE: usize = 2 * 1024 * 1024;
    let (world, _ca) = nginx("location /big { }");
    fs::write(world.dir.path().join("big"), vec![b'x'; SIZE]).unwrap();
    ask(&world, &[]);
    let mut curl = world.in_netns(&world.pod, "curl");
    curl.args(["-sS", "--limit-rate", "1M", "-H", "Connection: close"]);
    let output = curl.arg(format!("http://{ADDRESS}/big")).output().unwrap();
    assert_eq!(output.stdout.len(), SIZE, "{:?}", output.stderr);
    assert!(output.status.success(), "{}", world.log());
    world.wait("the server's connection is at rest", |world| {
        at_rest(world) == 1.0
    });
}

/// Its connection is closed for it, although what the server says makes its own no good for others.
#[test]
fn a_client_that_wants_its_connection_closed_never_waits_for_the_server() {
    let (world, _ca) = nginx("add_header WWW-Authenticate Negotiate;");
    let closing = "GET / HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\n\\r\\n";
    for _ in 0..2 {
        let answer = world.dial(&[ADDRESS, "--send", closing]);
        assert!(
            answer.contains(" 1 []") && !answer.contains("error"),
            "{answer}"
        );
    }
    assert_eq!(at_rest(&world), 0.0);
}

#[test]
fn what_must_not_share_a_connection_has_its_own() {
    let (world, _ca) = nginx("");
    let Told(mut connection, ..) = ask(&world, &[]);
    let mut own = |arguments: &[&str]| {
        world.wait("one is at rest", |world| at_rest(world) > 0.0);
        let Told(other, request, _) = ask(&world, arguments);
        assert_ne!(other, connection, "{arguments:?}");
        assert_eq!(request, 1, "{arguments:?}");
        connection = other;
    };
    // What can't be sent again might be lost on a connection that the server closes at that moment.
    own(&["-d", "body"]);
    own(&["-X", "DELETE"]);
    let (world, _ca) = nginx("");
    ask(&world, &[]);
    // What stands for who uses it is not left to others.
    let Told(connection, ..) = ask(&world, &["-H", "Authorization: Negotiate YII"]);
    let Told(other, ..) = ask(&world, &[]);
    assert_ne!(other, connection);
    let Told(connection, ..) = ask(&world, &["-0"]);
    let Told(other, ..) = ask(&world, &[]);
    assert_ne!(other, connection);
}

#[test]
fn another_policy_s_connections_are_its_own() {
    let (world, ca) = nginx("");
    let Told(connection, ..) = ask(&world, &[]);
    let before = world.metric("nodetls_config_generation", &[]);
    let next = |world: &World| world.metric("nodetls_config_generation", &[]) > before;
    world.manifest(
        "ca.yaml",
        &config_map("example-ca", &format!("{}{}", Ca::new("new").pem, ca.pem)),
    );
    world.wait("the CA is in force", next);
    world.wait("the old connection is closed", |world| {
        at_rest(world) == 0.0
    });
    let Told(other, request, _) = ask(&world, &[]);
    assert_ne!(other, connection);
    assert_eq!(request, 1);

    let before = world.metric("nodetls_config_generation", &[]);
    let next = |world: &World| world.metric("nodetls_config_generation", &[]) > before;
    world.manifest(
        "policy.yaml",
        &policy_with(HOST, &[("http-pooling", "off")]),
    );
    world.wait("the option is in force", next);
    let Told(connection, ..) = ask(&world, &[]);
    let Told(other, ..) = ask(&world, &[]);
    assert_ne!(other, connection);
    assert_eq!(at_rest(&world), 0.0);
}

#[test]
fn a_server_that_closes_a_connection_at_rest_costs_nobody_a_request() {
    let (world, _ca) = nginx("keepalive_timeout 1s;");
    let Told(connection, ..) = ask(&world, &[]);
    sleep(Duration::from_millis(1500));
    let Told(other, 1, _) = ask(&world, &[]) else {
        panic!("not the first request");
    };
    assert_ne!(other, connection);
    // At the moment when the request comes.
    let ca = Ca::new("ca");
    let world = World::serving(&ca, |world| {
        let mut server = world.tls_server("hostile", &ca.sign(HOST), 8443);
        server.arg("once");
        world.serve(server, 8443);
    });
    for _ in 0..5 {
        assert_eq!(world.curl(&[URL]), "once\n\n200");
        world.wait("it is at rest", |world| at_rest(world) == 1.0);
    }
    assert_eq!(world.metric("nodetls_connection_failures_total", &[]), 0.0);
    assert_eq!(
        world.metric("nodetls_tls_handshakes_total", &["result=\"ok\""]),
        5.0
    );
}

#[test]
fn nothing_is_left_at_rest_that_is_not() {
    let (world, _ca) = World::with_echo();
    // The client goes in the middle of the answer; of its request; after an upgrade.
    world.curl(&[
        "-m",
        "1",
        "--limit-rate",
        "1000",
        "http://10.96.0.10:443/bytes/9000000",
    ]);
    let half = "POST /echo HTTP/1.1\\r\\nHost: a\\r\\nContent-Length: 5\\r\\n\\r\\nab";
    world.dial(&[ADDRESS, "--send", half, "--leave"]);
    let upgrade = "GET /upgrade HTTP/1.1\\r\\nHost: a\\r\\nConnection: Upgrade\\r\\nUpgrade: a\\r\\n\\r\\nabc";
    world.dial(&[ADDRESS, "--send", upgrade, "--first"]);
    world.wait("all have ended", |world| {
        world.metric("nodetls_connections_closed_total", &[]) == 3.0
    });
    assert_eq!(at_rest(&world), 0.0);
    // Many requests, answers of all sizes.
    for bytes in [0, 1, 16_384, 1_000_000] {
        let url = format!("http://10.96.0.10:443/bytes/{bytes}");
        for _ in 0..3 {
            let answer = world.curl(&[&url]);
            assert_eq!(answer.len(), bytes + "\n200".len());
        }
    }
    assert_eq!(reused(&world), 11.0);
}
