//! The agents of a cluster, and what they say.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::process::{Command, Output as Finished};
use std::thread;

use anyhow::{Context as _, Result, anyhow, bail};
use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Flags;
use crate::cli::Output;
use crate::table::line;

/// The DaemonSet's pods, as the manifests label them.
const AGENTS: &str = "app.kubernetes.io/name=nodetls,app.kubernetes.io/component=agent";
/// The agent's port where its pod names none.
const ADMIN_PORT: i32 = 15020;
/// Where the image has the binary.
const BINARY: &str = "/nodetls";
/// Nodes asked at a time.
const PARALLEL: usize = 16;

/// A cluster as kubectl reaches it.
pub(super) struct Cluster {
    flags: Vec<OsString>,
    /// Of pods and Services.
    namespace: Option<String>,
    /// Nodetls' own.
    own: String,
    nodes: Vec<String>,
}

/// An agent of a node.
#[derive(Clone, Debug)]
pub(super) struct Agent {
    pub(super) node: String,
    pub(super) pod: String,
    admin: String,
}

/// What an agent said.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Said {
    pub(super) node: String,
    pod: String,
    exit_code: i32,
    /// With `--output text` a string.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) result: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
}

#[derive(Deserialize)]
struct Pods {
    items: Vec<Pod>,
}

impl Said {
    pub(super) fn is_well(&self) -> bool {
        self.exit_code == 0 && self.error.is_none()
    }
}

impl Cluster {
    pub(super) fn new(flags: &Flags) -> Self {
        Self {
            flags: flags.of_kubectl(),
            namespace: flags.namespace.clone(),
            own: flags.nodetls_namespace.clone(),
            nodes: flags.nodes.clone(),
        }
    }

    fn run(&self, arguments: &[&str]) -> Result<Finished> {
        let mut kubectl = Command::new("kubectl");
        kubectl.args(&self.flags).args(arguments);
        kubectl
            .output()
            .context("kubectl can't be run: install it, and have it in PATH")
    }

    /// What `kubectl ARGUMENTS` prints.
    ///
    /// # Errors
    /// It fails; with what it said.
    pub(super) fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let finished = self.run(arguments)?;
        if !finished.status.success() {
            let said = String::from_utf8_lossy(&finished.stderr);
            bail!("kubectl {}: {}", arguments.join(" "), said.trim());
        }
        Ok(String::from_utf8_lossy(&finished.stdout).into_owned())
    }

    /// The same in nodetls' own namespace.
    pub(super) fn ours(&self, arguments: &[&str]) -> Result<String> {
        self.kubectl(&[&["--namespace", &self.own], arguments].concat())
    }

    /// The newest agent of each node, by node.
    ///
    /// # Errors
    /// There is none, or none on a node that was named.
    pub(super) fn agents(&self) -> Result<Vec<Agent>> {
        let pods = self.ours(&["get", "pods", "--selector", AGENTS, "--output", "json"])?;
        let pods: Pods = serde_json::from_str(&pods).context("kubectl's answer")?;
        let mut agents = newest(pods.items);
        let own = &self.own;
        if agents.is_empty() {
            bail!(
                "no agent runs in namespace {own}: install nodetls, or name its namespace with --nodetls-namespace"
            );
        }
        if let Some(node) = self.nodes.iter().find(|node| !agents.contains_key(*node)) {
            let all: Vec<_> = agents.into_keys().collect();
            bail!(
                "no agent runs on node {node}: those with one are {}",
                all.join(", ")
            );
        }
        agents.retain(|node, _| self.nodes.is_empty() || self.nodes.contains(node));
        Ok(agents.into_values().collect())
    }

    /// The agent of a pod's node, and the pod as `NAMESPACE/NAME`.
    ///
    /// # Errors
    /// There is no such pod, or no agent there.
    pub(super) fn agent_of(&self, pod: &str) -> Result<(Agent, String)> {
        let (namespace, name) = match pod.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (self.namespace.as_deref(), pod),
        };
        let mut get = vec!["get", "pod", name, "--output", "json"];
        if let Some(namespace) = namespace {
            get.extend(["--namespace", namespace]);
        }
        let pod: Pod = serde_json::from_str(&self.kubectl(&get)?).context("kubectl's answer")?;
        let namespace = pod.metadata.namespace.unwrap_or_default();
        let full = format!("{namespace}/{name}");
        let node = pod.spec.and_then(|spec| spec.node_name);
        let node = node
            .with_context(|| format!("pod {full} has no node yet: wait until it is scheduled"))?;
        let mut agents = self.agents()?.into_iter();
        let agent = agents.find(|agent| agent.node == node);
        let missing = || {
            anyhow!(
                "no agent runs on {node}, the node of pod {full}: its connections to targets are refused, or where none ever \
                 ran left as they are; see why the DaemonSet's pod does not run there"
            )
        };
        Ok((agent.ok_or_else(missing)?, full))
    }

    /// A Service as the agents know it, who know no current namespace.
    ///
    /// # Errors
    /// kubectl can't tell the current namespace.
    pub(super) fn with_namespace(&self, service: &str) -> Result<String> {
        let host = service.rsplit_once(':').map_or(service, |(host, _)| host);
        if host.contains(['/', '.', '[']) {
            return Ok(service.to_owned());
        }
        let namespace = match &self.namespace {
            Some(namespace) => namespace.clone(),
            None => {
                let path = "jsonpath={..namespace}";
                self.kubectl(&["config", "view", "--minify", "--output", path])?
            }
        };
        let namespace = if namespace.is_empty() {
            "default"
        } else {
            &namespace
        };
        Ok(format!("{namespace}/{service}"))
    }

    /// What `nodetls ARGUMENTS` says on each of these nodes.
    pub(super) fn ask(&self, agents: Vec<Agent>, arguments: &[&str], output: Output) -> Vec<Said> {
        let mut all = Vec::new();
        for some in agents.chunks(PARALLEL) {
            thread::scope(|scope| {
                let asking: Vec<_> = some
                    .iter()
                    .map(|agent| scope.spawn(|| self.ask_one(agent, arguments, output)))
                    .collect();
                all.extend(asking.into_iter().filter_map(|one| one.join().ok()));
            });
        }
        all
    }

    fn ask_one(&self, agent: &Agent, arguments: &[&str], output: Output) -> Said {
        let looks = match output {
            Output::Text => "text",
            Output::Json => "json",
        };
        let exec = ["--namespace", &self.own, "exec", &agent.pod, "--", BINARY];
        let more = ["--admin", &agent.admin, "--output", looks];
        let finished = self.run(&[&exec, arguments, &more].concat());
        let mut said = Said {
            node: agent.node.clone(),
            pod: agent.pod.clone(),
            exit_code: 1,
            result: None,
            error: None,
        };
        match finished {
            Err(error) => said.error = Some(format!("{error:#}")),
            Ok(finished) => {
                said.exit_code = finished.status.code().unwrap_or(1);
                let text = String::from_utf8_lossy(&finished.stdout).into_owned();
                said.result = match output {
                    Output::Text => (!text.is_empty()).then_some(Value::String(text)),
                    Output::Json => serde_json::from_str(&text).ok(),
                };
                if said.result.is_none() {
                    let error = String::from_utf8_lossy(&finished.stderr);
                    said.error = Some(cause(&error).to_owned());
                }
            }
        }
        said
    }
}

/// What the command said, without what kubectl adds of its exit code.
fn cause(error: &str) -> &str {
    let error = error.trim();
    let own = error.lines().find(|line| line.starts_with("error: "));
    let own = own.filter(|_| error.contains("command terminated with exit code"));
    own.map_or(error, |line| line.trim_start_matches("error: "))
}

/// The newest of each node that runs and is not about to end.
fn newest(mut pods: Vec<Pod>) -> BTreeMap<String, Agent> {
    pods.retain(|pod| {
        let phase = pod
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        phase == Some("Running") && pod.metadata.deletion_timestamp.is_none()
    });
    pods.sort_by_key(|pod| Reverse(pod.metadata.creation_timestamp.as_ref().map(|time| time.0)));
    let mut agents = BTreeMap::new();
    for pod in pods {
        let (Some(name), Some(spec)) = (pod.metadata.name, pod.spec) else {
            continue;
        };
        let ports = spec
            .containers
            .iter()
            .flat_map(|one| one.ports.iter().flatten());
        let mut admin = ports.filter(|port| port.name.as_deref() == Some("admin"));
        let port = admin.next().map_or(ADMIN_PORT, |port| port.container_port);
        let Some(node) = spec.node_name else {
            continue;
        };
        let agent = Agent {
            node: node.clone(),
            pod: name,
            admin: format!("127.0.0.1:{port}"),
        };
        agents.entry(node).or_insert(agent);
    }
    agents
}

/// Each node's answer below its name.
pub(super) fn render(said: &[Said]) -> String {
    let mut text = String::new();
    for (place, one) in said.iter().enumerate() {
        if place > 0 {
            text.push('\n');
        }
        line(&mut text, &format!("node {} (pod {})", one.node, one.pod));
        if let Some(result) = one.result.as_ref().and_then(Value::as_str) {
            text.push_str(result);
        }
        for error in one.error.iter().flat_map(|error| error.lines()) {
            line(&mut text, &format!("error: {error}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    #[test]
    fn of_each_node_the_newest_agent_that_stays_is_asked() {
        let pod = |name: &str, node: &str, hour: u8, phase: &str, ends: bool| -> Pod {
            let time = format!("2026-01-01T{hour:02}:00:00Z");
            let ports = json!([{"name": "admin", "containerPort": 9999}]);
            let mut pod = json!({
                "metadata": {"name": name, "creationTimestamp": time},
                "spec": {"nodeName": node, "containers": [{"name": "agent", "ports": ports}]},
                "status": {"phase": phase},
            });
            if ends {
                pod["metadata"]["deletionTimestamp"] = json!(time);
            }
            serde_json::from_value(pod).unwrap()
        };
        let agents = newest(vec![
            pod("old", "node1", 1, "Running", false),
            pod("new", "node1", 2, "Running", false),
            pod("gone", "node1", 3, "Running", true),
            pod("waiting", "node1", 4, "Pending", false),
            pod("other", "node2", 1, "Running", false),
        ]);
        let names: Vec<_> = agents.values().map(|agent| agent.pod.as_str()).collect();
        assert_eq!(names, ["new", "other"]);
        assert_eq!(agents["node1"].admin, "127.0.0.1:9999");
    }

    #[test]
    fn a_commands_own_error_is_told_without_kubectls_words() {
        let said = "error: no pod a\ncommand terminated with exit code 1\n";
        assert_eq!(cause(said), "no pod a");
        let kubectls = "error: unable to upgrade connection: pod does not exist\n";
        assert_eq!(cause(kubectls), kubectls.trim());
    }
}
