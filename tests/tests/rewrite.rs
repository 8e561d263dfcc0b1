//! Option `nodetls.io/rewrite-host`: requests are for the policy's hostname, whatever the client asked for.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::thread::sleep;
use std::time::Duration;

use nodetls_tests::{ADDRESS, Ca, HOST, URL, World, policy};

const REWRITTEN: &str = r#""host": "www.example.com""#;

/// A client's first words in HTTP/2, and its SETTINGS (RFC 9113 sections 3.4 and 6.5).
const PREFACE: &str = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A request as HEADERS, and no more (RFC 9113 section 6.2, RFC 7541 section 6.2.2).
fn get(stream: u8, path: &str) -> String {
    let length = |text: &str| char::from(u8::try_from(text.len()).unwrap());
    let path = format!("\x04{}{path}", length(path));
    let fields = format!("\x02\x03GET\x06\x04http{path}\x01\x01a");
    let stream = char::from(stream);
    format!("\0\0{}\x01\x05\0\0\0{stream}{fields}", length(&fields))
}

fn rewriting(world: World) -> World {
    let options = "  options: {nodetls.io/rewrite-host: 'true'}\n";
    let before = world.log().matches("published").count();
    world.manifest("policy.yaml", &(policy(HOST) + options));
    world.wait("the option is in force", |world| {
        world.log().matches("published").count() > before
    });
    world
}

fn echo() -> World {
    rewriting(World::with_echo().0)
}

#[test]
fn each_request_of_a_connection_is_for_the_policy_s_host() {
    let (world, _ca) = World::with_echo();
    assert!(world.curl(&[URL]).contains(r#""host": "10.96.0.10:443""#));
    let world = rewriting(world);
    let twice = ["-w", "\n%{num_connects} %{http_code}\n", URL, URL];
    let answer = world.curl(&twice);
    assert_eq!(answer.matches(REWRITTEN).count(), 2, "{answer}");
    assert!(
        answer.contains("\n1 200\n") && answer.ends_with("\n0 200\n"),
        "{answer}"
    );
    let answer = world.curl(&["--http2-prior-knowledge", URL]);
    assert!(answer.contains(REWRITTEN), "{answer}");
    assert!(answer.contains(r#""proto": "HTTP/2.0""#), "{answer}");
    // Absolute-form, as to a proxy; HTTP/1.0 without Host; h2c is not offered to the server.
    let proxied = [
        "-x",
        "http://10.96.0.10:443",
        "http://other.example.com/a?b",
    ];
    let answer = world.curl(&proxied);
    assert!(answer.contains(REWRITTEN), "{answer}");
    assert!(answer.contains(r#""path": "/a?b""#) && !answer.contains("other"));
    let answer = world.curl(&["--http1.0", "-H", "Host:", URL]);
    assert!(answer.contains(REWRITTEN), "{answer}");
    let answer = world.curl(&["--http2", URL]);
    assert!(
        answer.contains(REWRITTEN) && !answer.contains("h2c"),
        "{answer}"
    );
    // Who speaks TLS is not looked into.
    let answer = world.curl(&["-k", &URL.replace("http:", "https:")]);
    assert!(answer.contains(r#""host": "10.96.0.10""#), "{answer}");
}

#[test]
fn bodies_stream_both_ways() {
    let world = echo();
    let client = world.exchange();
    world.end_of_exchange(client);
    let body = world.file("body", &"x".repeat(3_000_000));
    let upload = format!("@{}", body.display());
    let echo = URL.replace("/get", "/echo");
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let size = "%{size_download} %{http_code}\n";
        let quiet = ["-o", "/dev/null", "-w", size, version];
        for more in [["-H", "Expect:"], ["-H", "Transfer-Encoding: chunked"]] {
            if version == "--http1.1" || more[1] == "Expect:" {
                let upload = ["--data-binary", &upload, &echo];
                let answer = world.curl(&[&quiet[..], &more, &upload].concat());
                assert_eq!(answer, "3000000 200\n", "{version} {more:?}");
            }
        }
        let large = URL.replace("/get", "/bytes/20000000");
        let answer = world.curl(&[&quiet[..], &[&large]].concat());
        assert_eq!(answer, "20000000 200\n", "{version}");
    }
    let answer = world.curl(&["-I", URL]);
    assert!(answer.ends_with("\n200"), "{answer}");
    world.wait("the bytes are counted", |world| {
        world.metric("nodetls_received_bytes_total", &[]) > 49_000_000.0
    });
}

#[test]
fn a_websocket_becomes_a_tunnel() {
    let world = echo();
    let mut client = world.dialling(&[ADDRESS, "--talk", "--patience", "20"]);
    client.say(
        "GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n",
    );
    let head = client.read_until("x-host");
    assert!(
        head.contains("HTTP/1.1 101") && head.contains(HOST),
        "{head}"
    );
    for word in ["one", "two"] {
        client.say(&format!("{word}\n"));
        client.read_until(word);
    }
    client.kill();
    world.wait("it ended well", |world| {
        world.log().contains("connection closed")
    });
}

#[test]
fn requests_that_are_not_http_are_refused() {
    let world = echo();
    let get = |hosts: &str| format!("GET / HTTP/1.1\\r\\n{hosts}\\r\\n");
    let bad = [
        get("Host: a\\r\\nHost: b\\r\\n"),
        get(""),
        "CONNECT a:443 HTTP/1.1\\r\\nHost: a:443\\r\\n\\r\\n".to_owned(),
    ];
    for request in bad {
        let answer = world.dial(&[ADDRESS, "--send", &request]);
        assert!(
            answer.contains("HTTP/1.1 400 Bad Request"),
            "{request}: {answer}"
        );
    }
}

/// TLS 1.3 servers refuse a client without certificate after the handshake.
#[test]
fn a_server_that_fails_is_a_502() {
    let ca = Ca::new("ca");
    let world = World::serving(&ca, |world| {
        world.file("clients.crt", &Ca::new("clients").pem);
        let mut server = world.tls_server("tls-echo", &ca.sign(HOST), 8443);
        server.args(["--client-ca", "clients.crt", "--listen", "0.0.0.0:8443"]);
        world.serve(server, 8443);
    });
    let world = rewriting(world);
    let text = "nodetls: no secure connection to this Service\n\n502";
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let answer = world.curl(&[version, URL]);
        assert!(answer.ends_with(text), "{answer}");
    }
    // While it sends, more than sockets hold.
    let body = world.file("body", &"x".repeat(900_000));
    let upload = format!("@{}", body.display());
    let answer = world.curl(&["-H", "Expect:", "--data-binary", &upload, URL]);
    assert!(answer.ends_with(text), "{answer}");
    let grpc = [
        "-i",
        "--http2-prior-knowledge",
        "-H",
        "content-type: application/grpc",
    ];
    let answer = world.curl(&[&grpc[..], &["-d", "x", URL]].concat());
    assert!(answer.contains("grpc-status: 14"), "{answer}");
    // One that takes its time.
    let mut slow = world.dialling(&[ADDRESS, "--talk"]);
    slow.say(PREFACE);
    sleep(Duration::from_millis(500));
    slow.say(&get(1, "/"));
    let told = slow.read_until("no secure connection");
    let (before, _) = told.split_once("no secure").unwrap();
    assert!(!before.contains("\0\0\x08\x07"), "GOAWAY: {before:?}");
    slow.kill();
    world.wait("all are counted", |world| {
        let reason = ["reason=\"client_certificate_required\""];
        world.metric("nodetls_connection_failures_total", &reason) == 5.0
    });
}

/// As in a rolling update: GOAWAY, while a stream is still open. A client may ask again for what was refused.
#[test]
fn a_request_that_the_server_has_not_taken_is_refused_as_such() {
    let ca = Ca::new("ca");
    let world = World::serving(&ca, |world| {
        world.file("slow", &"begun\n".repeat(20_000));
        let directives = "keepalive_requests 2; location / { return 200 \"taken\n\"; } \
                          location /slow { limit_rate 1k; }";
        world.nginx_http2(&ca.sign(HOST), 8443, directives);
    });
    let world = rewriting(world);
    let mut client = world.dialling(&[ADDRESS, "--talk", "--patience", "20"]);
    client.say(&format!("{PREFACE}{}", get(1, "/slow")));
    client.read_until("begun");
    client.say(&get(3, "/"));
    client.read_until("taken");
    client.say(&get(5, "/"));
    // RST_STREAM, REFUSED_STREAM.
    client.read_until("\0\0\x04\x03\0\0\0\0\x05\0\0\0\x07");
    client.kill();
    world.wait("it ended", |world| {
        let ended = world.metric("nodetls_connections_closed_total", &[]);
        ended == 1.0 && world.metric("nodetls_connection_failures_total", &[]) == 0.0
    });
}

#[test]
fn an_idle_connection_ends_when_the_server_ends_it() {
    let ca = Ca::new("ca");
    let world = World::serving(&ca, |world| {
        let directives =
            "keepalive_timeout 1s; location / { return 200 \"asked for $http_host\"; }";
        world.nginx_tls(&ca.sign(HOST), 8443, directives);
    });
    let world = rewriting(world);
    let get = "GET / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n";
    let answer = world.dial(&[ADDRESS, "--send", get, "--patience", "9"]);
    assert!(answer.contains("asked for www.example.com"), "{answer}");
    assert!(!answer.contains("error"), "{answer}");
    world.wait("it ended well", |world| {
        world.log().contains("connection closed")
    });
}
