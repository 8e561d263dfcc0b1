//! What the end-to-end tests share: kubectl of the running cluster, and a namespace for each test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A broken cluster is a failed test.

mod backend;
mod curl;
pub mod document;
pub mod envoy_gateway;
pub mod nodetls;
mod plugin;
mod steps;

use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

/// kubectl of the running cluster, written by `cargo xtask cluster up`.
pub const KUBECTL: &str = "/var/lib/nodetls-cluster/kubectl";

/// Helm, likewise.
pub const HELM: &str = "/var/lib/nodetls-cluster/helm";

/// Reads a dashboard as strictly as Grafana's schema is; likewise.
pub const DASHBOARD: &str = "/var/lib/nodetls-cluster/dashboard";

/// The cluster's nodes.
pub const NODES: [&str; 2] = ["node1", "node2"];

pub use backend::{ASK, POLICY, client, script};
pub use curl::Answer;

/// A namespace, removed with all in it when this is dropped.
pub struct Namespace(pub String);

impl Namespace {
    /// A new one; one of the same name, which a killed run may have left, is removed first.
    pub fn new(name: &str) -> Self {
        kubectl(&["delete", "namespace", name, "--ignore-not-found"]);
        kubectl(&["create", "namespace", name]);
        let namespace = Self(name.to_owned());
        // Pods are refused before.
        namespace.wait("serviceaccount/default", "create");
        namespace
    }

    /// What `kubectl ARGUMENTS` prints, in the namespace.
    ///
    /// # Panics
    /// kubectl fails.
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        kubectl(&[&["--namespace", &self.0], arguments].concat())
    }

    /// Applies manifests.
    pub fn apply(&self, manifests: &str) {
        let output = self.try_apply(manifests);
        assert!(output.status.success(), "{}", text(&output));
    }

    /// Applies manifests; what kubectl said, whether it worked or not.
    pub fn try_apply(&self, manifests: &str) -> Output {
        let mut command = Command::new(KUBECTL);
        command.args(["--namespace", &self.0, "apply", "--filename", "-"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(manifests.as_bytes()).unwrap();
        drop(stdin);
        child.wait_with_output().unwrap()
    }

    /// Waits until `condition` holds for `object`, as `kubectl wait --for` knows conditions.
    pub fn wait(&self, object: &str, condition: &str) {
        let condition = format!("--for={condition}");
        self.kubectl(&["wait", &condition, object, "--timeout=60s"]);
    }

    /// What `command` prints in a pod, whether it works or not; `pod` may be `POD/CONTAINER`.
    pub fn exec(&self, pod: &str, command: &[&str]) -> String {
        text(&exec(&self.0, pod, command))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let delete = ["delete", "namespace", &self.0, "--wait=false"];
        let _ = Command::new(KUBECTL).args(delete).output();
        let _ = std::fs::remove_dir_all(self.files());
    }
}

/// What `kubectl ARGUMENTS` prints.
///
/// # Panics
/// kubectl fails.
pub fn kubectl(arguments: &[&str]) -> String {
    let output = Command::new(KUBECTL).args(arguments).output();
    let output = output.expect("no cluster: `cargo xtask cluster up`");
    assert!(
        output.status.success(),
        "kubectl {arguments:?}: {}",
        text(&output)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Runs `command` in a pod, which may be `POD/CONTAINER`.
pub fn exec(namespace: &str, pod: &str, command: &[&str]) -> Output {
    let (pod, container) = pod.split_once('/').unwrap_or((pod, ""));
    let mut exec = Command::new(KUBECTL);
    exec.args(["--namespace", namespace, "exec", pod]);
    // Without one it is the first; kubectl says so only on standard error.
    if !container.is_empty() {
        exec.args(["--container", container]);
    }
    exec.arg("--").args(command).output().unwrap()
}

/// A command in a node's mount and network namespaces.
pub fn on_node(node: &str, command: &[&str]) -> Command {
    let mut enter = Command::new(format!("/var/lib/nodetls-cluster/{node}/enter"));
    enter.args(command);
    enter
}

/// For tests that disturb others in the same file: those wait until it is dropped.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Polls until `condition` holds; the test fails after 30 s.
pub fn wait(what: &str, condition: impl Fn() -> bool) {
    until(what, || condition().then_some(()).ok_or(""));
}

/// Polls until there is an answer; the test fails with the last error after 30 s.
pub fn until<T, E: std::fmt::Display>(what: &str, ask: impl Fn() -> Result<T, E>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(error) => assert!(
                Instant::now() < deadline,
                "{what}: not within 30 s: {error}"
            ),
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The objects of some YAML, as kustomize and Helm print them.
pub fn objects(yaml: &str) -> Vec<Value> {
    let texts = yaml.split("\n---\n").filter(|text| text.contains("kind:"));
    let objects = texts.map(|text| serde_saphyr::from_str(text).unwrap());
    objects.collect()
}

/// What a program printed, to both its outputs.
pub fn text(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&both).into_owned()
}
