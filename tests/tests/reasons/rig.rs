//! One Service with many ports, a server behind each.

use std::fs;

use nodetls::failure::Reason;
use nodetls_tests::{
    BACKEND_IP, CLUSTER_IP, Ca, HOST, Identity, Running, World, binary, config_map, policy_with,
};

/// All that a client is told, whatever the reason.
pub(crate) const ANSWER: &str = "HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/plain\r\nContent-Length: 46\r\n\
                      Connection: close\r\n\r\nnodetls: no secure connection to this Service\n\n502";

/// A Service whose ports have an endpoint each, all under one policy.
pub(crate) struct Rig {
    pub(crate) world: World,
    pub(crate) ca: Ca,
    /// Port of the Service and of the endpoint, and the endpoint's address.
    pub(crate) ports: Vec<(u16, String)>,
    /// Of the policy; keys without `nodetls.io/`.
    pub(crate) options: Vec<(&'static str, String)>,
}

impl Rig {
    /// No port yet, and nothing runs.
    pub(crate) fn new() -> Self {
        Self {
            world: World::new(),
            ca: Ca::new("test-ca"),
            ports: Vec::new(),
            options: Vec::new(),
        }
    }

    /// A port whose endpoint is the backend.
    pub(crate) fn port(&mut self) -> u16 {
        self.port_at(BACKEND_IP)
    }

    /// A port whose endpoint has this address; without endpoints if it is empty.
    pub(crate) fn port_at(&mut self, address: &str) -> u16 {
        let port = 9001 + u16::try_from(self.ports.len()).unwrap();
        self.ports.push((port, address.to_owned()));
        port
    }

    /// `openssl s_server` with these options, in the directory with the test's files.
    pub(crate) fn openssl(&mut self, identity: &Identity, options: &str) -> u16 {
        let port = self.port();
        let options = format!("-www {options}");
        let server = self.world.s_server(identity, port, &options);
        self.world.serve(server, port);
        port
    }

    /// `openssl s_server`, which sends its standard input.
    pub(crate) fn talking_server(&self, port: u16) -> Running {
        let server = self.world.s_server(&self.ca.sign(HOST), port, "-quiet");
        self.world.serve_talking(server, port)
    }

    /// The test client, which sends this and prints what comes.
    pub(crate) fn client(&self, port: u16, send: &str) -> Running {
        let address = format!("{CLUSTER_IP}:{port}");
        self.world.dialling(&[&address, "--send", send])
    }

    /// A server that answers this text to whatever comes.
    pub(crate) fn banner(&mut self, text: &str) -> u16 {
        let port = self.port();
        let mut server = self.world.in_backend(&binary("banner"));
        server.arg(format!("0.0.0.0:{port}")).arg(text);
        self.world.serve(server, port);
        port
    }

    /// Writes the manifests and starts the agent; `more` CAs are trusted too.
    pub(crate) fn start(&mut self, more: &str) {
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
        let options = self
            .options
            .iter()
            .map(|(key, value)| (*key, value.as_str()));
        let all_ports =
            policy_with(HOST, &options.collect::<Vec<_>>()).replace(", sectionName: '443'", "");
        self.world.manifest("policy.yaml", &all_ports);
        self.world.start_agent();
    }

    /// An HTTP/1 client that gets the generic answer, and no more.
    #[track_caller]
    pub(crate) fn refused(&self, port: u16, reason: Reason, words: &[&str]) {
        let service = format!("tls-backend:{port}");
        let lines = |world: &World| world.log().matches(&service).count();
        let before = lines(&self.world);
        let answer = self.world.curl(&["-i", &url(port)]);
        assert_eq!(answer, ANSWER, "{reason}");
        // The line comes after the answer.
        self.world.wait(&service, |world| lines(world) > before);
        self.logged(port, reason, words);
    }

    /// Counted, and in the log's last line of that port, in words that are documented.
    #[track_caller]
    pub(crate) fn logged(&self, port: u16, reason: Reason, words: &[&str]) {
        let label = format!("reason=\"{reason}\"");
        let port_label = format!("port=\"{port}\"");
        self.world.wait(&format!("{reason} is counted"), |world| {
            world.metric("nodetls_connection_failures_total", &[&label, &port_label]) > 0.0
        });
        self.in_log(port, reason, words);
    }

    /// The same for an agent that has ended, and counts no more.
    #[track_caller]
    pub(crate) fn in_log(&self, port: u16, reason: Reason, words: &[&str]) {
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
pub(crate) fn documented(reason: Reason) -> String {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/errors.md");
    let text = fs::read_to_string(file).unwrap();
    let start = format!("| `{reason}` |");
    text.lines()
        .find(|line| line.starts_with(&start))
        .unwrap()
        .to_owned()
}

/// What a client asks for.
pub(crate) fn url(port: u16) -> String {
    format!("http://{CLUSTER_IP}:{port}/get")
}
