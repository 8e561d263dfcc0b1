//! What a policy may trust besides a ConfigMap's CA: a ClusterTrustBundle; and less, where the installation allows it. In
//! a file of its own, as a component is added to nodetls and taken away.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use nodetls_e2e::nodetls::Component;
use nodetls_e2e::{Namespace, alone, kubectl, until};

/// A CA for everybody, and a server certificate without a name, as documents print it: that is X.509 v1.
const CERTIFICATES: &str = "
new='-newkey rsa:2048 -nodes'
openssl req -x509 -sha256 -days 365 $new -subj '/O=example Inc./CN=example.com' -keyout ca.key -out ca.crt
openssl req $new -subj '/CN=www.example.com/O=example organization' -keyout tls.key -out tls.csr
openssl x509 -req -days 365 -CA ca.crt -CAkey ca.key -set_serial 0 -in tls.csr -out nameless.crt
echo subjectAltName=DNS:www.example.com > san.ext
openssl x509 -req -days 365 -CA ca.crt -CAkey ca.key -set_serial 1 -in tls.csr -extfile san.ext -out named.crt
kubectl create secret generic named --from-file=tls.key --from-file=tls.crt=named.crt
kubectl create secret generic nameless --from-file=tls.key --from-file=tls.crt=nameless.crt
kubectl create configmap ca --from-file=ca.crt
kubectl delete clustertrustbundle nodetls-e2e --ignore-not-found
cat <<EOF | kubectl apply -f -
apiVersion: certificates.k8s.io/v1beta1
kind: ClusterTrustBundle
metadata: {name: nodetls-e2e}
spec:
  trustBundle: |
$(sed 's/^/    /' ca.crt)
EOF
";

/// Servers `named` and `nameless`, and the policies for them.
fn manifests() -> String {
    let server = |name: &str, ca: &str, options: &str| {
        format!(
            r#"---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: server
    image: nodetls.test/tls-echo:1
    args: [--cert=/tls/tls.crt, --key=/tls/tls.key, '--listen=[::]:8443']
    readinessProbe: {{tcpSocket: {{port: 8443}}, periodSeconds: 1}}
    volumeMounts: [{{name: tls, mountPath: /tls}}]
  volumes: [{{name: tls, secret: {{secretName: {name}}}}}]
---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec: {{selector: {{app: {name}}}, ports: [{{port: 80, targetPort: 8443}}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {{name: {name}}}
spec:
  targetRefs: [{{group: "", kind: Service, name: {name}}}]
  validation:
    hostname: www.example.com
    caCertificateRefs: [{ca}]
{options}"#
        )
    };
    let bundle = "{group: certificates.k8s.io, kind: ClusterTrustBundle, name: nodetls-e2e}";
    let config_map = r#"{group: "", kind: ConfigMap, name: ca}"#;
    let lenient = "  options: {nodetls.io/validation-mode: InsecureSkipOnlySANVerification}\n";
    server("named", bundle, "") + &server("nameless", config_map, lenient)
}

#[test]
fn a_cluster_trust_bundle_and_less_verification_where_it_is_allowed() {
    let _alone = alone();
    let namespace = Namespace::new("e2e-trust");
    namespace.steps(CERTIFICATES);
    namespace.apply(&manifests());
    namespace.clients(&[("client", "node1")]);
    namespace.wait("pod/named", "condition=Ready");
    namespace.wait("pod/nameless", "condition=Ready");
    let answer = namespace.until_ok("client", "http://named/");
    assert!(
        answer.contains(r#""serverName": "www.example.com""#),
        "{answer}"
    );

    let message = |name: &str| {
        namespace.kubectl(&[
            "get",
            "backendtlspolicy",
            name,
            "--output=jsonpath={.status.ancestors[0].conditions[?(@.type=='Accepted')].message}",
        ])
    };
    until("it is said how it is allowed", || {
        let message = message("nameless");
        let told = message.contains("--allow-insecure-validation");
        told.then_some(()).ok_or(message)
    });
    let refused = namespace.curl("client", &["http://nameless/"]);
    assert_eq!(refused.status, 503, "{refused:?}");

    let component = Component::add("insecure-validation");
    let answer = namespace.until_ok("client", "http://nameless/");
    assert!(answer.contains(r#""version": "TLSv1.3""#), "{answer}");
    until("the status warns", || {
        let message = message("nameless");
        let told = message.contains("the server's name is not verified");
        told.then_some(()).ok_or(message)
    });

    // The bundle goes: nothing is trusted any more.
    kubectl(&["delete", "clustertrustbundle", "nodetls-e2e"]);
    until("503 without the bundle", || {
        let answer = namespace.curl("client", &["http://named/"]);
        (answer.status == 503)
            .then_some(())
            .ok_or(format!("{answer:?}"))
    });
    drop(component);
}
