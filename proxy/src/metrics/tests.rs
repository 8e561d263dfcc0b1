#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use super::*;
use crate::policy::{ObjectName, Options, Origination, Target, Upstream};
use crate::tls::Session;

fn metrics() -> Metrics {
    Metrics::new(Role::Agent, "1.2.3").unwrap()
}

#[track_caller]
fn assert_line(text: &str, line: &str) {
    assert!(
        text.lines().any(|l| l == line),
        "no line {line:?} in:\n{text}"
    );
}

const SESSION: Session = Session {
    version: "TLSv1.3",
    cipher_suite: "AES",
    group: "X25519",
    alpn: "none",
    resumed: false,
    not_after: Some(1_900_000_000),
};
const WEB: &str = r#"port="443",service="web",service_namespace="default""#;

#[test]
fn a_target_counts_its_connections() {
    let metrics = metrics();
    let web = metrics.target("default", "web", 443);
    let first = web.open();
    let _second = metrics.target("default", "web", 443).open();
    drop(first);
    web.handshake_ok(SESSION, Duration::from_millis(3));
    let earlier = Session {
        not_after: Some(1_800_000_000),
        ..SESSION
    };
    web.handshake_ok(earlier, Duration::from_millis(3));
    web.handshake_failed(Duration::from_millis(30));
    web.failed("unknown_ca");
    web.failed("unknown_ca");
    web.passthrough("already_tls");
    web.sent_bytes.inc_by(10);
    web.received_bytes.inc_by(20);
    web.tls_sent_bytes.inc_by(30);
    web.tls_received_bytes.inc_by(40);
    let text = metrics.encode();
    for line in [
        format!("nodetls_connections_opened_total{{{WEB}}} 2"),
        format!("nodetls_connections_closed_total{{{WEB}}} 1"),
        format!("nodetls_open_connections{{{WEB}}} 1"),
        format!("nodetls_sent_bytes_total{{{WEB}}} 10"),
        format!("nodetls_backend_certificate_not_after_timestamp_seconds{{{WEB}}} 1800000000"),
        format!("nodetls_received_bytes_total{{{WEB}}} 20"),
        format!("nodetls_tls_sent_bytes_total{{{WEB}}} 30"),
        format!("nodetls_tls_received_bytes_total{{{WEB}}} 40"),
        format!("nodetls_tls_handshake_duration_seconds_count{{{WEB}}} 3"),
        format!("nodetls_tls_handshake_duration_seconds_bucket{{{WEB},le=\"0.005\"}} 2"),
        r#"nodetls_tls_handshakes_total{cipher="AES",group="X25519",port="443",result="ok",resumed="false",service="web",service_namespace="default",version="TLSv1.3"} 2"#.to_owned(),
        r#"nodetls_tls_handshakes_total{cipher="",group="",port="443",result="failed",resumed="",service="web",service_namespace="default",version=""} 1"#.to_owned(),
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
    web.handshake_ok(SESSION, Duration::from_millis(3));
    web.failed("timeout");
    web.passthrough("already_tls");
    metrics.forget("default", "web", 443);
    web.failed("expired");
    web.handshake_failed(Duration::ZERO);
    web.handshake_ok(SESSION, Duration::ZERO);
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
    metrics.config_applied(7, &Snapshot::default(), None);
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
    assert_eq!(all.len(), 42, "{all:#?}");
    assert!(all.is_sorted_by(|a, b| a.name < b.name));
    for Description {
        name,
        kind,
        labels,
        help,
        of,
    } in all
    {
        assert!(name.starts_with("nodetls_"), "{name}");
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
        assert!(help.ends_with('.'), "{name}");
        assert!(!of.is_empty(), "{name}");
        let forbidden = ["pod", "client", "address", "subject"];
        assert!(
            !labels
                .iter()
                .any(|label| forbidden.contains(&label.as_str())),
            "{name}"
        );
    }
}

#[test]
fn a_bundles_first_end_is_told_but_not_the_systems() {
    let metrics = metrics();
    let bundle = |years: &[i32]| {
        let certificate = |year: &i32| {
            let mut params = rcgen::CertificateParams::default();
            params.not_after = rcgen::date_time_ymd(*year, 1, 1);
            let key = rcgen::KeyPair::generate().unwrap();
            params.self_signed(&key).unwrap().der().clone()
        };
        Arc::new(CaBundle {
            certificates: years.iter().map(certificate).collect(),
        })
    };
    let (own, system) = (bundle(&[2035, 2031]), bundle(&[2030]));
    let target = |port, roots: &Arc<CaBundle>| {
        Arc::new(Target {
            service: ObjectName::new("default", "web"),
            port,
            policy: ObjectName::new("default", "tls"),
            policy_uid: None,
            plan: Ok(Arc::new(Origination {
                hostname: "www.example.com".to_owned(),
                subject_alt_names: Vec::new(),
                roots: Arc::clone(roots),
                options: Options::default(),
            })),
            upstream: Upstream::ServiceAddress,
            headless: false,
            contested_by: Vec::new(),
        })
    };
    let targets = [(443, &own), (444, &system)];
    let targets = targets.map(|(port, roots)| {
        let address = std::net::SocketAddr::from(([10, 96, 0, 10], port));
        (address, target(port, roots))
    });
    let snapshot = Snapshot {
        targets: targets.into(),
    };
    metrics.config_applied(1, &snapshot, Some(&system));
    let text = metrics.encode();
    let of_2031 = 1_924_992_000;
    assert_line(
        &text,
        &format!("nodetls_ca_certificate_not_after_timestamp_seconds{{{WEB}}} {of_2031}"),
    );
    assert!(!text.contains(r#"port="444""#), "{text}");
    metrics.config_applied(2, &Snapshot::default(), Some(&system));
    assert!(!metrics.encode().contains("ca_certificate"));
}

#[test]
fn a_controller_shows_its_own_metrics_only() {
    let metrics = Metrics::new(Role::Controller, "1.2.3").unwrap();
    metrics.leader.set(1);
    metrics.accept_errors.inc();
    metrics.target("default", "web", 443).failed("expired");
    metrics.set_source(&State::default());
    let text = metrics.encode();
    assert_line(&text, "nodetls_leader 1");
    let names = text.lines().filter(|line| line.starts_with("nodetls_"));
    let names: Vec<_> = names.map(|line| line.split(['{', ' ']).next()).collect();
    let own = [
        "nodetls_build_info",
        "nodetls_config_last_sync_timestamp_seconds",
        "nodetls_leader",
        "nodetls_ready",
    ];
    assert_eq!(names, own.map(Some));
}
