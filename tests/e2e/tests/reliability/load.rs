//! Pods that ask again and again, marked, and what of it is on the wire.

use std::cell::RefCell;
use std::fs::{self, File};
use std::ops::Range;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nodetls_e2e::{ASK, Namespace, on_node, wait};

use crate::wire;

pub(crate) const URL: &str = "http://server/";

/// How many pods ask.
pub(crate) const PODS: usize = 8;

/// Pods of node1, each of which asks, each time on a new connection.
fn clients(mark: &str) -> String {
    let script = format!("while :; do {ASK} -H 'X-Mark: {mark}' {URL}; sleep 0.1; done");
    let script = serde_json::Value::from(script);
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: load}}\nspec:\n  replicas: {PODS}\n  \
         selector: {{matchLabels: {{app: load}}}}\n  template:\n    metadata: {{labels: {{app: load}}}}\n    spec:\n      \
         nodeSelector: {{kubernetes.io/hostname: node1}}\n      terminationGracePeriodSeconds: 0\n      \
         containers: [{{name: client, image: nodetls.test/client:1, command: [sh, -c, {script}]}}]\n"
    )
}

/// A server on node2, under load from node1, and what is on the wire between the two.
pub(crate) struct Load {
    pub(crate) namespace: Namespace,
    /// In each request, and in those of no other load: clients of the one before may still be on their way out.
    pub(crate) mark: String,
    capture: Child,
    file: String,
    /// When plaintext was in order: nothing was declared of the Service.
    undeclared: RefCell<Vec<Range<Duration>>>,
}

/// How the load's requests ended.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) tried: usize,
    /// Refused by the kernel, reset, or answered by an error of ours.
    pub(crate) refused: usize,
    /// The status and error of what was neither answered nor refused.
    pub(crate) failed: Vec<String>,
    /// Marked requests that the wire shows as they are.
    pub(crate) plaintext: usize,
    /// The longest time between two answers.
    pub(crate) outage: Duration,
}

impl Load {
    pub(crate) fn start(name: &str) -> Self {
        let mark = format!("marked-{name}");
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
        namespace.apply(&clients(&mark));
        // All of them: logs of one that has not begun are an error.
        namespace.kubectl(&["rollout", "status", "deployment/load", "--timeout=60s"]);
        let load = Self {
            namespace,
            mark,
            capture,
            file,
            undeclared: RefCell::default(),
        };
        wait("the load gets answers", || load.answered() > 20);
        load
    }

    /// A line for each request that has ended, in that order, with the time.
    pub(crate) fn lines(&self) -> Vec<String> {
        let at_once = format!("--max-log-requests={PODS}");
        let all = [
            "logs",
            "--timestamps",
            "--selector=app=load",
            "--tail=-1",
            &at_once,
        ];
        let logs = self.namespace.kubectl(&all);
        let mut lines: Vec<_> = logs.lines().map(str::to_owned).collect();
        lines.sort_unstable();
        lines
    }

    fn answered(&self) -> usize {
        let lines = self.lines();
        lines.iter().filter(|line| read(line).1 == "200").count()
    }

    /// While there is no policy for the Service, as far as a node can know.
    pub(crate) fn while_undeclared(&self, test: impl FnOnce()) {
        let since = now();
        test();
        self.undeclared.borrow_mut().push(since..now());
    }

    /// Until so many more have been answered.
    pub(crate) fn answers(&self, more: usize) {
        let before = self.answered();
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.answered() < before + more {
            assert!(Instant::now() < deadline, "no answers within 60 s");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// How requests ended since `from` lines.
    pub(crate) fn end(mut self, from: usize) -> Outcome {
        // What of these was asked is on the wire, or never will be.
        let lines = self.lines();
        self.end_capture();
        self.namespace.kubectl(&["delete", "deployment", "load"]);
        let wire = fs::read(&self.file).unwrap();
        assert!(wire.len() > 100_000, "little was captured");
        let undeclared = self.undeclared.borrow();
        let in_order = |at: &Duration| undeclared.iter().any(|span| span.contains(at));
        let marked = wire::packets_with(&wire, self.mark.as_bytes());
        if !undeclared.is_empty() {
            let shown = marked.iter().any(|(at, _)| in_order(at));
            assert!(shown, "the capture shows none");
        }
        let mut leaked = marked.iter().filter(|(at, _)| !in_order(at)).peekable();
        if let Some((at, packet)) = leaked.peek() {
            println!("in plaintext, the first at {at:?}: {packet}");
        }
        let mut outcome = Outcome {
            plaintext: leaked.count(),
            ..Outcome::default()
        };
        let mut last = None;
        for line in &lines[from.min(lines.len())..] {
            let (at, status, error) = read(line);
            outcome.tried += 1;
            if status == "200" {
                let gap = last.map_or(0.0, |last: f64| (at - last).rem_euclid(DAY));
                outcome.outage = outcome.outage.max(Duration::from_secs_f64(gap));
                last = Some(at);
            } else if status.starts_with("50") || REFUSED.iter().any(|end| error.ends_with(end)) {
                outcome.refused += 1;
            } else {
                outcome.failed.push(format!("{status} {error}"));
            }
        }
        outcome
    }

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

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

const DAY: f64 = 86_400.0;
/// What curl says of a connect that is refused, and of a reset.
const REFUSED: [&str; 2] = ["Couldn't connect to server", "Connection reset by peer"];

/// Time of day in seconds, status, error.
fn read(line: &str) -> (f64, &str, &str) {
    let mut words = line.splitn(3, ' ');
    let (time, status) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    let clock = time
        .split_once('T')
        .map_or("", |(_, clock)| clock)
        .trim_end_matches('Z');
    let seconds = clock
        .split(':')
        .fold(0.0, |sum, part| sum * 60.0 + part.parse().unwrap_or(0.0));
    (seconds, status, words.next().unwrap_or_default())
}
