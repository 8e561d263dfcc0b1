//! A Service without selector that stands for a host which DNS knows: here another Service's name in the cluster's DNS.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use nodetls_e2e::{Namespace, kubectl, until};

/// The backend's own policy goes away: what is behind the name is no target.
const EXTERNAL: &str = r#"
apiVersion: v1
kind: Service
metadata:
  name: external
  annotations: {nodetls.io/external-host: server.e2e-external.svc.cluster.local}
spec:
  ports: [{name: http, port: 8080, targetPort: 80}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: external}
spec:
  targetRefs: [{group: "", kind: Service, name: external}]
  validation:
    hostname: server.example.com
    caCertificateRefs: [{group: "", kind: ConfigMap, name: ca}]
  options: {nodetls.io/rewrite-host: "true"}
"#;

const EXTERNAL_NAME: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: alias}
spec: {type: ExternalName, externalName: httpbin.org}
---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: alias}
spec:
  targetRefs: [{group: "", kind: Service, name: alias}]
  validation: {hostname: httpbin.org, wellKnownCACertificates: System}
"#;

/// As an administrator applies it; away again when this is dropped.
struct Example;

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/external");

impl Drop for Example {
    fn drop(&mut self) {
        kubectl(&["delete", "--filename", EXAMPLE]);
    }
}

#[test]
fn the_example_is_accepted() {
    let namespace = Namespace::new("e2e-external-example");
    namespace.clients(&[("client", "node1")]);
    kubectl(&["apply", "--filename", EXAMPLE]);
    let _example = Example;
    let policy = "backendtlspolicy/httpbin-org";
    let accepted =
        "--for=jsonpath={.status.ancestors[0].conditions[?(@.type==\"Accepted\")].status}=True";
    kubectl(&[
        "--namespace=default",
        "wait",
        policy,
        accepted,
        "--timeout=30s",
    ]);
    // This cluster's DNS knows no host outside.
    until("it is asked for", || {
        match namespace
            .curl("client", &["http://httpbin-org.default/get"])
            .status
        {
            502 => Ok(()),
            other => Err(other.to_string()),
        }
    });
}

#[test]
fn a_service_stands_for_a_name_of_the_clusters_dns() {
    let namespace = Namespace::with_backend("e2e-external");
    namespace.kubectl(&["delete", "backendtlspolicy", "server"]);
    namespace.apply(EXTERNAL);
    namespace.clients(&[("client1", "node1"), ("client2", "node2")]);
    for client in ["client1", "client2"] {
        let answer = namespace.until_ok(client, "http://external:8080/get");
        for name in ["serverName", "host"] {
            let name = format!(r#""{name}": "server.example.com""#);
            assert!(answer.contains(&name), "{answer}");
        }
    }
    assert_eq!(namespace.plaintext(), [""; 0]);

    let annotate = |value: &str| {
        let annotation = format!("nodetls.io/external-host={value}");
        namespace.kubectl(&["annotate", "--overwrite", "service/external", &annotation]);
    };
    for (host, status) in [
        ("gone.e2e-external.svc.cluster.local", 502),
        ("not_a_name", 503),
    ] {
        annotate(host);
        until(host, || {
            let answer = namespace.curl("client1", &["http://external:8080/get"]);
            (answer.status == status)
                .then_some(())
                .ok_or(format!("{answer:?}"))
        });
    }
}

#[test]
fn a_policy_for_an_external_name_is_told_what_to_do() {
    let namespace = Namespace::new("e2e-external-name");
    namespace.apply(EXTERNAL_NAME);
    let messages = "--output=jsonpath={.status.ancestors[*].conditions[*].message}";
    until("the status says it", || {
        let said = namespace.kubectl(&["get", "backendtlspolicy", "alias", messages]);
        said.contains("nodetls.io/external-host: httpbin.org")
            .then_some(())
            .ok_or(said)
    });
}
