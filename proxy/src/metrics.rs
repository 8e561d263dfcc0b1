//! The process's Prometheus metrics. Names start with `nodetls_`; a label never holds an address, a pod or a
//! certificate's subject, and the series of a target go with it.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus::proto::MetricFamily;
use prometheus::{Error, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry, TextEncoder};

use crate::pods::decide::Bypass;
use crate::policy::{CaBundle, Snapshot};
use crate::source::kube::State;
use crate::tls;

mod certificates;
mod config;
#[cfg(test)]
mod docs;
mod registrar;
mod source;
mod target;
mod values;

use config::ConfigMetrics;
use registrar::Registrar;
use source::SourceMetrics;
pub use target::{OpenConnection, TargetMetrics};
use target::{SERVICE, TargetFamilies};
pub use values::{Audited, Connects, Description, EbpfStats, MapUse, PolicyCondition, Role};

/// All metrics, in a registry of their own.
pub struct Metrics {
    registry: Registry,
    descriptions: Vec<Description>,
    targets: Mutex<HashMap<TargetKey, Arc<TargetMetrics>>>,
    families: TargetFamilies,
    // Held through a scrape, which must not see a family that is being filled anew.
    scrape: Mutex<Scraped>,
    policy_status: IntGaugeVec,
    ebpf_connects: IntCounterVec,
    ebpf_map_entries: IntGaugeVec,
    ebpf_map_max_entries: IntGaugeVec,
    pods_bypassed: IntGaugeVec,
    audited_connects: IntCounterVec,
    audit_probe: IntGaugeVec,
    /// 1: `/healthz/ready` succeeds.
    pub ready: IntGauge,
    /// 1: holds the Lease.
    pub leader: IntGauge,
    /// Manifests (documents or files) that could not be read.
    pub config_errors: IntGauge,
    /// Network namespaces whose connections are redirected.
    pub pods_enrolled: IntGauge,
    /// Addresses that are redirected or refused.
    pub targets_published: IntGauge,
    /// Targeted addresses that could not be published.
    pub targets_unpublished: IntGauge,
    /// 1: somebody else's programs see pods' connects before ours.
    pub others_first: IntGauge,
    /// Connections to targets that nobody has turned.
    pub earlier_connections: IntGauge,
    /// Those that were reset.
    pub earlier_connections_cut: IntCounter,
    /// Accepts that failed.
    pub accept_errors: IntCounter,
    /// Redirected connections whose id or port belongs to no target.
    pub unknown_targets: IntCounter,
    /// Connections to servers that are at rest.
    pub pooled_connections: IntGauge,
    /// Redirected connections that were reset at once.
    pub rejected: Rejected,
}

/// Redirected connections that were reset at once, by the reason.
pub struct Rejected {
    /// Their netns has too many open ones.
    pub netns_limit: IntCounter,
    /// The process has too many for its limit of open files.
    pub open_files: IntCounter,
    /// The process has too many for the memory that it may use.
    pub memory: IntCounter,
}

/// Namespace, Service, port.
type TargetKey = (String, String, u16);

struct Scraped {
    source: SourceMetrics,
    config: ConfigMetrics,
    ebpf: Option<EbpfSource>,
}

/// Reads the counters and maps of the eBPF programs.
type EbpfSource = Box<dyn Fn() -> EbpfStats + Send + Sync>;

impl Metrics {
    /// Registers everything that `role` has. `version` is the build's. Fails only on a name that is registered twice: a bug.
    pub fn new(role: Role, version: &str) -> Result<Self, Error> {
        let mut all = Registrar::new(role);
        all.process()?;
        let help = "The version that runs; always 1.";
        let build = all.gauges("build_info", help, &["version"])?;
        build.with_label_values(&[version]).set(1);
        let ready = all.gauge(
            "ready",
            "1 while `/healthz/ready` succeeds, which else says why it does not.",
        )?;
        all.of = &[Role::Agent, Role::Controller];
        let source = SourceMetrics::new(&mut all)?;
        all.of = &[Role::Controller];
        let leader = all.gauge(
            "leader",
            "1 in the one controller that holds the Lease, and writes; 0 in those that stand by.",
        )?;
        all.of = &[Role::Agent];
        tls_info(&mut all)?;
        let rejected = all.counters(
            "rejected_connections_total",
            "Redirected connections that were reset at once, because too many are open: of their netns \
             (netns_limit), or for the agent's open files (open_files) or memory (memory), of which one netns may have \
             three quarters.",
            &["reason"],
        )?;
        Ok(Self {
            families: TargetFamilies::new(&mut all)?,
            policy_status: all.gauges(
                "policy_status",
                "Condition of a BackendTLSPolicy on this node; always 1.",
                &["policy_namespace", "policy", "condition", "reason"],
            )?,
            ebpf_connects: all.counters(
                "ebpf_connects_total",
                "Connects seen by the eBPF hooks.",
                &["outcome", "reason"],
            )?,
            ebpf_map_entries: all.gauges(
                "ebpf_map_entries",
                "Entries in an eBPF map.",
                &["map"],
            )?,
            ebpf_map_max_entries: all.gauges(
                "ebpf_map_max_entries",
                "Entries that fit into an eBPF map.",
                &["map"],
            )?,
            pods_bypassed: all.gauges(
                "pods_bypassed",
                "Network namespaces that are left alone, by the reason.",
                &["reason"],
            )?,
            audited_connects: all.counters(
                "audited_connects_total",
                "Connects that audit mode let through, and enforcement would redirect or refuse.",
                &SERVICE,
            )?,
            audit_probe: all.gauges(
                "audit_probe",
                "In audit mode what a TLS handshake with a Service came to: ok, or the reason of its failure; always 1.",
                &["service_namespace", "service", "port", "result"],
            )?,
            config_errors: all.gauge("config_errors", "Manifests that could not be read.")?,
            pods_enrolled: all.gauge(
                "pods_enrolled",
                "Network namespaces whose connections are redirected.",
            )?,
            targets_published: all.gauge("targets", "Addresses that are redirected or refused.")?,
            targets_unpublished: all.gauge(
                "targets_unpublished",
                "Targeted addresses that could not be published (see `/healthz/ready`): connects to them are as before.",
            )?,
            others_first: all.gauge(
                "others_first",
                "1 while eBPF programs of others see pods' connects before ours (see `/healthz/ready`): targets that they \
                 turn to another address are refused.",
            )?,
            earlier_connections: all.gauge(
                "earlier_connections",
                "Connections to targets that are older than the enrolment of their pod, or than the target (see `nodetls \
                 status`): they go on as they are.",
            )?,
            earlier_connections_cut: all.counter(
                "earlier_connections_cut_total",
                "Such connections that were reset (--cut-earlier-connections).",
            )?,
            accept_errors: all.counter(
                "accept_errors_total",
                "Accepts of redirected connections that failed.",
            )?,
            unknown_targets: all.counter(
                "unknown_target_connections_total",
                "Redirected connections that claimed a target that does not exist; reset.",
            )?,
            pooled_connections: all.gauge(
                "pooled_connections",
                "Connections to servers that HTTP/1 clients have left at rest, for the next client of the same pod.",
            )?,
            rejected: Rejected {
                netns_limit: rejected.with_label_values(&["netns_limit"]),
                open_files: rejected.with_label_values(&["open_files"]),
                memory: rejected.with_label_values(&["memory"]),
            },
            targets: Mutex::default(),
            scrape: Mutex::new(Scraped {
                source,
                config: ConfigMetrics::new(&mut all)?,
                ebpf: None,
            }),
            ready,
            leader,
            descriptions: all.descriptions,
            registry: all.registry,
        })
    }

    /// The metrics of one target, the same as long as the target is not forgotten.
    pub fn target(&self, namespace: &str, service: &str, port: u16) -> Arc<TargetMetrics> {
        let key = (namespace.to_owned(), service.to_owned(), port);
        let mut targets = lock(&self.targets);
        let target = targets.entry(key).or_insert_with(|| {
            Arc::new(TargetMetrics::new(&self.families, namespace, service, port))
        });
        Arc::clone(target)
    }

    /// Removes the series of a target that is gone. What its last connections still do is not counted.
    pub fn forget(&self, namespace: &str, service: &str, port: u16) {
        let mut targets = lock(&self.targets);
        if let Some(target) = targets.remove(&(namespace.to_owned(), service.to_owned(), port)) {
            target.forget();
        }
    }

    /// A configuration has come into force. When `system_roots` expire is not told.
    pub fn config_applied(
        &self,
        generation: u64,
        snapshot: &Snapshot,
        system_roots: Option<&Arc<CaBundle>>,
    ) {
        let config = &mut lock(&self.scrape).config;
        config.applied(generation, snapshot, system_roots);
    }

    /// The state of the objects' source.
    pub fn set_source(&self, state: &State) {
        lock(&self.scrape).source.set(state);
    }

    /// Replaces what audit mode found.
    pub fn set_audited(&self, all: &[Audited]) {
        let _no_scrape = lock(&self.scrape);
        self.audited_connects.reset();
        self.audit_probe.reset();
        for one in all {
            let (service, port) = (&one.service, one.port.to_string());
            let labels = [&*service.namespace, &*service.name, port.as_str()];
            self.audited_connects
                .with_label_values(&labels)
                .inc_by(one.connects);
            if let Some(result) = one.result() {
                let [namespace, name, port] = labels;
                let labels = [namespace, name, port, result];
                self.audit_probe.with_label_values(&labels).set(1);
            }
        }
    }

    /// Replaces the numbers of netns that are left alone.
    pub fn set_bypassed(&self, counts: &BTreeMap<Bypass, usize>) {
        let _no_scrape = lock(&self.scrape);
        self.pods_bypassed.reset();
        for (reason, count) in counts {
            let count = i64::try_from(*count).unwrap_or(i64::MAX);
            self.pods_bypassed
                .with_label_values(&[reason.as_str()])
                .set(count);
        }
    }

    /// Replaces the conditions of all policies.
    pub fn set_policy_status(&self, conditions: &[PolicyCondition]) {
        let _no_scrape = lock(&self.scrape);
        self.policy_status.reset();
        for row in conditions {
            let labels = [
                row.namespace.as_str(),
                &row.policy,
                row.condition,
                row.reason,
            ];
            self.policy_status.with_label_values(&labels).set(1);
        }
    }

    /// Names the function that reads the eBPF side; every scrape calls it once.
    pub fn on_scrape(&self, source: Box<dyn Fn() -> EbpfStats + Send + Sync>) {
        lock(&self.scrape).ebpf = Some(source);
    }

    /// Everything in the Prometheus text format, version 0.0.4.
    pub fn encode(&self) -> String {
        for target in lock(&self.targets).values() {
            target.expire_certificates();
        }
        let scraped = lock(&self.scrape);
        scraped.source.refresh();
        if let Some(read) = &scraped.ebpf {
            self.set_ebpf(&read());
        }
        let encoded = TextEncoder::new().encode_to_string(&self.registry.gather());
        encoded.unwrap_or_else(|error| {
            tracing::error!(%error, "metrics cannot be encoded");
            String::new()
        })
    }

    /// The series of a counter or gauge now: their labels, and their values.
    pub fn series(&self, name: &str) -> Vec<(BTreeMap<String, String>, u64)> {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name);
        let metrics = family.map_or(&[][..], MetricFamily::get_metric);
        let series = metrics.iter().map(|metric| {
            let labels = metric.get_label().iter();
            let labels = labels.map(|label| (label.name().to_owned(), label.value().to_owned()));
            // A metric is one of the two, and the other is 0.
            let value = metric.get_counter().get_value() + metric.get_gauge().get_value();
            (labels.collect(), value as u64)
        });
        series.collect()
    }

    fn set_ebpf(&self, stats: &EbpfStats) {
        let gauge = |value: u64| value.try_into().unwrap_or(i64::MAX);
        self.ebpf_connects.reset();
        for row in &stats.connects {
            self.ebpf_connects
                .with_label_values(&[row.outcome, row.reason])
                .inc_by(row.count);
        }
        for row in &stats.maps {
            self.ebpf_map_entries
                .with_label_values(&[row.map])
                .set(gauge(row.entries));
            self.ebpf_map_max_entries
                .with_label_values(&[row.map])
                .set(gauge(row.max_entries));
        }
    }

    /// Every `nodetls_` metric, sorted by name.
    pub fn describe(&self) -> Vec<Description> {
        let mut descriptions = self.descriptions.clone();
        descriptions.sort_by(|a, b| a.name.cmp(&b.name));
        descriptions
    }
}

fn tls_info(all: &mut Registrar) -> Result<(), Error> {
    let info = all.gauges(
        "tls_info",
        "The TLS library's cryptography, and what is offered where no policy says otherwise; always 1.",
        &["provider", "fips", "versions", "groups"],
    )?;
    let (fips, groups) = (tls::is_fips(), tls::default_groups().join(","));
    info.with_label_values(&["aws-lc-rs", &fips.to_string(), "TLSv1.2,TLSv1.3", &groups])
        .set(1);
    Ok(())
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
