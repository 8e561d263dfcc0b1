//! What the cluster's programs are given: the files of `tests/cluster/config/` with their @PLACEHOLDERS@ filled in,
//! certificates and tokens.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::node::{FIRST, NODES, Node};
use super::{STATE, sources};
use crate::sh;

/// The API server's clients outside pods: kubeconfig, user, group.
const CLIENTS: [(&str, &str, &str); 6] = [
    ("admin", "admin", "system:masters"),
    ("controller-manager", "system:kube-controller-manager", ""),
    ("scheduler", "system:kube-scheduler", ""),
    ("kube-proxy", "system:kube-proxy", ""),
    ("node1", "system:node:node1", "system:nodes"),
    ("node2", "system:node:node2", "system:nodes"),
];

/// Writes all of them into the state directory.
pub(super) fn write() -> Result<()> {
    let state = Path::new(STATE);
    fs::create_dir_all(state.join("pki"))?;
    certificates(&state.join("pki"))?;
    let mut tokens = String::new();
    for (name, user, group) in CLIENTS {
        let token = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
        let token = token.trim();
        tokens += &format!("{token},{user},{user},{group}\n");
        let config = render("kubeconfig.yaml", None)?;
        let config = config.replace("@USER@", user).replace("@TOKEN@", token);
        fs::write(state.join(name).with_extension("kubeconfig"), config)?;
    }
    fs::write(state.join("pki/tokens.csv"), tokens)?;
    fs::write(state.join("etcd.yaml"), render("etcd.yaml", None)?)?;
    for node in &NODES {
        let directory = node.directory();
        fs::create_dir_all(directory.join("cni"))?;
        for file in ["containerd.toml", "kubelet.yaml", "kube-proxy.yaml"] {
            fs::write(directory.join(file), render(file, Some(node))?)?;
        }
        let network = render("cni.conflist", Some(node))?;
        fs::write(directory.join("cni/pods.conflist"), network)?;
    }
    Ok(())
}

/// The flags of `program`, from its `.args` file: one a line, `#` begins a comment.
pub(super) fn flags(program: &str, node: &Node) -> Result<Vec<String>> {
    let text = render(&format!("{program}.args"), Some(node))?;
    let flags = text.lines().filter(|line| !line.starts_with('#'));
    Ok(flags.map(str::to_owned).collect())
}

/// A file of `config/`, for `node` if it is one of a node.
pub(super) fn render(file: &str, node: Option<&Node>) -> Result<String> {
    let path = sources().join("config").join(file);
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let text = text
        .replace("@STATE@", STATE)
        .replace("@API_SERVER@", FIRST.address);
    let Some(node) = node else { return Ok(text) };
    let peer = node.peer();
    Ok(text
        .replace("@NODE@", node.name)
        .replace("@ADDRESS@", node.address)
        .replace("@POD_CIDR@", node.pod_cidr)
        .replace("@PEER_ADDRESS@", peer.address)
        .replace("@PEER_POD_CIDR@", peer.pod_cidr))
}

/// A CA, the API server's certificate and the one that it shows to kubelets; the key that signs service accounts' tokens.
fn certificates(directory: &Path) -> Result<()> {
    let names = format!(
        "subjectAltName=DNS:kubernetes.default.svc,DNS:kubernetes.default,IP:10.96.0.1,IP:{}",
        FIRST.address
    );
    let ca = ["-CA", "ca.crt", "-CAkey", "ca.key"];
    certificate(directory, "ca", "/CN=nodetls test cluster", &[])?;
    let leaf = |extension| {
        [
            &ca[..],
            &[
                "-addext",
                "basicConstraints=critical,CA:FALSE",
                "-addext",
                extension,
            ],
        ]
        .concat()
    };
    certificate(directory, "apiserver", "/CN=kube-apiserver", &leaf(&names))?;
    let client = "/O=system:masters/CN=kube-apiserver-kubelet-client";
    certificate(
        directory,
        "kubelet-client",
        client,
        &leaf("extendedKeyUsage=clientAuth"),
    )?;
    let mut key = sh::command("openssl", "genrsa -out service-account.key 2048");
    sh::output(key.current_dir(directory))?;
    Ok(())
}

fn certificate(directory: &Path, name: &str, subject: &str, more: &[&str]) -> Result<()> {
    let new = "req -x509 -noenc -days 365 -newkey ec -pkeyopt ec_paramgen_curve:P-256";
    let mut openssl: Command = sh::command("openssl", new);
    openssl
        .current_dir(directory)
        .args(["-subj", subject])
        .args(more);
    openssl.args([
        "-keyout",
        &format!("{name}.key"),
        "-out",
        &format!("{name}.crt"),
    ]);
    sh::output(&mut openssl)?;
    Ok(())
}
