//! What the pods may do on their nodes: not all of it shows on this machine, whose kernel has no AppArmor and no SELinux.

use std::path::Path;

use nodetls_e2e::kubectl;
use serde_json::{Value, json};

use super::{container, overlay, pod, render};

fn base() -> Vec<Value> {
    render(&overlay("base", &[], ""))
}

#[test]
fn the_agent_is_confined_as_far_as_its_work_allows() {
    let objects = base();
    let security = &container(&objects, "nodetls-agent")["securityContext"];
    let expected = json!({
        "allowPrivilegeEscalation": false,
        "appArmorProfile": {"type": "Unconfined"},
        "capabilities": {"add": ["NET_ADMIN", "NET_BIND_SERVICE", "SYS_ADMIN", "SYS_PTRACE"], "drop": ["ALL"]},
        "readOnlyRootFilesystem": true,
        "runAsGroup": 0,
        "runAsUser": 0,
        "seLinuxOptions": {"type": "spc_t"},
        "seccompProfile": {"type": "RuntimeDefault"},
    });
    assert_eq!(security, &expected);
    let pod = pod(&objects, "nodetls-agent");
    assert_eq!(pod["hostPID"], true);
    assert!(pod["hostNetwork"].is_null() && pod["hostIPC"].is_null());
    let volumes = pod["volumes"].as_array().unwrap().iter();
    let paths: Vec<_> = volumes.map(|volume| &volume["hostPath"]["path"]).collect();
    assert_eq!(paths, ["/sys/fs/bpf", "/sys/fs/cgroup", "/var/lib/nodetls"]);
}

#[test]
fn an_agent_runs_on_every_node_and_is_replaced_without_a_gap() {
    let objects = base();
    let pod = pod(&objects, "nodetls-agent");
    assert_eq!(pod["tolerations"], json!([{"operator": "Exists"}]));
    assert_eq!(pod["nodeSelector"], json!({"kubernetes.io/os": "linux"}));
    assert_eq!(pod["priorityClassName"], "system-node-critical");
    let agent = objects.iter().find(|object| object["kind"] == "DaemonSet");
    let strategy =
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}});
    assert_eq!(agent.unwrap()["spec"]["updateStrategy"], strategy);
}

/// The namespace is a privileged one for the agent's sake.
#[test]
fn the_controller_would_be_admitted_to_a_restricted_namespace() {
    let name = "e2e-manifests-restricted";
    let namespace = nodetls_e2e::Namespace::new(name);
    let label = "pod-security.kubernetes.io/enforce=restricted";
    kubectl(&["label", "namespace", name, label]);
    let objects = base();
    let admitted = |workload| {
        let mut spec = pod(&objects, workload).clone();
        for field in ["serviceAccount", "serviceAccountName"] {
            spec[field] = "default".into();
        }
        // No node has this label: it is not started.
        spec["nodeSelector"] = json!({"e2e": "nowhere"});
        let metadata = json!({"name": workload});
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
        namespace.try_apply(&pod.to_string())
    };
    let controller = admitted("nodetls-controller");
    assert!(
        controller.status.success(),
        "{}",
        nodetls_e2e::text(&controller)
    );
    let agent = admitted("nodetls-agent");
    assert!(nodetls_e2e::text(&agent).contains("violates PodSecurity"));
}

#[test]
fn the_image_is_the_one_that_xtask_builds() {
    let objects = base();
    let image = concat!("nodetls:", env!("CARGO_PKG_VERSION"));
    for workload in ["nodetls-agent", "nodetls-controller"] {
        assert_eq!(container(&objects, workload)["image"], image);
    }
    let dockerfile = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Dockerfile");
    assert!(std::fs::read_to_string(dockerfile).unwrap().contains(image));
}
