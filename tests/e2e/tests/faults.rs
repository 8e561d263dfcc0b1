//! The agent killed, upgraded under load, and without an API server: no plaintext on the wire, and every failure
//! counted. One test at a time, since others' connections fail too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::{self, File};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nodetls_e2e::nodetls::{ours, until_ready};
use nodetls_e2e::{Namespace, alone, nodetls, on_node, wait};

const AGENTS: &str = "daemonset/nodetls-agent";

const URL: &str = "http://server/";
/// In each request of the load.
const MARK: &str = "marked-in-plaintext";

/// Four clients that ask without a pause, each time on a new connection, and print each status, and why there was none.
const LOAD: &str = r"
apiVersion: v1
kind: Pod
metadata: {name: load}
spec:
  nodeSelector: {kubernetes.io/hostname: node1}
  terminationGracePeriodSeconds: 0
  containers:
  - name: load
    image: nodetls.test/client:1
    command:
    - sh
    - -c
    - |
      ask() {
        while :; do curl -s -o /dev/null -m 5 -H 'X-Mark: @MARK@' -w '%{http_code} %{errormsg}\n' http://server/; done
      }
      ask & ask & ask & ask
";

/// A server on node2, under load from node1, and what is on the wire between the two.
struct Load {
    namespace: Namespace,
    capture: Child,
    file: String,
}

/// How the load's requests ended.
struct Tally {
    answered: usize,
    /// The others' status and error, each once, with their number.
    others: Vec<(usize, String)>,
}

impl Load {
    fn start(name: &str) -> Self {
        let namespace = Namespace::with_backend(name);
        namespace.clients(&[("client", "node1")]);
        // Until the policy is in force it is plaintext, and rightly so.
        namespace.until_ok("client", URL);
        let file = namespace.file("wire.pcap");
        let filter = ["-i", "eth0", "-U", "-w", &file, "tcp"];
        let mut capture = on_node("node2", &[&["tcpdump"], &filter[..]].concat());
        let log = File::create(namespace.file("tcpdump.log")).unwrap();
        let capture = capture.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        wait("the capture has begun", || {
            fs::metadata(&file).is_ok_and(|file| file.len() > 0)
        });
        namespace.apply(&LOAD.replace("@MARK@", MARK));
        namespace.wait("pod/load", "condition=Ready");
        let load = Self {
            namespace,
            capture,
            file,
        };
        wait("the load gets answers", || load.answered() > 20);
        load
    }

    fn lines(&self) -> Vec<String> {
        let logs = self.namespace.kubectl(&["logs", "load"]);
        logs.lines().map(str::to_owned).collect()
    }

    fn answered(&self) -> usize {
        self.lines()
            .iter()
            .filter(|line| line.starts_with("200"))
            .count()
    }

    /// Until so many more have been answered; how long that took.
    fn answers(&self, more: usize) -> Duration {
        let (start, before) = (Instant::now(), self.answered());
        wait("the load gets answers again", || {
            self.answered() >= before + more
        });
        start.elapsed()
    }

    /// How requests ended since `from` lines, with nothing in plaintext on the wire.
    fn end(mut self, what: &str, from: usize) -> Tally {
        // What was asked is on the wire, or never will be.
        self.namespace
            .kubectl(&["delete", "pod", "load", "--wait=false", "--grace-period=1"]);
        let lines = self.lines();
        self.end_capture();
        let wire = fs::read(&self.file).unwrap();
        let marks = wire
            .windows(MARK.len())
            .filter(|bytes| *bytes == MARK.as_bytes())
            .count();
        let mut tally = Tally {
            answered: 0,
            others: Vec::new(),
        };
        for line in &lines[from.min(lines.len())..] {
            if line.starts_with("200") {
                tally.answered += 1;
                continue;
            }
            // Without what differs, such as `after 12 ms`.
            let (status, error) = line.split_once(' ').unwrap_or((line, ""));
            let error: String = error.chars().filter(|c| !c.is_ascii_digit()).collect();
            let line = format!("{status} {error}");
            match tally.others.iter_mut().find(|(_, other)| *other == line) {
                Some((count, _)) => *count += 1,
                None => tally.others.push((1, line)),
            }
        }
        let (answered, others) = (tally.answered, &tally.others);
        println!(
            "{what}: answered {answered}, others {others:?}, captured {} bytes, {marks} in plaintext",
            wire.len()
        );
        assert!(wire.len() > 100_000, "little was captured");
        assert_eq!(marks, 0, "plaintext on the wire");
        assert!(self.namespace.plaintext().is_empty());
        tally
    }
}

impl Load {
    fn end_capture(&mut self) {
        if matches!(self.capture.try_wait(), Ok(None)) {
            let pid = self.capture.id().to_string();
            let _ = Command::new("kill").arg(pid).status();
            let _ = self.capture.wait();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end_capture();
    }
}

impl Tally {
    /// Whether the rest was refused, or answered by an error of ours.
    fn has_only_refused(&self) -> bool {
        let allowed = ["Couldn't connect to server", "Connection reset by peer"];
        let refused = |line: &str| {
            allowed.iter().any(|error| line.ends_with(error)) || line.starts_with("50")
        };
        self.others.iter().all(|(_, line)| refused(line))
    }
}

/// Processes whose command line begins so, and in whose environment is this.
fn processes(command: &[&str], environment: &str) -> Vec<u32> {
    let wanted = command.join("\0");
    let pids = fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is = |pid: &u32| {
        let read = |file| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let has = |all: &[u8], part: &str| String::from_utf8_lossy(all).contains(part);
        read("cmdline").starts_with(wanted.as_bytes()) && has(&read("environ"), environment)
    };
    pids.filter(is).collect()
}

fn agents() -> Vec<u32> {
    processes(&["/nodetls", "agent"], "NODE_NAME=node1")
}

/// kill -9 of the agent on node1, which is gone then.
fn kill_agent() {
    let killed = agents();
    assert_eq!(killed.len(), 1, "{killed:?}");
    let pid = killed[0].to_string();
    Command::new("kill").args(["-9", &pid]).status().unwrap();
    wait("it is gone", || agents() != killed);
}

/// Another pod has the agent of node1: the kubelet lets one that was killed before wait ever longer.
fn new_agent() {
    let agent = nodetls::agent("node1");
    ours(&["delete", "pod", &agent]);
    until_ready(AGENTS);
}

#[test]
fn an_agent_that_is_killed_refuses_until_it_is_back() {
    let _alone = alone();
    new_agent();
    let load = Load::start("e2e-killed");
    let from = load.lines().len();
    let mut recovery = Vec::new();
    for _ in 0..2 {
        kill_agent();
        recovery.push(load.answers(20));
    }
    let tally = load.end(
        &format!("killed twice, 20 answers after {recovery:?}"),
        from,
    );
    assert!(!tally.others.is_empty(), "nobody noticed");
    assert!(tally.has_only_refused(), "{:?}", tally.others);
}

#[test]
fn a_rollout_refuses_nobody() {
    let _alone = alone();
    let load = Load::start("e2e-rollout");
    let from = load.lines().len();
    ours(&["rollout", "restart", "daemonset/nodetls-agent"]);
    ours(&["rollout", "status", AGENTS, "--timeout=120s"]);
    // Beyond the drain of the old one.
    load.answers(100);
    let tally = load.end("rollout", from);
    assert!(tally.answered > 100);
    assert_eq!(tally.others, []);
}

/// The API server, ended; started again when dropped.
struct ApiServer {
    command: Vec<String>,
}

impl ApiServer {
    fn stop() -> Self {
        let find = || {
            let all = fs::read_dir("/proc").unwrap().flatten();
            let found = all.filter_map(|entry| {
                let command = fs::read_to_string(entry.path().join("cmdline")).ok()?;
                let is = command.contains("kubernetes\0kube-apiserver\0");
                let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
                (is && command.contains("nodetls-cluster")).then_some((pid, command))
            });
            found.collect::<Vec<_>>()
        };
        let found = find();
        assert_eq!(found.len(), 1, "{found:?}");
        let words = found[0].1.trim_end_matches('\0').split('\0');
        let server = Self {
            command: words.map(str::to_owned).collect(),
        };
        Command::new("kill")
            .args(["-9", &found[0].0.to_string()])
            .status()
            .unwrap();
        wait("the API server is gone", || find().is_empty());
        server
    }
}

impl Drop for ApiServer {
    /// As `cargo xtask cluster up` starts it.
    fn drop(&mut self) {
        let join = r#"echo $$ >/sys/fs/cgroup/unified/nodetls-cluster/node1/system/cgroup.procs && exec "$@""#;
        let log = "/var/lib/nodetls-cluster/logs/node1-kube-apiserver.log";
        let log = File::options().append(true).open(log).unwrap();
        let mut start = Command::new("setsid");
        start.args(["--fork", "sh", "-c", join, "sh"]);
        start
            .arg("/var/lib/nodetls-cluster/node1/enter")
            .args(&self.command);
        start.stdin(Stdio::null()).stdout(log.try_clone().unwrap());
        start.stderr(log).status().unwrap();
        let deadline = Instant::now() + Duration::from_secs(90);
        let ready = || {
            let mut ask = Command::new(nodetls_e2e::KUBECTL);
            ask.args(["get", "--raw", "/readyz"])
                .output()
                .is_ok_and(|got| got.status.success())
        };
        while !ready() && Instant::now() < deadline {
            sleep(Duration::from_millis(200));
        }
    }
}

#[test]
fn without_an_api_server_traffic_goes_on_also_through_a_restart_of_the_agent() {
    let _alone = alone();
    new_agent();
    let load = Load::start("e2e-no-api");
    let from = load.lines().len();
    // What came last is on the node's disk.
    sleep(Duration::from_secs(6));
    let away = ApiServer::stop();
    // The load's log is not to be had now; its pod and the agent go on.
    sleep(Duration::from_secs(3));
    kill_agent();
    wait("the agent is back", || !agents().is_empty());
    sleep(Duration::from_secs(10));
    drop(away);
    load.answers(20);
    ours(&["rollout", "status", AGENTS, "--timeout=60s"]);
    let logs = ours(&["logs", &nodetls::agent("node1")]);
    assert!(
        logs.contains("the last run's objects are in force"),
        "{logs}"
    );
    // What is new is seen again.
    let later = Namespace::with_backend("e2e-no-api-later");
    later.clients(&[("client", "node1")]);
    later.until_ok("client", URL);
    let tally = load.end("no API server for 13 s, agent killed meanwhile", from);
    assert!(tally.has_only_refused(), "{:?}", tally.others);
    let refused: usize = tally.others.iter().map(|(count, _)| count).sum();
    assert!(
        refused > 0 && refused < tally.answered,
        "{:?}",
        tally.others
    );
}
