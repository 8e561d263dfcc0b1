//! What happens on the load's node besides.

use std::thread::sleep;
use std::time::Duration;

use nodetls_e2e::wait;

use crate::agent::settle;
use crate::process::Stopped;
use crate::{Allowed, Row};

pub(crate) const CONTAINERD_RESTARTED: Row = Row {
    name: "containerd_restarted",
    fault: "No containerd for 5 s",
    allowed: Allowed::Nothing,
    test: |load| {
        let parts = ["/containerd\0--config=", "nodetls-cluster/node1"];
        let away = Stopped::new("node1", "containerd", &parts);
        sleep(Duration::from_secs(5));
        drop(away);
        wait("the node is Ready", || {
            let ready = r#"--output=jsonpath={.status.conditions[?(@.type=="Ready")].status}"#;
            nodetls_e2e::kubectl(&["get", "node", "node1", ready]) == "True"
        });
        settle(load);
    },
};

/// Each asks as its first deed.
const SHORT: &str = r"
apiVersion: batch/v1
kind: Job
metadata: {name: short}
spec:
  completions: 200
  parallelism: 10
  template:
    spec:
      nodeSelector: {kubernetes.io/hostname: node1}
      restartPolicy: Never
      terminationGracePeriodSeconds: 0
      containers:
      - name: short
        image: nodetls.test/client:1
        command: [curl, -s, -m, '5', --retry, '20', --retry-connrefused, --retry-delay, '1', -H, 'X-Mark: @MARK@', 'http://server/']
";

pub(crate) const SHORT_PODS: Row = Row {
    name: "short_pods",
    fault: "200 pods that ask as their first deed, 10 at a time",
    allowed: Allowed::Nothing,
    test: |load| {
        load.namespace.apply(&SHORT.replace("@MARK@", &load.mark));
        load.namespace.kubectl(&[
            "wait",
            "--for=condition=Complete",
            "job/short",
            "--timeout=400s",
        ]);
    },
};
