//! Each capability of the agent is needed: without it a new agent does not become ready and says why, and the old one on
//! the same node goes on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::{Command, Output};

use nodetls_e2e::{KUBECTL, Namespace, kubectl, text, wait};
use serde_json::{Value, json};

const NAMESPACE: &str = "nodetls-system";
const AGENTS: &str = "app.kubernetes.io/component=agent";
/// Each capability, and what an agent's log says without it.
const NEEDED: [(&str, &str); 3] = [
    ("NET_BIND_SERVICE", "(needs CAP_NET_BIND_SERVICE)"),
    ("SYS_ADMIN", "(needs CAP_SYS_ADMIN"),
    ("SYS_PTRACE", "(needs CAP_SYS_PTRACE)"),
];
/// Without it an agent is ready and refuses IPv6; but kernels before 6.9 want it for a sockmap, whoever has SYS_ADMIN
/// (`sock_map_alloc` of net/core/sock_map.c).
const FOR_IPV6: &str = "NET_ADMIN";

/// On every node a pod in which ports below 1024 need the capability, as they do where containerd is not told otherwise.
const PRIVILEGED_PORTS: &str = "
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: client}
spec:
  selector: {matchLabels: {app: client}}
  template:
    metadata: {labels: {app: client}}
    spec:
      terminationGracePeriodSeconds: 0
      securityContext: {sysctls: [{name: net.ipv4.ip_unprivileged_port_start, value: '1024'}]}
      containers: [{name: client, image: 'nodetls.test/client:1'}]
";

#[test]
fn without_any_of_its_capabilities_an_agent_says_so_and_the_old_one_goes_on() {
    let namespace = Namespace::new("e2e-capabilities");
    namespace.apply(PRIVILEGED_PORTS);
    namespace.kubectl(&["rollout", "status", "daemonset/client", "--timeout=60s"]);
    let before = pods();
    let all = capabilities(&get("daemonset/nodetls-agent")["spec"]["template"]["spec"]);
    let names = NEEDED.iter().map(|(name, _)| *name);
    let names: Vec<_> = [FOR_IPV6].into_iter().chain(names).collect();
    assert_eq!(all, names);
    let restore = Restore(all.clone());
    for (missing, message) in NEEDED {
        let rest: Vec<_> = all
            .iter()
            .filter(|name| *name != missing)
            .cloned()
            .collect();
        set(&rest);
        let told = || {
            let new = pods();
            let mut new = new.iter().filter(|pod| capabilities(&pod["spec"]) == rest);
            new.any(|pod| !is_ready(pod) && log(pod).contains(message))
        };
        wait(
            &format!("without {missing}: {message:?} in the agent's log"),
            told,
        );
        for old in &before {
            let name = old["metadata"]["name"].as_str().unwrap();
            assert!(is_ready(&get(&format!("pod/{name}"))), "without {missing}");
        }
    }
    drop(restore);
    kubectl(&[
        "--namespace",
        NAMESPACE,
        "rollout",
        "status",
        "daemonset/nodetls-agent",
        "--timeout=60s",
    ]);
}

/// The capabilities as they were, also when the test fails.
struct Restore(Vec<String>);

impl Drop for Restore {
    fn drop(&mut self) {
        set(&self.0);
    }
}

/// Gives the agents these capabilities.
fn set(capabilities: &[String]) {
    let path = "/spec/template/spec/containers/0/securityContext/capabilities/add";
    let patch = json!([{"op": "replace", "path": path, "value": capabilities}]);
    let patch = ["patch", "daemonset/nodetls-agent", "--type=json", "--patch"]
        .map(str::to_owned)
        .into_iter()
        .chain([patch.to_string()]);
    let patch: Vec<_> = ["--namespace", NAMESPACE]
        .map(str::to_owned)
        .into_iter()
        .chain(patch)
        .collect();
    let output = Command::new(KUBECTL).args(patch).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
}

fn get(object: &str) -> Value {
    let get = ["--namespace", NAMESPACE, "get", object, "--output=json"];
    serde_json::from_str(&kubectl(&get)).unwrap()
}

fn pods() -> Vec<Value> {
    let get = [
        "--namespace",
        NAMESPACE,
        "get",
        "pods",
        "--selector",
        AGENTS,
        "--output=json",
    ];
    let list: Value = serde_json::from_str(&kubectl(&get)).unwrap();
    list["items"].as_array().unwrap().clone()
}

fn capabilities(spec: &Value) -> Vec<String> {
    let names = &spec["containers"][0]["securityContext"]["capabilities"]["add"];
    serde_json::from_value(names.clone()).unwrap()
}

fn is_ready(pod: &Value) -> bool {
    pod["status"]["containerStatuses"][0]["ready"] == true
}

/// What its container said, and the one before if it ended.
fn log(pod: &Value) -> String {
    let name = pod["metadata"]["name"].as_str().unwrap();
    let log = |more: &[&str]| -> Output {
        let logs = ["--namespace", NAMESPACE, "logs", name];
        Command::new(KUBECTL)
            .args(logs)
            .args(more)
            .output()
            .unwrap()
    };
    text(&log(&[])) + &text(&log(&["--previous"]))
}
