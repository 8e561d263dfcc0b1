//! A gateway of another project, Traefik, that reads the very policy that plain pods have: each does TLS once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::{self, File};
use std::process::{Child, Command};

use nodetls_e2e::nodetls::metrics;
use nodetls_e2e::{KUBECTL, Namespace, until, wait};
use serde_json::Value;

const NAME: &str = "e2e-gateway";
const OURS: &str = "nodetls.io/controller";
const TRAEFIKS: &str = "traefik.io/gateway-controller";

/// The Service, asked from a pod, and the gateway before it.
const PLAIN: &str = "http://server/";
const THROUGH_GATEWAY: &str = "http://gateway:8000/";

/// Traefik on node1, where no other client of the Service is; its rights as its documentation has them.
const GATEWAY: &str = r#"
apiVersion: v1
kind: ServiceAccount
metadata: {name: gateway}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: e2e-gateway}
rules:
- {apiGroups: [""], resources: [namespaces, services, secrets, configmaps], verbs: [get, list, watch]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}
- {apiGroups: [gateway.networking.k8s.io], resources: ["*"], verbs: [get, list, watch, update]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: e2e-gateway}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: e2e-gateway}
subjects: [{kind: ServiceAccount, name: gateway, namespace: e2e-gateway}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: gateway}
spec:
  selector: {matchLabels: {app: gateway}}
  strategy: {type: Recreate}
  template:
    metadata: {labels: {app: gateway}}
    spec:
      serviceAccountName: gateway
      nodeSelector: {kubernetes.io/hostname: node1}
      terminationGracePeriodSeconds: 0
      containers:
      - name: traefik
        image: nodetls.test/traefik:1
        args:
        - --entrypoints.web.address=:8000
        - --providers.kubernetesgateway.namespaces=e2e-gateway
        - --global.checknewversion=false
        readinessProbe: {tcpSocket: {port: 8000}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: gateway}
spec:
  selector: {app: gateway}
  ports: [{port: 8000}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: e2e-gateway}
spec: {controllerName: traefik.io/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gateway}
spec:
  gatewayClassName: e2e-gateway
  listeners: [{name: web, protocol: HTTP, port: 8000}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: server}
spec:
  parentRefs: [{name: gateway}]
  rules: [{backendRefs: [{name: server, port: 80}]}]
"#;

/// The namespace with the server, the gateway and a plain client.
struct Scene(Namespace);

impl Scene {
    fn start() -> Self {
        let scene = Self(Namespace::with_backend(NAME));
        scene.0.apply(GATEWAY);
        scene.0.clients(&[("client", "node2")]);
        scene.rolled_out();
        scene
    }

    fn rolled_out(&self) {
        let status = ["rollout", "status", "deployment/gateway", "--timeout=60s"];
        self.0.kubectl(&status);
    }

    /// What the server tells of a request through the gateway, which is new: Traefik keeps connections.
    fn asked_by_new_gateway(&self) -> Value {
        self.0
            .kubectl(&["rollout", "restart", "deployment/gateway"]);
        self.rolled_out();
        let told = self.asked(THROUGH_GATEWAY);
        let server = told["headers"]["x-forwarded-server"].to_string();
        assert!(server.contains("gateway-"), "not by Traefik: {told}");
        told
    }

    /// What the server tells of a request: it was TLS, with the policy's hostname.
    fn asked(&self, url: &str) -> Value {
        let told: Value = serde_json::from_str(&self.0.until_ok("client", url)).unwrap();
        assert_eq!(told["tls"]["serverName"], "server.example.com", "{told}");
        assert_eq!(told["tls"]["version"], "TLSv1.3", "{told}");
        told
    }

    /// Whether the gateway is to dial the Service's ClusterIP, or its endpoints.
    fn dial_cluster_ip(&self, cluster_ip: bool) {
        let annotation = format!("traefik.io/service.nativelb={cluster_ip}");
        let annotate = ["annotate", "--overwrite", "service/server", &annotation];
        self.0.kubectl(&annotate);
    }

    fn annotate_policy(&self, annotation: &str) {
        self.0
            .kubectl(&["annotate", "backendtlspolicy/server", annotation]);
    }

    /// Who wrote the entries of the policy's status.
    fn told_by(&self) -> Vec<String> {
        let names = "--output=jsonpath={.status.ancestors[*].controllerName}";
        let names = self
            .0
            .kubectl(&["get", "backendtlspolicy", "server", names]);
        sorted(&names)
    }

    /// Kind and name of each ancestor that accepted the policy, one a line.
    fn accepted(&self) -> String {
        let accepted = concat!(
            r#"--output=go-template={{range .status.ancestors}}{{$of := .ancestorRef}}{{range .conditions}}"#,
            r#"{{if and (eq .type "Accepted") (eq .status "True")}}{{$of.kind}} {{$of.name}}{{"\n"}}{{end}}{{end}}{{end}}"#
        );
        let get = ["get", "backendtlspolicy", "server", accepted];
        self.0.kubectl(&get)
    }

    fn until_told_by(&self, names: &[&str]) {
        until(&format!("the status is told by {names:?}"), || {
            let told = self.told_by();
            (told == names).then_some(()).ok_or(told.join(" "))
        });
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let cluster_wide = "clusterrole,clusterrolebinding,gatewayclass";
        let _ = Command::new(KUBECTL)
            .args(["delete", cluster_wide, NAME])
            .output();
    }
}

fn sorted(names: &str) -> Vec<String> {
    let mut names: Vec<_> = names.split_whitespace().map(str::to_owned).collect();
    names.sort_unstable();
    names
}

/// The policy's status from now on: who wrote entries, one line for each change of the policy.
struct Watch {
    kubectl: Child,
    file: String,
}

impl Watch {
    fn start(scene: &Scene) -> Self {
        let names = "--output=jsonpath={.status.ancestors[*].controllerName}{\"\\n\"}";
        let file = scene.0.file("status");
        let mut watch = Command::new(KUBECTL);
        watch.args(["--namespace", NAME, "get", "backendtlspolicy", "server"]);
        watch.args(["--watch", names]);
        let kubectl = watch.stdout(File::create(&file).unwrap()).spawn().unwrap();
        let watch = Self { kubectl, file };
        wait("the watch has begun", || !watch.seen().is_empty());
        watch
    }

    /// Each state that differs from the one before.
    fn seen(&self) -> Vec<Vec<String>> {
        let lines = fs::read_to_string(&self.file).unwrap();
        let mut seen: Vec<_> = lines.lines().map(sorted).collect();
        seen.dedup();
        seen
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.kubectl.kill();
        let _ = self.kubectl.wait();
    }
}

/// What the agent beside the gateway has counted of connections to the Service.
fn counted(name: &str) -> u64 {
    let metrics = metrics("node1");
    let ours = format!(r#"service_namespace="{NAME}""#);
    let lines = metrics
        .lines()
        .filter(|line| line.starts_with(&format!("{name}{{")) && line.contains(&ours));
    let values = lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap());
    values.sum()
}

/// Passed through on the gateway's node; no TLS of ours there.
fn passed_through() -> u64 {
    assert_eq!(counted("nodetls_tls_handshakes_total"), 0, "double TLS");
    counted("nodetls_passthrough_connections_total")
}

#[test]
fn a_gateway_and_plain_pods_share_a_policy() {
    let scene = Scene::start();
    let both = [OURS, TRAEFIKS];
    scene.until_told_by(&both);
    let watch = Watch::start(&scene);

    scene.asked(PLAIN);
    // Until the policy was in force it was plaintext, and rightly so.
    let plaintext = scene.0.plaintext();

    // Of a run just before, of which the agent has not forgotten the target.
    let before = passed_through();
    scene.dial_cluster_ip(false);
    scene.asked_by_new_gateway();
    assert_eq!(passed_through(), before, "endpoints are no targets");

    scene.dial_cluster_ip(true);
    scene.asked_by_new_gateway();
    assert!(passed_through() > before, "the ClusterIP is a target");
    scene.asked(PLAIN);
    assert_eq!(scene.0.plaintext(), plaintext);

    scene.annotate_policy("nodetls.io/redirect=disabled");
    scene.until_told_by(&[TRAEFIKS]);
    wait(
        "plain pods speak plaintext, which the server refuses",
        || {
            let refused = scene.0.curl("client", &[PLAIN]).status != 200;
            refused && scene.0.plaintext().len() > plaintext.len()
        },
    );
    wait("the target is forgotten", || passed_through() == 0);
    scene.asked_by_new_gateway();
    assert_eq!(passed_through(), 0, "the ClusterIP is no target any more");

    scene.annotate_policy("nodetls.io/redirect-");
    scene.until_told_by(&both);
    scene.asked(PLAIN);
    scene.asked_by_new_gateway();
    assert!(passed_through() > 0, "it is one again");

    let left_alone = vec![TRAEFIKS.to_owned()];
    let told = both.map(str::to_owned).to_vec();
    assert_eq!(watch.seen(), [told.clone(), left_alone, told]);
    for ancestor in ["Service server", "Gateway gateway"] {
        assert!(scene.accepted().contains(ancestor), "{}", scene.accepted());
    }
}
