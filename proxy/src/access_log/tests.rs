#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tracing_subscriber::fmt::MakeWriter;

use super::*;

/// Collects what a subscriber writes.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Lines {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

fn logged_json(run: impl FnOnce()) -> Vec<Value> {
    let lines = Lines::default();
    let log = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_writer(lines.clone());
    tracing::subscriber::with_default(log.finish(), run);
    lines
        .text()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn access() -> Access {
    Access::new("10.0.0.7:41234".parse().unwrap())
}

#[test]
fn a_success_is_one_info_line_with_its_fields() {
    set_node("node1");
    let lines = logged_json(|| {
        let mut access = access();
        access.netns = Some("client".to_owned());
        access.service = Some((ObjectName::new("default", "web"), 443));
        access.policy = Some(ObjectName::new("default", "tls"));
        access.upstream = Some("10.96.0.10:443".parse().unwrap());
        access.sni = Some("www.example.com".to_owned());
        access.protocol = Some("http/1.1");
        access.tls_version = Some("TLSv1.3");
        access.cipher = Some("TLS_AES_256_GCM_SHA384");
        access.group = Some("X25519MLKEM768");
        access.resumed = Some(true);
        access.sent_bytes = 7;
        access.received_bytes = 9;
        access.succeed();
    });
    let [line] = lines.as_slice() else {
        panic!("{lines:?}")
    };
    assert_eq!(line["level"], "INFO");
    assert_eq!(line["target"], "access");
    assert_eq!(line["node"], "node1");
    assert_eq!(line["client"], "10.0.0.7:41234");
    assert_eq!(line["netns"], "client");
    assert_eq!(line["service"], "default/web:443");
    assert_eq!(line["policy"], "default/tls");
    assert_eq!(line["upstream"], "10.96.0.10:443");
    assert_eq!(line["sni"], "www.example.com");
    assert_eq!(line["protocol"], "http/1.1");
    assert_eq!(line["tls_version"], "TLSv1.3");
    assert_eq!(line["cipher"], "TLS_AES_256_GCM_SHA384");
    assert_eq!(line["group"], "X25519MLKEM768");
    assert_eq!(line["resumed"], true);
    assert_eq!(line["sent_bytes"], 7);
    assert_eq!(line["received_bytes"], 9);
    assert!(line["duration_ms"].is_u64());
    assert!(line.get("reason").is_none() && line.get("error").is_none());
}

#[test]
fn a_failure_is_one_warning_and_leaves_unknown_fields_out() {
    let lines = logged_json(|| access().fail("unknown_ca", "no anchor for \"CN=x\"\nforged line"));
    let [line] = lines.as_slice() else {
        panic!("{lines:?}")
    };
    assert_eq!(line["level"], "WARN");
    assert_eq!(line["reason"], "unknown_ca");
    assert_eq!(line["error"], "no anchor for \"CN=x\"\nforged line");
    assert!(line.get("upstream").is_none());
}

#[test]
fn text_lines_cannot_be_forged() {
    let lines = Lines::default();
    let log = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(lines.clone());
    tracing::subscriber::with_default(log.finish(), || {
        let mut access = access();
        access.sni = Some("a\nb\u{1b}[31m".to_owned());
        access.fail("name_mismatch", "first\nsecond");
    });
    let text = lines.text();
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(!text.contains('\u{1b}'), "{text}");
}

#[tokio::test]
async fn a_cancelled_connection_leaves_a_line_too() {
    let lines = Lines::default();
    let log = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_writer(lines.clone());
    let _guard = tracing::subscriber::set_default(log.finish());
    let connection = tokio::spawn(async {
        let _access = access();
        std::future::pending::<()>().await;
    });
    tokio::task::yield_now().await;
    connection.abort();
    assert!(connection.await.unwrap_err().is_cancelled());
    let line: Value = serde_json::from_str(lines.text().trim()).unwrap();
    assert_eq!(line["level"], "WARN");
    assert_eq!(line["reason"], "shut_down");
}

#[test]
fn a_bad_filter_is_named() {
    let error = init_logging(LogFormat::Text, "info,foo=loud", LogTo::Stderr).unwrap_err();
    assert!(error.to_string().contains("info,foo=loud"), "{error}");
}

/// The fields of a line that has all of them.
#[test]
fn the_fields_are_those_of_the_document() {
    set_node("node1");
    let lines = logged_json(|| {
        let mut access = access();
        access.netns = Some(String::new());
        access.service = Some((ObjectName::new("default", "web"), 443));
        access.policy = Some(ObjectName::new("default", "tls"));
        access.upstream = Some("10.96.0.10:443".parse().unwrap());
        access.sni = Some(String::new());
        access.protocol = Some("");
        access.tls_version = Some("");
        access.cipher = Some("");
        access.group = Some("");
        access.resumed = Some(true);
        access.reused = Some(true);
        access.left_out = 1;
        access.fail("expired", "");
    });
    let fields: BTreeSet<_> = lines[0].as_object().unwrap().keys().cloned().collect();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/access-log.md");
    let document = std::fs::read_to_string(file).unwrap();
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `"));
    let documented = rows.map(|row| row.split('`').next().unwrap_or_default().to_owned());
    assert_eq!(fields, documented.collect());
}

#[test]
fn the_filter_can_be_changed_while_we_run() {
    init_logging(LogFormat::Text, "warn", LogTo::Stderr).unwrap();
    assert_eq!(log_filter().unwrap(), "warn");
    assert!(!tracing::enabled!(target: "access", tracing::Level::INFO));
    set_log_filter("warn,access=info").unwrap();
    assert!(tracing::enabled!(target: "access", tracing::Level::INFO));
    assert!(set_log_filter("access=loud").is_err());
    assert_eq!(log_filter().unwrap(), "warn,access=info");
    set_log_filter("off").unwrap();
    assert!(!tracing::enabled!(target: "access", tracing::Level::WARN));
}
