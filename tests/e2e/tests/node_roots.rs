//! System CAs that are the node's, which the component `node-roots` mounts. In a file of its own, as it is added to
//! nodetls and taken away.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use nodetls_e2e::nodetls::Component;
use nodetls_e2e::{Namespace, on_node, text};
use serde_json::json;

const STORE: &str = "/etc/ssl/certs/ca-certificates.crt";
const NODE: &str = "node1";
const URL: &str = "http://server/";

/// Another file in the place of the node's store, in its mount namespace alone; taken away when this is dropped.
struct Store;

impl Store {
    fn replace(file: &str) -> Self {
        run(&["mount", "--bind", file, STORE]);
        Self
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let _ = on_node(NODE, &["umount", STORE]).output();
    }
}

fn run(command: &[&str]) {
    let output = on_node(NODE, command).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", text(&output));
}

#[test]
fn system_means_the_nodes_store() {
    let namespace = Namespace::with_backend("e2e-node-roots");
    namespace.clients(&[("client", NODE)]);
    namespace.until_ok("client", URL);
    let system = json!({"spec": {"validation": {
        "caCertificateRefs": null, "wellKnownCACertificates": "System",
    }}});
    let patch = ["patch", "backendtlspolicy", "server", "--type=merge"];
    namespace.kubectl(&[&patch[..], &["--patch", &system.to_string()]].concat());
    namespace.until_status("client", URL, 502);

    // Beside what it has, the CA that an administrator has installed.
    namespace.steps(&format!("cat {STORE} ca.crt > store.crt"));
    let _store = Store::replace(&namespace.file("store.crt"));
    let _component = Component::add("node-roots");
    let told = namespace.until_ok("client", URL);
    let name = r#""serverName": "server.example.com""#;
    assert!(told.contains(name), "{told}");
}
