//! What HTTP clients are told when their connection can't be secured, and what they may not ask for when it is.
#![allow(clippy::unwrap_used, clippy::panic)]

use nodetls_tests::{ADDRESS, Ca, HOST, URL, World, without_ready_endpoint};

const GRPC: [&str; 4] = ["-H", "content-type: application/grpc", "-d", "x"];
const TEXT: &str = "nodetls: no secure connection to this Service";

fn http2(world: &World, arguments: &[&str]) -> String {
    world.curl(&[&["-i", "--http2-prior-knowledge", URL], arguments].concat())
}

/// curl and a gRPC client get their answers in frames, and the failures are counted with `reason`.
fn refused(world: &World, reason: &str, status: u16, text: &str) {
    let answer = http2(world, &[]);
    let expected = format!("HTTP/2 {status} ");
    assert!(answer.starts_with(&expected), "{answer}\n{}", world.log());
    assert!(answer.ends_with(&format!("{text}\n\n{status}")), "{answer}");
    let answer = http2(world, &GRPC);
    assert!(answer.starts_with("HTTP/2 200 "), "gRPC: {answer}");
    assert!(answer.contains("grpc-status: 14\r\n"), "{answer}");
    assert!(
        answer.contains(&format!("grpc-message: {text}\r\n\r\n\n200")),
        "{answer}"
    );
    let label = format!("reason=\"{reason}\"");
    world.wait("both failures are counted", |world| {
        world.metric("nodetls_connection_failures_total", &[&label]) == 2.0
    });
}

#[test]
fn an_unverified_server_is_a_502_in_frames() {
    let world = World::serving(&Ca::new("trusted"), |world| {
        world.echo(&Ca::new("other").sign(HOST), 8443);
    });
    refused(&world, "unknown_ca", 502, TEXT);
    // The body is not waited for.
    let body = world.file("body", &"x".repeat(3_000_000));
    let upload = format!("@{}", body.display());
    let answer = http2(&world, &["--data-binary", &upload]);
    assert!(
        answer.contains("HTTP/2 502 ") && answer.contains(TEXT),
        "{answer}"
    );
    let answer = http2(&world, &["-I"]);
    assert!(
        answer.starts_with("HTTP/2 502 ") && !answer.contains(TEXT),
        "{answer}"
    );
}

#[test]
fn a_service_without_endpoints_is_a_503_in_frames() {
    let (world, _ca) = World::with_echo();
    world.manifest("service.yaml", &without_ready_endpoint());
    world.wait("503", |world| world.curl(&["-I", URL]).ends_with("503"));
    let answer = http2(&world, &[]);
    assert!(answer.starts_with("HTTP/2 503 "), "{answer}");
    let answer = http2(&world, &GRPC);
    assert!(answer.contains("grpc-status: 14"), "{answer}");
}

/// nginx as it is, without HTTP/2: by a fatal alert; openssl's server without ALPN: by not selecting any.
#[test]
fn a_server_without_http2_is_a_502_in_frames() {
    for alpn in [true, false] {
        let ca = Ca::new("ca");
        let world = World::serving(&ca, |world| {
            if alpn {
                return world.nginx_tls(&ca.sign(HOST), 8443, "");
            }
            let server = world.s_server(&ca.sign(HOST), 8443, "-www");
            world.serve(server, 8443);
        });
        refused(&world, "no_common_alpn", 502, TEXT);
    }
}

/// TLS 1.3 servers say so after the handshake, when the client's first bytes are on their way.
#[test]
fn a_server_that_wants_a_client_certificate_is_a_502_in_frames() {
    let ca = Ca::new("ca");
    let world = World::serving(&ca, |world| {
        world.file("clients.crt", &Ca::new("clients").pem);
        let mut server = world.tls_server("tls-echo", &ca.sign(HOST), 8443);
        server.args(["--client-ca", "clients.crt", "--listen", "0.0.0.0:8443"]);
        world.serve(server, 8443);
    });
    refused(&world, "client_certificate_required", 502, TEXT);
}

#[test]
fn an_upgrade_to_h2c_does_not_reach_the_server() {
    let (world, _ca) = World::with_echo();
    let mark = ["-H", "X-Mark: 1", URL];
    let answer = world.curl(&[&["--http2", "-i"], &mark[..]].concat());
    assert!(
        answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("200"),
        "{answer}"
    );
    assert!(
        answer.contains("\"proto\": \"HTTP/1.1\"") && answer.contains("x-mark"),
        "{answer}"
    );
    for gone in ["upgrade", "http2-settings", "connection", "HTTP/2"] {
        assert!(!answer.contains(gone), "{gone}: {answer}");
    }
    // With a body, and from a client that closes its half.
    let answer = world.curl(&["--http2", "-d", "marked-body", "http://10.96.0.10:443/echo"]);
    assert_eq!(answer, "marked-body\n200");
    let pipelined = "GET /a HTTP/1.1\\r\\nHost: a\\r\\nConnection: Upgrade\\r\\nUpgrade: h2c\\r\\n\\r\\n\
                     GET /b HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n";
    let answer = world.dial(&[ADDRESS, "--send", pipelined, "--half-close"]);
    let both = ["\"/a\"", "\"/b\""]
        .iter()
        .all(|path| answer.contains(path));
    assert!(both && !answer.contains("h2c"), "{answer}");
    // Another upgrade is none of our business.
    let websocket = ["-H", "Connection: Upgrade", "-H", "Upgrade: websocket", URL];
    let answer = world.curl(&websocket);
    assert!(
        answer.contains("\"websocket\"") && answer.contains("\"Upgrade\""),
        "{answer}"
    );
}

#[test]
fn an_upgrade_to_h2c_does_not_reach_nginx() {
    let seen = "upgrade=$http_upgrade connection=$http_connection settings=$http_http2_settings";
    let tell = format!("default_type text/plain; location / {{ return 200 \"{seen}\"; }}");
    let ca = Ca::new("ca");
    let world = World::serving(&ca, |world| world.nginx_tls(&ca.sign(HOST), 8443, &tell));
    let answer = world.curl(&["--http2", "-i", URL]);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(
        answer.ends_with("upgrade= connection= settings=\n200"),
        "{answer}"
    );
}

#[test]
fn a_head_that_is_too_long_or_too_slow_is_answered() {
    let (world, _ca) = World::with_echo();
    let long = format!("X-Long: {}", "a".repeat(70_000));
    let answer = world.curl(&["-H", &long, URL]);
    assert!(
        answer.ends_with("nodetls: the request's header fields are too long\n\n431"),
        "{answer}"
    );
    let slow = [
        "--send",
        "GET / HTTP/1.1\\r\\nHost: a\\r\\n",
        "--patience",
        "15",
    ];
    let hello = ["--send", "\u{16}\u{3}\u{1}", "--patience", "15"];
    let preface = ["--send", "PRI * HTTP", "--patience", "15"];
    let [slow, hello, preface] = std::thread::scope(|scope| {
        let dial = |send: [&'static str; 4]| {
            let world = &world;
            scope.spawn(move || world.dial(&[&[ADDRESS][..], &send].concat()))
        };
        [dial(slow), dial(hello), dial(preface)].map(|client| client.join().unwrap())
    });
    assert!(slow.contains("HTTP/1.1 408 Request Timeout\r\n"), "{slow}");
    assert!(
        hello.contains("ConnectionReset") && preface.contains("ConnectionReset"),
        "{hello}{preface}"
    );
    world.wait("all four are counted", |world| {
        world.metric("nodetls_connection_failures_total", &["client_limit"]) == 4.0
    });
}
