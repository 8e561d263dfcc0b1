//! Makes `docs/metrics.md` from the metrics themselves. The tests below check it; `NODETLS_BLESS=1` writes it anew.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::{Description, Metrics, Role};
use crate::failure::Reason;

const INTRODUCTION: &str = "\
# Metrics

At `/metrics` of the admin address, in the Prometheus text format. Labels are bounded: none is a pod's address or a
certificate's subject, and the series of a Service go with it. The usual `process_*` metrics are there too.

- **Who has it:** agents (A), controllers (C), and `nodetls uninstall` while it waits for its end (U).
- **Where to begin:** the component [monitoring](../manifests/README.md#monitoring) has a PodMonitor, alerts
  ([what each means](alerts.md)) and a dashboard for Grafana.
- **Plaintext:** [ways to plaintext](../SECURITY.md#ways-to-plaintext) has the metric of each.

Made from `proxy/src/metrics/`; `NODETLS_BLESS=1 cargo test --package nodetls metrics_md` writes it anew.

| Metric | Kind | Who | Labels | |
|---|---|---|---|---|
";

const ENVOY_INTRODUCTION: &str = "
## For users of Envoy

What Envoy counts for each cluster is counted for each port of a Service here (labels `service_namespace`, `service`,
`port`), from the clients' point of view: connections are those that clients open, bytes are plaintext.

| Envoy (`cluster.NAME.…`) | Here | |
|---|---|---|
";

/// Envoy's name, ours as PromQL, a remark.
const ENVOY: &[(&str, &str, &str)] = &[
    (
        "ssl.handshake",
        r#"nodetls_tls_handshakes_total{result="ok"}"#,
        "",
    ),
    (
        "ssl.session_reused",
        r#"nodetls_tls_handshakes_total{resumed="true"}"#,
        "",
    ),
    (
        "ssl.versions.VERSION",
        r#"nodetls_tls_handshakes_total{version="TLSv1.3"}"#,
        "The same names",
    ),
    (
        "ssl.ciphers.CIPHER",
        r#"nodetls_tls_handshakes_total{cipher="TLS_AES_256_GCM_SHA384"}"#,
        "IANA's names, of TLS 1.2 too",
    ),
    (
        "ssl.curves.CURVE",
        r#"nodetls_tls_handshakes_total{group="X25519MLKEM768"}"#,
        "P-256 is `secp256r1`",
    ),
    (
        "ssl.connection_error",
        r#"nodetls_connection_failures_total{reason=~"plaintext_server|no_common_version|no_common_cipher|no_common_alpn|alert|protocol_error|closed_during_handshake|client_certificate_required|client_certificate_rejected"}"#,
        "",
    ),
    (
        "ssl.fail_verify_error",
        r#"nodetls_connection_failures_total{reason=~"unknown_ca|expired|not_yet_valid|ca_used_as_leaf|bad_certificate"}"#,
        "",
    ),
    (
        "ssl.fail_verify_san",
        r#"nodetls_connection_failures_total{reason=~"name_mismatch|no_subject_alt_name"}"#,
        "",
    ),
    (
        "ssl.fail_verify_cert_hash",
        r#"nodetls_connection_failures_total{reason="pin_mismatch"}"#,
        "",
    ),
    (
        "ssl.fail_verify_no_cert, ssl.no_certificate",
        "",
        "For servers: not here",
    ),
    (
        "ssl.sigalgs.SIGALG, ssl.was_key_usage_invalid",
        "",
        "Not counted",
    ),
    ("ssl.ocsp_staple_…", "", "Revocation is not checked"),
    (
        "ssl.certificate.CERT.expiration_unix_time_seconds",
        "nodetls_backend_certificate_not_after_timestamp_seconds",
        "Of the servers' certificates, not of one's own",
    ),
    (
        "(of the CA certificates)",
        "nodetls_ca_certificate_not_after_timestamp_seconds",
        "",
    ),
    ("upstream_cx_total", "nodetls_connections_opened_total", ""),
    ("upstream_cx_active", "nodetls_open_connections", ""),
    (
        "upstream_cx_destroy",
        "nodetls_connections_closed_total",
        "",
    ),
    (
        "upstream_cx_connect_ms",
        "nodetls_tls_handshake_duration_seconds",
        "The TLS handshake alone",
    ),
    (
        "upstream_cx_connect_fail",
        r#"nodetls_connection_failures_total{reason=~"refused|unreachable|connect_timeout|dns|forbidden_address"}"#,
        "",
    ),
    (
        "upstream_cx_connect_timeout",
        r#"nodetls_connection_failures_total{reason=~"connect_timeout|handshake_timeout"}"#,
        "",
    ),
    (
        "upstream_cx_none_healthy",
        r#"nodetls_connection_failures_total{reason="no_endpoints"}"#,
        "",
    ),
    (
        "upstream_cx_idle_timeout",
        r#"nodetls_connection_failures_total{reason="idle_timeout"}"#,
        "",
    ),
    (
        "upstream_cx_overflow",
        "nodetls_rejected_connections_total",
        "Of a node, not of a Service",
    ),
    (
        "upstream_cx_rx_bytes_total",
        "nodetls_received_bytes_total",
        "",
    ),
    ("upstream_cx_tx_bytes_total", "nodetls_sent_bytes_total", ""),
];

fn described() -> Vec<Description> {
    Metrics::new(Role::Agent, "1.2.3").unwrap().describe()
}

fn row(metric: &Description) -> String {
    let letter = |role: &Role| match role {
        Role::Agent => "A",
        Role::Controller => "C",
        Role::Uninstall => "U",
    };
    let of: Vec<_> = metric.of.iter().map(letter).collect();
    let labels = metric.labels.iter().map(|label| format!("`{label}`"));
    let labels: Vec<_> = labels.collect();
    let (name, kind, help) = (&metric.name, metric.kind, &metric.help);
    let (of, labels) = (of.join(" "), labels.join(", "));
    format!("| `{name}` | {kind} | {of} | {labels} | {help} |\n")
}

#[test]
fn metrics_md_is_up_to_date() {
    let mut text = INTRODUCTION.to_owned();
    text.extend(described().iter().map(row));
    text += ENVOY_INTRODUCTION;
    for (envoy, ours, remark) in ENVOY {
        let ours = match *ours {
            "" => "none".to_owned(),
            ours => format!("`{}`", ours.replace('|', "\\|")),
        };
        writeln!(text, "| {envoy} | {ours} | {remark} |").unwrap();
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let file = root.join("docs/metrics.md");
    if std::env::var_os("NODETLS_BLESS").is_some() {
        fs::write(&file, &text).unwrap();
    }
    let written = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        written == text,
        "docs/metrics.md is out of date: run this test with NODETLS_BLESS=1"
    );
}

#[test]
fn what_stands_for_envoys_metrics_exists() {
    let metrics = described();
    for (envoy, ours, _) in ENVOY.iter().filter(|(_, ours, _)| !ours.is_empty()) {
        let (name, selector) = ours.split_once('{').unwrap_or((ours, ""));
        let metric = metrics.iter().find(|metric| metric.name == name);
        let metric = metric.unwrap_or_else(|| panic!("{envoy}: there is no {name}"));
        let Some((label, values)) = selector.trim_end_matches('}').split_once('=') else {
            continue;
        };
        assert!(metric.labels.iter().any(|known| known == label), "{ours}");
        if label == "reason" {
            let values = values.trim_start_matches('~').trim_matches('"');
            for value in values.split('|') {
                let mut reasons = Reason::ALL.iter();
                assert!(reasons.any(|reason| reason.as_str() == value), "{value}");
            }
        }
    }
}
