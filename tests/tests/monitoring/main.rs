//! The component `monitoring`: its alerts by promtool, its dashboard, and all of their queries by a real Prometheus.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A test's way to fail.

mod alerts;
mod dashboard;
mod prometheus;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use nodetls::failure::Reason;
use nodetls::metrics::{Metrics, Role};
use serde_json::Value;

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A file of the component.
fn component(name: &str) -> String {
    let directory = top().join("manifests/components/monitoring");
    fs::read_to_string(directory.join(name)).unwrap()
}

/// The rules of the PrometheusRule, as Prometheus reads them.
fn rules() -> Value {
    let object: Value = serde_saphyr::from_str(&component("alerts.yaml")).unwrap();
    object["spec"].clone()
}

fn alerts() -> Vec<Value> {
    rules()["groups"][0]["rules"].as_array().unwrap().clone()
}

fn dashboard() -> Value {
    serde_json::from_str(&component("nodetls.json")).unwrap()
}

/// What has targets.
fn panels(dashboard: &Value) -> Vec<&Value> {
    let panels = dashboard["panels"].as_array().unwrap().iter();
    panels.filter(|panel| panel["type"] != "row").collect()
}

/// Title and query.
fn queries(dashboard: &Value) -> Vec<(&str, &str)> {
    let of = |panel: &'_ Value| panel["targets"].as_array().unwrap().len();
    let all = panels(dashboard).into_iter().flat_map(|panel| {
        let title = panel["title"].as_str().unwrap();
        (0..of(panel))
            .map(move |number| (title, panel["targets"][number]["expr"].as_str().unwrap()))
    });
    all.collect()
}

/// The words of a query that are names of ours.
fn names(query: &str) -> BTreeSet<&str> {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = query.split(|c| !is_of_name(c));
    words.filter(|word| word.starts_with("nodetls_")).collect()
}

#[test]
fn queries_name_metrics_and_reasons_that_exist() {
    let metrics = Metrics::new(Role::Agent, "test").unwrap().describe();
    let metrics: BTreeSet<_> = metrics.into_iter().map(|metric| metric.name).collect();
    let (dashboard, alerts) = (dashboard(), alerts());
    let alerts = alerts.iter().map(|alert| {
        let (name, query) = (&alert["alert"], &alert["expr"]);
        (name.as_str().unwrap(), query.as_str().unwrap())
    });
    let mut seen = BTreeSet::new();
    for (title, query) in queries(&dashboard).into_iter().chain(alerts) {
        for name in names(query) {
            let family = name.trim_end_matches("_bucket");
            assert!(metrics.contains(family), "{title}: there is no {name}");
            seen.insert(family);
        }
        let failures = query.split_once("nodetls_connection_failures_total{reason=~\"");
        let reasons = failures.and_then(|(_, rest)| rest.split_once('"'));
        for reason in reasons.iter().flat_map(|(reasons, _)| reasons.split('|')) {
            let mut all = Reason::ALL.iter();
            assert!(
                all.any(|known| known.as_str() == reason),
                "{title}: {reason}"
            );
        }
    }
    let unseen: Vec<_> = metrics
        .iter()
        .filter(|name| !seen.contains(name.as_str()))
        .collect();
    // What only somebody looks at who is after something already.
    let looked_up = [
        "nodetls_accept_errors_total",
        "nodetls_config_generation",
        "nodetls_config_last_applied_timestamp_seconds",
        "nodetls_connections_closed_total",
        "nodetls_earlier_connections_cut_total",
        "nodetls_tls_info",
        "nodetls_unknown_target_connections_total",
    ];
    assert_eq!(unseen, looked_up);
}
