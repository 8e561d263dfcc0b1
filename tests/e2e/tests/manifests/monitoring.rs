//! The component `monitoring`, as the API server takes it: it knows the Prometheus operator's definitions.

use std::fs;
use std::process::Command;

use nodetls_e2e::{DASHBOARD, text};
use serde_json::{Value, json};

use super::{directory, find, kustomize, overlay, render};

/// The objects of the base with the component.
fn objects(name: &str) -> Vec<Value> {
    render(&overlay(name, &["monitoring"], ""))
}

#[test]
fn the_pod_monitor_finds_agents_and_controllers_and_their_port() {
    let objects = objects("monitoring-pods");
    let monitor = &find(&objects, "PodMonitor", "nodetls").expect("PodMonitor")["spec"];
    let endpoint = &monitor["podMetricsEndpoints"][0];
    let wanted = &monitor["selector"]["matchLabels"];
    let among = &monitor["selector"]["matchExpressions"][0];
    assert_eq!(among["key"], "app.kubernetes.io/component");
    for (kind, name, component) in [
        ("DaemonSet", "nodetls-agent", "agent"),
        ("Deployment", "nodetls-controller", "controller"),
    ] {
        let template = &find(&objects, kind, name).expect(name)["spec"]["template"];
        let labels = &template["metadata"]["labels"];
        for (key, value) in wanted.as_object().unwrap() {
            assert_eq!(&labels[key], value, "{name}");
        }
        assert_eq!(labels["app.kubernetes.io/component"], component);
        assert!(
            among["values"]
                .as_array()
                .unwrap()
                .contains(&json!(component))
        );
        let port = &template["spec"]["containers"][0]["ports"][0];
        assert_eq!(port["name"], endpoint["port"], "{name}");
    }
}

#[test]
fn the_dashboard_is_a_config_map_that_grafanas_sidecar_finds() {
    let objects = objects("monitoring-dashboard");
    let map = find(&objects, "ConfigMap", "nodetls-dashboard").expect("dashboard");
    assert_eq!(map["metadata"]["labels"]["grafana_dashboard"], "1");
    let dashboard = map["data"]["nodetls.json"].as_str().unwrap();
    assert_eq!(misread(dashboard), "");
    let wrong = dashboard.replace("\"gridPos\"", "\"gridPosition\"");
    assert!(misread(&wrong).contains("unexpected field 'gridPosition'"));
    let dashboard: Value = serde_json::from_str(dashboard).unwrap();
    assert_eq!(dashboard["uid"], "nodetls");
}

/// What of a dashboard is not as Grafana's schema has it.
fn misread(dashboard: &str) -> String {
    let file = directory("monitoring-schema").join("dashboard.json");
    fs::write(&file, dashboard).unwrap();
    let output = Command::new(DASHBOARD).arg(file).output().unwrap();
    assert_eq!(output.status.success(), output.stderr.is_empty());
    text(&output)
}

#[test]
fn all_of_it_goes_into_the_namespace_of_the_overlay_with_the_label_that_the_operator_wants() {
    let more = "namespace: elsewhere\npatches:\n- target: {group: monitoring.coreos.com}\n  patch: |\n    \
                - {op: add, path: /metadata/labels/release, value: prometheus}";
    let directory = overlay("monitoring-elsewhere", &["monitoring"], more);
    // There is no such namespace that the API server could take it into.
    let objects = kustomize(&directory);
    for (kind, name) in [
        ("PodMonitor", "nodetls"),
        ("PrometheusRule", "nodetls"),
        ("ConfigMap", "nodetls-dashboard"),
    ] {
        let metadata = &find(&objects, kind, name).expect(name)["metadata"];
        assert_eq!(metadata["namespace"], "elsewhere", "{kind}");
        let labelled = metadata["labels"]["release"] == "prometheus";
        assert_eq!(labelled, kind != "ConfigMap", "{kind}");
    }
}
