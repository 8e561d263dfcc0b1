//! What surrounds a test, and its removal.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::free_port;
use crate::process::{Running, ip};
use crate::{
    BACKEND_IP, BACKEND_IP6, CLUSTER_IP, CLUSTER_IP6, Ca, HOST, POD_IP, POD_IP6, config_map,
    policy, service,
};

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
    /// The agent's limit of open files, as prlimit(1) has it: SOFT:HARD.
    pub file_limit: Option<&'static str>,
    /// The cgroup that the agent looks after.
    pub cgroup: PathBuf,
    /// Where the agent pins.
    pub pins: PathBuf,
    pub(crate) admin: u16,
    pub(crate) servers: Vec<Running>,
    pub(crate) name_server: Option<Running>,
    /// Which world of its test program it is.
    pub(crate) number: u8,
    pub(crate) agent: Option<Running>,
}

impl World {
    /// Two joined network namespaces; nothing runs yet.
    pub fn new() -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let id = format!("{}-{number}", std::process::id());
        let (pod, backend) = (format!("nt-pod-{id}"), format!("nt-back-{id}"));
        make_netns(&pod);
        make_netns(&backend);
        ip(&format!(
            "-n {pod} link add eth0 type veth peer name eth0 netns {backend}"
        ));
        ip(&format!("-n {pod} addr add {POD_IP}/24 dev eth0"));
        ip(&format!("-n {backend} addr add {BACKEND_IP}/24 dev eth0"));
        ip(&format!("-n {backend} addr add {CLUSTER_IP}/32 dev lo"));
        ip(&format!("-n {pod} addr add {POD_IP6}/64 dev eth0 nodad"));
        ip(&format!(
            "-n {backend} addr add {BACKEND_IP6}/64 dev eth0 nodad"
        ));
        ip(&format!("-n {backend} addr add {CLUSTER_IP6}/128 dev lo"));
        for netns in [&pod, &backend] {
            ip(&format!("-n {netns} link set eth0 up"));
        }
        for gateway in [BACKEND_IP, BACKEND_IP6] {
            ip(&format!("-n {pod} route add default via {gateway}"));
        }
        let cgroup = nodetls::redirect::default_cgroup()
            .unwrap()
            .join(format!("nodetls-test-{id}"));
        fs::create_dir(&cgroup).unwrap();
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("manifests")).unwrap();
        Self {
            pod,
            backend,
            dir,
            agent_flags: Vec::new(),
            file_limit: None,
            cgroup,
            pins: PathBuf::from(format!("/sys/fs/bpf/nodetls-test-{id}")),
            admin: free_port(),
            servers: Vec::new(),
            name_server: None,
            number: u8::try_from(number + 1).unwrap(),
            agent: None,
        }
    }

    /// The usual set-up: a TLS echo server for [`HOST`], its Service, its CA, its policy, and the agent.
    pub fn with_echo() -> (Self, Ca) {
        let (mut world, ca) = Self::without_agent();
        world.start_agent();
        (world, ca)
    }

    /// The same, but no agent runs yet.
    pub fn without_agent() -> (Self, Ca) {
        let ca = Ca::new("test-ca");
        let echo = ca.sign(HOST);
        let mut world = Self::new();
        world.echo(&echo, 8443);
        world.manifests(&ca);
        (world, ca)
    }

    /// The same with the server that `serve` starts on the backend's port 8443, and the agent.
    pub fn serving(ca: &Ca, serve: impl FnOnce(&mut Self)) -> Self {
        let mut world = Self::new();
        serve(&mut world);
        world.manifests(ca);
        world.start_agent();
        world
    }

    /// The Service `tls-backend`, this CA, and the policy.
    fn manifests(&self, ca: &Ca) {
        self.manifest(
            "service.yaml",
            &service("tls-backend", CLUSTER_IP, 443, 8443),
        );
        self.manifest("ca.yaml", &config_map("example-ca", &ca.pem));
        self.manifest("policy.yaml", &policy(HOST));
    }

    /// Makes another pod's netns, that reaches the backend by a way of its own; its name.
    pub fn neighbour(&self) -> String {
        let (name, backend) = (self.neighbour_name(), &self.backend);
        make_netns(&name);
        ip(&format!(
            "-n {name} link add eth0 type veth peer name eth1 netns {backend}"
        ));
        ip(&format!("-n {name} addr add 10.99.1.1/24 dev eth0"));
        ip(&format!("-n {name} link set eth0 up"));
        ip(&format!("-n {backend} addr add 10.99.1.2/24 dev eth1"));
        ip(&format!("-n {backend} link set eth1 up"));
        ip(&format!("-n {name} route add default via 10.99.1.2"));
        name
    }

    fn neighbour_name(&self) -> String {
        format!("{}-other", self.pod)
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

    /// A file in the test's directory.
    pub fn file(&self, name: &str, contents: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, contents).unwrap();
        path
    }

    /// Polls until `condition` holds; fails the test, showing the agent's log, after 10 s.
    #[track_caller]
    pub fn wait(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !condition(self) {
            assert!(Instant::now() < deadline, "{what}: not within 10 s");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A command in our own netns, and in the cgroup that the agent looks after. (Joined before `ip netns exec`, which
    /// remounts /sys.)
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

/// With its loopback device.
fn make_netns(name: &str) {
    ip(&format!("netns add {name}"));
    ip(&format!("-n {name} link set lo up"));
}

/// With all below it.
fn remove_cgroup(cgroup: &Path) -> io::Result<()> {
    for entry in fs::read_dir(cgroup)?.flatten() {
        if entry.file_type()?.is_dir() {
            remove_cgroup(&entry.path())?;
        }
    }
    fs::remove_dir(cgroup)
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
        self.servers.clear();
        self.name_server = None;
        let _ = fs::remove_dir_all(&self.pins);
        for netns in [&self.pod, &self.backend, &self.neighbour_name()] {
            let _ = Command::new("ip")
                .args(["netns", "del", netns])
                .stderr(Stdio::null())
                .status();
        }
        // The last process may take a moment to leave.
        for _ in 0..50 {
            if remove_cgroup(&self.cgroup).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
