//! Which pod of a node is the agent to ask.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;

/// The agent's port where its pod names none.
const ADMIN_PORT: i32 = 15020;

/// An agent of a node.
#[derive(Clone, Debug)]
pub(super) struct Agent {
    pub(super) node: String,
    pub(super) pod: String,
    /// Its admin address, in its pod.
    pub(super) admin: String,
}

/// The newest of each node that runs and is not about to end.
pub(super) fn newest(mut pods: Vec<Pod>) -> BTreeMap<String, Agent> {
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
}
