//! The agent of the load's node, ended and replaced.

use nodetls_e2e::nodetls::{self, ours, until_ready};
use nodetls_e2e::{NODES, wait};

use crate::load::Load;
use crate::process::kill_9;
use crate::{Allowed, Row};

pub(crate) const AGENTS: &str = "daemonset/nodetls-agent";

pub(crate) const KILLED: Row = Row {
    name: "agent_killed",
    fault: "The agent is killed (SIGKILL), twice",
    allowed: Allowed::Refusal,
    test: |load| {
        new_agent();
        for _ in 0..2 {
            kill_agent();
            load.answers(20);
        }
    },
};

pub(crate) const ROLLED_OUT: Row = Row {
    name: "agent_rolled_out",
    fault: "The agents are replaced (rollout restart)",
    allowed: Allowed::Nothing,
    test: |load| {
        ours(&["rollout", "restart", AGENTS]);
        rolled_out();
        // Beyond the drain of the old ones.
        load.answers(100);
    },
};

pub(crate) const OTHER_IMAGE: Row = Row {
    name: "agent_upgraded",
    fault: "The agents are given another image, and then the first one again (rollout undo)",
    allowed: Allowed::Nothing,
    test: |load| {
        let image = "--output=jsonpath={.spec.template.spec.containers[0].image}";
        let before = ours(&["get", AGENTS, image]);
        let other = format!("{before}-other");
        for node in NODES {
            nodetls::tag(node, &before, &other);
        }
        ours(&["set", "image", AGENTS, &format!("agent={other}")]);
        rolled_out();
        load.answers(100);
        ours(&["rollout", "undo", AGENTS]);
        rolled_out();
        load.answers(100);
        assert_eq!(ours(&["get", AGENTS, image]), before);
    },
};

pub(crate) const FAILED_ROLLOUT: Row = Row {
    name: "agent_rollout_failed",
    fault: "New agents that are killed for want of memory as they start, then rollout undo",
    allowed: Allowed::Nothing,
    test: |load| {
        let limits = r#"[{"op": "replace", "path": "/spec/template/spec/containers/0/resources", "value": {"requests": {"memory": "7Mi"}, "limits": {"memory": "7Mi"}}}]"#;
        ours(&["patch", AGENTS, "--type=json", "--patch", limits]);
        let states = "--output=jsonpath={.items[*].status.containerStatuses[*].state}{.items[*].status.containerStatuses[*].lastState}";
        let pods = [
            "get",
            "pods",
            "--selector=app.kubernetes.io/component=agent",
            states,
        ];
        wait("a new agent is ended", || {
            let states = ours(&pods);
            states.contains("OOMKilled")
                || states.contains("StartError")
                || states.contains("\"Error\"")
        });
        load.answers(100);
        ours(&["rollout", "undo", AGENTS]);
        rolled_out();
        load.answers(100);
    },
};

/// The processes of the agent on node1.
pub(crate) fn agents() -> Vec<u32> {
    crate::process::find(&["/nodetls", "agent"], "NODE_NAME=node1")
}

/// kill -9 of the agent on node1, which is gone then.
pub(crate) fn kill_agent() {
    let killed = agents();
    assert_eq!(killed.len(), 1, "{killed:?}");
    kill_9(killed[0]);
    wait("it is gone", || agents() != killed);
}

/// Another pod has the agent of node1: the kubelet lets one that was killed before wait ever longer.
pub(crate) fn new_agent() {
    let agent = nodetls::agent("node1");
    ours(&["delete", "pod", &agent]);
    until_ready(AGENTS);
}

/// Of the load's node.
pub(crate) fn logs() -> String {
    ours(&["logs", &nodetls::agent("node1")])
}

/// Until new agents are Ready on all nodes.
pub(crate) fn rolled_out() {
    ours(&["rollout", "status", AGENTS, "--timeout=120s"]);
}

/// Until all agents are Ready, and the load is answered.
pub(crate) fn settle(load: &Load) {
    ours(&["rollout", "status", AGENTS, "--timeout=60s"]);
    load.answers(20);
}
