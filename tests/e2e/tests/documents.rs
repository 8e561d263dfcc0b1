//! What documents have their readers type: it is run as it stands, but for the names of pods; or by the test that is named
//! here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::Path;
use std::process::Stdio;

use nodetls_e2e::{KUBECTL, NODES, nodetls, on_node, text, until};

const TOP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
const DOCUMENTS: [&str; 8] = [
    "README.md",
    "SECURITY.md",
    "docs/access-log.md",
    "docs/alerts.md",
    "docs/operations.md",
    "docs/policies.md",
    "docs/troubleshooting.md",
    "manifests/README.md",
];
/// What pods are called there.
const PODS: [&str; 3] = ["POD_OF_THAT_NODE", "POD", "nodetls-agent-xxxxx"];
/// Where a command is run that can't be here, and words that it has there.
const ELSEWHERE: [(&str, &str, &str); 13] = [
    (
        "kubectl apply --server-side -f https://github.com/kubernetes-sigs/gateway-api/releases/download/v1.4.1/standard-install.yaml",
        "xtask/src/cluster/up.rs",
        "programs.join(programs::CRD_FILE)",
    ),
    (
        "kubectl apply -k manifests",
        "xtask/src/cluster/install.rs",
        "apply --kustomize",
    ),
    (
        "kubectl apply -k manifests/uninstall",
        "tests/e2e/tests/uninstall.rs",
        "{MANIFESTS}/uninstall",
    ),
    (
        "kubectl wait --for=delete namespace/nodetls-system --timeout=15m",
        "tests/e2e/tests/uninstall.rs",
        "--for=delete",
    ),
    (
        "kubectl -n nodetls-system logs job/nodetls-uninstall",
        "tests/e2e/tests/uninstall.rs",
        "job/nodetls-uninstall",
    ),
    (
        "kubectl delete -k manifests",
        "tests/e2e/tests/uninstall.rs",
        "\"delete\", \"--kustomize\"",
    ),
    (
        "kubectl -n nodetls-system rollout undo daemonset/nodetls-agent",
        "tests/e2e/tests/reliability/agent.rs",
        "\"rollout\", \"undo\"",
    ),
    (
        "kubectl nodetls status",
        "tests/e2e/tests/plugin.rs",
        "plugin_json(&[\"status\"])",
    ),
    (
        "kubectl -n nodetls-system port-forward POD 15020",
        "tests/e2e/tests/admin_page.rs",
        "\"port-forward\"",
    ),
    (
        "helm install nodetls manifests/chart --namespace nodetls-system --create-namespace",
        "tests/e2e/tests/chart.rs",
        "--create-namespace",
    ),
    (
        "helm upgrade nodetls manifests/chart --namespace nodetls-system",
        "tests/e2e/tests/chart.rs",
        "\"upgrade\"",
    ),
    (
        "helm test nodetls --namespace nodetls-system",
        "tests/e2e/tests/chart.rs",
        "\"test\", \"nodetls\"",
    ),
    (
        "helm uninstall nodetls --namespace nodetls-system --timeout 15m",
        "tests/e2e/tests/chart.rs",
        "\"uninstall\"",
    ),
];

/// Its blocks of commands, and the commands within its text.
fn commands(document: &str) -> Vec<String> {
    let mut commands = Vec::new();
    for (number, part) in document.split("```").enumerate() {
        if number % 2 == 1 {
            // The first line may name a language.
            let lines = part.lines().skip(1);
            if lines.clone().any(is_command) {
                commands.push(lines.collect::<Vec<_>>().join("\n"));
            }
        } else {
            let spans = part.split('`').skip(1).step_by(2);
            let spans = spans.map(|span| span.replace('\n', " "));
            commands.extend(spans.filter(|span| is_command(span) && !span.starts_with("curl")));
        }
    }
    commands
}

/// For a cluster; those for a checkout and for a node are in the README, which has a test of its own.
fn is_command(line: &str) -> bool {
    ["kubectl ", "helm ", "curl "]
        .iter()
        .any(|program| line.starts_with(program))
}

fn elsewhere(command: &str) -> bool {
    let Some((_, file, words)) = ELSEWHERE.iter().find(|(named, ..)| *named == command) else {
        return false;
    };
    let source = fs::read_to_string(Path::new(TOP).join(file)).unwrap();
    assert!(source.contains(words), "{command} is not run by {file}");
    true
}

/// In the network of node1, where forwarded ports are; jobs in the background end with it.
fn run(commands: &str) {
    let agent = nodetls::agent("node1");
    let mut script = commands.to_owned();
    for pod in PODS {
        script = script.replace(pod, &agent);
    }
    let script = format!(
        "set -eu; PATH={}:$PATH\n\
         curl() {{ command curl -sf --retry 20 --retry-delay 1 --retry-connrefused \"$@\"; }}\n\
         trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{script}\n",
        Path::new(KUBECTL).parent().unwrap().display()
    );
    let mut shell = on_node("node1", &["timeout", "60", "bash", "-c", &script]);
    let output = shell.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{commands}\n{}", text(&output));
}

#[test]
fn commands_of_the_documents_do_what_they_say() {
    // Which is what some of them tell by their exit code: the policies of other tests may still be on their way out.
    for node in NODES {
        until(&format!("all is well on {node}"), || {
            let said = nodetls::status(node);
            said.contains("all is well").then_some(()).ok_or(said)
        });
    }
    let mut ran = 0;
    for document in DOCUMENTS {
        let text = fs::read_to_string(Path::new(TOP).join(document)).unwrap();
        for command in commands(&text) {
            if !elsewhere(command.trim_end()) {
                println!("{document}: {command}");
                run(&command);
                ran += 1;
            }
        }
    }
    assert!(ran >= 8, "{ran}");
}
