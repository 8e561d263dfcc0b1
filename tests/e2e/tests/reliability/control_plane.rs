//! What tells the agents what to do, gone.

use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nodetls_e2e::nodetls::ours;
use nodetls_e2e::{KUBECTL, Namespace, POLICY, kubectl, wait};

use crate::agent::{agents, kill_agent, logs, new_agent, settle};
use crate::load::URL;
use crate::process::Stopped;
use crate::{Allowed, Row};

pub(crate) const API_SERVER_AWAY: Row = Row {
    name: "api_server_away",
    fault: "No API server for 13 s, and the agent is killed meanwhile",
    allowed: Allowed::Refusal,
    test: |load| {
        new_agent();
        // What came last is on the node's disk.
        sleep(Duration::from_secs(6));
        let parts = ["kubernetes\0kube-apiserver\0", "nodetls-cluster"];
        let away = Stopped::new("node1", "kube-apiserver", &parts);
        // The load's log is not to be had now; its pod and the agent go on.
        sleep(Duration::from_secs(3));
        kill_agent();
        wait("the agent is back", || !agents().is_empty());
        sleep(Duration::from_secs(10));
        drop(away);
        until_api_server();
        settle(load);
        let logs = logs();
        assert!(
            logs.contains("the last run's objects are in force"),
            "{logs}"
        );
        // What is new is seen again.
        let later = Namespace::with_backend("e2e-api-server-back");
        later.clients(&[("client", "node1")]);
        // A watch that broke is tried again after half a minute at the latest, and some more (as client-go does).
        let deadline = Instant::now() + Duration::from_secs(60);
        while later.curl("client", &[URL]).status != 200 && Instant::now() < deadline {
            sleep(Duration::from_millis(200));
        }
        later.until_ok("client", URL);
    },
};

fn until_api_server() {
    let deadline = Instant::now() + Duration::from_secs(90);
    let ready = || {
        let mut ask = Command::new(KUBECTL);
        let said = ask.args(["get", "--raw", "/readyz"]).output();
        said.is_ok_and(|got| got.status.success())
    };
    while !ready() {
        assert!(Instant::now() < deadline, "no API server after 90 s");
        sleep(Duration::from_millis(200));
    }
}

pub(crate) const CONTROLLER_AWAY: Row = Row {
    name: "controller_away",
    fault: "No controller, and the agent is killed meanwhile",
    allowed: Allowed::Refusal,
    test: |load| {
        new_agent();
        ours(&["scale", "deployment/nodetls-controller", "--replicas=0"]);
        load.answers(100);
        kill_agent();
        load.answers(100);
        ours(&["scale", "deployment/nodetls-controller", "--replicas=1"]);
        ours(&[
            "rollout",
            "status",
            "deployment/nodetls-controller",
            "--timeout=60s",
        ]);
    },
};

/// The policies go with it: what was in force stays, until the CRD is served again without them.
pub(crate) const CRD_DELETED: Row = Row {
    name: "crd_deleted",
    fault: "The CRD is deleted, and all policies with it; then both are created again",
    allowed: Allowed::Failure,
    test: |load| {
        let name = "crd/backendtlspolicies.gateway.networking.k8s.io";
        let crd = Restored(kubectl(&["get", name, "--output=json"]));
        kubectl(&["delete", name, "--wait=true", "--timeout=60s"]);
        load.answers(100);
        wait("the agent tells of it", || {
            ["frozen=true", "\"frozen\":true"]
                .iter()
                .any(|word| logs().contains(word))
        });
        load.answers(100);
        load.while_undeclared(|| {
            drop(crd);
            load.namespace.apply(POLICY);
            load.answers(1);
        });
        load.answers(50);
    },
};

/// A CRD that comes back when this is dropped.
struct Restored(String);

impl Drop for Restored {
    fn drop(&mut self) {
        let mut crd: serde_json::Value = serde_json::from_str(&self.0).unwrap();
        crd["status"] = serde_json::Value::Null;
        let metadata = crd["metadata"].as_object_mut().unwrap();
        metadata.retain(|key, _| ["name", "annotations", "labels"].contains(&key.as_str()));
        let file = std::env::temp_dir().join("nodetls-e2e-crd.json");
        std::fs::write(&file, crd.to_string()).unwrap();
        let file = file.to_str().unwrap();
        kubectl(&[
            "apply",
            "--server-side",
            "--force-conflicts",
            "--filename",
            file,
        ]);
        let name = "crd/backendtlspolicies.gateway.networking.k8s.io";
        kubectl(&["wait", "--for=condition=Established", name, "--timeout=60s"]);
        wait("it is served", || {
            let said = Command::new(KUBECTL)
                .args(["get", "backendtlspolicies"])
                .output();
            said.is_ok_and(|said| said.status.success())
        });
    }
}
