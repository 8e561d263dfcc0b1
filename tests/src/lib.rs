//! A world for each test: a pod's netns and a backend's, joined by a veth pair; a cgroup and a pin directory of its own,
//! so that tests run side by side; certificates, servers, clients and the agent itself, all real.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A broken rig is a failed test.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

/// The Service's address, and its endpoint's.
pub const CLUSTER_IP: &str = "10.96.0.10";
/// The backend's address.
pub const BACKEND_IP: &str = "10.99.0.2";
/// The pod's address.
pub const POD_IP: &str = "10.99.0.1";

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Everything of one test; dropping it removes it.
pub struct World {
    /// Name of the pod's netns.
    pub pod: String,
    /// Name of the backend's netns.
    pub backend: String,
    /// Certificates, logs.
    pub dir: tempfile::TempDir,
    /// More of the agent's flags.
    pub agent_flags: Vec<&'static str>,
    /// The agent's hard limit of open files.
    pub file_limit: Option<u32>,
    /// The cgroup that the agent looks after.
    pub cgroup: PathBuf,
    /// Where the agent pins.
    pub pins: PathBuf,
    admin: u16,
    children: Vec<Running>,
    agent: Option<Running>,
}

/// A process that ends with the test, however that ends.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A CA that signs server certificates.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate, PEM.
    pub pem: String,
}

impl Ca {
    /// A fresh one with this common name.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    /// A server certificate and its key, PEM; `days` is how long it is valid still.
    pub fn sign(&self, name: &str, days: i64) -> (String, String) {
        self.issue(name, |params| {
            if days < 0 {
                params.not_after = rcgen::date_time_ymd(2021, 1, 1);
            }
        })
    }

    /// The same with what `change` makes of it.
    pub fn issue(
        &self,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> (String, String) {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        (
            params.signed_by(&key, &self.issuer).unwrap().pem(),
            key.serialize_pem(),
        )
    }
}

impl World {
    /// Two joined network namespaces; nothing runs yet.
    pub fn new() -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let id = format!("{}-{number}", std::process::id());
        let (pod, backend) = (format!("nt-pod-{id}"), format!("nt-back-{id}"));
        for netns in [&pod, &backend] {
            ip(&["netns", "add", netns]);
            ip(&["-n", netns, "link", "set", "lo", "up"]);
        }
        ip(&[
            "-n", &pod, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns",
            &backend,
        ]);
        ip(&[
            "-n",
            &pod,
            "addr",
            "add",
            &format!("{POD_IP}/24"),
            "dev",
            "eth0",
        ]);
        ip(&[
            "-n",
            &backend,
            "addr",
            "add",
            &format!("{BACKEND_IP}/24"),
            "dev",
            "eth0",
        ]);
        ip(&[
            "-n",
            &backend,
            "addr",
            "add",
            &format!("{CLUSTER_IP}/32"),
            "dev",
            "lo",
        ]);
        for netns in [&pod, &backend] {
            ip(&["-n", netns, "link", "set", "eth0", "up"]);
        }
        ip(&["-n", &pod, "route", "add", "default", "via", BACKEND_IP]);
        let cgroup = nodetls::redirect::default_cgroup()
            .unwrap()
            .join(format!("nodetls-test-{id}"));
        fs::create_dir(&cgroup).unwrap();
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("manifests")).unwrap();
        let admin = free_port();
        let pins = PathBuf::from(format!("/sys/fs/bpf/nodetls-test-{id}"));
        Self {
            pod,
            backend,
            dir,
            agent_flags: vec!["--connect-timeout", "1", "--handshake-timeout", "1"],
            file_limit: None,
            cgroup,
            pins,
            admin,
            children: Vec::new(),
            agent: None,
        }
    }

    /// The usual set-up: a TLS echo server for www.example.com, its Service, its CA, its policy, and the agent.
    pub fn with_echo() -> (Self, Ca) {
        let (mut world, ca) = Self::without_agent();
        world.start_agent();
        (world, ca)
    }

    /// The same, but no agent runs yet.
    pub fn without_agent() -> (Self, Ca) {
        let mut world = Self::new();
        let ca = Ca::new("test-ca");
        let (certificate, key) = ca.sign("www.example.com", 1);
        world.echo(&certificate, &key, "0.0.0.0:8443");
        world.manifest(
            "service.yaml",
            &service("tls-backend", CLUSTER_IP, 443, 8443),
        );
        world.manifest("ca.yaml", &config_map("example-ca", &ca.pem));
        world.manifest("policy.yaml", &policy("www.example.com"));
        (world, ca)
    }

    /// Writes a manifest as an editor would: a new file that takes the old one's place.
    pub fn manifest(&self, name: &str, text: &str) {
        let directory = self.dir.path().join("manifests");
        let temporary = directory.join(format!(".{name}"));
        fs::write(&temporary, text).unwrap();
        fs::rename(temporary, directory.join(name)).unwrap();
    }

    /// Removes a manifest.
    pub fn remove_manifest(&self, name: &str) {
        fs::remove_file(self.dir.path().join("manifests").join(name)).unwrap();
    }

    /// Starts the agent and waits until it is ready.
    pub fn start_agent(&mut self) {
        self.start_agent_for(&self.pod.clone());
    }

    /// Starts the agent for the netns that match `pattern`, and waits until it is ready.
    pub fn start_agent_for(&mut self, pattern: &str) {
        let manifests = self.dir.path().join("manifests");
        self.agent = Some(self.spawn_agent(pattern, &manifests, self.admin));
        self.wait("the agent is ready", |world| {
            world.get("/healthz/ready").starts_with("HTTP/1.1 200")
        });
    }

    /// Starts a second agent beside the first, and waits until it is ready and the first has ended.
    pub fn upgrade_agent(&mut self) {
        let mut first = self.agent.take().unwrap();
        self.admin = free_port();
        self.start_agent();
        assert!(first.0.wait().unwrap().success(), "{}", self.log());
    }

    /// Starts an agent with these manifests beside the first, which stays the one that the other methods speak of.
    pub fn start_beside(&self, manifests: &Path) -> Running {
        self.spawn_agent(&self.pod, manifests, free_port())
    }

    fn spawn_agent(&self, pattern: &str, manifests: &Path, admin: u16) -> Running {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_path())
            .unwrap();
        let mut command = match self.file_limit {
            None => self.in_cgroup(&binary("nodetls")),
            Some(limit) => {
                let mut command = self.in_cgroup("prlimit");
                command.arg(format!("--nofile={limit}:{limit}"));
                command.arg(binary("nodetls"));
                command
            }
        };
        command.arg("agent").args(&self.agent_flags);
        command.arg("--manifests").arg(manifests);
        let admin = format!("127.0.0.1:{admin}");
        command.args(["--netns", pattern, "--admin", &admin]);
        command.arg("--cgroup").arg(&self.cgroup);
        command.arg("--pins").arg(&self.pins);
        command.stdout(log.try_clone().unwrap()).stderr(log);
        Running(command.spawn().unwrap())
    }

    /// kill -9, and the agent is gone.
    pub fn kill_agent(&mut self) {
        drop(self.agent.take().unwrap());
    }

    /// Sends the agent SIGTERM.
    pub fn terminate_agent(&self) {
        let pid = self.agent.as_ref().unwrap().0.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &pid])
                .status()
                .unwrap()
                .success()
        );
    }

    /// The agent's process id.
    pub fn agent_pid(&self) -> u32 {
        self.agent.as_ref().unwrap().0.id()
    }

    /// Waits for the agent to end by itself.
    pub fn wait_agent(&mut self) -> bool {
        self.agent.take().unwrap().0.wait().unwrap().success()
    }

    /// Starts a TLS echo server in the backend's netns.
    pub fn echo(&mut self, certificate: &str, key: &str, listen: &str) {
        let (cert, key_file) = (
            self.file("echo.crt", certificate),
            self.file("echo.key", key),
        );
        let mut command = netns_exec(&self.backend, &binary("tls-echo"));
        command
            .arg("--cert")
            .arg(cert)
            .arg("--key")
            .arg(key_file)
            .args(["--listen", listen]);
        self.serve(command, listen);
    }

    /// Starts any server in the backend's netns, and waits until it listens.
    pub fn serve(&mut self, mut command: Command, listen: &str) {
        let log = fs::File::create(
            self.dir
                .path()
                .join(format!("server-{}.log", self.children.len())),
        )
        .unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log);
        self.children.push(Running(command.spawn().unwrap()));
        let port = listen.rsplit(':').next().unwrap().to_owned();
        self.wait("the server listens", |world| {
            let output = netns_exec(&world.backend, "ss")
                .args(["-Hltn", &format!("sport = :{port}")])
                .output();
            !output.unwrap().stdout.is_empty()
        });
    }

    /// A command in the backend's netns.
    pub fn in_backend(&self, program: &str) -> Command {
        netns_exec(&self.backend, program)
    }

    /// A command as a pod would run it: in its netns, and in the cgroup that the agent looks after.
    pub fn in_pod(&self, program: &str) -> Command {
        let mut command = self.in_cgroup("ip");
        command.args(["netns", "exec", &self.pod, program]);
        command
    }

    /// `nodetls exec` in the pod's netns, below the cgroup that the agent looks after. (`ip netns exec` would hide /sys.)
    pub fn exec(&self, command: &[&str]) -> Command {
        self.exec_with(&self.dir.path().join("manifests"), command)
    }

    /// The same with other manifests.
    pub fn exec_with(&self, manifests: &Path, command: &[&str]) -> Command {
        let mut exec = self.in_cgroup("nsenter");
        exec.arg(format!("--net=/run/netns/{}", self.pod));
        exec.args([&binary("nodetls"), "exec", "--manifests"])
            .arg(manifests);
        exec.arg("--pins").arg(&self.pins).arg("--").args(command);
        exec
    }

    /// Runs `nodetls uninstall`; whether it succeeded, and what it said.
    pub fn uninstall(&self) -> (bool, String) {
        let mut command = Command::new(binary("nodetls"));
        let output = command
            .arg("uninstall")
            .arg("--pins")
            .arg(&self.pins)
            .output()
            .unwrap();
        (output.status.success(), text(&output))
    }

    /// Runs `nodetls status`; its exit code, and what it said.
    pub fn status(&self, more: &[&str]) -> (i32, String) {
        let mut command = Command::new(binary("nodetls"));
        command.args(["status", "--admin", &format!("127.0.0.1:{}", self.admin)]);
        command.arg("--pins").arg(&self.pins).args(more);
        let output = command.output().unwrap();
        (output.status.code().unwrap(), text(&output))
    }

    /// Runs curl in the pod; its output, and the HTTP status on the last line (000: no answer).
    pub fn curl(&self, arguments: &[&str]) -> String {
        let mut command = self.in_pod("curl");
        command
            .args(["-s", "-m", "10", "-w", "\n%{http_code}"])
            .args(arguments);
        text(&command.output().unwrap())
    }

    /// Runs the test client in the pod.
    pub fn dial(&self, arguments: &[&str]) -> String {
        text(
            &self
                .in_pod(&binary("dial"))
                .args(arguments)
                .output()
                .unwrap(),
        )
    }

    /// The test client's word on `requests` new connections, while `change` is called twice a second.
    pub fn load(&mut self, requests: u32, mut change: impl FnMut(&mut Self, u32)) -> String {
        let mut command = self.in_pod(&binary("dial"));
        let target = format!("{CLUSTER_IP}:443");
        command.args([&target, "--load", &requests.to_string()]);
        let mut client = Running(command.stdout(Stdio::piped()).spawn().unwrap());
        let started = Instant::now();
        for turn in 0.. {
            let ended = client.0.try_wait().unwrap().is_some();
            if ended || started.elapsed() > Duration::from_secs(300) {
                break;
            }
            change(self, turn);
            std::thread::sleep(Duration::from_millis(500));
        }
        let mut result = String::new();
        let mut stdout = client.0.stdout.take().unwrap();
        stdout.read_to_string(&mut result).unwrap();
        result
    }

    /// A file in the test's directory.
    pub fn file(&self, name: &str, contents: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, contents).unwrap();
        path
    }

    /// What the agent has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// The sum of the metric's samples that contain all of `labels`.
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        self.get("/metrics")
            .lines()
            .filter(|line| {
                line.starts_with(name) && labels.iter().all(|label| line.contains(label))
            })
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// GET from the admin address; empty while nobody answers.
    pub fn get(&self, path: &str) -> String {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.admin)) else {
            return String::new();
        };
        let _ = write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        );
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    }

    /// Polls until `condition` holds; fails the test, showing the agent's log, after 10 s.
    pub fn wait(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !condition(self) {
            assert!(Instant::now() < deadline, "{what}: not within 10 s");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Captures what reaches the backend while `work` runs; the raw capture.
    pub fn capture(&mut self, work: impl FnOnce(&mut Self)) -> Vec<u8> {
        let file = self.dir.path().join("capture.pcap");
        let mut command = netns_exec(&self.backend, "tcpdump");
        command
            // Not in immediate mode, whose ring has a slot of full size for each packet.
            .args(["-i", "any", "-s", "16384", "-B", "65536", "-w"])
            .arg(&file);
        let mut tcpdump = Running(command.stderr(Stdio::piped()).spawn().unwrap());
        self.wait("tcpdump captures", |_| file.exists());
        std::thread::sleep(Duration::from_millis(300));
        work(self);
        std::thread::sleep(Duration::from_millis(300));
        let pid = tcpdump.0.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-INT", &pid])
                .status()
                .unwrap()
                .success()
        );
        let mut summary = String::new();
        tcpdump
            .0
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut summary)
            .unwrap();
        tcpdump.0.wait().unwrap();
        assert!(
            summary.contains("\n0 packets dropped by kernel"),
            "{summary}"
        );
        fs::read(file).unwrap()
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("agent.log")
    }

    /// `ip netns exec` remounts /sys, so the cgroup is joined before.
    pub fn in_cgroup(&self, program: &str) -> Command {
        let mut command = Command::new("sh");
        let procs = self.cgroup.join("cgroup.procs");
        command
            .args(["-c", "echo $$ > \"$0\" && exec \"$@\""])
            .arg(procs)
            .arg(program);
        command
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log
                .lines()
                .filter(|line| !line.contains("connection closed"))
                .collect();
            eprintln!("the agent's log, connections aside:\n{}", lines.join("\n"));
        }
        self.agent = None;
        self.children.clear();
        let _ = fs::remove_dir_all(&self.pins);
        for netns in [&self.pod, &self.backend] {
            let _ = Command::new("ip")
                .args(["netns", "del", netns])
                .stderr(Stdio::null())
                .status();
        }
        // The last process may take a moment to leave.
        for _ in 0..50 {
            for child in fs::read_dir(&self.cgroup).into_iter().flatten().flatten() {
                let _ = fs::remove_dir(child.path());
            }
            if fs::remove_dir(&self.cgroup).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// How often `needle` occurs.
pub fn occurrences(haystack: &[u8], needle: &str) -> usize {
    haystack
        .windows(needle.len())
        .filter(|window| *window == needle.as_bytes())
        .count()
}

/// A Service and its EndpointSlice.
pub fn service(name: &str, cluster_ip: &str, port: u16, target_port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  clusterIP: {cluster_ip}\n  \
         ports:\n  - {{name: https, port: {port}, targetPort: {target_port}}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}-1\n  \
         labels: {{kubernetes.io/service-name: {name}}}\naddressType: IPv4\n\
         endpoints:\n- addresses: [{BACKEND_IP}]\nports:\n- {{name: https, port: {target_port}}}\n"
    )
}

/// A ConfigMap with a CA.
pub fn config_map(name: &str, pem: &str) -> String {
    let pem: String = pem.lines().map(|line| format!("    {line}\n")).collect();
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata:\n  ca.crt: |\n{pem}"
    )
}

/// The policy for the Service `tls-backend`.
pub fn policy(hostname: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {{name: tls}}\nspec:\n  \
         targetRefs:\n  - {{group: '', kind: Service, name: tls-backend, sectionName: '443'}}\n  validation:\n    \
         hostname: {hostname}\n    caCertificateRefs:\n    - {{group: '', kind: ConfigMap, name: example-ca}}\n"
    )
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn netns_exec(netns: &str, program: &str) -> Command {
    let mut command = Command::new("ip");
    command
        .args(["netns", "exec", netns, program])
        .stdin(Stdio::null());
    command
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "ip {arguments:?}: {}",
        text(&output)
    );
}

fn text(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&both).into_owned()
}

/// A program built from this workspace; the tests run from target/PROFILE/deps.
pub fn binary(name: &str) -> String {
    let test = std::env::current_exe().unwrap();
    let path = test
        .ancestors()
        .nth(2)
        .map_or_else(PathBuf::new, Path::to_owned)
        .join(name);
    assert!(
        path.exists(),
        "{} is missing: run `cargo xtask test`",
        path.display()
    );
    path.display().to_string()
}
