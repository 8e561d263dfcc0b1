//! A TLS server behind a Service, and what most tests ask of it.

use crate::Namespace;

/// A CA and a certificate of the server, made by it.
const CERTIFICATES: &str = "
new='-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30'
openssl req -x509 $new -subj /CN=test-ca -keyout ca.key -out ca.crt
openssl req -x509 $new -CA ca.crt -CAkey ca.key -subj /CN=server -addext basicConstraints=CA:FALSE \
  -addext subjectAltName=DNS:server.example.com -keyout tls.key -out tls.crt
kubectl create secret tls server --key=tls.key --cert=tls.crt
kubectl create configmap ca --from-file=ca.crt
";

/// The server says in its log who came with plaintext. Beside it, in the same pod, is a client.
const SERVER: &str = r"
apiVersion: v1
kind: Pod
metadata: {name: server, labels: {app: server}}
spec:
  nodeSelector: {kubernetes.io/hostname: node2}
  terminationGracePeriodSeconds: 0
  containers:
  - name: server
    image: nodetls.test/tls-echo:1
    args: [--cert=/tls/tls.crt, --key=/tls/tls.key, '--listen=[::]:8443', --log]
    readinessProbe: {tcpSocket: {port: 8443}, periodSeconds: 1}
    volumeMounts: [{name: tls, mountPath: /tls}]
  - {name: client, image: nodetls.test/client:1}
  volumes: [{name: tls, secret: {secretName: server}}]
---
apiVersion: v1
kind: Service
metadata: {name: server}
spec:
  selector: {app: server}
  ports: [{name: https, port: 80, targetPort: 8443}]
";

/// For it, in the manner of all documents.
pub const POLICY: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: server}
spec:
  targetRefs: [{group: "", kind: Service, name: server}]
  validation:
    hostname: server.example.com
    caCertificateRefs: [{group: "", kind: ConfigMap, name: ca}]
"#;

impl Namespace {
    /// A namespace with the TLS server on node2, behind `http://server/`, and a policy for it.
    pub fn with_backend(name: &str) -> Self {
        let namespace = Self::new(name);
        namespace.steps(CERTIFICATES);
        namespace.apply(SERVER);
        namespace.apply(POLICY);
        namespace.wait("pod/server", "condition=Ready");
        namespace
    }

    /// Starts pods that sleep, of the client's image, named `NAME`, each on its node.
    pub fn clients(&self, clients: &[(&str, &str)]) {
        for (name, node) in clients {
            self.apply(&client(name, node, "{}"));
        }
        for (name, _) in clients {
            self.wait(&format!("pod/{name}"), "condition=Ready");
        }
    }

    /// The lines of the server's log about clients that came with plaintext.
    pub fn plaintext(&self) -> Vec<String> {
        let logs = self.kubectl(&["logs", "server", "--container=server"]);
        let lines = logs.lines().filter(|line| line.ends_with(": plaintext"));
        lines.map(str::to_owned).collect()
    }
}

/// curl in a [`script`], before the URL: prints the status, and why there was none.
pub const ASK: &str = r"curl -s -o /dev/null -m 5 -w '%{http_code} %{errormsg}\n'";

/// A pod of the client's image on node1, which runs this shell script.
pub fn script(name: &str, script: &str) -> String {
    let script = serde_json::Value::from(script);
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  \
         nodeSelector: {{kubernetes.io/hostname: node1}}\n  terminationGracePeriodSeconds: 0\n  \
         containers: [{{name: client, image: nodetls.test/client:1, command: [sh, -c, {script}]}}]\n"
    )
}

/// A pod that sleeps, of the client's image; `labels` are its own, in YAML.
pub fn client(name: &str, node: &str, labels: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {labels}}}\nspec:\n  \
         nodeSelector: {{kubernetes.io/hostname: {node}}}\n  terminationGracePeriodSeconds: 0\n  \
         containers: [{{name: client, image: nodetls.test/client:1}}]\n"
    )
}
