//! nodetls, as `cargo xtask cluster install` installed it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::{NODES, kubectl, on_node, text, until};

/// Its namespace.
pub const NAMESPACE: &str = "nodetls-system";

/// The agent's pod on `node`.
pub fn agent(node: &str) -> String {
    let on = format!("--field-selector=spec.nodeName={node},status.phase=Running");
    let pods = [
        "--namespace",
        NAMESPACE,
        "get",
        "pods",
        "--selector=app.kubernetes.io/component=agent",
        &on,
        "--sort-by=.metadata.creationTimestamp",
        "--output=jsonpath={.items[*].metadata.name}",
    ];
    // For a moment there may be none that the kubelet calls running.
    until(&format!("an agent runs on {node}"), || {
        let names = kubectl(&pods);
        let newest = names.split(' ').next_back().unwrap_or_default().to_owned();
        (!newest.is_empty()).then_some(newest).ok_or(names)
    })
}

/// Writes into `directory` a kustomization of `manifests/` with these components, and `more` lines.
pub fn kustomization(directory: &Path, components: &[&str], more: &str) {
    let manifests = manifests_from(directory);
    let components: Vec<_> = components
        .iter()
        .map(|component| format!("{manifests}/components/{component}"))
        .collect();
    let text = format!(
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n{more}\nresources: ['{manifests}']\n\
         components: {components:?}\n"
    );
    fs::write(directory.join("kustomization.yaml"), text).unwrap();
}

/// The path of `manifests/` from this directory: kustomize takes no absolute ones.
///
/// # Panics
/// It is not there.
pub fn manifests_from(directory: &Path) -> String {
    let up = "../".repeat(directory.components().count() - 1);
    let manifests = top().join("manifests").canonicalize().unwrap();
    format!("{up}{}", &manifests.display().to_string()[1..])
}

/// Gives an image of the node's containerd another name too.
pub fn tag(node: &str, image: &str, other: &str) {
    let ctr = ctr();
    let names = [image, other].map(|name| format!("docker.io/library/{name}"));
    let tag = [
        &ctr,
        "--namespace=k8s.io",
        "images",
        "tag",
        "--force",
        &names[0],
        &names[1],
    ];
    let said = on_node(node, &tag).output().unwrap();
    assert!(said.status.success(), "{}", text(&said));
}

/// The one beside the containerd that runs.
fn ctr() -> String {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let mut programs = processes.filter_map(|entry| fs::read_link(entry.path().join("exe")).ok());
    let containerd = programs.find(|program| program.ends_with("containerd"));
    let ctr = containerd.expect("containerd runs").with_file_name("ctr");
    ctr.to_str().unwrap().to_owned()
}

/// Waits until no node has anything of ours in its kernel or on its disk.
pub fn until_nodes_are_clean() {
    for node in NODES {
        until(&format!("{node} is clean"), || {
            let look = "ls -d /sys/fs/bpf/nodetls /var/lib/nodetls/* 2>/dev/null";
            let left = text(&on_node(node, &["sh", "-c", look]).output().unwrap());
            if left.is_empty() { Ok(()) } else { Err(left) }
        });
    }
}

/// What `nodetls status` says on `node`, whether all is well or not.
pub fn status(node: &str) -> String {
    let agent = agent(node);
    crate::text(&crate::exec(NAMESPACE, &agent, &["/nodetls", "status"]))
}

/// What the agent on `node` tells on `/metrics`.
///
/// # Panics
/// It can't be asked.
pub fn metrics(node: &str) -> String {
    let address = "--output=jsonpath={.status.podIP}";
    let address = ours(&["get", "pod", &agent(node), address]);
    let url = format!("http://{address}:15020/metrics");
    let output = on_node(node, &["curl", "-sSf", &url]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    text(&output)
}

/// nodetls with one of its components; without it again when this is dropped.
pub struct Component(PathBuf);

impl Component {
    /// Applies the manifests with `manifests/components/NAME`, and waits for the pods.
    ///
    /// # Panics
    /// They don't become Ready.
    pub fn add(name: &str) -> Self {
        // What `cargo xtask cluster install` applied is there too; kustomize takes relative paths only.
        let overlay = top().join("target/image/component");
        fs::create_dir_all(&overlay).unwrap();
        let component = format!("manifests/components/{name}");
        let kustomization =
            format!("resources: [../install]\ncomponents: [../../../{component}]\n");
        fs::write(overlay.join("kustomization.yaml"), kustomization).unwrap();
        // Dropped also if it does not come up.
        let component = Self(top().join(component));
        apply("target/image/component");
        component
    }
}

impl Drop for Component {
    fn drop(&mut self) {
        install();
        for file in ["rbac.yaml", "admission.yaml"] {
            let objects = self.0.join(file);
            if objects.exists() {
                kubectl(&["delete", "--filename", objects.to_str().unwrap()]);
            }
        }
    }
}

/// Applies what `cargo xtask cluster install` did, and waits until all pods are Ready.
pub fn install() {
    apply("target/image/install");
}

/// Where that is.
pub fn installed() -> PathBuf {
    top().join("target/image/install")
}

fn apply(overlay: &str) {
    let overlay = top().join(overlay);
    kubectl(&["apply", "--kustomize", overlay.to_str().unwrap()]);
    until_ready("daemonset/nodetls-agent");
    until_ready("deployment/nodetls-controller");
}

/// Waits until all pods of a workload of nodetls are Ready, and of its newest kind.
pub fn until_ready(workload: &str) {
    ours(&["rollout", "status", workload, "--timeout=90s"]);
}

/// What `kubectl ARGUMENTS` prints, in nodetls' namespace.
pub fn ours(arguments: &[&str]) -> String {
    kubectl(&[&["--namespace", NAMESPACE], arguments].concat())
}

fn top() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}
