//! What documents have their readers type: it is run as it stands, but for the names of pods; or by the test that is named
//! here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::Path;
use std::process::Stdio;

use nodetls_e2e::{KUBECTL, NODES, nodetls, on_node, text, until};

const TOP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
const DOCUMENTS: [&str; 10] = [
    "README.md",
    "SECURITY.md",
    "docs/access-log.md",
    "docs/agent.md",
    "docs/alerts.md",
    "docs/failures.md",
    "docs/operations.md",
    "docs/policies.md",
    "docs/troubleshooting.md",
    "manifests/README.md",
];
/// What commands begin with. Those of `cargo xtask` are compared with its command line, by a test there.
const PROGRAMS: [&str; 11] = [
    "ctr",
    "curl",
    "helm",
    "journalctl",
    "kubectl",
    "nodetls",
    "restorecon",
    "semanage",
    "skopeo",
    "systemctl",
    "target/release/nodetls",
];
/// What pods are called there.
const PODS: [&str; 3] = ["POD_OF_THAT_NODE", "POD", "nodetls-agent-xxxxx"];
/// Where a command is run that can't be here, and words that it has there.
const ELSEWHERE: [(&str, &str, &str); 26] = [
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
        "upgrade nodetls",
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
    (
        "kubectl -n shop create rolebinding nodetls-agent-secrets --clusterrole=nodetls-agent-secrets \
         --serviceaccount=nodetls-system:nodetls-agent",
        "tests/e2e/tests/manifests/readme.rs",
        "code(\"create rolebinding\")",
    ),
    (
        "ctr --namespace k8s.io images import nodetls.tar",
        "xtask/src/cluster/containerd.rs",
        "--namespace k8s.io images import",
    ),
    (
        "skopeo copy oci-archive:nodetls.tar docker://registry.example.com/nodetls:0.1.0",
        "tests/e2e/tests/image.rs",
        "\"skopeo\"",
    ),
    (
        "systemctl start nodetls-guard",
        "tests/tests/guard/systemd.rs",
        "\"systemctl start nodetls-guard\"",
    ),
    (
        "journalctl --unit nodetls-guard",
        "tests/tests/guard/systemd.rs",
        "\"journalctl --unit nodetls-guard\"",
    ),
    (
        "systemctl disable nodetls-guard",
        "tests/tests/guard/systemd.rs",
        "\"systemctl disable nodetls-guard\"",
    ),
    (
        "systemctl add-requires k3s-agent.service nodetls-guard.service",
        "tests/tests/guard/systemd.rs",
        "\"systemctl add-requires k3s-agent.service nodetls-guard.service\"",
    ),
    (
        "nodetls uninstall --boot-guard /etc/systemd/system",
        "tests/tests/guard/systemd.rs",
        "\"nodetls uninstall --boot-guard /etc/systemd/system\"",
    ),
    (
        "target/release/nodetls agent --manifests DIR --netns 'pod-*'",
        "tests/src/agent.rs",
        "--netns",
    ),
    (
        "target/release/nodetls exec --manifests DIR -- curl -s http://10.96.0.10:443/get",
        "tests/src/clients.rs",
        "\"exec\", \"--manifests\"",
    ),
    (
        "nodetls explain pod-1 tls-backend:443",
        "tests/tests/explain.rs",
        "the_readmes_example_is_what_is_said",
    ),
    (
        "nodetls check --manifests examples/envoy-gateway",
        "proxy/tests/check.rs",
        "the_readme_shows_what_is_printed",
    ),
    (
        "kubectl create configmap example-ca --from-file=ca.crt --dry-run=client -o yaml > examples/envoy-gateway/ca.yaml",
        "proxy/tests/check.rs",
        "kubectl create configmap example-ca",
    ),
];
/// What takes a machine with SELinux, which none here is: the document says so.
const UNTRIED: [&str; 2] = [
    "semanage fcontext --add --type bin_t '/var/lib/nodetls/bin(/.*)?'",
    "restorecon -R /var/lib/nodetls/bin",
];

/// Its blocks of commands, and the commands within its text.
fn commands(document: &str) -> Vec<String> {
    let mut commands = Vec::new();
    for (number, part) in document.split("```").enumerate() {
        if number % 2 == 1 {
            // The first line may name a language.
            let lines = part.lines().skip(1).map(str::trim);
            let shown: Vec<_> = lines
                .clone()
                .filter_map(|line| line.strip_prefix("$ "))
                .collect();
            if !shown.is_empty() {
                commands.extend(shown.into_iter().map(str::to_owned));
            } else if lines.clone().any(is_command) {
                let block = lines.collect::<Vec<_>>().join("\n");
                commands.push(block.replace("\\\n", "").trim_end().to_owned());
            }
        } else {
            let spans = part.split('`').skip(1).step_by(2);
            let spans = spans.map(|span| span.replace('\n', " "));
            commands.extend(spans.filter(|span| is_command(span) && is_whole(span)));
        }
    }
    commands
}

fn is_command(line: &str) -> bool {
    let program = line.split(' ').next().unwrap_or_default();
    PROGRAMS.contains(&program) && line.contains(' ')
}

/// Within a text not each mention of a verb is a command to type: those of nodetls are if they have options.
fn is_whole(span: &str) -> bool {
    match span.split_once(' ') {
        Some(("curl", _)) => false,
        Some(("nodetls", rest)) => rest.contains("--") && rest.contains('/'),
        _ => true,
    }
}

/// Whether all of these lines are run, or can't be run, somewhere else.
fn elsewhere(block: &str) -> bool {
    let (there, here): (Vec<_>, Vec<_>) = block.lines().partition(|line| {
        line.starts_with("cargo ") || UNTRIED.contains(line) || is_run_elsewhere(line)
    });
    assert!(there.is_empty() || here.is_empty(), "{here:?} of {block}");
    here.is_empty()
}

fn is_run_elsewhere(command: &str) -> bool {
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
            if !elsewhere(&command) {
                println!("{document}: {command}");
                run(&command);
                ran += 1;
            }
        }
    }
    assert!(ran >= 8, "{ran}");
}
