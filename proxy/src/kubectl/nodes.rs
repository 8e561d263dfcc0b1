//! The agents of a cluster, and what they say.

use std::ffi::OsString;
use std::process::{Command, Output as Finished};
use std::thread;

use anyhow::{Context as _, Result, anyhow, bail};
use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Flags;
use super::agents::{Agent, newest};
use crate::cli::Output;
use crate::table::line;

/// The DaemonSet's pods, as the manifests label them.
const AGENTS: &str = "app.kubernetes.io/name=nodetls,app.kubernetes.io/component=agent";
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
            bail!(
                "kubectl {}: {}; {}",
                arguments.join(" "),
                said.trim(),
                cure(&said)
            );
        }
        Ok(String::from_utf8_lossy(&finished.stdout).into_owned())
    }

    /// The same in nodetls' own namespace.
    pub(super) fn ours(&self, arguments: &[&str]) -> Result<String> {
        self.kubectl(&[&["--namespace", &self.own], arguments].concat())
    }

    /// The newest agent of each of these nodes, or of all if none is named; by node.
    ///
    /// # Errors
    /// There is none, or none on a node that was named.
    pub(super) fn agents(&self, nodes: &[String]) -> Result<Vec<Agent>> {
        let pods = self.ours(&["get", "pods", "--selector", AGENTS, "--output", "json"])?;
        let pods: Pods = serde_json::from_str(&pods).context("kubectl's answer")?;
        let mut agents = newest(pods.items);
        let own = &self.own;
        if agents.is_empty() {
            bail!(
                "no agent runs in namespace {own}: install nodetls, or name its namespace with --nodetls-namespace"
            );
        }
        if let Some(node) = nodes.iter().find(|node| !agents.contains_key(*node)) {
            let all: Vec<_> = agents.into_keys().collect();
            bail!(
                "no agent runs on node {node}: those with one are {}",
                all.join(", ")
            );
        }
        agents.retain(|node, _| nodes.is_empty() || nodes.contains(node));
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
        let mut agents = self.agents(&[])?.into_iter();
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

/// Of what kubectl itself has said.
fn cure(said: &str) -> &'static str {
    match said.contains("(NotFound)") {
        true => "name one that there is, with its namespace (-n) where that is not the context's",
        false => "see that kubectl works with this context, and that its user has the right",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commands_own_error_is_told_without_kubectls_words() {
        let said = "error: no pod a\ncommand terminated with exit code 1\n";
        assert_eq!(cause(said), "no pod a");
        let kubectls = "error: unable to upgrade connection: pod does not exist\n";
        assert_eq!(cause(kubectls), kubectls.trim());
    }

    #[test]
    fn what_does_not_exist_is_no_question_of_rights() {
        let said = "Error from server (NotFound): pods \"a\" not found";
        assert!(cure(said).starts_with("name one"));
        let said = "Error from server (Forbidden): pods \"a\" is forbidden";
        assert!(cure(said).contains("has the right"));
    }
}
