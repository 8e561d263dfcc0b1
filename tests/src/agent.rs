//! The agent: its start, its end, and what it tells.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::process::{Running, binary, text};
use crate::{World, free_port};

impl World {
    /// Starts the agent and waits until it is ready.
    pub fn start_agent(&mut self) {
        self.start_agent_for(&self.pod.clone());
    }

    /// Starts the agent for the netns that match `pattern`, and waits until it is ready.
    pub fn start_agent_for(&mut self, pattern: &str) {
        self.launch_agent_for(pattern);
        self.wait("the agent is ready", Self::is_ready);
    }

    /// Starts the agent for the netns that match `pattern`.
    pub fn launch_agent_for(&mut self, pattern: &str) {
        let manifests = self.dir.path().join("manifests");
        self.agent = Some(self.spawn_agent(pattern, &manifests, self.admin));
    }

    /// Whether the agent says that it is ready.
    pub fn is_ready(&self) -> bool {
        self.get("/healthz/ready").starts_with("HTTP/1.1 200")
    }

    /// Starts a second agent beside the first, and waits until it is ready and the first has ended.
    pub fn upgrade_agent(&mut self) {
        let mut first = self.start_next_agent();
        assert!(first.wait().success(), "{}", self.log());
    }

    /// Starts a second agent, waits until it is ready, and hands out the first.
    pub fn start_next_agent(&mut self) -> Running {
        let first = self.agent.take().unwrap();
        self.admin = free_port();
        self.start_agent();
        first
    }

    /// Starts an agent with these manifests beside the first, which stays the one that the other methods speak of.
    pub fn start_beside(&self, manifests: &Path) -> Running {
        self.spawn_agent(&self.pod, manifests, free_port())
    }

    fn spawn_agent(&self, pattern: &str, manifests: &Path, admin: u16) -> Running {
        let log = self.log_file();
        let mut words = self.with_dns();
        if let Some(limit) = self.file_limit {
            words.extend(["prlimit".to_owned(), format!("--nofile={limit}")]);
        }
        words.push(binary("nodetls"));
        let mut command = self.in_cgroup(&words[0]);
        command.args(&words[1..]);
        command.arg("agent").args(&self.agent_flags);
        command.arg("--manifests").arg(manifests);
        let admin = format!("127.0.0.1:{admin}");
        command.args(["--netns", pattern, "--admin", &admin]);
        command.arg("--cgroup").arg(&self.cgroup);
        command.arg("--pins").arg(&self.pins);
        command.stdout(log.try_clone().unwrap()).stderr(log);
        Running::new(command)
    }

    /// kill -9, and the agent is gone.
    pub fn kill_agent(&mut self) {
        drop(self.agent.take().unwrap());
    }

    /// Sends the agent SIGTERM.
    pub fn terminate_agent(&self) {
        self.agent().signal("TERM");
    }

    /// Waits for the agent to end by itself.
    pub fn wait_agent(&mut self) -> bool {
        self.agent.take().unwrap().wait().success()
    }

    /// The whole log of an agent that is told to end: lines are written together.
    pub fn log_at_the_end(&mut self) -> String {
        self.terminate_agent();
        assert!(self.wait_agent(), "{}", self.log());
        self.log()
    }

    /// The agent's process.
    pub fn agent(&self) -> &Running {
        self.agent.as_ref().unwrap()
    }

    /// Runs `nodetls uninstall`; whether it succeeded, and what it said.
    pub fn uninstall(&self) -> (bool, String) {
        let mut command = Command::new(binary("nodetls"));
        command.arg("uninstall").arg("--pins").arg(&self.pins);
        let output = command.output().unwrap();
        (output.status.success(), text(&output))
    }

    /// Runs `nodetls status`; its exit code, and what it said.
    pub fn status(&self, more: &[&str]) -> (i32, String) {
        let pins = self.pins.display().to_string();
        self.ask(&[&["status", "--pins", &pins], more].concat())
    }

    /// Runs a command of nodetls that asks the agent; its exit code, and what it said.
    pub fn ask(&self, arguments: &[&str]) -> (i32, String) {
        let mut command = Command::new(binary("nodetls"));
        command.args(arguments);
        command.args(["--admin", &format!("127.0.0.1:{}", self.admin)]);
        let output = command.output().unwrap();
        (output.status.code().unwrap(), text(&output))
    }

    /// The same with `--output json`.
    ///
    /// # Panics
    /// It says something else.
    pub fn ask_json(&self, arguments: &[&str]) -> (i32, Value) {
        let (code, said) = self.ask(&[arguments, &["--output", "json"]].concat());
        let value = serde_json::from_str(&said);
        (
            code,
            value.unwrap_or_else(|error| panic!("{error}: {said}")),
        )
    }

    /// How many files the agent has open.
    pub fn open_files(&self) -> usize {
        let files = format!("/proc/{}/fd", self.agent().id());
        fs::read_dir(files).unwrap().count()
    }

    /// What the agent has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// For the output of an agent, to be appended to.
    pub fn log_file(&self) -> fs::File {
        let mut options = fs::OpenOptions::new();
        options
            .create(true)
            .append(true)
            .open(self.log_path())
            .unwrap()
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("agent.log")
    }

    /// The sum of the metric's samples that contain all of `labels`.
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        self.get("/metrics")
            .lines()
            .filter(|line| {
                let of_it = line.split(['{', ' ']).next() == Some(name);
                of_it && labels.iter().all(|label| line.contains(label))
            })
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// How many connects had this outcome, for this reason.
    pub fn connects(&self, outcome: &str, reason: &str) -> f64 {
        let labels = [
            format!("outcome=\"{outcome}\""),
            format!("reason=\"{reason}\""),
        ];
        self.metric(
            "nodetls_ebpf_connects_total",
            &labels.each_ref().map(String::as_str),
        )
    }

    /// Where the agent's metrics are.
    pub fn admin_address(&self) -> String {
        format!("127.0.0.1:{}", self.admin)
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
}
