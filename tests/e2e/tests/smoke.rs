//! The cluster itself: what every other test takes for granted.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use nodetls_e2e::{Namespace, kubectl, text, wait};

/// A server, held on one node, and its Service.
const SERVER: &str = r"
apiVersion: v1
kind: ConfigMap
metadata: {name: servers}
data:
  default.conf: 'server { listen 8080; listen [::]:8080; return 200 $remote_addr\n; }'
---
apiVersion: v1
kind: Pod
metadata: {name: server, labels: {app: server}}
spec:
  nodeSelector: {kubernetes.io/hostname: node2}
  terminationGracePeriodSeconds: 0
  containers:
  - name: nginx
    image: nodetls.test/nginx:1
    readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
    volumeMounts: [{name: servers, mountPath: /etc/nginx/conf.d}]
  volumes: [{name: servers, configMap: {name: servers}}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: server}
  ports: [{port: 80, targetPort: 8080}]
";

#[test]
fn both_nodes_are_ready() {
    let nodes = kubectl(&["get", "nodes", "--no-headers"]);
    let ready: Vec<_> = nodes
        .lines()
        .map(|line| line.split_whitespace().take(2).collect::<Vec<_>>())
        .collect();
    assert_eq!(ready, [["node1", "Ready"], ["node2", "Ready"]], "{nodes}");
}

#[test]
fn a_service_answers_by_name_from_both_nodes_and_sees_the_pods_own_address() {
    let namespace = Namespace::new("e2e-smoke-service");
    namespace.apply(SERVER);
    namespace.wait("pod/server", "condition=Ready");
    namespace.clients(&[("client1", "node1"), ("client2", "node2")]);
    for client in ["client1", "client2"] {
        let address = ["get", "pod", client, "--output=jsonpath={.status.podIP}"];
        let address = namespace.kubectl(&address);
        let curl = |url| namespace.exec(client, &["curl", "-sS", "-m", "3", url]);
        // kube-proxy may take a moment after the server is ready.
        wait("the Service answers", || {
            curl("http://web/").trim() == address
        });
        let whole = "http://web.e2e-smoke-service.svc.cluster.local/";
        assert_eq!(curl(whole).trim(), address);
    }
    let logs = namespace.kubectl(&["logs", "server"]);
    assert!(logs.contains("GET / HTTP/1.1"), "{logs}");
}

#[test]
fn backend_tls_policies_are_served_and_their_rules_enforced() {
    let namespace = Namespace::new("e2e-smoke-policy");
    let policy = |validation: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {{name: web}}\nspec:\n  \
             targetRefs: [{{group: '', kind: Service, name: web}}]\n  \
             validation: {{hostname: web.example.com, {validation}}}\n"
        )
    };
    let system = "wellKnownCACertificates: System";
    namespace.apply(&policy(system));
    let both = format!("{system}, caCertificateRefs: [{{group: '', kind: ConfigMap, name: ca}}]");
    let refused = namespace.try_apply(&policy(&both));
    assert!(!refused.status.success());
    assert!(
        text(&refused).contains("must not contain both"),
        "{}",
        text(&refused)
    );
}
