//! What manifests/README.md has its readers put into a kustomization of theirs, and type.

use std::fs;
use std::path::Path;
use std::process::Command;

use nodetls_e2e::{KUBECTL, Namespace, kubectl, nodetls, text};
use serde_json::{Value, json};

use super::{find, kustomize, overlay};

const README: &str = include_str!("../../../../manifests/README.md");
const ROLE: &str = "nodetls-agent-secrets";

/// The code in the README that has these words, without the indentation of a list.
fn code(words: &str) -> String {
    let mut blocks = README.split("```").skip(1).step_by(2);
    let block = blocks.find(|block| block.contains(words));
    let block = block.expect(words);
    // That of the closing fence.
    let indentation = block.len() - block.trim_end_matches(' ').len();
    let mut lines = block.trim_end_matches(' ').lines();
    // The first line may name a language.
    lines.next();
    let lines = lines.map(|line| line.get(indentation..).unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

/// The objects of the base with a component and the README's patch that has these words.
fn patched(name: &str, component: &str, words: &str) -> Vec<Value> {
    kustomize(&overlay(name, &[component], &code(words)))
}

/// Away again when this is dropped.
struct Role;

impl Drop for Role {
    fn drop(&mut self) {
        kubectl(&["delete", "clusterrole", ROLE]);
    }
}

#[test]
fn a_label_for_the_operator() {
    let objects = patched("readme-label", "monitoring", "kube-prometheus-stack");
    for kind in ["PodMonitor", "PrometheusRule"] {
        let labels = &find(&objects, kind, "nodetls").unwrap()["metadata"]["labels"];
        assert_eq!(labels["release"], "kube-prometheus-stack", "{kind}");
    }
}

#[test]
fn secrets_by_name() {
    let objects = patched("readme-names", "client-certificates", "resourceNames");
    let role = find(&objects, "ClusterRole", ROLE).unwrap();
    assert_eq!(role["rules"][0]["resourceNames"], json!(["client-tls"]));
}

#[test]
fn secrets_by_namespace() {
    let objects = patched("readme-namespaces", "client-certificates", "$patch: delete");
    assert!(find(&objects, "ClusterRoleBinding", ROLE).is_none());
    let role = find(&objects, "ClusterRole", ROLE).unwrap();

    let namespace = Namespace::new("shop");
    namespace.apply(&role.to_string());
    let _role = Role;
    let directory = Path::new(KUBECTL).parent().unwrap().display();
    let script = format!("PATH={directory}:$PATH\n{}", code("create rolebinding"));
    let output = Command::new("bash").args(["-euc", &script]).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let may = |namespace: &str| {
        let agent = "--as=system:serviceaccount:nodetls-system:nodetls-agent";
        let can = [
            "auth",
            "can-i",
            "list",
            "secrets",
            agent,
            "--namespace",
            namespace,
        ];
        let mut command = Command::new(KUBECTL);
        command.args(can).output().unwrap().status.success()
    };
    nodetls_e2e::wait("it may there", || may("shop"));
    assert!(!may("default"));
}

#[test]
fn a_registry_of_ones_own_and_a_component() {
    let kustomization = code("newName: registry.example.com/nodetls");
    let directory = super::directory("readme-kustomization");
    let manifests = nodetls::manifests_from(&directory);
    let kustomization = kustomization.replace("path/to/manifests", &manifests);
    fs::write(directory.join("kustomization.yaml"), kustomization).unwrap();
    let objects = super::render(&directory);
    let container = super::container(&objects, "nodetls-agent");
    let image = container["image"].as_str().unwrap();
    assert!(
        image.starts_with("registry.example.com/nodetls:"),
        "{image}"
    );
    let arguments = container["args"].as_array().unwrap();
    assert!(arguments.contains(&json!("--mode=audit")), "{arguments:?}");
}
