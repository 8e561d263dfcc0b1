//! A real Prometheus scrapes agents under load: the exposition is right, and every query has an answer.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use nodetls::admin::{self, AdminState};
use nodetls::metrics::{Metrics, Role};
use nodetls::readiness::Readiness;
use nodetls::source::kube::{Crd, Resource, State, Synced, WatchFailure};
use nodetls_tests::{
    ADDRESS, HOST, Running, URL, World, config_map, free_port, policy, policy_with, service, text,
};
use serde_json::{Value, json};

use super::{alerts, dashboard, queries, rules};

/// How long a query may have no answer yet.
const PATIENCE: Duration = Duration::from_secs(60);

struct Prometheus {
    _process: Running,
    port: u16,
}

impl Prometheus {
    /// Scrapes these every second, each with the labels that the PodMonitor gives: job, node.
    fn start(world: &World, scraped: &[(&str, &str, String)]) -> Self {
        let port = free_port();
        let job = |(job, node, address): &(&str, &str, String)| {
            json!({
                "job_name": format!("{job}-{node}"),
                "static_configs": [{"targets": [address], "labels": {"job": job, "node": node}}],
            })
        };
        let jobs: Vec<_> = scraped.iter().map(job).collect();
        let rules = world.file("rules.yaml", &rules().to_string());
        let config = json!({
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [rules],
            "scrape_configs": jobs,
        });
        let config = world.file("prometheus.yaml", &config.to_string());
        let mut prometheus = Command::new("prometheus");
        prometheus.arg(format!("--config.file={}", config.display()));
        let data = world.dir.path().join("prometheus");
        prometheus.arg(format!("--storage.tsdb.path={}", data.display()));
        prometheus.arg(format!("--web.listen-address=127.0.0.1:{port}"));
        let log = fs::File::create(world.dir.path().join("prometheus.log")).unwrap();
        prometheus.stdout(log.try_clone().unwrap()).stderr(log);
        Self {
            _process: Running::new(prometheus),
            port,
        }
    }

    /// The `data` of an answer; `Null` while nobody answers.
    fn get(&self, path: &str, parameters: &[(&str, &str)]) -> Value {
        let mut curl = Command::new("curl");
        curl.args([
            "-s",
            "-G",
            &format!("http://127.0.0.1:{}/api/v1/{path}", self.port),
        ]);
        for (name, value) in parameters {
            curl.arg("--data-urlencode").arg(format!("{name}={value}"));
        }
        let output = curl.output().unwrap();
        if !output.status.success() {
            return Value::Null;
        }
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        assert_ne!(answer["status"], "error", "{parameters:?}: {answer}");
        answer["data"].clone()
    }

    /// How many series there are now that are numbers.
    fn series(&self, query: &str) -> usize {
        let data = self.get("query", &[("query", query)]);
        let result = data["result"].as_array().cloned().unwrap_or_default();
        result
            .iter()
            .filter(|series| series["value"][1] != "NaN")
            .count()
    }
}

/// As Grafana does, with all nodes and Services chosen.
fn interpolated(query: &str) -> String {
    let query = query.replace("$__rate_interval", "15s");
    ["$service_namespace", "$service", "$node"]
        .iter()
        .fold(query, |query, variable| query.replace(variable, ".*"))
}

/// A Service of its own with its policy, beside `tls-backend`.
fn another(world: &World, name: &str, last: u8, policy: &str) {
    let service = service(name, &format!("10.96.0.{last}"), 443, 8443);
    world.manifest(&format!("{name}.yaml"), &service);
    let policy = policy.replace("name: tls}", &format!("name: {name}}}"));
    let policy = policy.replace("tls-backend", name);
    world.manifest(&format!("{name}-policy.yaml"), &policy);
}

/// An agent with something of everything, and one in audit mode.
fn worlds() -> (World, World) {
    let (mut world, ca) = World::without_agent();
    world.agent_flags = vec!["--allow-insecure-validation"];
    another(&world, "other", 11, &policy("other.example.com"));
    another(
        &world,
        "lax",
        12,
        &policy_with(HOST, &[("validation-mode", "InsecureAllowExpired")]),
    );
    another(
        &world,
        "refused",
        13,
        &policy(HOST).replace("example-ca", "no-ca"),
    );
    world.manifest("ca.yaml", &config_map("example-ca", &ca.pem));
    world.start_agent();
    let (mut audited, _) = World::without_agent();
    audited.agent_flags = vec!["--mode=audit"];
    audited.start_agent();
    (world, audited)
}

/// A bit of everything that there is to see.
fn load(world: &World, audited: &World) {
    assert!(world.curl(&[URL]).ends_with("200"), "{}", world.log());
    assert!(
        world
            .curl(&["--http2-prior-knowledge", URL])
            .ends_with("200")
    );
    world.curl(&["-k", "https://10.96.0.10:443/get"]);
    assert!(world.curl(&["http://10.96.0.11:443/"]).ends_with("502"));
    assert!(world.curl(&["http://10.96.0.12:443/get"]).ends_with("200"));
    assert!(world.curl(&["http://10.96.0.13:443/"]).ends_with("503"));
    let refused = world.dial(&["--device", "eth0", ADDRESS]);
    assert!(refused.contains("ConnectionRefused"), "{refused}");
    audited.curl(&[URL]);
}

/// What a controller shows that has lost the API server.
fn controller() -> Arc<Metrics> {
    let metrics = Arc::new(Metrics::new(Role::Controller, "test").unwrap());
    let failure = WatchFailure {
        resource: Resource::Services,
        status: Some(403),
        cause: "forbidden".to_owned(),
    };
    metrics.set_source(&State {
        synced: Synced::Live,
        crd: Some(Crd::Absent),
        left_step: Some(UNIX_EPOCH + Duration::from_secs(1)),
        failures: BTreeMap::from([(failure.resource, failure)]),
        ..State::default()
    });
    metrics
}

#[track_caller]
fn promtool_finds_right(exposition: &str) {
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped());
    let mut promtool = promtool
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    promtool
        .stdin
        .take()
        .unwrap()
        .write_all(exposition.as_bytes())
        .unwrap();
    let output = promtool.wait_with_output().unwrap();
    assert!(
        output.status.success() && text(&output).is_empty(),
        "{}",
        text(&output)
    );
}

#[test]
fn every_query_of_the_dashboard_and_every_alert_works_on_agents_under_load() {
    let (world, audited) = worlds();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (of_controller, metrics) = (free_port(), controller());
    let state = AdminState {
        metrics: Arc::clone(&metrics),
        readiness: Readiness::default(),
        live: None,
    };
    let address = format!("127.0.0.1:{of_controller}").parse().unwrap();
    runtime.block_on(admin::start(address, state)).unwrap();
    let prometheus = Prometheus::start(
        &world,
        &[
            ("nodetls-agent", "node1", world.admin_address()),
            ("nodetls-agent", "node2", audited.admin_address()),
            (
                "nodetls-controller",
                "node1",
                format!("127.0.0.1:{of_controller}"),
            ),
        ],
    );
    let mut busy = world.dialling(&[ADDRESS, "--load", "1000000"]);

    let dashboard = dashboard();
    let mut unanswered = queries(&dashboard);
    let started = Instant::now();
    while !unanswered.is_empty() {
        assert!(started.elapsed() < PATIENCE, "no data: {unanswered:#?}");
        load(&world, &audited);
        unanswered.retain(|(_, query)| prometheus.series(&interpolated(query)) == 0);
    }
    assert!(!busy.has_ended());

    let firing = [
        "NodetlsConnectsRefused",
        "NodetlsConnectionsFailing",
        "NodetlsConfigStale",
        "NodetlsCrdNotServed",
        "NodetlsHandshakesFailing",
        "NodetlsInsecurePolicy",
        "NodetlsNoLeader",
        "NodetlsPolicyNotInForce",
    ];
    for name in firing {
        while prometheus.series(&format!("ALERTS{{alertname=\"{name}\"}}")) == 0 {
            assert!(
                started.elapsed() < PATIENCE,
                "{name} does not begin to fire"
            );
            load(&world, &audited);
        }
    }
    let groups = prometheus.get("rules", &[]);
    let evaluated = groups["groups"][0]["rules"].as_array().unwrap();
    assert_eq!(evaluated.len(), alerts().len());
    for rule in evaluated {
        assert_eq!(rule["health"], "ok", "{rule}");
        let name = rule["name"].as_str().unwrap();
        let fires = rule["state"] != "inactive";
        assert_eq!(fires, firing.contains(&name), "{rule}");
    }

    let exposition = world.get("/metrics");
    promtool_finds_right(exposition.split_once("\r\n\r\n").unwrap().1);
    promtool_finds_right(&metrics.encode());
}
