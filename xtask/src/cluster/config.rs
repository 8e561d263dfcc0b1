//! What the cluster's programs are given: the files of `tests/cluster/config/` with their @PLACEHOLDERS@ filled in,
//! certificates and tokens.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::node::{FIRST, NODES, Node};
use super::{Families, STATE, sources};
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

/// IPv4, IPv6.
const SERVICE_CIDRS: [&str; 2] = ["10.96.0.0/16", "fd00:96::/112"];
const CLUSTER_CIDRS: [&str; 2] = ["10.244.0.0/16", "fd00:244::/56"];
const DNS: [&str; 2] = ["10.96.0.10", "fd00:96::a"];

/// Writes all of them into the state directory.
pub(super) fn write(families: Families) -> Result<()> {
    let state = Path::new(STATE);
    fs::create_dir_all(state.join("pki"))?;
    certificates(&state.join("pki"))?;
    let mut tokens = String::new();
    for (name, user, group) in CLIENTS {
        let token = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
        let token = token.trim();
        tokens += &format!("{token},{user},{user},{group}\n");
        let config = render("kubeconfig.yaml", families, None)?;
        let config = config.replace("@USER@", user).replace("@TOKEN@", token);
        fs::write(state.join(name).with_extension("kubeconfig"), config)?;
    }
    fs::write(state.join("pki/tokens.csv"), tokens)?;
    fs::write(
        state.join("etcd.yaml"),
        render("etcd.yaml", families, None)?,
    )?;
    fs::write(state.join("dns.yaml"), render("dns.yaml", families, None)?)?;
    for node in &NODES {
        let directory = node.directory();
        fs::create_dir_all(directory.join("cni"))?;
        for file in ["containerd.toml", "kubelet.yaml", "kube-proxy.yaml"] {
            fs::write(directory.join(file), render(file, families, Some(node))?)?;
        }
        let network = render("cni.conflist", families, Some(node))?;
        fs::write(directory.join("cni/pods.conflist"), network)?;
    }
    Ok(())
}

/// The flags of `program`, from its `.args` file: one a line, `#` begins a comment.
pub(super) fn flags(program: &str, families: Families, node: &Node) -> Result<Vec<String>> {
    let text = render(&format!("{program}.args"), families, Some(node))?;
    let flags = text.lines().filter(|line| !line.starts_with('#'));
    Ok(flags.map(str::to_owned).collect())
}

/// A file of `config/`, for `node` if it is one of a node.
pub(super) fn render(file: &str, families: Families, node: Option<&Node>) -> Result<String> {
    let path = sources().join("config").join(file);
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let text = text
        .replace("@STATE@", STATE)
        .replace("@API_SERVER@", &families.host(&FIRST.addresses))
        .replace("@SERVICE_CIDRS@", &families.of(&SERVICE_CIDRS).join(","))
        .replace("@CLUSTER_CIDRS@", &families.of(&CLUSTER_CIDRS).join(","))
        .replace("@DNS@", families.of(&DNS)[0]);
    let Some(node) = node else { return Ok(text) };
    let peer = node.peer();
    Ok(text
        .replace("@NODE@", node.name)
        .replace("@ADDRESS@", families.of(&node.addresses)[0])
        .replace("@ADDRESSES@", &families.of(&node.addresses).join(","))
        .replace("@ADDRESS4@", node.addresses[0])
        .replace("@ADDRESS6@", node.addresses[1])
        .replace("@PEER_ADDRESS4@", peer.addresses[0])
        .replace("@PEER_ADDRESS6@", peer.addresses[1])
        .replace("@PEER_POD_CIDR4@", peer.pod_cidrs[0])
        .replace("@PEER_POD_CIDR6@", peer.pod_cidrs[1])
        .replace("@FAMILIES@", &families.of(&["ipv4", "ipv6"]).join(" "))
        .replace(
            "@POD_RANGES@",
            &list(families, node.pod_cidrs, "[{ \"subnet\": \"@\" }]"),
        )
        .replace(
            "@POD_ROUTES@",
            &list(families, ["0.0.0.0/0", "::/0"], "{ \"dst\": \"@\" }"),
        ))
}

/// JSON for each value; `@` is the value.
fn list(families: Families, values: [&'static str; 2], json: &str) -> String {
    let values = families.of(&values).iter();
    let json: Vec<_> = values.map(|value| json.replace('@', value)).collect();
    json.join(", ")
}

/// A CA, the API server's certificate and the one that it shows to kubelets; the key that signs service accounts' tokens.
fn certificates(directory: &Path) -> Result<()> {
    let [v4, v6] = FIRST.addresses;
    let names = format!(
        "subjectAltName=DNS:kubernetes.default.svc,DNS:kubernetes.default,IP:10.96.0.1,IP:fd00:96::1,IP:{v4},IP:{v6}"
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
