//! The metrics of one target (a port of a Service), with its labels resolved once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use prometheus::{
    Error, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
};

use super::certificates::EarliestEnd;
use super::lock;
use super::registrar::Registrar;
use crate::tls::Session;

/// The labels of a target.
pub(super) const SERVICE: [&str; 3] = ["service_namespace", "service", "port"];

/// Seconds: from a resumed handshake within a node to a timeout.
const HANDSHAKE_BUCKETS: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// The families that have a series for each target.
#[derive(Clone)]
pub(super) struct TargetFamilies {
    handshakes: IntCounterVec,
    failures: IntCounterVec,
    handshake_seconds: HistogramVec,
    opened: IntCounterVec,
    closed: IntCounterVec,
    open: IntGaugeVec,
    received: IntCounterVec,
    sent: IntCounterVec,
    tls_received: IntCounterVec,
    tls_sent: IntCounterVec,
    passthrough: IntCounterVec,
    reused: IntCounterVec,
    not_after: IntGaugeVec,
}

impl TargetFamilies {
    pub(super) fn new(all: &mut Registrar) -> Result<Self, Error> {
        let service = SERVICE;
        let with = |more: &[&'static str]| [&service, more].concat();
        Ok(Self {
            handshakes: all.counters(
                "tls_handshakes_total",
                "TLS handshakes with a Service's endpoints; result is ok or failed, and only ok has the other labels.",
                &with(&["result", "version", "cipher", "group", "resumed"]),
            )?,
            failures: all.counters(
                "connection_failures_total",
                "Client connections that failed, by reason.",
                &with(&["reason"]),
            )?,
            handshake_seconds: all.histograms(
                "tls_handshake_duration_seconds",
                "Time from the ClientHello to the end of the handshake, failed ones included.",
                &service,
                &HANDSHAKE_BUCKETS,
            )?,
            opened: all.counters(
                "connections_opened_total",
                "Client connections accepted.",
                &service,
            )?,
            closed: all.counters(
                "connections_closed_total",
                "Client connections ended.",
                &service,
            )?,
            open: all.gauges("open_connections", "Client connections open now.", &service)?,
            received: all.counters(
                "received_bytes_total",
                "Bytes relayed from the Service to clients, as they have them.",
                &service,
            )?,
            sent: all.counters(
                "sent_bytes_total",
                "Bytes relayed from clients to the Service, as they send them.",
                &service,
            )?,
            tls_received: all.counters(
                "tls_received_bytes_total",
                "Bytes received from a Service's endpoints over TCP in connections with TLS: its handshakes and records.",
                &service,
            )?,
            tls_sent: all.counters(
                "tls_sent_bytes_total",
                "Bytes sent to a Service's endpoints over TCP in connections with TLS: its handshakes and records.",
                &service,
            )?,
            passthrough: all.counters(
                "passthrough_connections_total",
                "Client connections passed through untouched.",
                &with(&["reason"]),
            )?,
            reused: all.counters(
                "reused_connections_total",
                "HTTP/1 client connections that went on a server connection which another client had left at rest.",
                &service,
            )?,
            not_after: all.gauges(
                "backend_certificate_not_after_timestamp_seconds",
                "When the first of the certificates expires that a Service's endpoints have shown in the last one or two \
                 hours with handshakes, in Unix time; gone after a day without.",
                &service,
            )?,
        })
    }
}

/// Handles of one target's series.
pub struct TargetMetrics {
    families: TargetFamilies,
    labels: [String; 3],
    // None once the target is forgotten: what is resolved after that would stay for ever.
    resolved: Mutex<Option<Resolved>>,
    handshake_seconds: Histogram,
    opened: IntCounter,
    closed: IntCounter,
    open: IntGauge,
    /// Bytes from the Service to the client, as it has them.
    pub received_bytes: IntCounter,
    /// Bytes from the client to the Service, as it sends them.
    pub sent_bytes: IntCounter,
    /// Bytes of TLS from the Service's endpoints.
    pub tls_received_bytes: IntCounter,
    /// Bytes of TLS to the Service's endpoints.
    pub tls_sent_bytes: IntCounter,
    /// Client connections that went on a server connection which was there.
    pub reused: IntCounter,
}

/// The series that come into being with the first event they count.
#[derive(Default)]
struct Resolved {
    failures: HashMap<&'static str, IntCounter>,
    passthrough: HashMap<&'static str, IntCounter>,
    // None are those that failed.
    handshakes: HashMap<Option<Session>, IntCounter>,
    earliest: EarliestEnd,
    not_after: Option<IntGauge>,
}

impl TargetMetrics {
    pub(super) fn new(
        families: &TargetFamilies,
        namespace: &str,
        service: &str,
        port: u16,
    ) -> Self {
        let labels = [namespace.to_owned(), service.to_owned(), port.to_string()];
        Self {
            resolved: Mutex::new(Some(Resolved::default())),
            handshake_seconds: families.handshake_seconds.with_label_values(&labels),
            opened: families.opened.with_label_values(&labels),
            closed: families.closed.with_label_values(&labels),
            open: families.open.with_label_values(&labels),
            received_bytes: families.received.with_label_values(&labels),
            sent_bytes: families.sent.with_label_values(&labels),
            tls_received_bytes: families.tls_received.with_label_values(&labels),
            tls_sent_bytes: families.tls_sent.with_label_values(&labels),
            reused: families.reused.with_label_values(&labels),
            families: families.clone(),
            labels,
        }
    }

    /// Counts a connection as open until the guard is dropped.
    pub fn open(self: &Arc<Self>) -> OpenConnection {
        self.opened.inc();
        self.open.inc();
        OpenConnection {
            target: Arc::clone(self),
        }
    }

    /// A handshake succeeded after `took`.
    pub fn handshake_ok(&self, session: Session, took: Duration) {
        self.handshake_seconds.observe(took.as_secs_f64());
        self.resolve(|resolved| {
            let now = Instant::now();
            resolved.earliest.touch(now);
            if let Some(end) = session.not_after {
                let new = || self.families.not_after.with_label_values(&self.labels);
                let earliest = resolved.earliest.see(end, now);
                resolved.not_after.get_or_insert_with(new).set(earliest);
            }
            let labels = Session {
                not_after: None,
                ..session
            };
            self.count(resolved, Some(labels));
        });
    }

    /// A handshake failed after `took`. The reason goes to [`TargetMetrics::failed`].
    pub fn handshake_failed(&self, took: Duration) {
        self.handshake_seconds.observe(took.as_secs_f64());
        self.resolve(|resolved| self.count(resolved, None));
    }

    fn count(&self, resolved: &mut Resolved, outcome: Option<Session>) {
        let new = || {
            let labels = self.with(&labels(outcome.as_ref()));
            self.families.handshakes.with_label_values(&labels)
        };
        resolved.handshakes.entry(outcome).or_insert_with(new).inc();
    }

    /// Tells no longer when certificates end if there was no handshake for long.
    pub(super) fn expire_certificates(&self) {
        self.resolve(|resolved| {
            if resolved.not_after.is_some() && resolved.earliest.is_stale(Instant::now()) {
                resolved.not_after = None;
                resolved.earliest = EarliestEnd::default();
                let _ = self.families.not_after.remove_label_values(&self.labels);
            }
        });
    }

    /// A client connection failed. `reason` is one of a fixed set.
    pub fn failed(&self, reason: &'static str) {
        self.resolve(|resolved| {
            let new = || {
                self.families
                    .failures
                    .with_label_values(&self.with(&[reason]))
            };
            resolved.failures.entry(reason).or_insert_with(new).inc();
        });
    }

    /// A connection is passed through untouched, because `already_tls`.
    pub fn passthrough(&self, reason: &'static str) {
        self.resolve(|resolved| {
            let new = || {
                self.families
                    .passthrough
                    .with_label_values(&self.with(&[reason]))
            };
            resolved.passthrough.entry(reason).or_insert_with(new).inc();
        });
    }

    fn resolve(&self, count: impl FnOnce(&mut Resolved)) {
        if let Some(resolved) = lock(&self.resolved).as_mut() {
            count(resolved);
        }
    }

    fn with<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        self.labels
            .iter()
            .map(String::as_str)
            .chain(more.iter().copied())
            .collect()
    }

    /// Removes every series of this target; the handles go on counting for nobody.
    pub(super) fn forget(&self) {
        let resolved = lock(&self.resolved).take().unwrap_or_default();
        let families = &self.families;
        // A series that was never there is no error here.
        for outcome in resolved.handshakes.keys() {
            let labels = self.with(&labels(outcome.as_ref()));
            let _ = families.handshakes.remove_label_values(&labels);
        }
        for reason in resolved.failures.keys() {
            let _ = families
                .failures
                .remove_label_values(&self.with(&[*reason]));
        }
        for reason in resolved.passthrough.keys() {
            let _ = families
                .passthrough
                .remove_label_values(&self.with(&[*reason]));
        }
        let _ = families.handshake_seconds.remove_label_values(&self.labels);
        let _ = families.open.remove_label_values(&self.labels);
        let _ = families.not_after.remove_label_values(&self.labels);
        for counters in [
            &families.opened,
            &families.closed,
            &families.received,
            &families.sent,
            &families.tls_received,
            &families.tls_sent,
            &families.reused,
        ] {
            let _ = counters.remove_label_values(&self.labels);
        }
    }
}

/// The labels of a handshake that `session` is of; `None` is one that failed.
fn labels(session: Option<&Session>) -> [&'static str; 5] {
    session.map_or(["failed", "", "", "", ""], |session| {
        let resumed = if session.resumed { "true" } else { "false" };
        let Session {
            version,
            cipher_suite,
            group,
            ..
        } = session;
        ["ok", version, cipher_suite, group, resumed]
    })
}

/// A client connection that counts as open. Dropping it counts it as closed.
#[must_use = "dropping it counts the connection as closed"]
pub struct OpenConnection {
    target: Arc<TargetMetrics>,
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.target.open.dec();
        self.target.closed.inc();
    }
}
