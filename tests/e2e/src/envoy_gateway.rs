//! The steps of Envoy Gateway's task "Backend TLS: Gateway to Backend", without its gateway.

use crate::{Namespace, until};

/// What its quickstart has of the backend, with our server in the place of echo-basic; two nodes, so that the client is
/// on another than the server.
const QUICKSTART: &str = r"
apiVersion: apps/v1
kind: Deployment
metadata: {name: backend}
spec:
  replicas: 1
  selector: {matchLabels: {app: backend}}
  template:
    metadata: {labels: {app: backend}}
    spec:
      nodeSelector: {kubernetes.io/hostname: node2}
      terminationGracePeriodSeconds: 0
      containers:
      - name: backend
        image: nodetls.test/tls-echo:1
        args: ['--listen=[::]:8443', --log]
        env:
        - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
";

/// Its certificates, as printed. What goes into `openssl x509` besides is @EXTENSIONS@.
const CERTIFICATES: &str = r#"
openssl req -x509 -sha256 -nodes -days 365 -newkey rsa:2048 -subj '/O=example Inc./CN=example.com' -keyout ca.key -out ca.crt
openssl req -out www.example.com.csr -newkey rsa:2048 -nodes -keyout www.example.com.key -subj "/CN=www.example.com/O=example organization"
echo subjectAltName=DNS:www.example.com > san.ext
openssl x509 -req -days 365 -CA ca.crt -CAkey ca.key -set_serial 0 -in www.example.com.csr -out www.example.com.crt @EXTENSIONS@
kubectl create secret tls example-cert --key=www.example.com.key --cert=www.example.com.crt
kubectl create configmap example-ca --from-file=ca.crt
"#;

/// Its backend, as printed, but for the namespace.
const BACKEND: &str = r"
kubectl patch deployment backend --type=json --patch '
  - op: add
    path: /spec/template/spec/containers/0/volumeMounts
    value:
    - name: secret-volume
      mountPath: /etc/secret-volume
  - op: add
    path: /spec/template/spec/volumes
    value:
    - name: secret-volume
      secret:
        secretName: example-cert
        items:
        - key: tls.crt
          path: crt
        - key: tls.key
          path: key
  - op: add
    path: /spec/template/spec/containers/0/env/-
    value:
      name: TLS_SERVER_CERT
      value: /etc/secret-volume/crt
  - op: add
    path: /spec/template/spec/containers/0/env/-
    value:
      name: TLS_SERVER_PRIVKEY
      value: /etc/secret-volume/key
  '
cat <<EOF | kubectl apply -f -
apiVersion: v1
kind: Service
metadata:
  labels:
    app: backend
    service: backend
  name: tls-backend
spec:
  selector:
    app: backend
  ports:
  - name: https
    port: 443
    protocol: TCP
    targetPort: 8443
EOF
kubectl rollout status deployment/backend --timeout=60s
";

/// Its policy, as printed, but for the namespace; the version was v1alpha3.
const POLICY: &str = r#"
cat <<EOF | kubectl apply -f -
apiVersion: gateway.networking.k8s.io/@VERSION@
kind: BackendTLSPolicy
metadata:
  name: enable-backend-tls
spec:
  targetRefs:
  - group: ''
    kind: Service
    name: tls-backend
    sectionName: "443"
  validation:
    caCertificateRefs:
    - name: example-ca
      group: ''
      kind: ConfigMap
    hostname: www.example.com
EOF
"#;

/// Its request, but for the gateway: plain HTTP, from a pod.
pub const REQUEST: [&str; 2] = ["-HHost:www.example.com", "http://tls-backend:443/get"];

/// Whether the certificate gets the subjectAltName that the document says it needs, but printed without.
#[derive(PartialEq)]
pub enum Certificate {
    /// X.509 v1, serial 0.
    AsPrinted,
    /// X.509 v3 with a DNS name.
    WithSubjectAltName,
}

/// Follows the steps in a new namespace, which has a pod `client` then.
pub fn follow(namespace: &str, version: &str, certificate: &Certificate) -> Namespace {
    let namespace = Namespace::new(namespace);
    let extensions = match certificate {
        Certificate::AsPrinted => "",
        Certificate::WithSubjectAltName => "-extfile san.ext",
    };
    namespace.apply(QUICKSTART);
    namespace.steps(&CERTIFICATES.replace("@EXTENSIONS@", extensions));
    namespace.steps(BACKEND);
    namespace.clients(&[("client", "node1")]);
    namespace.steps(&POLICY.replace("@VERSION@", version));
    namespace
}

/// The status of the answer to the document's request, and what the server told, once it is another than that of
/// plaintext (400).
pub fn request(namespace: &Namespace) -> (u16, String) {
    until("the policy is in force", || {
        let answer = namespace.curl("client", &REQUEST);
        match answer.status {
            // 503 until its CA certificate is mirrored.
            0 | 400 | 503 => Err(format!("{answer:?}")),
            status => Ok((status, answer.body)),
        }
    })
}
