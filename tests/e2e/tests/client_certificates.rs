//! Client certificates, which the component `client-certificates` allows. In a file of its own, as it is added to nodetls
//! and taken away.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;

use nodetls_e2e::nodetls::{self, Component};
use nodetls_e2e::{Namespace, until};
use serde_json::Value;

/// One CA for a server and for the identities of two namespaces, the first of which gets a second one later.
const CERTIFICATES: &str = "
new='-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30'
openssl req -x509 $new -subj /CN=test-ca -keyout ca.key -out ca.crt
sign() {
  openssl req -x509 $new -CA ca.crt -CAkey ca.key -subj /CN=$1 -addext basicConstraints=CA:FALSE \
    -addext subjectAltName=DNS:$1.example.com -keyout $1.key -out $1.crt
}
for name in server a b renewed; do sign $name; done
kubectl create secret generic server --from-file=tls.crt=server.crt --from-file=tls.key=server.key --from-file=ca.crt
kubectl create configmap ca --from-file=ca.crt
";

/// The server takes clients of the CA only, and answers with the certificate that it saw.
const SERVER: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: server, labels: {app: server}}
spec:
  nodeSelector: {kubernetes.io/hostname: node2}
  terminationGracePeriodSeconds: 0
  containers:
  - name: server
    image: nodetls.test/tls-echo:1
    args: [--cert=/tls/tls.crt, --key=/tls/tls.key, --client-ca=/tls/ca.crt, '--listen=[::]:8443', --log]
    readinessProbe: {tcpSocket: {port: 8443}, periodSeconds: 1}
    volumeMounts: [{name: tls, mountPath: /tls}]
  volumes: [{name: tls, secret: {secretName: server}}]
---
apiVersion: v1
kind: Service
metadata: {name: server}
spec:
  selector: {app: server}
  ports: [{name: https, port: 80, targetPort: 8443}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: server}
spec:
  targetRefs: [{group: "", kind: Service, name: server}]
  validation:
    hostname: server.example.com
    caCertificateRefs: [{group: "", kind: ConfigMap, name: ca}]
  options: {nodetls.io/client-certificate: client}
"#;

const URL: &str = "http://server.e2e-mtls/";

/// The certificate that the server saw, or what the client got instead.
fn seen(namespace: &Namespace, pod: &str) -> Result<String, String> {
    let answer = namespace.curl(pod, &[URL]);
    if answer.status != 200 {
        return Err(format!("{answer:?}"));
    }
    let body: Value = serde_json::from_str(&answer.body).unwrap();
    let certificate = body["tls"]["peerCertificates"][0].as_str();
    Ok(certificate.unwrap().to_owned())
}

#[track_caller]
fn until_refused(namespace: &Namespace) {
    until(
        "a connection without identity is refused",
        || match namespace.curl("client", &[URL]).status {
            503 => Ok(()),
            other => Err(other.to_string()),
        },
    );
}

#[test]
fn each_namespace_shows_its_own_identity_and_no_other() {
    let server = Namespace::new("e2e-mtls");
    server.steps(CERTIFICATES);
    server.apply(SERVER);
    server.wait("pod/server", "condition=Ready");
    let file = |name: &str, end: &str| server.file(&format!("{name}.{end}"));
    let identity = |namespace: &Namespace, name: &str| {
        let (key, certificate) = (file(name, "key"), file(name, "crt"));
        let (key, certificate) = (format!("--key={key}"), format!("--cert={certificate}"));
        let create = ["create", "secret", "tls", "client", &key, &certificate];
        namespace.kubectl(&create);
    };
    let shown = |name: &str| fs::read_to_string(file(name, "crt")).unwrap();
    let [a, b, none] = ["e2e-mtls-a", "e2e-mtls-b", "e2e-mtls-none"].map(Namespace::new);
    identity(&a, "a");
    identity(&b, "b");
    // Two namespaces share a node, and so an agent.
    a.clients(&[("client", "node1"), ("other", "node2")]);
    b.clients(&[("client", "node1")]);
    none.clients(&[("client", "node1")]);

    // Without the component no agent asks for a Secret.
    until_refused(&a);

    let _component = Component::add("client-certificates");
    for (namespace, pod, name) in [(&a, "client", "a"), (&a, "other", "a"), (&b, "client", "b")] {
        let saw = until("the server knows who asks", || seen(namespace, pod));
        assert_eq!(saw, shown(name), "{name}");
    }
    until_refused(&none);
    let agent = nodetls::agent("node1");
    let log = nodetls::ours(&["logs", &agent]);
    assert!(log.contains("Secret e2e-mtls-none/client does not exist"));
    assert!(!log.contains("PRIVATE KEY"));

    a.kubectl(&["delete", "secret", "client"]);
    until_refused(&a);
    identity(&a, "renewed");
    until("the new one is shown", || {
        let saw = seen(&a, "client")?;
        (saw == shown("renewed")).then_some(()).ok_or(saw)
    });
    assert_eq!(
        seen(&b, "client").unwrap(),
        shown("b"),
        "that of b is not touched"
    );
}
