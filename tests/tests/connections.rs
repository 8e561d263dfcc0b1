//! `nodetls connections`, and `nodetls cert`, which opens some.
#![allow(clippy::unwrap_used, clippy::panic)] // A test's way to fail.

use nodetls_tests::{
    ADDRESS, BACKEND_IP, CLUSTER_IP, Ca, HOST, World, assert_line, config_map, policy_with,
    service, without_ready_endpoint,
};
use serde_json::Value;

const SERVICE: &str = "tls-backend:443";

fn open(world: &World) -> Vec<Value> {
    let (code, said) = world.ask_json(&["connections"]);
    assert_eq!(code, 0, "{said}");
    said["connections"].as_array().unwrap().clone()
}

#[test]
fn open_connections_are_listed_with_what_is_known_of_each_and_no_others() {
    let (world, _ca) = World::with_echo();
    assert_eq!(
        world.ask(&["connections"]),
        (0, "no connection is open\n".to_owned())
    );
    let client = world.exchange();
    let (code, said) = world.ask(&["connections"]);
    assert_eq!(code, 0, "{said}");
    let endpoint = format!("{BACKEND_IP}:8443");
    assert_line(
        &said,
        &[
            &world.pod,
            "default/tls-backend:443",
            &endpoint,
            "http/1.1",
            HOST,
            "TLSv1.3",
        ],
    );
    let [one] = &open(&world)[..] else {
        panic!("{said}");
    };
    assert_eq!(one["policy"], "default/tls", "{one}");
    assert_eq!(one["tls"]["group"], "X25519MLKEM768", "{one}");
    let head = "PUT /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 23\r\n\r\nfirst half\n";
    let (sent, received) = (one["sentBytes"].as_u64(), one["receivedBytes"].as_u64());
    assert!(sent.unwrap() >= head.len() as u64 - 19, "{one}"); // `Connection: close` is not the server's to see
    assert!(received.unwrap() >= "first half\n".len() as u64, "{one}");
    let age = one["ageSeconds"].as_f64().unwrap();
    assert!((0.0..60.0).contains(&age), "{one}");
    // A client that says nothing: its connection is there, and secured once its silence has lasted.
    let silent = world.dialling(&[ADDRESS, "--hold", "2"]);
    world.wait("all are listed", |world| {
        let open = open(world);
        open.len() == 3
            && open
                .iter()
                .all(|one| one["endpoint"] == endpoint.as_str() || one["protocol"].is_null())
    });
    drop(silent);
    world.end_of_exchange(client);
    world.wait("none is left", |world| open(world).is_empty());
}

#[test]
fn a_client_that_speaks_tls_itself_is_listed_as_such() {
    let (world, _ca) = World::with_echo();
    let mut openssl = world.in_pod("openssl");
    openssl.args([
        "s_client",
        "-quiet",
        "-servername",
        HOST,
        "-connect",
        ADDRESS,
    ]);
    openssl.stderr(std::process::Stdio::null());
    let mut client = nodetls_tests::Running::talking(openssl);
    client.say("GET /get HTTP/1.1\r\nHost: a\r\n\r\n");
    client.read_until("HTTP/1.1 200");
    let (_, said) = world.ask(&["connections"]);
    assert_line(
        &said,
        &[&world.pod, " tls ", "the client's own", BACKEND_IP],
    );
}

#[test]
fn cert_shows_the_chain_and_what_verification_says() {
    let (world, ca) = World::with_echo();
    let from_pod = ["cert", SERVICE, "--from", &world.pod];
    let (code, said) = world.ask(&from_pod);
    assert_eq!(code, 0, "{said}");
    assert_line(
        &said,
        &[
            "default/tls-backend:443",
            "default/tls",
            &world.pod,
            "SNI www.example.com",
        ],
    );
    assert_line(&said, &["trusted: CN=test-ca"]);
    assert_line(&said, &["10.99.0.2:8443: accepted", "TLSv1.3"]);
    assert_line(&said, &["names", "DNS:www.example.com"]);
    assert_line(&said, &["issuer", "CN=test-ca"]);
    let (_, said) = world.ask_json(&from_pod);
    let leaf = &said["servers"][0]["chain"][0];
    // A second time too: no session is resumed.
    let (_, again) = world.ask_json(&from_pod);
    assert_eq!(*leaf, again["servers"][0]["chain"][0], "{again}");
    let pin = format!("cert:{}", leaf["sha256"].as_str().unwrap());
    world.manifest(
        "policy.yaml",
        &policy_with(HOST, &[("pinned-sha256", &pin)]),
    );
    world.wait("the fingerprint fits", |world| {
        let (_, explained) = world.ask(&["explain", &world.pod, SERVICE]);
        explained.contains(&pin) && world.ask(&from_pod).0 == 0
    });
    let other = Ca::new("another CA");
    world.manifest("ca.yaml", &config_map("example-ca", &other.pem));
    world.wait("it is not trusted", |world| world.ask(&from_pod).0 == 1);
    let (_, said) = world.ask(&from_pod);
    assert_line(&said, &["10.99.0.2:8443: REFUSED"]);
    assert_line(&said, &["error: unknown_ca: ", "test-ca"]);
    assert_line(
        &said,
        &["cure: put the issuing CA into the policy's CA bundle"],
    );
    // Of a server that is refused too.
    assert_line(&said, &["0 subject", "days)"]);
    assert_line(&said, &["names", "DNS:www.example.com"]);
    let failed = world.metric("nodetls_connection_failures_total", &[]);
    assert!(failed < 1.0, "no client has failed: {failed}");
    world.manifest("ca.yaml", &config_map("example-ca", &ca.pem));
    world.wait("it is trusted", |world| world.ask(&from_pod).0 == 0);
}

#[test]
fn cert_says_why_it_cannot_connect() {
    let (world, _ca) = World::with_echo();
    for (arguments, cure) in [
        (
            vec!["cert", "plain:80"],
            "is no target, so there is no policy to verify it by",
        ),
        (
            vec!["cert", SERVICE, "--from", "nobody"],
            "nobody is not enrolled on this node: name a pod",
        ),
    ] {
        let (code, said) = world.ask(&arguments);
        assert_eq!(code, 1, "{said}");
        assert_line(&said, &["error: ", cure]);
    }
    let from_pod = ["cert", SERVICE, "--from", &world.pod];
    let nobody = service("tls-backend", CLUSTER_IP, 443, 9999);
    world.manifest("service.yaml", &nobody);
    world.wait("nobody listens", |world| {
        let (code, said) = world.ask(&from_pod);
        code == 1 && said.contains("10.99.0.2:9999: REFUSED")
    });
    let (_, said) = world.ask(&from_pod);
    assert_line(
        &said,
        &["error: refused: 10.99.0.2:9999 refused the connection"],
    );
    assert_line(
        &said,
        &["cure: check that the server runs and listens on that port"],
    );
    world.manifest("service.yaml", &without_ready_endpoint());
    world.wait("there is nothing to connect to", |world| {
        world
            .ask(&["cert", SERVICE])
            .1
            .contains("has no ready endpoint: check")
    });
    world.remove_manifest("ca.yaml");
    world.wait("it is refused", |world| {
        world
            .ask(&["cert", SERVICE])
            .1
            .contains("is refused (NoValidCACertificate)")
    });
}
