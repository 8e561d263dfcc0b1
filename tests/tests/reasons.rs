//! Each reason, produced by a real server: what the client is told, what the log says, and that `docs/errors.md` says
//! the same.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use nodetls::failure::Reason;
use nodetls_tests::{BACKEND_IP, CLUSTER_IP, Ca, World, binary, config_map, policy};

const HOST: &str = "www.example.com";
const BODY: &str = "nodetls: no secure connection to this Service\n\n502";

/// A Service whose ports have an endpoint each, all under one policy.
struct Rig {
    world: World,
    ca: Ca,
    /// Port of the Service and of the endpoint, and the endpoint's address.
    ports: Vec<(u16, String)>,
}

impl Rig {
    fn new() -> Self {
        Self {
            world: World::new(),
            ca: Ca::new("test-ca"),
            ports: Vec::new(),
        }
    }

    /// A port whose endpoint is the backend.
    fn port(&mut self) -> u16 {
        self.port_at(BACKEND_IP)
    }

    fn port_at(&mut self, address: &str) -> u16 {
        let port = 9001 + u16::try_from(self.ports.len()).unwrap();
        self.ports.push((port, address.to_owned()));
        port
    }

    /// `openssl s_server` with these options, in the directory with the test's files.
    fn openssl(&mut self, certificate: &(String, String), options: &str) -> u16 {
        let port = self.port();
        let (crt, key) = (format!("{port}.crt"), format!("{port}.key"));
        self.world.file(&crt, &certificate.0);
        self.world.file(&key, &certificate.1);
        let mut server = s_server(&self.world, port, options);
        server.args(["-cert", &crt, "-key", &key, "-www"]);
        self.world.serve(server, &format!(":{port}"));
        port
    }

    /// A server that answers this text to whatever comes.
    fn banner(&mut self, text: &str) -> u16 {
        let port = self.port();
        let mut server = self.world.in_backend(&binary("banner"));
        server.arg(format!("0.0.0.0:{port}")).arg(text);
        self.world.serve(server, &format!(":{port}"));
        port
    }

    /// Writes the manifests and starts the agent; `more` CAs are trusted too.
    fn start(&mut self, more: &str) {
        let mut service = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: tls-backend}}\n\
             spec:\n  clusterIP: {CLUSTER_IP}\n  ports:\n"
        );
        for (port, _) in &self.ports {
            service += &format!("  - {{name: p{port}, port: {port}}}\n");
        }
        for (port, address) in &self.ports {
            let endpoints = match address.as_str() {
                "" => "endpoints: []".to_owned(),
                address => format!("endpoints:\n- addresses: [{address}]"),
            };
            service += &format!(
                "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: slice-{port}\n  \
                 labels: {{kubernetes.io/service-name: tls-backend}}\naddressType: IPv4\n{endpoints}\n\
                 ports:\n- {{name: p{port}, port: {port}}}\n"
            );
        }
        self.world.manifest("service.yaml", &service);
        let bundle = format!("{}{more}", self.ca.pem);
        self.world
            .manifest("ca.yaml", &config_map("example-ca", &bundle));
        let all_ports = policy(HOST).replace(", sectionName: '443'", "");
        self.world.manifest("policy.yaml", &all_ports);
        self.world.start_agent();
    }

    /// An HTTP/1 client that gets the generic answer, and no more.
    #[track_caller]
    fn refused(&self, port: u16, reason: Reason, words: &[&str]) {
        let answer = self.world.curl(&[&url(port)]);
        assert_eq!(answer, BODY, "{reason}");
        self.logged(port, reason, words);
    }

    /// Counted, and in the log's last line of that port, in words that are documented.
    #[track_caller]
    fn logged(&self, port: u16, reason: Reason, words: &[&str]) {
        let label = format!("reason=\"{reason}\"");
        let port_label = format!("port=\"{port}\"");
        self.world.wait(&format!("{reason} is counted"), |world| {
            world.metric("nodetls_connection_failures_total", &[&label, &port_label]) > 0.0
        });
        self.in_log(port, reason, words);
    }

    #[track_caller]
    fn in_log(&self, port: u16, reason: Reason, words: &[&str]) {
        let log = self.world.log();
        let (service, label) = (
            format!("tls-backend:{port}"),
            format!("reason=\"{reason}\""),
        );
        let mut lines = log.lines().filter(|line| line.contains(&service));
        let line = lines.rfind(|line| line.contains(&label)).unwrap();
        let line = line.replace("\\\"", "\"");
        assert!(line.contains(reason.cure()), "{reason}: {line}");
        for word in words {
            assert!(line.contains(word), "{reason}: {word} is not in {line}");
        }
        let documented = documented(reason);
        assert!(
            documented.contains(words[0]),
            "{reason}: {}: {documented}",
            words[0]
        );
    }
}

/// The row of `docs/errors.md`.
fn documented(reason: Reason) -> String {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/errors.md");
    let text = fs::read_to_string(file).unwrap();
    let start = format!("| `{reason}` |");
    text.lines()
        .find(|line| line.starts_with(&start))
        .unwrap()
        .to_owned()
}

fn url(port: u16) -> String {
    format!("http://{CLUSTER_IP}:{port}/get")
}

fn s_server(world: &World, port: u16, options: &str) -> Command {
    let mut server = world.in_backend("openssl");
    server.args(["s_server", "-accept", &port.to_string()]);
    server
        .args(options.split_whitespace())
        .current_dir(world.dir.path());
    server
}

fn openssl(world: &World, words: &str, subject: &str) {
    let mut command = Command::new("openssl");
    command
        .args(words.split_whitespace())
        .current_dir(world.dir.path());
    if !subject.is_empty() {
        command.args(["-subj", subject]);
    }
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn certificates_that_do_not_do() {
    let mut rig = Rig::new();
    let unknown = rig.openssl(&Ca::new("other-ca").sign(HOST, 1), "");
    let misnamed = rig.openssl(&rig.ca.sign("www.example.org", 1), "");
    let expired = rig.openssl(&rig.ca.sign(HOST, -1), "");
    let early = rig.ca.issue(HOST, |params| {
        params.not_before = rcgen::date_time_ymd(2090, 1, 2)
    });
    let early = rig.openssl(&early, "");
    let client = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let client = rig
        .ca
        .issue(HOST, |params| params.extended_key_usages = client);
    let client = rig.openssl(&client, "");
    let is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let sub_ca = rig.openssl(&rig.ca.issue(HOST, |params| params.is_ca = is_ca), "");

    // Envoy Gateway's "Backend TLS" page, as printed.
    let read = |world: &World, name: &str| fs::read_to_string(world.dir.path().join(name)).unwrap();
    let world = &rig.world;
    openssl(
        world,
        "req -x509 -sha256 -nodes -days 365 -newkey rsa:2048 -keyout ca.key -out ca.crt",
        "/O=example Inc./CN=example.com",
    );
    openssl(
        world,
        "req -out www.example.com.csr -newkey rsa:2048 -nodes -keyout www.example.com.key",
        "/CN=www.example.com/O=example organization",
    );
    openssl(
        world,
        "x509 -req -days 365 -CA ca.crt -CAkey ca.key -set_serial 0 -in www.example.com.csr -out www.example.com.crt",
        "",
    );
    let recipe_ca = read(world, "ca.crt");
    let recipe = (
        read(world, "www.example.com.crt"),
        read(world, "www.example.com.key"),
    );
    let recipe = rig.openssl(&recipe, "");
    rig.start(&recipe_ca);

    rig.refused(
        unknown,
        Reason::UnknownCa,
        &["was issued by \"other-ca\", which is not trusted; trusted CAs: \"test-ca\", \"example.com\""],
    );
    rig.refused(
        misnamed,
        Reason::NameMismatch,
        &["certificate is for \"www.example.org\", but the policy asks for \"www.example.com\""],
    );
    rig.refused(
        recipe,
        Reason::NoSubjectAltName,
        &["(CN \"www.example.com\") is X.509 v1, which has no subjectAltName"],
    );
    rig.refused(
        expired,
        Reason::Expired,
        &["expired at 2021-01-01T00:00:00Z; this node's clock says 20"],
    );
    rig.refused(
        early,
        Reason::NotYetValid,
        &["valid from 2090-01-02T00:00:00Z; this node's clock says 20"],
    );
    rig.refused(
        sub_ca,
        Reason::CaUsedAsLeaf,
        &["presents the CA certificate"],
    );
    rig.refused(
        client,
        Reason::BadCertificate,
        &["its extendedKeyUsage, or its CA's, does not allow serverAuth"],
    );
}

#[test]
fn servers_without_tls() {
    let mut rig = Rig::new();
    let nginx = rig.port();
    let dir = rig.world.dir.path().display().to_string();
    let config = format!(
        "daemon off; pid {dir}/nginx.pid; error_log {dir}/nginx.err; user root; events {{}}\n\
         http {{ access_log off; server {{ listen {nginx}; root {dir}; }} }}\n"
    );
    let config = rig.world.file("nginx.conf", &config);
    let mut server = rig.world.in_backend("nginx");
    server.arg("-c").arg(config);
    rig.world.serve(server, &format!(":{nginx}"));
    let ssh = rig.banner("SSH-2.0-OpenSSH_9.2p1\r\n");
    let smtp = rig.banner("220 mail.example ESMTP\r\n");
    let garbage = rig.banner("\u{16}\u{3}\u{3}\u{ff}\u{ff}");
    let hangs_up = rig.banner("");
    rig.start("");

    rig.refused(
        nginx,
        Reason::PlaintextServer,
        &["answered with HTTP, not TLS: ", "HTTP/1.1 400 Bad Request"],
    );
    let not_tls = "not TLS: ";
    rig.refused(
        ssh,
        Reason::PlaintextServer,
        &[not_tls, "with SSH, ", "SSH-2.0-OpenSSH_9.2p1"],
    );
    rig.refused(
        smtp,
        Reason::PlaintextServer,
        &[not_tls, "with SMTP or FTP, ", "220 mail.example"],
    );
    rig.refused(
        garbage,
        Reason::ProtocolError,
        &["the server broke the TLS protocol: "],
    );
    rig.refused(
        hangs_up,
        Reason::ClosedDuringHandshake,
        &["the server closed the connection during the TLS handshake"],
    );
    // A client that is not HTTP/1 gets a reset, and as little.
    let answer = rig
        .world
        .dial(&[&format!("{CLUSTER_IP}:{ssh}"), "--send", "\u{1}binary"]);
    assert!(answer.contains("error: ConnectionReset"), "{answer}");
    assert!(!answer.contains("SSH"), "{answer}");
}

#[test]
fn servers_that_refuse_the_handshake() {
    let mut rig = Rig::new();
    let good = rig.ca.sign(HOST, 1);
    rig.world.file("ca.pem", &rig.ca.pem);
    rig.world.file("sni.crt", &good.0);
    rig.world.file("sni.key", &good.1);
    let old = rig.openssl(&good, "-tls1_1 -cipher ALL:@SECLEVEL=0");
    let cbc = rig.openssl(&good, "-tls1_2 -cipher ECDHE-ECDSA-AES128-SHA");
    let group = rig.openssl(&good, "-tls1_3 -curves X448");
    let h2_only = rig.openssl(&good, "-alpn h2");
    let no_alpn = rig.openssl(&good, "");
    let client_12 = rig.openssl(&good, "-tls1_2 -Verify 1 -CAfile ca.pem");
    let client_13 = rig.openssl(&good, "-tls1_3 -Verify 1 -CAfile ca.pem");
    let sni = "-servername other.example -servername_fatal -cert2 sni.crt -key2 sni.key";
    let sni = rig.openssl(&good, sni);
    rig.start("");

    rig.refused(
        old,
        Reason::NoCommonVersion,
        &["the server speaks neither TLS 1.2 nor TLS 1.3 (alert protocol_version (70))"],
    );
    let nothing =
        "no cipher suite, group or signature algorithm in common (alert handshake_failure (40))";
    rig.refused(cbc, Reason::NoCommonCipher, &[nothing]);
    rig.refused(group, Reason::NoCommonCipher, &[nothing]);
    rig.refused(
        h2_only,
        Reason::NoCommonAlpn,
        &[
            "(ALPN) offered: ",
            "http/1.1; the server refuses it by alert no_application_protocol (120)",
        ],
    );
    // A client that speaks HTTP/2, to a server that knows no ALPN.
    rig.world.curl(&["--http2-prior-knowledge", &url(no_alpn)]);
    rig.logged(
        no_alpn,
        Reason::NoCommonAlpn,
        &["application protocol (ALPN) offered: h2; the server selects none"],
    );
    assert!(
        rig.world.curl(&[&url(no_alpn)]).ends_with("200"),
        "HTTP/1 does not need it"
    );

    let wanted = ["the server requires a client certificate"];
    rig.refused(client_12, Reason::ClientCertificateRequired, &wanted);
    // TLS 1.3: the handshake has succeeded, the alert comes in place of the answer.
    rig.refused(client_13, Reason::ClientCertificateRequired, &wanted);
    // With a body that the server never reads, writing fails as well, maybe first.
    for _ in 0..10 {
        rig.world.file("body", &"x".repeat(900_000));
        let body = format!("@{}", rig.world.dir.path().join("body").display());
        let answer = rig
            .world
            .curl(&["-H", "Expect:", "--data-binary", &body, &url(client_13)]);
        assert_eq!(answer, BODY);
        rig.logged(client_13, Reason::ClientCertificateRequired, &wanted);
    }
    rig.refused(
        sni,
        Reason::Alert,
        &["the server does not know the policy's hostname, sent as SNI (alert unrecognized_name (112))"],
    );
}

#[test]
fn servers_out_of_reach() {
    let mut rig = Rig::new();
    let silent = rig.world.in_backend(&binary("silent"));
    rig.world.serve(silent, ":8443");
    rig.ports.push((8443, BACKEND_IP.to_owned()));
    let closed = rig.port();
    let [unreachable, prohibited, absent] = ["10.98.0.1", "10.98.0.2", "10.99.0.77"];
    for (kind, address) in [("unreachable", unreachable), ("prohibit", prohibited)] {
        let mut route = Command::new("ip");
        route.args(["-n", &rig.world.pod, "route", "add", kind, address]);
        assert!(route.status().unwrap().success());
    }
    let [unreachable, prohibited, absent, none] =
        [unreachable, prohibited, absent, ""].map(|address| rig.port_at(address));
    rig.start("");

    rig.refused(
        8443,
        Reason::HandshakeTimeout,
        &["the server accepted the connection, but sent nothing for 1s after the ClientHello"],
    );
    rig.refused(
        closed,
        Reason::Refused,
        &[
            "refused the connection: nothing listens there",
            "10.99.0.2:",
        ],
    );
    rig.refused(
        unreachable,
        Reason::Unreachable,
        &["is unreachable (No route to host", "10.98.0.1:"],
    );
    rig.refused(
        prohibited,
        Reason::Unreachable,
        &[
            " ",
            "a firewall or NetworkPolicy of this node forbids connections to 10.98.0.2:",
        ],
    );
    rig.refused(
        absent,
        Reason::ConnectTimeout,
        &["did not answer the TCP connection request", "10.99.0.77:"],
    );
    let answer = rig.world.curl(&[&url(none)]);
    assert!(answer.ends_with("503"), "{answer}");
    rig.logged(
        none,
        Reason::NoEndpoints,
        &["Service default/tls-backend has no ready endpoint"],
    );

    // One local port for all, and a connection that has it; the clients bring their own.
    let mut sysctl = rig.world.in_pod("sysctl");
    sysctl.args(["-qw", "net.ipv4.ip_local_port_range=40000 40000"]);
    assert!(sysctl.status().unwrap().success());
    let address = format!("{CLUSTER_IP}:8443");
    let client = |port: u16| {
        let mut client = rig.world.in_pod(&binary("dial"));
        client.args([
            &address,
            "--bind",
            &format!("0.0.0.0:{port}"),
            "--send",
            "x",
        ]);
        client.stdout(Stdio::null()).spawn().unwrap()
    };
    for mut client in [50_001, 50_002].map(client) {
        client.wait().unwrap();
    }
    rig.logged(
        8443,
        Reason::Internal,
        &["no local port is free for a connection to 10.99.0.2:8443"],
    );

    rig.world.manifest(
        "policy.yaml",
        &policy("10.0.0.1").replace(", sectionName: '443'", ""),
    );
    rig.world
        .wait("503", |world| world.curl(&[&url(closed)]).ends_with("503"));
    rig.logged(
        closed,
        Reason::PolicyRefused,
        &["policy default/tls: Invalid: ", "hostname"],
    );
}

#[test]
fn a_truncated_answer_is_not_a_clean_end() {
    let mut rig = Rig::new();
    let port = rig.port();
    let mut server = Running::server(&rig, port);
    rig.start("");
    let mut client = Running::client(&rig, port, "");
    server.say("half of it\n");
    client.read_until("half of it");
    server.kill();
    client.read_until("error: ConnectionReset");
    rig.logged(
        port,
        Reason::Truncated,
        &["the server ended the connection without TLS close_notify"],
    );
}

#[test]
fn connections_that_break() {
    let mut rig = Rig::new();
    let [broken, left, cut] = [(); 3].map(|()| rig.port());
    let servers = [broken, left, cut].map(|port| Running::server(&rig, port));
    rig.start("");
    let [mut broken_server, mut left_server, mut cut_server] = servers;

    // A socket that is closed with bytes unread sends RST (RFC 2525 section 2.17).
    rig.world.file("body", &"x".repeat(40_000_000));
    let body = format!("@{}", rig.world.dir.path().join("body").display());
    let mut upload = rig.world.in_pod("curl");
    upload.args(["-s", "-H", "Expect:", "--data-binary", &body, &url(broken)]);
    upload.args(["--limit-rate", "10M", "-m", "10"]);
    let mut upload = upload.stdout(Stdio::null()).spawn().unwrap();
    let sent = |world: &World| world.metric("nodetls_sent_bytes_total", &[]);
    rig.world
        .wait("the upload has begun", |world| sent(world) > 0.0);
    broken_server.signal("STOP");
    // Until all buffers are full, so that it is the pending write that fails first.
    let mut before = 0.0;
    while before < sent(&rig.world) {
        before = sent(&rig.world);
        thread::sleep(Duration::from_millis(200));
    }
    broken_server.kill();
    upload.wait().unwrap();
    rig.logged(
        broken,
        Reason::Reset,
        &["the connection to the server broke: Connection reset by peer"],
    );

    // The same from the other side.
    let mut client = Running::client(&rig, left, "half a requ");
    let port = format!("port=\"{left}\"");
    rig.world.wait("the client is connected", |world| {
        world.metric("nodetls_sent_bytes_total", &[&port]) > 0.0
    });
    client.signal("STOP");
    left_server.say("unread\n");
    rig.world.wait("the client has bytes to read", |world| {
        world.metric("nodetls_received_bytes_total", &[&port]) > 0.0
    });
    client.kill();
    rig.logged(
        left,
        Reason::ClientGone,
        &["the client's connection failed: Connection reset by peer"],
    );

    let mut client = Running::client(&rig, cut, "");
    cut_server.say("half of it\n");
    client.read_until("half of it");
    rig.world.terminate_agent();
    rig.world
        .wait("it drains", |world| world.log().contains("draining"));
    rig.world.terminate_agent();
    client.read_until("error: ConnectionReset");
    assert!(rig.world.wait_agent());
    rig.in_log(cut, Reason::ShutDown, &["the agent ends"]);
}

/// A process that is talked with, and killed at the latest when it is dropped.
struct Running(Child);

impl Running {
    /// `openssl s_server`, which sends its standard input.
    fn server(rig: &Rig, port: u16) -> Self {
        let (certificate, key) = rig.ca.sign(HOST, 1);
        rig.world.file("server.crt", &certificate);
        rig.world.file("server.key", &key);
        let mut server = s_server(&rig.world, port, "-quiet -cert server.crt -key server.key");
        server.stdin(Stdio::piped()).stdout(Stdio::null());
        let running = Self(server.spawn().unwrap());
        rig.world.wait("the server listens", |world| {
            let mut ss = world.in_backend("ss");
            ss.args(["-Hltn", &format!("sport = :{port}")]);
            !ss.output().unwrap().stdout.is_empty()
        });
        running
    }

    fn client(rig: &Rig, port: u16, send: &str) -> Self {
        let mut client = rig.world.in_pod(&binary("dial"));
        client.args([&format!("{CLUSTER_IP}:{port}"), "--send", send]);
        Self(client.stdout(Stdio::piped()).spawn().unwrap())
    }

    fn say(&mut self, text: &str) {
        let stdin = self.0.stdin.as_mut().unwrap();
        stdin.write_all(text.as_bytes()).unwrap();
    }

    /// Reads lines up to one that contains `word`.
    #[track_caller]
    fn read_until(&mut self, word: &str) {
        let mut seen = Vec::new();
        let stdout = self.0.stdout.as_mut().unwrap();
        // Byte by byte: a buffer would take more than it gives back.
        while let Some(Ok(byte)) = stdout.bytes().next() {
            seen.push(byte);
            if byte == b'\n' && String::from_utf8_lossy(&seen).contains(word) {
                return;
            }
        }
        panic!("{word} is not in {}", String::from_utf8_lossy(&seen));
    }

    fn signal(&self, name: &str) {
        let mut kill = Command::new("kill");
        kill.args([&format!("-{name}"), &self.0.id().to_string()]);
        assert!(kill.status().unwrap().success());
    }

    fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}
