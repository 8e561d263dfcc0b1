#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use super::*;

fn metrics() -> Metrics {
    Metrics::new("1.2.3").unwrap()
}

#[track_caller]
fn assert_line(text: &str, line: &str) {
    assert!(
        text.lines().any(|l| l == line),
        "no line {line:?} in:\n{text}"
    );
}

const WEB: &str = r#"port="443",service="web",service_namespace="default""#;

#[test]
fn a_target_counts_its_connections() {
    let metrics = metrics();
    let web = metrics.target("default", "web", 443);
    let first = web.open();
    let _second = metrics.target("default", "web", 443).open();
    drop(first);
    web.handshake_ok("TLSv1_3", "AES", Duration::from_millis(3));
    web.handshake_failed(Duration::from_millis(30));
    web.failed("unknown_ca");
    web.failed("unknown_ca");
    web.passthrough("already_tls");
    web.sent_bytes.inc_by(10);
    web.received_bytes.inc_by(20);
    let text = metrics.encode();
    for line in [
        format!("nodetls_connections_opened_total{{{WEB}}} 2"),
        format!("nodetls_connections_closed_total{{{WEB}}} 1"),
        format!("nodetls_open_connections{{{WEB}}} 1"),
        format!("nodetls_sent_bytes_total{{{WEB}}} 10"),
        format!("nodetls_received_bytes_total{{{WEB}}} 20"),
        format!("nodetls_tls_handshake_duration_seconds_count{{{WEB}}} 2"),
        format!("nodetls_tls_handshake_duration_seconds_bucket{{{WEB},le=\"0.005\"}} 1"),
        r#"nodetls_tls_handshakes_total{cipher="AES",port="443",result="ok",service="web",service_namespace="default",version="TLSv1_3"} 1"#.to_owned(),
        r#"nodetls_tls_handshakes_total{cipher="",port="443",result="failed",service="web",service_namespace="default",version=""} 1"#.to_owned(),
        r#"nodetls_connection_failures_total{port="443",reason="unknown_ca",service="web",service_namespace="default"} 2"#.to_owned(),
        r#"nodetls_passthrough_connections_total{port="443",reason="already_tls",service="web",service_namespace="default"} 1"#.to_owned(),
        r#"nodetls_build_info{version="1.2.3"} 1"#.to_owned(),
        "nodetls_accept_errors_total 0".to_owned(),
    ] {
        assert_line(&text, &line);
    }
    assert!(text.contains("process_open_fds "), "{text}");
}

#[test]
fn a_forgotten_target_leaves_no_series_and_its_last_connections_bring_none_back() {
    let metrics = metrics();
    let web = metrics.target("default", "web", 443);
    let other = metrics.target("default", "other", 443);
    let open = web.open();
    web.handshake_ok("TLSv1_3", "AES", Duration::from_millis(3));
    web.failed("timeout");
    web.passthrough("already_tls");
    metrics.forget("default", "web", 443);
    web.failed("expired");
    web.handshake_failed(Duration::ZERO);
    drop(open);
    other.sent_bytes.inc();
    let text = metrics.encode();
    assert!(!text.contains(r#"service="web""#), "{text}");
    assert!(text.contains(r#"service="other""#), "{text}");
    let again = metrics.target("default", "web", 443);
    again.sent_bytes.inc();
    assert_line(
        &metrics.encode(),
        &format!("nodetls_sent_bytes_total{{{WEB}}} 1"),
    );
}

#[test]
fn the_ebpf_side_is_read_at_each_scrape() {
    let metrics = metrics();
    let calls = std::sync::atomic::AtomicU64::new(0);
    metrics.on_scrape(Box::new(move || {
        let count = 5 + calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        EbpfStats {
            connects: vec![Connects {
                outcome: "redirected",
                reason: "target",
                count,
            }],
            maps: vec![MapUse {
                map: "TARGETS",
                entries: 3,
                max_entries: 65536,
            }],
        }
    }));
    metrics.encode();
    let text = metrics.encode();
    assert_line(
        &text,
        r#"nodetls_ebpf_connects_total{outcome="redirected",reason="target"} 6"#,
    );
    assert_line(&text, r#"nodetls_ebpf_map_entries{map="TARGETS"} 3"#);
    assert_line(
        &text,
        r#"nodetls_ebpf_map_max_entries{map="TARGETS"} 65536"#,
    );
}

#[test]
fn policy_conditions_are_replaced() {
    let metrics = metrics();
    let condition = |reason| PolicyCondition {
        namespace: "default".to_owned(),
        policy: "tls".to_owned(),
        condition: "Accepted",
        reason,
    };
    metrics.set_policy_status(&[condition("Invalid")]);
    metrics.set_policy_status(&[condition("Accepted")]);
    metrics.config_applied(7, &Snapshot::default());
    let text = metrics.encode();
    assert!(!text.contains("Invalid"), "{text}");
    let labels = r#"condition="Accepted",policy="tls",policy_namespace="default""#;
    assert_line(
        &text,
        &format!(r#"nodetls_policy_status{{{labels},reason="Accepted"}} 1"#),
    );
    assert_line(&text, "nodetls_config_generation 7");
    assert!(
        !text.contains("nodetls_config_last_applied_timestamp_seconds 0\n"),
        "{text}"
    );
}

#[test]
fn names_follow_the_conventions() {
    let all = metrics().describe();
    assert_eq!(all.len(), 35, "{all:#?}");
    assert!(all.is_sorted_by(|a, b| a.name < b.name));
    for Description {
        name,
        kind,
        labels,
        help,
    } in all
    {
        assert!(name.starts_with("nodetls_"), "{name}");
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
        assert!(help.ends_with('.'), "{name}");
        let forbidden = ["pod", "client", "address", "subject"];
        assert!(
            !labels
                .iter()
                .any(|label| forbidden.contains(&label.as_str())),
            "{name}"
        );
    }
}

const INTRODUCTION: &str = "\
# Metrics

At `/metrics` of the admin address, in the Prometheus text format. Labels are bounded: none is a pod's address or a
certificate's subject. The usual `process_*` metrics are there too.

Made from `proxy/src/metrics/`; `NODETLS_BLESS=1 cargo test --package nodetls metrics_md` writes it anew.

| Metric | Kind | Labels | |
|---|---|---|---|
";

#[test]
fn metrics_md_is_up_to_date() {
    let row = |d: Description| {
        let labels: Vec<_> = d.labels.iter().map(|label| format!("`{label}`")).collect();
        let (labels, help) = (labels.join(", "), d.help);
        format!("| `{}` | {} | {labels} | {help} |\n", d.name, d.kind)
    };
    let rows: String = metrics().describe().into_iter().map(row).collect();
    let generated = format!("{INTRODUCTION}{rows}");
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    if std::env::var_os("NODETLS_BLESS").is_some() {
        std::fs::write(file, &generated).unwrap();
    }
    let written = std::fs::read_to_string(file).unwrap_or_default();
    assert!(
        written == generated,
        "docs/metrics.md is out of date: run this test with NODETLS_BLESS=1"
    );
}
