//! The components, each as a user adds it.

use std::cell::Cell;
use std::fs;
use std::process::{Command, Output};

use nodetls_e2e::{KUBECTL, Namespace, kubectl, text, wait};
use serde_json::{Value, json};

use super::rights::{READ, agent, controller, rights, table, token};
use super::{container, kubectl_as, overlay, pod, render};

const TAINT: &str = "nodetls.io/agent-not-ready";
/// What an agent must not add.
const LABEL: &str = "e2e-startup-taint";

/// Everything of an installation but its pods, with names of its own, beside the real one.
struct Rights {
    namespace: Namespace,
    file: String,
}

impl Rights {
    fn new(component: &str) -> Self {
        let name = format!("e2e-{component}");
        let namespace = Namespace::new(&name);
        let names = format!("namespace: {name}\nnamePrefix: {name}-");
        let kustomization = overlay(&name, &[component], &names);
        let text = kubectl(&["kustomize", &kustomization.display().to_string()]);
        let kept = text.split("\n---\n").filter(|object| {
            let kind = object.lines().find_map(|line| line.strip_prefix("kind: "));
            !["Namespace", "DaemonSet", "Deployment"].contains(&kind.unwrap())
        });
        let file = kustomization.join("rights.yaml");
        fs::write(&file, kept.collect::<Vec<_>>().join("\n---\n")).unwrap();
        let file = file.display().to_string();
        kubectl(&["apply", "--filename", &file]);
        Self { namespace, file }
    }

    /// The name of what the base calls so.
    fn name(&self, base: &str) -> String {
        format!("{}-{base}", self.namespace.0)
    }
}

impl Drop for Rights {
    fn drop(&mut self) {
        let delete = ["delete", "--ignore-not-found", "--filename", &self.file];
        let _ = Command::new(KUBECTL).args(delete).output();
    }
}

fn arguments(component: &str, workload: &str) -> Vec<String> {
    let objects = render(&overlay(
        &format!("arguments-{component}"),
        &[component],
        "",
    ));
    let arguments = container(&objects, workload)["args"].as_array().unwrap();
    let arguments = arguments
        .iter()
        .map(|argument| argument.as_str().unwrap().to_owned());
    arguments.collect()
}

/// The agent's arguments with one more.
fn agent_with(flag: &str) -> [&str; 4] {
    let memory = "--memory-limit=$(MEMORY_LIMIT)";
    ["agent", "--admin=[::]:15020", memory, flag]
}

#[test]
fn audit_is_a_flag_of_the_agent() {
    let arguments = arguments("audit", "nodetls-agent");
    assert_eq!(arguments, agent_with("--mode=audit"));
}

#[test]
fn insecure_validation_is_a_flag_of_both() {
    let flag = "--allow-insecure-validation";
    for workload in ["nodetls-agent", "nodetls-controller"] {
        let arguments = arguments("insecure-validation", workload);
        assert!(
            arguments.iter().any(|argument| argument == flag),
            "{workload}"
        );
    }
}

#[test]
fn node_roots_mounts_what_the_flag_names() {
    let arguments = arguments("node-roots", "nodetls-agent");
    let objects = render(&overlay("mounts-node-roots", &["node-roots"], ""));
    let mounts = container(&objects, "nodetls-agent")["volumeMounts"].clone();
    let mounts = mounts.as_array().unwrap();
    let mount = mounts
        .iter()
        .find(|mount| mount["name"] == "node-roots")
        .unwrap();
    let path = mount["mountPath"].as_str().unwrap();
    let flag = format!("--system-roots={path}/");
    assert!(
        arguments.iter().any(|argument| argument.starts_with(&flag)),
        "{arguments:?}"
    );
}

#[test]
fn boot_guard_mounts_the_directory_of_units_that_the_flag_names() {
    let arguments = arguments("boot-guard", "nodetls-agent");
    let flag = "--boot-guard=/host/etc/systemd/system";
    assert_eq!(arguments, agent_with(flag));
    let objects = render(&overlay("mounts-boot-guard", &["boot-guard"], ""));
    let named = |list: &Value| -> Value {
        let mut all = list.as_array().unwrap().iter();
        all.find(|one| one["name"] == "boot-guard").unwrap().clone()
    };
    let mount = named(&container(&objects, "nodetls-agent")["volumeMounts"]);
    assert_eq!(mount["mountPath"], "/host/etc/systemd/system");
    let volume = named(&pod(&objects, "nodetls-agent")["volumes"]);
    let units = json!({"path": "/etc/systemd/system", "type": "Directory"});
    assert_eq!(volume["hostPath"], units);
}

#[test]
fn secrets_gives_the_controller_one_right_more() {
    let arguments = arguments("secrets", "nodetls-controller");
    assert_eq!(
        arguments,
        ["controller", "--admin=[::]:15020", "--ca-secrets"]
    );
    let installed = Rights::new("secrets");
    let token = token(
        &installed.namespace.0,
        &installed.name("nodetls-controller"),
    );
    let secrets = table(&[("", "secrets", "", READ)]);
    wait("the API server knows the new roles", || {
        !rights(&token, "default").is_empty()
    });
    assert_eq!(rights(&token, "default"), &controller() | &secrets);
}

#[test]
fn client_certificates_gives_the_agent_one_right_more() {
    let arguments = arguments("client-certificates", "nodetls-agent");
    assert_eq!(arguments, agent_with("--client-certificates"));
    let installed = Rights::new("client-certificates");
    let token = token(&installed.namespace.0, &installed.name("nodetls-agent"));
    let secrets = table(&[("", "secrets", "", READ)]);
    wait("the API server knows the new roles", || {
        !rights(&token, "default").is_empty()
    });
    assert_eq!(rights(&token, "default"), &agent() | &secrets);
}

#[test]
fn startup_taint_lets_an_agent_take_that_taint_from_its_own_node_and_do_nothing_else() {
    let arguments = arguments("startup-taint", "nodetls-agent");
    assert_eq!(arguments, agent_with("--remove-taint"));
    let objects = render(&overlay("startup-taint", &["startup-taint"], ""));
    assert_eq!(
        pod(&objects, "nodetls-controller")["tolerations"][0]["key"],
        TAINT
    );

    let installed = Rights::new("startup-taint");
    let account = installed.name("nodetls-agent");
    let token = agent_on_node1(&installed.namespace, &account);
    let _clean = Unchanged("node1");
    let as_agent = |command: &str| -> Output {
        let arguments: Vec<_> = command.split(' ').collect();
        kubectl_as(&token, &arguments)
    };
    // A new admission policy takes a moment to come into force; the same label twice would be no change.
    let attempt = Cell::new(0);
    wait("the admission policy acts", || {
        attempt.set(attempt.get() + 1);
        let label = format!("label --overwrite node node1 {LABEL}={}", attempt.get());
        text(&as_agent(&label)).contains("nothing of a node but its taints")
    });
    let taint = format!("{TAINT}=:PreferNoSchedule"); // an effect that keeps no pod away
    kubectl(&["taint", "--overwrite", "node", "node1", &taint]);
    let another = as_agent(&format!("label --overwrite node node2 {LABEL}=0"));
    assert!(text(&another).contains("its own node only"));
    let added = as_agent(&format!("taint node node1 {LABEL}=:PreferNoSchedule"));
    assert!(text(&added).contains("and add none"), "{}", text(&added));
    let removed = as_agent(&format!("taint node node1 {TAINT}-"));
    assert!(removed.status.success(), "{}", text(&removed));
    let taints = kubectl(&["get", "node", "node1", "--output=jsonpath={.spec.taints}"]);
    assert!(!taints.contains(TAINT), "{taints}");
}

/// A token as the agent's pod on node1 has it.
fn agent_on_node1(namespace: &Namespace, account: &str) -> String {
    namespace.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: agent}}\nspec:\n  nodeName: node1\n  serviceAccountName: {account}\n  \
         terminationGracePeriodSeconds: 0\n  containers: [{{name: agent, image: 'nodetls.test/pause:1'}}]\n"
    ));
    let create = [
        "create",
        "token",
        account,
        "--bound-object-kind=Pod",
        "--bound-object-name=agent",
    ];
    namespace.kubectl(&create).trim().to_owned()
}

/// A node that is made what it was.
struct Unchanged(&'static str);

impl Drop for Unchanged {
    fn drop(&mut self) {
        for (verb, key) in [("taint", TAINT), ("taint", LABEL), ("label", LABEL)] {
            let remove = [verb, "node", self.0, &format!("{key}-")];
            let _ = Command::new(KUBECTL).args(remove).output();
        }
    }
}
