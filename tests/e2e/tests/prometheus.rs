//! A real Prometheus finds agents and controllers as the PodMonitor has it find them, and the dashboard's queries have
//! answers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nodetls_e2e::{Namespace, POLICY, kubectl, nodetls, on_node, text, until};
use serde_json::{Map, Value, json};

const COMPONENT: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../manifests/components/monitoring"
);
const PORT: &str = "19090";
/// Panels that have nothing to show of an installation that enforces, and lacks nothing.
const EMPTY: [&str; 4] = [
    "What can't be watched, or read",
    "Audit mode: connects let through",
    "Audit mode: what a handshake came to",
    "Less than full verification",
];

/// In the network of node1, from where pods are reached.
struct Prometheus(Child);

impl Prometheus {
    fn start() -> Self {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("prometheus");
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).unwrap();
        let config = json!({
            "global": {"scrape_interval": "1s"},
            "scrape_configs": [{
                "job_name": "nodetls",
                "static_configs": discovered(),
                "relabel_configs": relabelling(),
            }],
        });
        let file = |name: &str| -> PathBuf { directory.join(name) };
        fs::write(file("prometheus.yaml"), config.to_string()).unwrap();
        let arguments = [
            format!("--config.file={}", file("prometheus.yaml").display()),
            format!("--storage.tsdb.path={}", file("data").display()),
            format!("--web.listen-address=127.0.0.1:{PORT}"),
        ];
        let command: Vec<_> = ["prometheus"]
            .into_iter()
            .chain(arguments.iter().map(String::as_str))
            .collect();
        let log = fs::File::create(file("log")).unwrap();
        let mut prometheus = on_node("node1", &command);
        Self(
            prometheus
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
                .unwrap(),
        )
    }

    /// The series that a query has now, but those that are no numbers.
    fn series(&self, query: &str) -> Vec<Value> {
        let address = format!("http://127.0.0.1:{PORT}/api/v1/query");
        let query = format!("query={query}");
        let mut curl = on_node(
            "node1",
            &["curl", "-s", "-G", &address, "--data-urlencode", &query],
        );
        let output = curl.output().unwrap();
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        assert_ne!(answer["status"], "error", "{query}: {answer}");
        let found = answer["data"]["result"].as_array().cloned();
        let mut found = found.unwrap_or_default();
        found.retain(|series| series["value"][1] != "NaN");
        found
    }

    /// The only one's value.
    fn value(&self, query: &str) -> Result<f64, String> {
        match self.series(query).as_slice() {
            [one] => Ok(one["value"][1].as_str().unwrap().parse().unwrap()),
            all => Err(format!("{query}: {all:?}")),
        }
    }

    #[track_caller]
    fn until_is(&self, query: &str, expected: f64) {
        until(query, || {
            let value = self.value(query)?;
            (value == expected).then_some(()).ok_or(value.to_string())
        });
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The meta label of a pod's label.
fn label(key: &str) -> String {
    let word = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    format!(
        "__meta_kubernetes_pod_label_{}",
        key.chars().map(word).collect::<String>()
    )
}

/// What Prometheus' discovery makes of the pods of nodetls' namespace, a target of each port of a container: Debian builds
/// it without.
fn discovered() -> Vec<Value> {
    let pods = kubectl(&[
        "--namespace",
        nodetls::NAMESPACE,
        "get",
        "pods",
        "--output=json",
    ]);
    let pods: Value = serde_json::from_str(&pods).unwrap();
    let mut targets = Vec::new();
    for pod in pods["items"].as_array().unwrap() {
        let Some(ip) = pod["status"]["podIP"].as_str() else {
            continue;
        };
        let mut labels = Map::new();
        for (key, value) in pod["metadata"]["labels"].as_object().unwrap() {
            labels.insert(label(key), value.clone());
        }
        labels.insert(
            "__meta_kubernetes_pod_node_name".to_owned(),
            pod["spec"]["nodeName"].clone(),
        );
        for container in pod["spec"]["containers"].as_array().unwrap() {
            for port in container["ports"].as_array().into_iter().flatten() {
                let mut labels = labels.clone();
                labels.insert(
                    "__meta_kubernetes_pod_container_port_name".to_owned(),
                    port["name"].clone(),
                );
                let address = format!("{ip}:{}", port["containerPort"]);
                targets.push(json!({"targets": [address], "labels": labels}));
            }
        }
    }
    targets
}

/// What Prometheus' operator makes of the PodMonitor.
fn relabelling() -> Vec<Value> {
    let monitor = fs::read_to_string(Path::new(COMPONENT).join("pod-monitor.yaml")).unwrap();
    let monitor: Value = serde_saphyr::from_str(&monitor).unwrap();
    let spec = &monitor["spec"];
    let keep = |label: String, regex: &str| json!({"action": "keep", "source_labels": [label], "regex": regex});
    let mut rules = Vec::new();
    for (key, value) in spec["selector"]["matchLabels"].as_object().unwrap() {
        rules.push(keep(label(key), value.as_str().unwrap()));
    }
    for expression in spec["selector"]["matchExpressions"].as_array().unwrap() {
        let values = expression["values"].as_array().unwrap().iter();
        let values: Vec<_> = values.map(|value| value.as_str().unwrap()).collect();
        assert_eq!(expression["operator"], "In");
        rules.push(keep(
            label(expression["key"].as_str().unwrap()),
            &values.join("|"),
        ));
    }
    let [endpoint] = spec["podMetricsEndpoints"].as_array().unwrap().as_slice() else {
        panic!("{spec}");
    };
    let port = "__meta_kubernetes_pod_container_port_name".to_owned();
    rules.push(keep(port, endpoint["port"].as_str().unwrap()));
    for rule in endpoint["relabelings"].as_array().unwrap() {
        let mut converted = Map::new();
        for (key, value) in rule.as_object().unwrap() {
            let key = match key.as_str() {
                "sourceLabels" => "source_labels",
                "targetLabel" => "target_label",
                other => other,
            };
            converted.insert(key.to_owned(), value.clone());
        }
        rules.push(converted.into());
    }
    rules
}

fn dashboard() -> Value {
    let dashboard = fs::read_to_string(Path::new(COMPONENT).join("nodetls.json")).unwrap();
    serde_json::from_str(&dashboard).unwrap()
}

/// The label that each of the dashboard's variables offers the values of, and the series that have it.
fn variables() -> Vec<(String, String)> {
    let dashboard = dashboard();
    let variables = dashboard["templating"]["list"].as_array().unwrap().iter();
    let definitions = variables.filter_map(|variable| variable["definition"].as_str());
    let parts = definitions.map(|definition| {
        let values = definition.strip_prefix("label_values(").unwrap();
        let values = values.strip_suffix(')').unwrap();
        let (series, label) = values.rsplit_once(", ").unwrap();
        let series = series.replace("$service_namespace", ".*");
        (label.to_owned(), series)
    });
    parts.collect()
}

/// Title and query of all panels, as Grafana asks with everything chosen.
fn queries() -> Vec<(String, String)> {
    let dashboard = dashboard();
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = target["expr"].as_str().unwrap();
            let query = query.replace("$__rate_interval", "15s");
            let variables = ["$service_namespace", "$service", "$node"];
            let query = variables
                .iter()
                .fold(query, |query, variable| query.replace(variable, ".*"));
            queries.push((panel["title"].as_str().unwrap().to_owned(), query));
        }
    }
    queries
}

/// As openssl reads it, seconds since 1970.
fn not_after(file: &str) -> f64 {
    let end = "date -u +%s -d \"$(openssl x509 -noout -enddate -in \"$0\" | cut -d= -f2)\"";
    let output = Command::new("sh").args(["-c", end]).arg(file).output();
    text(&output.unwrap()).trim().parse().unwrap()
}

/// Another Service of the server, whose policy differs in this.
fn another(namespace: &Namespace, name: &str, what: &str, other: &str) {
    namespace.apply(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{selector: {{app: server}}, ports: [{{port: 80, \
         targetPort: 8443}}]}}\n"
    ));
    let policy = POLICY.replace("name: server}", &format!("name: {name}}}"));
    let policy = policy.replace("name: server\n", &format!("name: {name}\n"));
    namespace.apply(&policy.replace(what, other));
}

#[test]
fn what_the_pod_monitor_finds_answers_the_dashboard() {
    // The agents remember for hours what a server of that name has shown.
    let name = format!("e2e-prometheus-{}", std::process::id());
    let namespace = Namespace::with_backend(&name);
    namespace.clients(&[("client", "node1")]);
    namespace.until_ok("client", "http://server/");
    another(
        &namespace,
        "wrong",
        "hostname: server.example.com",
        "hostname: wrong.example.com",
    );
    let prometheus = Prometheus::start();

    prometheus.until_is(
        r#"count(up{job="nodetls-agent",node=~"node[12]"} == 1)"#,
        2.0,
    );
    prometheus.until_is(
        r#"count(up{job="nodetls-controller",node=~"node[12]"} == 1)"#,
        2.0,
    );
    prometheus.until_is("sum(nodetls_leader)", 1.0);
    prometheus.until_is("count(nodetls_build_info)", 4.0);
    let ours = format!(r#"{{service_namespace="{name}",service="server"}}"#);
    let of_ca = format!("min(nodetls_ca_certificate_not_after_timestamp_seconds{ours})");
    prometheus.until_is(&of_ca, not_after(&namespace.file("ca.crt")));
    let of_server = format!("min(nodetls_backend_certificate_not_after_timestamp_seconds{ours})");
    prometheus.until_is(&of_server, not_after(&namespace.file("tls.crt")));

    // What no panel shows, of both agents.
    for query in [
        "count(nodetls_tls_info == 1)",
        "count(time() - nodetls_config_last_applied_timestamp_seconds < 86400)",
        "count(time() - nodetls_config_last_sync_timestamp_seconds{job=\"nodetls-agent\"} < 60)",
        "count(nodetls_ready{job=\"nodetls-agent\"} == 1)",
        "count(nodetls_pods_bypassed{reason=\"host_network\"} >= 1)",
        "count(nodetls_ebpf_map_entries{map=\"targets\"} > 0)",
        "count(nodetls_config_generation > 0)",
    ] {
        prometheus.until_is(query, 2.0);
    }
    let variables = variables();
    assert_eq!(variables.len(), 3);
    for (label, series) in variables {
        let values = prometheus.series(&format!("group by ({label}) ({series})"));
        assert!(!values.is_empty(), "{label} of {series}");
    }

    let open = RefCell::new(queries());
    assert!(open.borrow().len() > 40);
    open.borrow_mut()
        .retain(|(title, _)| !EMPTY.contains(&title.as_str()));
    until("every query has an answer", || {
        for address in ["http://server/", "http://wrong/", "https://server:80/"] {
            namespace.curl("client", &["-k", address]);
        }
        let mut open = open.borrow_mut();
        open.retain(|(_, query)| prometheus.series(query).is_empty());
        open.is_empty().then_some(()).ok_or(format!("{open:#?}"))
    });
}
