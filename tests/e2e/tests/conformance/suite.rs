//! What all rows share: one namespace with the certificates, the servers and the clients, and what is asked of them.

use std::process::Output;

use nodetls_e2e::{Namespace, client, exec, text, until};
use serde_json::{Value, json};

pub(crate) const OUR_NAME: &str = "nodetls.io/controller";
pub(crate) const ACCEPTED: [&str; 2] = ["Accepted=True/Accepted", "ResolvedRefs=True/ResolvedRefs"];
pub(crate) const CONFLICTED: [&str; 2] = [
    "Accepted=False/Conflicted",
    "ResolvedRefs=True/ResolvedRefs",
];
pub(crate) const NO_CA: [&str; 2] = [
    "Accepted=False/NoValidCACertificate",
    "ResolvedRefs=False/InvalidCACertificateRef",
];

/// As upstream makes them at run time (conformance/utils/kubernetes/certificate.go): RSA-2048, keys in PKCS#1, a CA of
/// the same name and serial number that is another, and for the server of lines a certificate with one name only.
const CERTIFICATES: &str = r#"
ca() {
  openssl req -x509 -newkey rsa:2048 -nodes -days 365 -set_serial 1 -subj "/O=Kubernetes Gateway API/CN=gatewayapi" \
    -addext keyUsage=critical,digitalSignature,keyCertSign -addext extendedKeyUsage=clientAuth,serverAuth \
    -keyout $1.key -out $1.crt
}
leaf() {
  openssl req -x509 -CA $2.crt -CAkey $2.key -newkey rsa:2048 -nodes -days 365 -subj "/O=Kubernetes Gateway API/CN=default" \
    -addext basicConstraints=critical,CA:FALSE -addext extendedKeyUsage=serverAuth -addext "subjectAltName=$3" \
    -keyout pkcs8.key -out $1.crt
  openssl rsa -in pkcs8.key -traditional -out $1.key
  grep -q "BEGIN RSA PRIVATE KEY" $1.key
  kubectl create secret tls $1 --key=$1.key --cert=$1.crt
}
ca ca
ca mismatch-ca
leaf tls-checks-certificate ca DNS:abc.example.com,DNS:other.example.com,URI:spiffe://abc.example.com/test-identity
leaf tcp-certificate ca DNS:abc.example.com
leaf renewed-certificate mismatch-ca DNS:abc.example.com
cat mismatch-ca.crt ca.crt > both.crt
kubectl create configmap tls-checks-ca-certificate --from-file=ca.crt
kubectl create configmap mismatch-ca-certificate --from-file=ca.crt=mismatch-ca.crt
kubectl create configmap both-ca-certificates --from-file=ca.crt=both.crt
kubectl create configmap malformed-ca-certificate
"#;

/// A server: pod and label `app` are its name.
fn server(name: &str, secret: &str, mode: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  nodeSelector: {{kubernetes.io/hostname: node2}}
  terminationGracePeriodSeconds: 0
  containers:
  - name: server
    image: nodetls.test/tls-echo:1
    args: [--cert=/tls/tls.crt, --key=/tls/tls.key, '--listen=[::]:8443', --log{mode}]
    env: [{{name: POD_NAME, value: {name}}}]
    readinessProbe: {{tcpSocket: {{port: 8443}}, periodSeconds: 1}}
    volumeMounts: [{{name: tls, mountPath: /tls}}]
  volumes: [{{name: tls, secret: {{secretName: {secret}}}}}]
"
    )
}

/// The namespace, as upstream's `gateway-conformance-infra`.
pub(crate) struct Suite(pub(crate) Namespace);

impl Suite {
    pub(crate) fn new() -> Self {
        let suite = Self(Namespace::new("e2e-conformance"));
        suite.0.steps(CERTIFICATES);
        let pods = [
            server("tls-backend", "tls-checks-certificate", ""),
            server("tcp-backend", "tcp-certificate", ", --lines"),
            server("renewed-backend", "renewed-certificate", ""),
            client("client1", "node1", "{}"),
            client("client2", "node2", "{}"),
        ];
        suite.apply(&pods);
        let ready = ["wait", "--for=condition=Ready", "pod", "--all"];
        suite.0.kubectl(&[&ready[..], &["--timeout=90s"]].concat());
        suite
    }

    /// Applies objects, in this order.
    pub(crate) fn apply(&self, objects: &[impl AsRef<str>]) {
        let objects: Vec<&str> = objects.iter().map(AsRef::as_ref).collect();
        self.0.apply(&objects.join("---\n"));
    }

    /// An object, as the API server shows it.
    pub(crate) fn get(&self, object: &str) -> Value {
        serde_json::from_str(&self.0.kubectl(&["get", object, "--output=json"])).unwrap()
    }

    pub(crate) fn policy(&self, name: &str) -> Value {
        self.get(&format!("backendtlspolicy/{name}"))
    }

    /// Merges JSON into an object.
    pub(crate) fn patch(&self, object: &str, patch: &Value) {
        let patch = patch.to_string();
        self.0
            .kubectl(&["patch", object, "--type=merge", "--patch", &patch]);
    }

    /// Merges JSON into an object's status.
    pub(crate) fn patch_status(&self, object: &str, patch: &Value) {
        let status = ["patch", object, "--subresource=status", "--type=merge"];
        let patch = patch.to_string();
        self.0
            .kubectl(&[&status[..], &["--patch", &patch]].concat());
    }

    /// Another `spec.validation.hostname`.
    pub(crate) fn rename(&self, policy: &str, hostname: &str) {
        let patch = json!({"spec": {"validation": {"hostname": hostname}}});
        self.patch(&format!("backendtlspolicy/{policy}"), &patch);
    }

    /// Waits until our entry for `target` (`SERVICE` or `SERVICE/SECTION`) has exactly these conditions, all of the
    /// policy's current generation. What their messages say.
    pub(crate) fn expect(&self, policy: &str, target: &str, conditions: &[&str]) -> Vec<String> {
        let what = format!("{policy} says {conditions:?} of {target}");
        until(&what, || {
            let policy = self.policy(policy);
            let told = told(&policy, target).ok_or(policy["status"].to_string())?;
            let (now, messages): (Vec<_>, Vec<_>) = told.into_iter().unzip();
            (now == conditions)
                .then_some(messages)
                .ok_or(policy["status"].to_string())
        })
    }

    /// What the server tells of the first request that reaches it with TLS: 200, and this SNI.
    pub(crate) fn serves(&self, url: &str, server_name: &str) -> Value {
        self.serves_to("client1", url, server_name)
    }

    pub(crate) fn serves_to(&self, pod: &str, url: &str, server_name: &str) -> Value {
        until(
            &format!("{url} gets to the server as {server_name}"),
            || {
                let answer = self.0.curl(pod, &[url]);
                let told: Value = serde_json::from_str(&answer.body).unwrap_or_default();
                let right = answer.status == 200 && told["tls"]["serverName"] == server_name;
                right.then_some(told).ok_or(format!("{answer:?}"))
            },
        )
    }

    /// Waits until a change that makes `url` fail is in force.
    pub(crate) fn until_status(&self, url: &str, status: u16) {
        self.0.until_status("client1", url, status);
    }

    /// Upstream's failure: three HTTP answers in a row that are not 200, 408 or 504, and no 200 before. Of ours, which
    /// one is known: 502 when TLS fails, 503 when the policy is refused.
    pub(crate) fn fails(&self, url: &str, status: u16) {
        let each = format!("curl -s -o /dev/null -m 5 -w '%{{http_code}} ' {url}");
        let three = format!("{each}; {each}; {each}");
        until(&format!("{url} fails with {status}"), || {
            let said = self.0.exec("client1", &["sh", "-c", &three]);
            assert!(!said.contains("200"), "{url}: {said}");
            (said == format!("{status} ").repeat(3))
                .then_some(())
                .ok_or(said)
        });
    }

    /// Standard output of a command in the client's pod.
    pub(crate) fn run(&self, command: &[&str]) -> String {
        let output: Output = exec(&self.0.0, "client1", command);
        assert!(output.status.success(), "{command:?}: {}", text(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// `spec.clusterIP` of a Service.
    pub(crate) fn cluster_ip(&self, service: &str) -> String {
        let service = self.get(&format!("service/{service}"));
        service["spec"]["clusterIP"].as_str().unwrap().to_owned()
    }
}

/// `TYPE=STATUS/REASON` and message of each condition of our entry for `target`; `None` when there is no such entry, or
/// one of its conditions is of another generation.
pub(crate) fn told(policy: &Value, target: &str) -> Option<Vec<(String, String)>> {
    let mut ancestor = json!({"group": "", "kind": "Service", "name": target});
    if let Some((service, section)) = target.split_once('/') {
        ancestor["name"] = service.into();
        ancestor["sectionName"] = section.into();
    }
    let entry = policy["status"]["ancestors"]
        .as_array()?
        .iter()
        .find(|entry| entry["controllerName"] == OUR_NAME && entry["ancestorRef"] == ancestor)?;
    let conditions = entry["conditions"].as_array()?.iter().map(|condition| {
        let text = |field: &str| condition[field].as_str().unwrap_or_default();
        let current = condition["observedGeneration"] == policy["metadata"]["generation"];
        let told = format!("{}={}/{}", text("type"), text("status"), text("reason"));
        current.then(|| (told, text("message").to_owned()))
    });
    conditions.collect()
}
