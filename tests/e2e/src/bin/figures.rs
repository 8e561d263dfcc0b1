//! How fast a cluster with nodetls follows, and what an agent costs when nothing happens: `cargo xtask cluster figures`.
//! Prints a table in Markdown. Times are the kernel's (/proc/uptime, 10 ms), the same for all nodes and pods.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A broken cluster gives no figures.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::{sleep, spawn};
use std::time::Duration;

use nodetls_e2e::{KUBECTL, Namespace, kubectl, nodetls, until, wait};

const SAMPLES: usize = 50;
const PODS: usize = 100;
const SERVICES: usize = 1000;
const POLICIES: usize = 100;
/// For CPU time.
const IDLE: Duration = Duration::from_secs(30);

fn main() {
    println!("| | median | p99 | |\n|---|--:|--:|---|");
    let namespace = Namespace::with_backend("e2e-figures");
    namespace.clients(&[("client", "node1")]);
    namespace.until_ok("client", "http://server/");
    row(
        "kubectl alone (`get namespace default`)",
        (0..20).map(|_| kubectl_alone()).collect(),
    );
    row(
        "`kubectl apply` of a policy → first TLS connection",
        policies(&namespace),
    );
    row(
        "`kubectl patch` of a CA's ConfigMap → in effect",
        edits(&namespace),
    );
    let (enrolled, started) = pods(&namespace);
    row("sandbox started → enrolled", enrolled);
    row("sandbox started → container started", started);
    idle(&namespace);
}

/// Prints seconds as a row in milliseconds.
fn row(what: &str, mut seconds: Vec<f64>) {
    seconds.sort_by(f64::total_cmp);
    let at = |part: f64| seconds[((seconds.len() - 1) as f64 * part).round() as usize] * 1000.0;
    println!(
        "| {what} | {:.0} ms | {:.0} ms | of {} |",
        at(0.5),
        at(0.99),
        seconds.len()
    );
}

/// Seconds since boot.
fn now() -> f64 {
    first(&fs::read_to_string("/proc/uptime").unwrap())
}

fn first(uptime: &str) -> f64 {
    uptime.split(' ').next().unwrap().parse().unwrap()
}

fn kubectl_alone() -> f64 {
    let start = now();
    kubectl(&["get", "namespace", "default"]);
    now() - start
}

/// A client that asks without a pause: the status of each answer, and when it came.
struct Poll {
    child: Child,
    answers: Receiver<(String, f64)>,
}

impl Poll {
    fn start(namespace: &Namespace, service: &str) -> Self {
        let ask = format!(
            "while :; do a=$(curl -s -o /dev/null -m 2 -w '%{{http_code}}' http://{service}/); echo $a $(cat /proc/uptime); done"
        );
        let mut exec = Command::new(KUBECTL);
        exec.args([
            "--namespace",
            &namespace.0,
            "exec",
            "client",
            "--",
            "sh",
            "-c",
            &ask,
        ]);
        let mut child = exec.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (to, answers) = channel();
        spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let Some((status, uptime)) = line.split_once(' ') {
                    let _ = to.send((status.to_owned(), first(uptime)));
                }
            }
        });
        Self { child, answers }
    }

    /// When the first such answer came, after `since`.
    fn until(&self, status: &str, since: f64) -> f64 {
        loop {
            let patience = Duration::from_secs(30);
            let (got, at) = self.answers.recv_timeout(patience).expect("no such answer");
            if got == status && at > since {
                return at;
            }
        }
    }
}

impl Drop for Poll {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn service(name: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  selector: {{app: server}}\n  \
         ports: [{{name: https, port: 80, targetPort: 8443}}]\n"
    )
}

fn policy(name: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {{name: {name}}}\nspec:\n  \
         targetRefs: [{{group: '', kind: Service, name: {name}}}]\n  validation:\n    hostname: server.example.com\n    \
         caCertificateRefs: [{{group: '', kind: ConfigMap, name: ca}}]\n"
    )
}

fn policies(namespace: &Namespace) -> Vec<f64> {
    let names: Vec<_> = (0..SAMPLES).map(|number| format!("s{number}")).collect();
    namespace.apply(&names.iter().map(|name| service(name)).collect::<String>());
    let sample = |name: &String| {
        let poll = Poll::start(namespace, name);
        // The server's word for plaintext.
        poll.until("400", 0.0);
        let start = now();
        namespace.apply(&policy(name));
        poll.until("200", start) - start
    };
    names.iter().map(sample).collect()
}

fn edits(namespace: &Namespace) -> Vec<f64> {
    let right = namespace.kubectl(&[
        "get",
        "configmap",
        "ca",
        "--output=jsonpath={.data.ca\\.crt}",
    ]);
    let wrong = namespace.steps(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=other -keyout /dev/null 2>/dev/null",
    );
    let patch = |pem: &str| {
        let patch = serde_json::json!({"data": {"ca.crt": pem}}).to_string();
        namespace.kubectl(&[
            "patch",
            "configmap",
            "ca",
            "--type=merge",
            "--patch",
            &patch,
        ]);
    };
    let poll = Poll::start(namespace, "server");
    let sample = |_| {
        let start = now();
        patch(&wrong);
        poll.until("502", start);
        let start = now();
        patch(&right);
        poll.until("200", start) - start
    };
    (0..SAMPLES).map(sample).collect()
}

/// From a sandbox's start to its enrolment, and to the container's start.
fn pods(namespace: &Namespace) -> (Vec<f64>, Vec<f64>) {
    let (mut enrolled, mut started) = (Vec::new(), Vec::new());
    for number in 0..20 {
        let name = format!("timed{number}");
        namespace.clients(&[(&name, "node1")]);
        let uid = namespace.kubectl(&["get", "pod", &name, "--output=jsonpath={.metadata.uid}"]);
        let starts = starts(&uid);
        let said = format!("netns=\"{}/{name}\"", namespace.0);
        let at = until("the agent says so", || {
            let logs = kubectl(&[
                "--namespace",
                nodetls::NAMESPACE,
                "logs",
                &nodetls::agent("node1"),
            ]);
            let line = logs
                .lines()
                .find(|line| line.contains("enrolled") && line.contains(&said));
            line.map(|line| line.split(' ').next().unwrap().to_owned())
                .ok_or("not enrolled")
        });
        enrolled.push(since_boot(&at) - starts["pause"]);
        started.push(starts["sleep"] - starts["pause"]);
        namespace.kubectl(&["delete", "pod", &name, "--wait=false"]);
    }
    (enrolled, started)
}

/// When the pod's processes were started, by their names, in seconds since boot (proc_pid_stat(5), field 22).
fn starts(uid: &str) -> BTreeMap<String, f64> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let processes = processes.filter_map(|entry| {
        let read = |file| fs::read_to_string(entry.path().join(file)).ok();
        if !read("cgroup")?.contains(uid) {
            return None;
        }
        let stat = read("stat")?;
        let start: f64 = stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()?;
        Some((read("comm")?.trim().to_owned(), start / 100.0))
    });
    processes.collect()
}

/// A log line's time (RFC 3339, UTC) in seconds since boot.
fn since_boot(time: &str) -> f64 {
    let date = Command::new("date")
        .args(["--date", time, "+%s.%N"])
        .output()
        .unwrap();
    let date: f64 = String::from_utf8(date.stdout)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let unix = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    date - (unix.as_secs_f64() - now())
}

/// What an agent costs that has nothing to do, with many policies, Services and pods.
fn idle(namespace: &Namespace) {
    let names: Vec<_> = (0..SERVICES)
        .map(|number| format!("idle{number}"))
        .collect();
    namespace.apply(&names.iter().map(|name| service(name)).collect::<String>());
    let some = names.iter().take(POLICIES);
    namespace.apply(&some.map(|name| policy(name)).collect::<String>());
    // Nobody asks for anything any more.
    namespace.kubectl(&["delete", "pod", "client"]);
    let before = enrolled();
    let mut pods = String::new();
    for number in 0..PODS {
        write!(
            pods,
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: idle{number}}}\nspec:\n  \
             nodeSelector: {{kubernetes.io/hostname: node1}}\n  terminationGracePeriodSeconds: 0\n  \
             containers: [{{name: pause, image: nodetls.test/pause:1}}]\n"
        )
        .unwrap();
    }
    namespace.apply(&pods);
    // The kubelet takes its time.
    for _ in 0..20 {
        if enrolled() >= before + PODS {
            break;
        }
        sleep(Duration::from_secs(10));
    }
    wait("all pods are enrolled", || enrolled() >= before + PODS);
    sleep(Duration::from_secs(15));
    let start = metric("process_cpu_seconds_total");
    sleep(IDLE);
    let cpu = (metric("process_cpu_seconds_total") - start) / IDLE.as_secs_f64() * 1000.0;
    let memory = metric("process_resident_memory_bytes") / 1024.0 / 1024.0;
    println!(
        "| idle agent: {POLICIES} policies more, {SERVICES} Services, {PODS} pods | {cpu:.1} m CPU | {memory:.0} MiB RSS | {} enrolled |",
        enrolled()
    );
}

fn enrolled() -> usize {
    metric("nodetls_pods_enrolled") as usize
}

/// A metric without labels of the agent on node1.
fn metric(name: &str) -> f64 {
    let metrics = nodetls::metrics("node1");
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name}")).parse().unwrap()
}
