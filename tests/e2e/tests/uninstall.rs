//! Uninstalling, as the documents say, and by deleting everything at once. Each ends with nodetls installed again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::Command;
use std::time::{Duration, Instant};

use nodetls_e2e::{KUBECTL, NODES, Namespace, alone, kubectl, nodetls, on_node, text, until, wait};

const URL: &str = "http://server/";
const MANIFESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../manifests");
const OURS: &str = "--selector=app.kubernetes.io/part-of=nodetls";

/// Installs again when dropped.
struct Install;

impl Drop for Install {
    fn drop(&mut self) {
        let gone = "--for=delete";
        let timeout = "--timeout=60s";
        kubectl(&["wait", gone, "namespace/nodetls-system", timeout]);
        nodetls::install();
    }
}

/// A namespace with a targeted server and a client, and our entry in the policy's status.
fn served(name: &str) -> Namespace {
    let namespace = Namespace::with_backend(name);
    namespace.clients(&[("client", "node1")]);
    namespace.until_ok("client", URL);
    wait("the policy has a status", || {
        ancestors(&namespace).contains("nodetls.io/controller")
    });
    namespace
}

fn ancestors(namespace: &Namespace) -> String {
    let ancestors = "--output=jsonpath={.status.ancestors}";
    namespace.kubectl(&["get", "backendtlspolicy", "server", ancestors])
}

/// Nothing is left on any node, and clients connect as they did before.
fn assert_clean(namespace: &Namespace) {
    nodetls::until_nodes_are_clean();
    let answer = namespace.curl("client", &[URL]);
    assert_eq!(
        answer.status, 400,
        "the server's word for plaintext: {answer:?}"
    );
    let listeners = namespace.exec("client", &["cat", "/proc/net/tcp"]);
    let listening = |line: &&str| line.split_whitespace().nth(3) == Some("0A");
    assert_eq!(
        listeners.lines().filter(listening).count(),
        0,
        "{listeners}"
    );
    let kinds = "clusterroles,clusterrolebindings";
    until("our rights are gone", || {
        let left = kubectl(&["get", kinds, OURS, "--output=name"]);
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
}

#[test]
fn the_documented_way_leaves_nothing() {
    let _alone = alone();
    let namespace = served("e2e-uninstall");
    // Ends with the uninstallation, not as a component does.
    std::mem::forget(nodetls::Component::add("boot-guard"));
    let guard = "/etc/systemd/system/kubelet.service.requires";
    let guarded = |node: &str| {
        let mut test = on_node(node, &["test", "-e", guard]);
        test.status().unwrap().success()
    };
    wait("the guard is installed", || NODES.into_iter().all(guarded));
    let again = Install;
    kubectl(&["apply", "--kustomize", &format!("{MANIFESTS}/uninstall")]);
    until("its job tells how far it is", || {
        let logs = ["-n", "nodetls-system", "logs", "job/nodetls-uninstall"];
        let said = text(&Command::new(KUBECTL).args(logs).output().unwrap());
        let tells = said.contains("daemonset/nodetls-agent: cleaning every node");
        tells.then_some(()).ok_or(said)
    });
    let gone = [
        "wait",
        "--for=delete",
        "namespace/nodetls-system",
        "--timeout=120s",
    ];
    kubectl(&gone);
    assert_clean(&namespace);
    assert!(!NODES.into_iter().any(guarded), "the guard's unit is left");
    assert_eq!(ancestors(&namespace), "[]");

    // First contact in five minutes, the reader's time included.
    let start = Instant::now();
    drop(again);
    namespace.until_ok("client", URL);
    let took = start.elapsed();
    println!("from `kubectl apply -k` to a pod's first TLS: {took:?}");
    assert!(took < Duration::from_secs(150), "{took:?}");
}

#[test]
fn deleting_everything_at_once_leaves_no_pins() {
    let _alone = alone();
    let namespace = served("e2e-delete");
    let again = Install;
    let installed = nodetls::installed();
    let installed = installed.to_str().unwrap();
    kubectl(&["delete", "--kustomize", installed, "--timeout=90s"]);
    assert_clean(&namespace);
    // Nobody was left who could remove it; a new controller goes on from it.
    assert!(ancestors(&namespace).contains("nodetls.io/controller"));
    drop(again);
    namespace.until_ok("client", URL);
}
