//! The agents restart, or are away for a while. In a file of its own, and one test at a time: meanwhile connections are
//! refused, and other tests' too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use nodetls_e2e::nodetls::{ours, until_ready};
use nodetls_e2e::{ASK, Namespace, alone, kubectl, nodetls, script, wait};

const AGENTS: &str = "daemonset/nodetls-agent";

const URL: &str = "http://server/";
/// No policy is for it.
const UNTARGETED: [&str; 2] = ["-k", "https://kubernetes.default.svc/version"];

/// Waits until no pod of a component of nodetls is left.
fn until_gone(component: &str) {
    let selector = format!("--selector=app.kubernetes.io/component={component}");
    wait("they are gone", || {
        ours(&["get", "pods", &selector, "--output=name"]).is_empty()
    });
}

/// No node has an agent; all have again when this is dropped.
struct Away;

impl Away {
    fn send() -> Self {
        let away = Self;
        away.select("\"true\"");
        until_gone("agent");
        away
    }

    fn select(&self, value: &str) {
        let patch = format!(
            r#"{{"spec":{{"template":{{"spec":{{"nodeSelector":{{"nodetls.io/nowhere":{value}}}}}}}}}}}"#
        );
        ours(&[
            "patch",
            "daemonset",
            "nodetls-agent",
            "--type=merge",
            "--patch",
            &patch,
        ]);
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        self.select("null");
        until_ready(AGENTS);
    }
}

#[test]
fn pods_from_before_during_and_after_a_restart() {
    let _alone = alone();
    let namespace = Namespace::with_backend("e2e-restart");
    namespace.clients(&[("before", "node1")]);
    namespace.until_ok("before", URL);
    let plaintext = namespace.plaintext();
    namespace.apply(&script(
        "loop",
        &format!("while :; do {ASK} {URL}; sleep 0.05; done"),
    ));
    namespace.wait("pod/loop", "condition=Ready");

    let agent = nodetls::agent("node1");
    ours(&["delete", "pod", &agent, "--wait=false"]);
    namespace.clients(&[("during", "node1")]);
    namespace.until_ok("during", URL);
    assert_ne!(nodetls::agent("node1"), agent);

    let away = Away::send();
    namespace.clients(&[("without", "node1")]);
    for pod in ["before", "during", "without"] {
        let answer = namespace.curl(pod, &[URL]);
        assert_eq!(answer.status, 0, "{pod}: {answer:?}");
        assert!(
            answer.error.contains("Couldn't connect"),
            "{pod}: {answer:?}"
        );
        // Nothing else is touched.
        assert_eq!(namespace.curl(pod, &UNTARGETED).status, 200, "{pod}");
    }
    drop(away);
    namespace.clients(&[("after", "node1")]);
    for pod in ["before", "during", "without", "after"] {
        namespace.until_ok(pod, URL);
    }

    let asked = namespace.kubectl(&["logs", "loop"]);
    let (answered, failed): (Vec<_>, Vec<_>) =
        asked.lines().partition(|line| line.starts_with("200"));
    assert!(answered.len() > 10 && !failed.is_empty(), "{asked}");
    let refused = |line: &&str| line.starts_with("000 ");
    assert!(failed.iter().all(refused), "{asked}");
    assert_eq!(namespace.plaintext(), plaintext);
}

/// The API server itself as the target: its CA is in each namespace.
const API_SERVER: &str = r#"
kubectl --namespace=default apply -f - <<EOF
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: e2e-kubernetes}
spec:
  targetRefs: [{group: "", kind: Service, name: kubernetes}]
  validation:
    hostname: kubernetes.default.svc
    caCertificateRefs: [{group: "", kind: ConfigMap, name: kube-root-ca.crt}]
EOF
"#;

/// Removed when this is dropped.
struct Policy;

impl Drop for Policy {
    fn drop(&mut self) {
        kubectl(&[
            "--namespace=default",
            "delete",
            "backendtlspolicy",
            "e2e-kubernetes",
        ]);
    }
}

#[test]
fn a_policy_for_the_api_server_does_not_lock_the_agents_out() {
    let _alone = alone();
    let namespace = Namespace::new("e2e-api-server");
    namespace.clients(&[("client", "node1")]);
    let url = "http://kubernetes.default.svc:443/version";
    let answer = namespace.curl("client", &[url]);
    assert_eq!(answer.status, 400, "{answer:?}");

    namespace.steps(API_SERVER);
    let _policy = Policy;
    let version = namespace.until_ok("client", url);
    assert!(version.contains("\"gitVersion\""), "{version}");
    // Who speaks TLS to it, such as all controllers, still does.
    assert_eq!(namespace.curl("client", &UNTARGETED).status, 200);

    // Agents start with the policy in force, and follow what comes then.
    ours(&[
        "delete",
        "pods",
        "--selector=app.kubernetes.io/component=agent",
    ]);
    until_ready(AGENTS);
    namespace.until_ok("client", url);
    let later = Namespace::with_backend("e2e-api-server-later");
    later.clients(&[("client", "node1")]);
    later.until_ok("client", URL);
}

/// No controller runs; two do again when this is dropped.
struct NoController;

impl NoController {
    fn scale(replicas: &str) {
        ours(&["scale", "deployment/nodetls-controller", replicas]);
    }
}

impl Drop for NoController {
    fn drop(&mut self) {
        Self::scale("--replicas=2");
        until_ready("deployment/nodetls-controller");
    }
}

#[test]
fn without_a_controller_a_policy_has_no_status() {
    let _alone = alone();
    let away = NoController;
    NoController::scale("--replicas=0");
    until_gone("controller");
    let namespace = Namespace::with_backend("e2e-no-controller");
    namespace.clients(&[("client", "node1")]);
    // Nobody has copied the CA certificate for the agents either.
    wait("the policy is refused", || {
        namespace.curl("client", &[URL]).status == 503
    });
    let names = "--output=jsonpath={.status.ancestors[*].controllerName}";
    let status = || namespace.kubectl(&["get", "backendtlspolicy", "server", names]);
    assert_eq!(status(), "");
    drop(away);
    wait("it has a status", || status() == "nodetls.io/controller");
    namespace.until_ok("client", URL);
    assert_eq!(namespace.plaintext(), [""; 0]);
}
