//! A headless Service, as of a StatefulSet: its pods are dialled by their names, live.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use nodetls_e2e::{Namespace, until};

/// TLS echo servers, `db-N.db`. DNS tells of a pod when it is ready, long after its slice does.
const DB: &str = r#"
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  replicas: 2
  serviceName: db
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: server
        image: nodetls.test/tls-echo:1
        args: [--cert=/tls/tls.crt, --key=/tls/tls.key, '--listen=0.0.0.0:8443', --log]
        readinessProbe: {tcpSocket: {port: 8443}, initialDelaySeconds: 5, periodSeconds: 1}
        volumeMounts: [{name: tls, mountPath: /tls}]
      volumes: [{name: tls, secret: {secretName: server}}]
---
apiVersion: v1
kind: Service
metadata: {name: db}
spec:
  clusterIP: None
  selector: {app: db}
  ports: [{name: https, port: 443, targetPort: 8443}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: db}
spec:
  targetRefs: [{group: "", kind: Service, name: db}]
  validation:
    hostname: server.example.com
    caCertificateRefs: [{group: "", kind: ConfigMap, name: ca}]
"#;

#[test]
fn the_pods_of_a_headless_service_are_dialled_with_tls() {
    let namespace = Namespace::with_backend("e2e-headless");
    namespace.apply(DB);
    namespace.clients(&[("client", "node1")]);
    let secured = |pod: &str| {
        let answer = namespace.until_ok("client", &format!("http://{pod}.db:8443/"));
        let sni = r#""serverName": "server.example.com""#;
        assert!(answer.contains(sni), "{pod}: {answer}");
    };
    secured("db-0");
    secured("db-1");
    let accepted = || {
        let show =
            "--output=jsonpath={.status.ancestors[0].conditions[?(@.type==\"Accepted\")].message}";
        namespace.kubectl(&["get", "backendtlspolicy", "db", show])
    };
    until("the status says no more", || {
        let message = accepted();
        let expected = format!("Service {}/db, all ports", namespace.0);
        (message == expected).then_some(()).ok_or(message)
    });

    // A pod that comes has another address, one that goes takes its own along.
    namespace.kubectl(&["scale", "statefulset/db", "--replicas=3"]);
    secured("db-2");
    let address = |pod: &str| {
        namespace.kubectl(&[
            "get",
            "pod",
            pod,
            "--ignore-not-found",
            "--output=jsonpath={.status.podIP}",
        ])
    };
    let before = address("db-0");
    namespace.kubectl(&["delete", "pod", "db-0"]);
    until("db-0 is another pod", || {
        let now = address("db-0");
        (!now.is_empty() && now != before).then_some(()).ok_or(now)
    });
    secured("db-0");
    for pod in ["db-0", "db-1", "db-2"] {
        let log = namespace.kubectl(&["logs", pod]);
        let plaintext = log.lines().find(|line| line.ends_with(": plaintext"));
        assert_eq!(plaintext, None, "{pod}");
    }

    namespace.kubectl(&["scale", "statefulset/db", "--replicas=0"]);
    until("the status says that there is nothing to cover", || {
        let message = accepted();
        let part = "has no endpoint at the moment";
        message.contains(part).then_some(()).ok_or(message)
    });
}
