//! `kubectl nodetls`: every node, from the administrator's machine.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;

use nodetls_e2e::{Namespace, client, wait};
use serde_json::Value;

const URL: &str = "http://server/";

/// A Service that no policy targets, of the same server.
const PLAIN: &str = "
apiVersion: v1
kind: Service
metadata: {name: plain}
spec:
  selector: {app: server}
  ports: [{port: 81, targetPort: 8443}]
";

fn explain(namespace: &Namespace, pod: &str, service: &str) -> (i32, Value) {
    let (code, said) = namespace.plugin_json(&["explain", pod, service]);
    (code, said[0]["result"].clone())
}

#[test]
fn a_working_a_refused_an_opted_out_and_an_untargeted_connection_are_explained() {
    let namespace = Namespace::with_backend("e2e-plugin-explain");
    namespace.apply(PLAIN);
    let left = client("left", "node2", "{nodetls.io/redirect: disabled}");
    namespace.apply(&left);
    namespace.clients(&[("client", "node1")]);
    namespace.wait("pod/left", "condition=Ready");
    namespace.until_ok("client", URL);

    let (code, said) = namespace.plugin(&["explain", "client", "server:80"]);
    assert_eq!(code, 0, "{said}");
    let name = &namespace.0;
    for words in [
        "node node1 (pod nodetls-agent-",
        &format!("{name}/client -> {name}/server:80: TLS is originated"),
        "SNI             server.example.com",
        "CN=test-ca, until ",
        "last handshake  20",
        &format!("{name}/server: Accepted"),
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let (code, said) = explain(&namespace, "client", "plain:81");
    assert_eq!((code, &said["outcome"]), (1, &"untouched".into()), "{said}");
    let why = said["why"].as_str().unwrap();
    assert!(why.starts_with("no BackendTLSPolicy targets"), "{said}");
    let (code, said) = explain(&namespace, "left", "server:https");
    assert_eq!((code, &said["outcome"]), (1, &"untouched".into()), "{said}");
    let why = said["why"].as_str().unwrap();
    assert!(why.contains("nodetls.io/redirect: disabled"), "{said}");

    namespace.kubectl(&["delete", "configmap", "ca"]);
    wait("it is refused", || {
        explain(&namespace, "client", "server:80").1["outcome"] == "refused"
    });
    let (code, said) = explain(&namespace, "client", "server:80");
    assert_eq!(code, 1, "{said}");
    let why = said["why"].as_str().unwrap();
    assert!(
        why.contains(&format!("ConfigMap {name}/ca does not exist")),
        "{said}"
    );
    let (code, said) = namespace.plugin(&["explain", "nobody", "server:80"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("\"nobody\" not found; name one"), "{said}");
}

#[test]
fn all_nodes_are_asked_and_one_if_it_is_named() {
    let namespace = Namespace::with_backend("e2e-plugin-nodes");
    namespace.clients(&[("client", "node1")]);
    namespace.until_ok("client", URL);
    let nodes = |said: &Value| -> Vec<String> {
        let all = said.as_array().unwrap().iter();
        all.map(|one| one["node"].as_str().unwrap().to_owned())
            .collect()
    };
    let (_, said) = namespace.plugin_json(&["status"]);
    assert_eq!(nodes(&said), ["node1", "node2"], "{said}");
    assert!(said[1]["result"]["agents"].is_array(), "{said}");
    let (code, said) = namespace.plugin_json(&["connections", "--node", "node1"]);
    assert_eq!(
        (code, nodes(&said)),
        (0, vec!["node1".to_owned()]),
        "{said}"
    );
    assert!(said[0]["result"]["connections"].is_array(), "{said}");
    let (code, said) = namespace.plugin_json(&["cert", "server:80", "--node", "node2"]);
    assert_eq!(
        (code, nodes(&said)),
        (0, vec!["node2".to_owned()]),
        "{said}"
    );
    assert!(said[0]["result"]["servers"].is_array(), "{said}");
    let (code, said) = namespace.plugin(&["status", "--node", "node9"]);
    assert_eq!(code, 1, "{said}");
    assert!(
        said.contains("no agent runs on node node9: those with one are node1, node2"),
        "{said}"
    );
    let (code, said) = namespace.plugin(&["cert", "server:80"]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(said.matches(": accepted, TLSv1.3").count(), 2, "{said}");
    let (code, said) = namespace.plugin(&["cert", "server:80", "--from", "client"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("node node1 ") && !said.contains("node node2 "));
    let from = format!("from {}/client", namespace.0);
    assert!(said.contains(&from), "{said}");
}

#[test]
fn policies_are_judged_with_the_users_own_rights() {
    let namespace = Namespace::with_backend("e2e-plugin-check");
    let (code, said) = namespace.plugin(&["check"]);
    assert_eq!(code, 0, "{said}");
    let row = format!("{}/server", namespace.0);
    assert!(
        said.contains(&row) && said.contains("policies: 1, refused: 0"),
        "{said}"
    );
    namespace.kubectl(&["delete", "configmap", "ca"]);
    let (code, said) = namespace.plugin_json(&["check"]);
    assert_eq!((code, &said["verdict"]), (1, &"refused".into()), "{said}");
    let (code, said) = namespace.plugin(&["check", "--node", "node1"]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("unexpected argument '--node'"), "{said}");
}

#[test]
fn kubectl_completes_it() {
    let namespace = Namespace::new("e2e-plugin-complete");
    let offered = |words: &[&str]| {
        let output = namespace.kubectl_with_plugin(&[&["__complete", "nodetls"], words].concat());
        let said = String::from_utf8(output.stdout).unwrap();
        let lines = said.lines().map(|line| line.split('\t').next().unwrap());
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(offered(&["st"]), ["status", ":4"]);
    assert_eq!(offered(&["cert", "web:443", "--fr"]), ["--from", ":4"]);
    assert_eq!(offered(&["status", "--output", "j"]), ["json", ":4"]);
}

#[test]
fn a_bundle_has_every_node_and_no_secret() {
    let namespace = Namespace::with_backend("e2e-plugin-diagnose");
    let (code, said) = namespace.plugin(&["diagnose", "report"]);
    assert_eq!(code, 0, "{said}");
    let key = fs::read_to_string(namespace.file("tls.key")).unwrap();
    let key = key.lines().nth(1).unwrap();
    let mut files = 0;
    for line in said.lines() {
        let text = fs::read_to_string(namespace.file(line)).unwrap();
        for secret in [key, "PRIVATE KEY", "eyJ"] {
            assert!(!text.contains(secret), "{secret} in {line}");
        }
        files += 1;
    }
    assert!(files > 20, "{said}");
    for file in [
        "cluster/policies.yaml",
        "cluster/pods.txt",
        "nodes/node1/status.json",
        "nodes/node2/metrics.txt",
    ] {
        let text = fs::read_to_string(namespace.file(&format!("report/{file}"))).unwrap();
        assert!(!text.starts_with("not to be had"), "{file}: {text}");
    }
    let (code, said) = namespace.plugin_json(&["diagnose"]);
    let bundle = said.as_object().unwrap();
    assert!(
        code == 0 && bundle.contains_key("nodes/node1/status.json"),
        "{said}"
    );
    let (code, said) = namespace.plugin(&["diagnose", "report"]);
    assert_eq!(code, 1, "{said}");
    assert!(
        said.contains("name a directory that is not there yet"),
        "{said}"
    );
}
