//! The alerts: valid, each tested by promtool, and each explained.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use nodetls_tests::text;
use serde_json::Value;

use super::{alerts, rules, top};

/// promtool's unit tests.
const TESTS: &str = include_str!("alerts.yaml");

fn promtool(directory: &tempfile::TempDir, words: &str) {
    let mut promtool = Command::new("promtool");
    promtool.args(words.split(' ')).current_dir(directory);
    let output = promtool.output().unwrap();
    assert!(output.status.success(), "{words}: {}", text(&output));
}

#[test]
fn promtool_finds_them_right() {
    let directory = tempfile::tempdir().unwrap();
    // JSON is YAML.
    let rules = rules().to_string();
    fs::write(directory.path().join("rules.yaml"), rules).unwrap();
    fs::write(directory.path().join("alerts.yaml"), TESTS).unwrap();
    promtool(&directory, "check rules rules.yaml");
    promtool(&directory, "test rules alerts.yaml");
}

#[test]
fn each_fires_in_a_test_of_promtools() {
    let tests: Value = serde_saphyr::from_str(TESTS).unwrap();
    let cases = tests["tests"].as_array().unwrap().iter();
    let cases = cases.flat_map(|test| test["alert_rule_test"].as_array().unwrap());
    let firing = cases.filter(|case| !case["exp_alerts"].as_array().unwrap().is_empty());
    let firing: BTreeSet<_> = firing
        .map(|case| case["alertname"].as_str().unwrap())
        .collect();
    let alerts = alerts();
    let all: BTreeSet<_> = alerts
        .iter()
        .map(|alert| alert["alert"].as_str().unwrap())
        .collect();
    assert_eq!(firing, all);
}

#[test]
fn each_is_explained_where_it_says() {
    let document = fs::read_to_string(top().join("docs/alerts.md")).unwrap();
    let sections = document.split("\n## ").skip(1);
    let sections: Vec<_> = sections
        .filter_map(|section| section.split_once('\n'))
        .collect();
    for (_, body) in &sections {
        for word in ["- **Meaning:** ", "- **Impact:** ", "- **Cure:** "] {
            assert_eq!(body.matches(word).count(), 1, "{word}: {body}");
        }
    }
    let alerts = alerts();
    for alert in &alerts {
        let name = alert["alert"].as_str().unwrap();
        assert!(sections.iter().any(|(title, _)| *title == name), "{name}");
        // As GitHub and others make anchors of headings.
        let anchor = format!("docs/alerts.md#{}", name.to_lowercase());
        let annotations = &alert["annotations"];
        assert_eq!(annotations["runbook_url"], anchor.as_str());
        assert!(
            annotations["summary"].as_str().unwrap().ends_with('.'),
            "{name}"
        );
        let severity = alert["labels"]["severity"].as_str().unwrap();
        assert!(
            ["critical", "warning", "info"].contains(&severity),
            "{name}"
        );
    }
    assert_eq!(sections.len(), alerts.len());
}
