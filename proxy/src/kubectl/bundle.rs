//! The bundle of a whole cluster: each node's own, and what only the cluster tells. Objects are shown by columns, since
//! whole ones hold environment variables.

use anyhow::Result;

use super::nodes::Cluster;
use crate::cli::Output;
use crate::diagnose::{Bundle, without_secrets};

/// Lines of a log's end that are kept.
const LOG: &str = "--tail=5000";
const POD: &str = "NAME:.metadata.name,NODE:.spec.nodeName,PHASE:.status.phase,\
     READY:.status.containerStatuses[*].ready,RESTARTS:.status.containerStatuses[*].restartCount,\
     IMAGE:.spec.containers[*].image,ARGS:.spec.containers[*].args";

/// Collects it, of these nodes or of all; what can't be had says why.
///
/// # Errors
/// There is no agent to ask.
pub(super) fn collect(cluster: &Cluster, nodes: &[String]) -> Result<Bundle> {
    let agents = cluster.agents(nodes)?;
    let mut bundle = Bundle::new();
    let mut add = |name: &str, result: Result<String>| {
        let text = result.unwrap_or_else(|error| format!("not to be had: {error:#}\n"));
        bundle.insert(name.to_owned(), without_secrets(&text));
    };
    let columns = format!("custom-columns={POD}");
    add("cluster/version.txt", cluster.kubectl(&["version"]));
    add(
        "cluster/nodes.txt",
        cluster.kubectl(&["get", "nodes", "--output", "wide"]),
    );
    add(
        "cluster/policies.yaml",
        cluster.kubectl(&[
            "get",
            "backendtlspolicies",
            "--all-namespaces",
            "--output",
            "yaml",
        ]),
    );
    add(
        "cluster/pods.txt",
        cluster.ours(&["get", "pods", "--output", &columns]),
    );
    add(
        "cluster/workloads.txt",
        cluster.ours(&["get", "daemonsets,deployments", "--output", "wide"]),
    );
    add(
        "cluster/events.txt",
        cluster.ours(&["get", "events", "--sort-by=.lastTimestamp"]),
    );
    let pods = cluster
        .ours(&["get", "pods", "--output", "name"])
        .unwrap_or_default();
    for pod in pods.lines() {
        let name = pod.trim_start_matches("pod/");
        add(
            &format!("logs/{name}.txt"),
            cluster.ours(&["logs", pod, "--all-containers", LOG]),
        );
    }
    for said in cluster.ask(agents, &["diagnose"], Output::Json) {
        let files = said.result.as_ref().and_then(|result| result.as_object());
        for (name, text) in files.into_iter().flatten() {
            let text = text.as_str().unwrap_or_default().to_owned();
            add(&format!("nodes/{}/{name}", said.node), Ok(text));
        }
        if let Some(error) = said.error {
            add(&format!("nodes/{}/error.txt", said.node), Ok(error));
        }
    }
    Ok(bundle)
}
