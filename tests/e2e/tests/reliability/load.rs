//! Clients that ask without a pause, marked, and what of it is on the wire.

use std::fs::{self, File};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nodetls_e2e::{ASK, Namespace, on_node, script, wait};

pub(crate) const URL: &str = "http://server/";
/// In each request of the load.
pub(crate) const MARK: &str = "marked-in-plaintext";

/// Four clients that ask without a pause, each time on a new connection, until told to stop.
fn clients() -> String {
    format!(
        "ask() {{ while ! test -e /tmp/stop; do {ASK} -H 'X-Mark: {MARK}' {URL}; done }}\n\
         ask & ask & ask & ask &\n\
         sleep infinity\n"
    )
}

/// A server on node2, under load from node1, and what is on the wire between the two.
pub(crate) struct Load {
    pub(crate) namespace: Namespace,
    capture: Child,
    file: String,
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
        namespace.apply(&script("load", &clients()));
        namespace.wait("pod/load", "condition=Ready");
        let load = Self {
            namespace,
            capture,
            file,
        };
        wait("the load gets answers", || load.answered() > 20);
        load
    }

    /// A line for each request that has ended, with the time of day.
    pub(crate) fn lines(&self) -> Vec<String> {
        let logs = self.namespace.kubectl(&["logs", "load", "--timestamps"]);
        logs.lines().map(str::to_owned).collect()
    }

    fn answered(&self) -> usize {
        let lines = self.lines();
        lines.iter().filter(|line| read(line).1 == "200").count()
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
        // What was asked is on the wire, or never will be.
        self.namespace
            .kubectl(&["delete", "pod", "load", "--wait=false", "--grace-period=1"]);
        let lines = self.lines();
        self.end_capture();
        let wire = fs::read(&self.file).unwrap();
        assert!(wire.len() > 100_000, "little was captured");
        let marks = wire.windows(MARK.len());
        let mut outcome = Outcome {
            plaintext: marks.filter(|bytes| *bytes == MARK.as_bytes()).count(),
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
