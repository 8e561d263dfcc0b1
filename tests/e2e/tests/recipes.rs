//! What the documents of gateways print, from a plain client instead of through the gateway.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use nodetls_e2e::envoy_gateway::{self, Certificate};
use nodetls_e2e::{Namespace, nodetls, until};

#[test]
fn envoy_gateways_steps() {
    let certificate = Certificate::WithSubjectAltName;
    let namespace = envoy_gateway::follow("e2e-envoy", "v1", &certificate);
    let (status, answer) = envoy_gateway::request(&namespace);
    assert_eq!(status, 200, "{answer}");
    for told in [
        r#""serverName": "www.example.com""#,
        r#""negotiatedProtocol": "http/1.1""#,
        r#""host": "www.example.com""#,
        r#""path": "/get""#,
    ] {
        assert!(answer.contains(told), "{told}: {answer}");
    }
}

/// rustls, as all TLS clients by now, takes no name from a certificate of this kind.
#[test]
fn envoy_gateways_certificate_as_printed_is_refused_with_cause_and_cure() {
    let certificate = Certificate::AsPrinted;
    let namespace = envoy_gateway::follow("e2e-envoy-v1", "v1", &certificate);
    let (status, answer) = envoy_gateway::request(&namespace);
    assert_eq!(status, 502, "{answer}");
    assert!(!answer.contains("serverName"), "{answer}");

    let cause = r#"(CN "www.example.com") is X.509 v1, which has no subjectAltName"#;
    let cure = "reissue it with a subjectAltName (openssl: -extfile with subjectAltName=DNS:";
    let told = |what, text: &dyn Fn() -> String| {
        until(what, || {
            let text = text();
            let told = text.contains(cause) && text.contains(cure);
            told.then_some(()).ok_or(text)
        });
    };
    told("the policy's Event names cause and cure", &|| {
        let about = "--field-selector=involvedObject.kind=BackendTLSPolicy,involvedObject.name=enable-backend-tls";
        let show = "--output=jsonpath={range .items[*]}{.reason}: {.message}{\"\\n\"}{end}";
        namespace.kubectl(&["get", "events", about, show])
    });
    told("status names cause and cure", &|| nodetls::status("node1"));
}

/// kgateway's example: a ConfigMap `ca` that holds nginx' self-signed certificate itself. The printed one has expired;
/// this one has the same names, usages and extensions.
const KGATEWAY: &str = r#"
cat > leaf.cnf <<EOF
[req]
distinguished_name = name
x509_extensions = leaf
prompt = no
[name]
CN = example.com
[leaf]
subjectAltName = DNS:example.com
keyUsage = digitalSignature
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
EOF
openssl req -x509 -newkey rsa:2048 -nodes -days 365 -config leaf.cnf -keyout tls.key -out tls.crt
kubectl create secret tls nginx --key=tls.key --cert=tls.crt
kubectl create configmap ca --from-file=ca.crt=tls.crt
kubectl apply -f- <<EOF
apiVersion: v1
kind: ConfigMap
metadata: {name: nginx-conf}
data:
  nginx.conf: |
    server {
      listen 8443 ssl;
      ssl_certificate /etc/nginx/ssl/tls.crt;
      ssl_certificate_key /etc/nginx/ssl/tls.key;
      location / { return 200 "Welcome to nginx, \$ssl_server_name, \$ssl_protocol\n"; }
    }
---
apiVersion: v1
kind: Service
metadata: {name: nginx}
spec:
  selector: {app.kubernetes.io/name: nginx}
  ports: [{protocol: TCP, port: 8443, targetPort: https-web-svc, name: https}]
---
apiVersion: v1
kind: Pod
metadata: {name: nginx, labels: {app.kubernetes.io/name: nginx}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: nginx
    image: nodetls.test/nginx:1
    ports: [{containerPort: 8443, name: https-web-svc}]
    readinessProbe: {tcpSocket: {port: 8443}, periodSeconds: 1}
    volumeMounts:
    - {name: nginx-conf, mountPath: /etc/nginx/conf.d/default.conf, subPath: nginx.conf}
    - {name: ssl, mountPath: /etc/nginx/ssl}
  volumes:
  - {name: nginx-conf, configMap: {name: nginx-conf}}
  - {name: ssl, secret: {secretName: nginx}}
EOF
"#;

/// As printed.
const KGATEWAY_POLICY: &str = r#"
kubectl apply -f - <<EOF
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata:
  name: nginx-tls-policy
  labels:
    app: nginx
spec:
  targetRefs:
  - group: ""
    kind: Service
    name: nginx
  validation:
    hostname: "example.com"
    caCertificateRefs:
    - group: ""
      kind: ConfigMap
      name: ca
EOF
"#;

#[test]
fn kgateways_nginx_whose_policy_is_deleted_and_created_again() {
    let namespace = Namespace::new("e2e-kgateway");
    namespace.steps(KGATEWAY);
    namespace.clients(&[("client", "node1")]);
    namespace.wait("pod/nginx", "condition=Ready");
    let url = "http://nginx:8443/";
    // kgateway needs a restart for the second time.
    for _ in 0..2 {
        namespace.steps(KGATEWAY_POLICY);
        let answer = namespace.until_ok("client", url);
        // This nginx knows no newer one unless told to.
        assert_eq!(answer, "Welcome to nginx, example.com, TLSv1.2\n");

        namespace.steps("kubectl delete backendtlspolicy nginx-tls-policy");
        until("without a policy nothing is done", || {
            let answer = namespace.curl("client", &[url]);
            let plain = "The plain HTTP request was sent to HTTPS port";
            (answer.status == 400 && answer.body.contains(plain))
                .then_some(())
                .ok_or(format!("{answer:?}"))
        });
    }
}

/// Traefik's recipe, its slides' objects; whoami's place is taken by our server, which knows the same flags by other
/// names.
const TRAEFIK: &str = r#"
openssl req -x509 -nodes -days 365 -newkey rsa:2048 -subj '/CN=internal-ca' -keyout internal-ca.key -out ca.crt
openssl req -x509 -CA ca.crt -CAkey internal-ca.key -nodes -days 365 -newkey rsa:2048 -subj '/CN=whoami' \
  -addext subjectAltName=DNS:whoami.docker.localhost -addext basicConstraints=CA:FALSE -keyout tls.key -out tls.crt
kubectl create secret tls internal-certs --key=tls.key --cert=tls.crt
kubectl create configmap internal-ca --from-file=ca.crt
kubectl apply -f - <<EOF
apiVersion: v1
kind: Pod
metadata: {name: whoami-tls, labels: {app: whoami-tls}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: whoami
    image: nodetls.test/tls-echo:1
    args: [--cert=/etc/certs/tls.crt, --key=/etc/certs/tls.key, '--listen=[::]:8443']
    readinessProbe: {tcpSocket: {port: 8443}, periodSeconds: 1}
    volumeMounts: [{name: certs, mountPath: /etc/certs}]
  volumes: [{name: certs, secret: {secretName: internal-certs}}]
---
apiVersion: v1
kind: Service
metadata: {name: whoami-tls}
spec:
  selector: {app: whoami-tls}
  ports: [{port: 8443}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: whoami-policy}
spec:
  validation:
    hostname: whoami.docker.localhost
    caCertificateRefs: [{group: "", kind: ConfigMap, name: internal-ca}]
  targetRefs: [{group: "", kind: Service, name: whoami-tls}]
EOF
"#;

#[test]
fn traefiks_recipe() {
    let namespace = Namespace::new("e2e-traefik");
    namespace.steps(TRAEFIK);
    namespace.clients(&[("client", "node2")]);
    namespace.wait("pod/whoami-tls", "condition=Ready");
    let answer = namespace.until_ok("client", "http://whoami-tls:8443/whoami");
    let name = r#""serverName": "whoami.docker.localhost""#;
    assert!(answer.contains(name), "{answer}");
    // A client that speaks TLS itself is let through, and checks the server itself.
    let https = "https://whoami-tls:8443/whoami";
    let answer = namespace.curl("client", &["-k", https]);
    assert!(
        answer.body.contains(r#""serverName": "whoami-tls""#),
        "{answer:?}"
    );
}
