//! Plain clients in a pod, TLS on the wire: every protocol, every kind of client.
#![allow(clippy::unwrap_used, clippy::panic)]

use nodetls_tests::{
    BACKEND_IP, CLUSTER_IP, Ca, POD_IP, World, config_map, occurrences, policy, service,
};

const URL: &str = "http://10.96.0.10:443/get";
const ADDRESS: &str = "10.96.0.10:443";
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
    world.echo_again_on_the_service_port();
    let wire = world.capture(|world| answer = world.curl(&["-H", "X-Mark: marked-plaintext", URL]));
    assert!(
        answer.ends_with("400"),
        "a TLS server answers plaintext so: {answer}"
    );
    assert!(occurrences(&wire, "marked-plaintext") > 0);
}

/// What the second half of the first test needs: without a policy nobody picks the endpoint.
trait ServicePort {
    fn echo_again_on_the_service_port(&mut self);
}

impl ServicePort for World {
    fn echo_again_on_the_service_port(&mut self) {
        let (certificate, key) = Ca::new("other").sign("www.example.com", 1);
        self.echo(&certificate, &key, "0.0.0.0:443");
    }
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
    let mut openssl = world.in_pod("openssl");
    openssl.args([
        "s_client",
        "-connect",
        ADDRESS,
        "-servername",
        "from.client.example",
        "-brief",
    ]);
    let output = openssl.stdin(std::process::Stdio::null()).output().unwrap();
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("CONNECTION ESTABLISHED"),
        "{output:?}"
    );
    let passed = world.metric(
        "nodetls_passthrough_connections_total",
        &["reason=\"already_tls\""],
    );
    assert_eq!(passed, 2.0);
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
    let mut world = World::new();
    let ca = Ca::new("test-ca");
    let (certificate, key) = ca.sign("www.example.com", 1);
    let (certificate, key) = (world.file("s.crt", &certificate), world.file("s.key", &key));
    let greeting = world.file("greeting", "220 ready\n");
    let mut server = world.in_backend("openssl");
    server
        .args(["s_server", "-quiet", "-accept", "8443", "-cert"])
        .arg(certificate)
        .arg("-key")
        .arg(key);
    server.stdin(std::fs::File::open(greeting).unwrap());
    world.serve(server, "0.0.0.0:8443");
    world.manifest(
        "service.yaml",
        &service("tls-backend", CLUSTER_IP, 443, 8443),
    );
    world.manifest("ca.yaml", &config_map("example-ca", &ca.pem));
    world.manifest("policy.yaml", &policy("www.example.com"));
    world.start_agent();
    let answer = world.dial(&[ADDRESS, "--first"]);
    assert!(answer.contains("220 ready"), "{answer}");
}

#[test]
fn a_native_ipv6_target_is_denied_not_forgotten() {
    let (world, _ca) = World::with_echo();
    let dual = service("tls-backend", CLUSTER_IP, 443, 8443).replace(
        "spec:\n  clusterIP",
        "spec:\n  clusterIPs: [10.96.0.10, 'fd00:96::10']\n  clusterIP",
    );
    world.manifest("service.yaml", &dual);
    world.wait("both addresses are targets", |world| {
        world.metric("nodetls_targets", &[]) == 2.0
    });
    let answer = world.dial(&["[fd00:96::10]:443"]);
    assert!(answer.contains("error: ConnectionRefused"), "{answer}");
    assert_eq!(
        world.metric("nodetls_ebpf_connects_total", &["denied", "ipv6"]),
        1.0
    );
}

/// No connect is redirected to it yet, but who dials an id's IPv6 address reaches the same target.
#[test]
fn the_ipv6_listener_serves_ids_too() {
    let (mut world, _ca) = World::with_echo();
    let mut route = world.in_pod("ip");
    route.args(["-6", "route", "add", "local", "fd6e:6f64:6574:6c73::/96"]);
    assert!(route.args(["dev", "lo"]).status().unwrap().success());
    let id_1 = "[fd6e:6f64:6574:6c73::7f80:1]:443";
    let answer = world.dial(&[id_1, "--send", GET]);
    assert!(answer.contains("200 OK"), "{answer}");
    let other_range = "[fd6e:6f64:6574:6c73::7fc0:1]:443";
    let answer = world.dial(&[other_range, "--send", GET]);
    assert!(answer.contains("error: ConnectionRefused"), "{answer}");
    world.kill_agent();
    let answer = world.dial(&[id_1, "--send", GET]);
    assert!(answer.contains("error: ConnectionRefused"), "{answer}");
}

#[test]
fn nginx_serves_a_large_body() {
    let mut world = World::new();
    let ca = Ca::new("test-ca");
    let (certificate, key) = ca.sign("www.example.com", 1);
    world.file("n.crt", &certificate);
    world.file("n.key", &key);
    let body = "0123456789abcdef".repeat(500_000);
    world.file("body", &body);
    let dir = world.dir.path().display().to_string();
    let config = world.file("nginx.conf", &format!(
        "daemon off; master_process off; pid {dir}/nginx.pid; error_log {dir}/nginx.err; user root; events {{}}\n\
         http {{ access_log off; client_body_temp_path {dir}; server {{ listen 8443 ssl; root {dir};\n\
         ssl_certificate {dir}/n.crt; ssl_certificate_key {dir}/n.key; }} }}\n"
    ));
    let mut nginx = world.in_backend("nginx");
    nginx.arg("-c").arg(config);
    world.serve(nginx, "0.0.0.0:8443");
    world.manifest(
        "service.yaml",
        &service("tls-backend", CLUSTER_IP, 443, 8443),
    );
    world.manifest("ca.yaml", &config_map("example-ca", &ca.pem));
    world.manifest("policy.yaml", &policy("www.example.com"));
    world.start_agent();
    let answer = world.curl(&["http://10.96.0.10:443/body"]);
    assert!(answer == format!("{body}\n200"), "{} bytes", answer.len());
}
