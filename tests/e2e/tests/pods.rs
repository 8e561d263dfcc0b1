//! Pods of every kind: whose connections are secured, and whose are left alone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use nodetls_e2e::nodetls::status;
use nodetls_e2e::{ASK, KUBECTL, Namespace, client, on_node, script, text, until};

const URL: &str = "http://server/";
/// What the server answers to it.
const PLAINTEXT: &str = "Client sent an HTTP request to an HTTPS server";

/// Each asks once, and fails if the answer is not 200: a Job; an init container, before which nothing of the pod ran;
/// two containers, by exec probes.
const WORKLOADS: &str = r"
apiVersion: batch/v1
kind: Job
metadata: {name: job}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      nodeSelector: {kubernetes.io/hostname: node1}
      containers:
      - {name: job, image: nodetls.test/client:1, command: [curl, -sSf, -m, '5', 'http://server/job']}
---
apiVersion: v1
kind: Pod
metadata: {name: many}
spec:
  nodeSelector: {kubernetes.io/hostname: node1}
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  initContainers:
  - {name: first, image: nodetls.test/client:1, command: [curl, -sSf, -m, '5', 'http://server/init']}
  containers:
  - name: one
    image: nodetls.test/client:1
    startupProbe: {exec: {command: [curl, -sSf, 'http://server/startup']}, timeoutSeconds: 5}
    readinessProbe: {exec: {command: [curl, -sSf, 'http://server/readiness']}, timeoutSeconds: 5, periodSeconds: 1}
  - name: two
    image: nodetls.test/client:1
    livenessProbe: {exec: {command: [curl, -sSf, 'http://server/liveness']}, timeoutSeconds: 5, periodSeconds: 1}
";

#[test]
fn a_job_an_init_container_two_containers_and_exec_probes() {
    let namespace = Namespace::with_backend("e2e-pods-workloads");
    namespace.clients(&[("client", "node1")]);
    namespace.until_ok("client", URL);
    let before = namespace.plaintext();

    namespace.apply(WORKLOADS);
    namespace.wait("job/job", "condition=Complete");
    namespace.wait("pod/many", "condition=Ready");
    for container in ["many/one", "many/two"] {
        let answer = namespace.curl(container, &[URL]);
        assert_eq!(answer.status, 200, "{container}: {answer:?}");
    }
    let log = || namespace.kubectl(&["logs", "server", "--container=server"]);
    for path in ["job", "init", "startup", "readiness", "liveness"] {
        let line = format!("GET /{path} {{");
        until(path, || log().contains(&line).then_some(()).ok_or_else(log));
    }
    assert_eq!(namespace.plaintext(), before);
}

#[test]
fn a_service_on_the_other_node_on_the_same_and_ones_own() {
    let namespace = Namespace::with_backend("e2e-pods-service");
    namespace.clients(&[("client1", "node1"), ("client2", "node2")]);
    // In the server's pod the short name is the pod's own.
    let url = "http://server.e2e-pods-service/";
    for pod in ["client1", "client2", "server/client"] {
        let answer = namespace.until_ok(pod, url);
        let name = r#""serverName": "server.example.com""#;
        assert!(answer.contains(name), "{pod}: {answer}");
    }
    // The client is told that it is connected to the Service.
    let address = namespace.kubectl(&[
        "get",
        "service",
        "server",
        "--output=jsonpath={.spec.clusterIP}:80",
    ]);
    let request = "GET /dialled HTTP/1.1\\r\\nHost: server\\r\\n\\r\\n";
    let answer = namespace.exec("client1", &["dial", &address, "--first", "--send", request]);
    let said = format!("peer: {address}\nHTTP/1.1 200 OK\r\n");
    assert!(answer.starts_with(&said), "{answer}");
    // Twelve requests on one connection of the client.
    let many = ["-o", "/dev/null", "http://server/bytes/[100000-100011]"];
    let answer = namespace.curl("client1", &many);
    assert_eq!(answer.body.matches("200").count() + 1, 12, "{answer:?}");
    assert_eq!(answer.status, 200);
}

/// Left alone are a pod in the node's network, one with the label, and those of a Namespace with the label, but for one
/// that says otherwise.
#[test]
fn host_network_and_what_opted_out_are_left_alone() {
    let namespace = Namespace::with_backend("e2e-pods-alone");
    let out = Namespace::new("e2e-pods-out");
    out.kubectl(&["label", "namespace", &out.0, "nodetls.io/redirect=disabled"]);
    namespace.apply(&client("out", "node1", "{nodetls.io/redirect: disabled}"));
    let host = client("host", "node1", "{}");
    let network = "\nspec:\n  hostNetwork: true\n  dnsPolicy: ClusterFirstWithHostNet\n";
    namespace.apply(&host.replace("\nspec:\n", network));
    out.apply(&client("in", "node1", "{nodetls.io/redirect: enabled}"));
    out.clients(&[("client", "node1")]);
    namespace.clients(&[("client", "node1")]);
    namespace.wait("pod/out", "condition=Ready");
    namespace.wait("pod/host", "condition=Ready");

    let url = "http://server.e2e-pods-alone/";
    namespace.until_ok("client", url);
    out.until_ok("in", url);
    let before = namespace.plaintext().len();
    for (namespace, pod) in [(&namespace, "host"), (&namespace, "out"), (&out, "client")] {
        let answer = namespace.curl(pod, &[url]);
        assert_eq!(answer.status, 400, "{pod}: {answer:?}");
        assert!(answer.body.contains(PLAINTEXT), "{answer:?}");
    }
    assert_eq!(namespace.plaintext().len(), before + 3);
}

/// A netns in the pod's own, routed through it: what Docker makes for its containers.
const NESTED: &str = r#"
set -e
unshare --net sh -c ': >/tmp/apart; exec sleep infinity' & pid=$!
until [ -e /tmp/apart ]; do sleep 0.05; done
nested="nsenter --target $pid --net"
ip link add docker0 type veth peer name eth0 netns $pid
ip address add 172.31.0.1/24 dev docker0
ip link set docker0 up
$nested ip link set lo up
$nested ip address add 172.31.0.2/24 dev eth0
$nested ip link set eth0 up
$nested ip route add default via 172.31.0.1
echo 1 > /proc/sys/net/ipv4/ip_forward
nft add table ip docker
nft 'add chain ip docker nat { type nat hook postrouting priority srcnat; }'
nft add rule ip docker nat ip saddr 172.31.0.0/24 masquerade
echo $pid > /tmp/pid
wait
"#;

#[test]
fn a_netns_nested_in_a_pods_gets_its_mode() {
    let namespace = Namespace::with_backend("e2e-pods-nested");
    namespace.clients(&[("client", "node1")]);
    namespace.until_ok("client", URL);
    let before = namespace.plaintext();
    for (name, labels) in [("docker", "{}"), ("out", "{nodetls.io/redirect: disabled}")] {
        let container =
            format!("securityContext: {{privileged: true}}, command: [sh, -c, {NESTED:?}]");
        let pod = client(name, "node1", labels);
        namespace.apply(&pod.replace("image:", &format!("{container}, image:")));
    }
    namespace.wait("pod/docker", "condition=Ready");
    namespace.wait("pod/out", "condition=Ready");
    let nested = |pod: &str| {
        let curl = format!(
            "nsenter --target $(cat /tmp/pid) --net curl -s -m 5 -w '\n%{{http_code}} %{{errormsg}}' {URL}"
        );
        namespace.exec(pod, &["sh", "-c", &curl])
    };
    // Until it is found, connects from it are refused.
    until("the nested netns is enrolled", || {
        let answer = nested("docker");
        answer.contains("\n200 ").then_some(()).ok_or(answer)
    });
    assert_eq!(namespace.plaintext(), before);
    until("that of a pod that opted out is left alone", || {
        let answer = nested("out");
        answer.contains(PLAINTEXT).then_some(()).ok_or(answer)
    });
}

/// kubectl, killed when this is dropped.
struct Forward(Child);

impl Drop for Forward {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// By kubelet into the pod's netns, not through the Service.
#[test]
fn port_forward_reaches_the_server_itself() {
    let namespace = Namespace::with_backend("e2e-pods-forward");
    namespace.clients(&[("client", "node2")]);
    namespace.until_ok("client", URL);

    let mut forward = Command::new(KUBECTL);
    forward.args([
        "--namespace",
        &namespace.0,
        "port-forward",
        "service/server",
        ":80",
    ]);
    let mut forward = Forward(forward.stdout(Stdio::piped()).spawn().unwrap());
    let mut line = String::new();
    let mut lines = BufReader::new(forward.0.stdout.take().unwrap());
    lines.read_line(&mut line).unwrap();
    let port = line
        .strip_prefix("Forwarding from 127.0.0.1:")
        .and_then(|rest| rest.split(' ').next());
    let port = port.unwrap_or_else(|| panic!("{line:?}"));

    // Port-forward listens in the netns that kubectl runs in.
    let name = format!("server.example.com:{port}");
    let curl = |arguments: &[&str]| {
        let connect = format!("{name}:127.0.0.1");
        let output = on_node("node1", &["curl", "-s", "-m", "5", "--resolve", &connect])
            .args(arguments)
            .output();
        text(&output.unwrap())
    };
    let tls = curl(&[
        "--cacert",
        &namespace.file("ca.crt"),
        &format!("https://{name}/forwarded"),
    ]);
    let plain = curl(&[&format!("http://{name}/")]);
    assert!(tls.contains(r#""path": "/forwarded""#), "{tls}");
    assert!(
        plain.contains("an HTTP request to an HTTPS server"),
        "{plain}"
    );
}

/// Two servers, which say their names, behind one Service that keeps clients and one that does not.
const TWINS: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: twins}
data:
  twin.conf: |
    server {
      listen 8443 ssl;
      ssl_certificate /tls/tls.crt;
      ssl_certificate_key /tls/tls.key;
      location / { return 200 $hostname; }
    }
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: twins}
spec:
  replicas: 3
  selector: {matchLabels: {app: twins}}
  template:
    metadata: {labels: {app: twins}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: nginx
        image: nodetls.test/nginx:1
        readinessProbe: {tcpSocket: {port: 8443}, periodSeconds: 1}
        volumeMounts: [{name: twins, mountPath: /etc/nginx/conf.d}, {name: tls, mountPath: /tls}]
      volumes: [{name: twins, configMap: {name: twins}}, {name: tls, secret: {secretName: server}}]
---
apiVersion: v1
kind: Service
metadata: {name: any}
spec:
  selector: {app: twins}
  ports: [{port: 80, targetPort: 8443}]
---
apiVersion: v1
kind: Service
metadata: {name: same}
spec:
  sessionAffinity: ClientIP
  selector: {app: twins}
  ports: [{port: 80, targetPort: 8443}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: twins}
spec:
  targetRefs: [{group: "", kind: Service, name: any}, {group: "", kind: Service, name: same}]
  validation:
    hostname: server.example.com
    caCertificateRefs: [{group: "", kind: ConfigMap, name: ca}]
  # Each request is to have its turn.
  options: {nodetls.io/http-pooling: "off"}
"#;

#[test]
fn session_affinity_holds() {
    let namespace = Namespace::with_backend("e2e-pods-affinity");
    namespace.apply(TWINS);
    namespace.clients(&[("client", "node1")]);
    namespace.kubectl(&["rollout", "status", "deployment/twins", "--timeout=60s"]);
    let servers = |service: &str| -> BTreeSet<String> {
        let url = format!("http://{service}/");
        (0..9).map(|_| namespace.until_ok("client", &url)).collect()
    };
    assert_eq!(servers("same").len(), 1);
    until("without it all have their turn", || {
        let seen = servers("any");
        (seen.len() == 3).then_some(()).ok_or(format!("{seen:?}"))
    });
}

/// Of what else goes to the server's ClusterIP there are the agent's own connections.
#[test]
fn a_connection_from_before_its_policy_is_listed_and_no_other() {
    let namespace = Namespace::with_backend("e2e-pods-earlier");
    let redirect = |value: &str| {
        let annotation = format!("nodetls.io/redirect={value}");
        namespace.kubectl(&[
            "annotate",
            "--overwrite",
            "backendtlspolicy/server",
            &annotation,
        ]);
    };
    redirect("disabled");
    until("it is no target", || {
        let status = status("node1");
        let gone = !status.contains("e2e-pods-earlier/server:80");
        gone.then_some(()).ok_or(status)
    });
    let address = "--output=jsonpath={.spec.clusterIP}:80";
    let address = namespace.kubectl(&["get", "service", "server", address]);
    namespace.apply(&script("before", &format!("dial {address} --hold 1")));
    namespace.apply(&script(
        "loop",
        &format!("while :; do {ASK} {URL}; sleep 0.05; done"),
    ));
    namespace.wait("pod/before", "condition=Ready");
    let log = || namespace.kubectl(&["logs", "before"]);
    until("it is connected", || {
        log().contains("held: 1").then_some(()).ok_or_else(log)
    });
    redirect("enabled");
    // The pods of the connections to the Service that are listed.
    let listed = || {
        let status = status("node1");
        let pods = status.lines().filter_map(|line| {
            let mut row = line.split_whitespace();
            (row.next()? == "e2e-pods-earlier/server:80" && row.nth(1)? == address)
                .then(|| row.next())?
        });
        let pods: Vec<_> = pods.map(str::to_owned).collect();
        pods
    };
    until("it is listed", || match listed().as_slice() {
        [pod] if pod.contains("before") => Ok(()),
        pods => Err(format!("{pods:?}")),
    });
    namespace.kubectl(&["delete", "pod", "before"]);
    until("it is gone", || match listed().as_slice() {
        [] => Ok(()),
        pods => Err(format!("{pods:?}")),
    });
}
