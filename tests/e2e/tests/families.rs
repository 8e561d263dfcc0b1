//! Every ClusterIP of a Service, of whichever families the cluster has (`cargo xtask cluster up --families`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use nodetls_e2e::{Namespace, kubectl};

/// Beside the backend's own Service, which has one ClusterIP.
const SERVICE: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: both}
spec:
  ipFamilyPolicy: PreferDualStack
  selector: {app: server}
  ports: [{name: https, port: 80, targetPort: 8443}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: both}
spec:
  targetRefs: [{group: "", kind: Service, name: both}]
  validation:
    hostname: server.example.com
    caCertificateRefs: [{group: "", kind: ConfigMap, name: ca}]
"#;

/// The addresses of an object, from a path to a list.
fn list(object: &[&str], path: &str) -> Vec<String> {
    let output = format!("--output=jsonpath={{{path}}}");
    let list = kubectl(&[&["get"], object, &[&output]].concat());
    list.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn every_cluster_ip_is_reached_with_tls_from_both_nodes() {
    let namespace = Namespace::with_backend("e2e-families");
    namespace.clients(&[("client1", "node1"), ("client2", "node2")]);
    namespace.apply(SERVICE);
    let service = ["--namespace", &namespace.0, "service", "both"];
    let ips = list(&service, ".spec.clusterIPs[*]");
    let families = list(
        &["node", "node1"],
        ".status.addresses[?(@.type==\"InternalIP\")].address",
    );
    assert_eq!(
        ips.len(),
        families.len(),
        "{ips:?} on nodes with {families:?}"
    );
    for ip in &ips {
        let url = match ip.contains(':') {
            true => format!("http://[{ip}]/"),
            false => format!("http://{ip}/"),
        };
        for client in ["client1", "client2"] {
            let answer = namespace.until_ok(client, &url);
            assert!(answer.contains("server.example.com"), "{url}: {answer}");
        }
    }
}
