//! The dashboard: what Grafana needs of its JSON.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{dashboard, panels};

/// Those that come with Grafana.
const KINDS: [&str; 4] = ["row", "stat", "table", "timeseries"];
/// Columns of a dashboard.
const WIDTH: u64 = 24;

fn unsigned(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value}"))
}

#[test]
fn it_is_one_that_can_be_imported_anywhere() {
    let dashboard = dashboard();
    assert!(dashboard["id"].is_null(), "an id is another Grafana's");
    assert_eq!(dashboard["uid"], "nodetls");
    assert!(unsigned(&dashboard["schemaVersion"]) >= 36);
    for text in ["title", "refresh"] {
        assert!(
            dashboard[text]
                .as_str()
                .is_some_and(|text| !text.is_empty()),
            "{text}"
        );
    }
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let source = &variables[0];
    assert_eq!(
        (&source["name"], &source["type"]),
        (&json!("datasource"), &json!("datasource"))
    );
    assert_eq!(source["query"], "prometheus");
    for variable in &variables[1..] {
        assert_eq!(variable["type"], "query");
        assert_eq!(variable["datasource"]["uid"], "${datasource}", "{variable}");
        // Also of series that lack the label.
        assert_eq!(variable["allValue"], ".*");
    }
}

#[test]
fn its_panels_are_whole() {
    let dashboard = dashboard();
    let all = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<_> = all.iter().map(|panel| unsigned(&panel["id"])).collect();
    assert_eq!(ids.len(), all.len(), "an id occurs twice");
    for panel in all {
        let kind = panel["type"].as_str().unwrap();
        assert!(KINDS.contains(&kind), "{kind}");
        assert!(!panel["title"].as_str().unwrap().is_empty(), "{panel}");
    }
    for panel in panels(&dashboard) {
        let title = &panel["title"];
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        assert!(panel["fieldConfig"]["defaults"].is_object(), "{title}");
        let targets = panel["targets"].as_array().unwrap();
        let ids: BTreeSet<_> = targets
            .iter()
            .map(|target| target["refId"].as_str().unwrap())
            .collect();
        assert_eq!(ids.len(), targets.len(), "{title}: a refId occurs twice");
        for target in targets {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
            assert!(!target["expr"].as_str().unwrap().is_empty(), "{title}");
        }
    }
}

#[test]
fn no_panel_lies_on_another() {
    let dashboard = dashboard();
    let mut taken = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|side| unsigned(&panel["gridPos"][side]));
        assert!(w > 0 && h > 0 && x + w <= WIDTH, "{}", panel["title"]);
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(taken.insert(cell), "{} lies on another", panel["title"]);
        }
    }
}

#[test]
fn only_its_own_variables_are_used() {
    let dashboard = dashboard();
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let mut known: Vec<_> = variables
        .iter()
        .map(|variable| variable["name"].as_str().unwrap())
        .collect();
    known.push("__rate_interval");
    for (title, query) in super::queries(&dashboard) {
        for rest in query.split('$').skip(1) {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let name = &rest[..end.unwrap_or(rest.len())];
            assert!(known.contains(&name), "{title}: ${name}");
        }
    }
}
