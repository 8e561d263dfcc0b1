//! CAs from Secrets, which the component `secrets` allows. In a file of its own, as it is added to nodetls and taken away.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use nodetls_e2e::nodetls::Component;
use nodetls_e2e::{Namespace, kubectl, nodetls, until};

/// The steps of kgateway's page, but that the server is ours, and that the certificate gets a name: printed is one for
/// `CN=*` alone, by which the policy's hostname can't be verified.
const KGATEWAY: &str = r#"
mkdir example_certs
openssl req -x509 -sha256 -nodes -days 365 -newkey rsa:2048 -subj '/O=any domain/CN=*' -keyout example_certs/root.key -out example_certs/root.crt
openssl req -out example_certs/httpbin.csr -newkey rsa:2048 -nodes -keyout example_certs/httpbin.key -subj "/CN=*/O=any domain"
echo subjectAltName=DNS:www.example.com > san.ext
openssl x509 -req -sha256 -days 365 -CA example_certs/root.crt -CAkey example_certs/root.key -set_serial 0 -in example_certs/httpbin.csr -out example_certs/httpbin.crt -extfile san.ext
kubectl create secret tls httpbin \
  --key example_certs/httpbin.key \
  --cert example_certs/httpbin.crt
kubectl label secret httpbin app=httpbin
kubectl create secret generic httpbin-root-ca \
  --from-file=ca.crt=example_certs/root.crt
kubectl label secret httpbin-root-ca app=httpbin
kubectl apply -f - <<EOF
apiVersion: v1
kind: Pod
metadata: {name: httpbin, labels: {app: httpbin}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: httpbin
    image: nodetls.test/tls-echo:1
    args: [--cert=/etc/tls/tls.crt, --key=/etc/tls/tls.key, '--listen=[::]:8080']
    readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
    volumeMounts: [{name: tls-cert, mountPath: /etc/tls, readOnly: true}]
  volumes: [{name: tls-cert, secret: {secretName: httpbin, optional: false}}]
---
apiVersion: v1
kind: Service
metadata: {name: httpbin}
spec:
  selector: {app: httpbin}
  ports: [{name: http, port: 8000, targetPort: 8080}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata:
  name: httpbin-backend-tls
  labels:
    app: httpbin
spec:
  targetRefs:
  - group: ''
    kind: Service
    name: httpbin
  validation:
    caCertificateRefs:
    - name: httpbin-root-ca
      group: ''
      kind: Secret
    hostname: www.example.com
EOF
"#;

#[test]
fn kgateways_older_page_takes_the_ca_from_a_secret() {
    let namespace = Namespace::new("e2e-secrets");
    namespace.steps(KGATEWAY);
    namespace.clients(&[("client", "node2")]);
    namespace.wait("pod/httpbin", "condition=Ready");
    let url = "http://httpbin:8000/headers";
    until("without the component a Secret is refused", || {
        let answer = namespace.curl("client", &[url]);
        (answer.status == 503)
            .then_some(())
            .ok_or(format!("{answer:?}"))
    });

    let _component = Component::add("secrets");
    let answer = namespace.until_ok("client", url);
    let name = r#""serverName": "www.example.com""#;
    assert!(answer.contains(name), "{answer}");
    // Nothing but the certificate leaves the Secret's namespace.
    let copies = [
        "--namespace",
        nodetls::NAMESPACE,
        "get",
        "secrets",
        "--output=name",
    ];
    assert_eq!(kubectl(&copies), "");
}
