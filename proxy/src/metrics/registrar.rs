//! Makes metrics, registers them and keeps what documentation needs.

use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::{
    Error, Gauge, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry,
};

use super::{Description, Role};

const PREFIX: &str = "nodetls";

pub(super) struct Registrar {
    pub(super) registry: Registry,
    pub(super) descriptions: Vec<Description>,
    /// Whose metrics are made now.
    pub(super) of: &'static [Role],
    role: Role,
}

impl Registrar {
    /// Registers the metrics of `role`; those of others are made, but not shown.
    pub(super) fn new(role: Role) -> Self {
        Self {
            registry: Registry::default(),
            descriptions: Vec::new(),
            of: Role::ALL,
            role,
        }
    }

    /// The usual `process_*` metrics (CPU, memory, file descriptors).
    pub(super) fn process(&self) -> Result<(), Error> {
        self.registry
            .register(Box::new(ProcessCollector::for_self()))
    }

    pub(super) fn counter(&mut self, name: &str, help: &str) -> Result<IntCounter, Error> {
        self.add("counter", IntCounter::with_opts(opts(name, help))?)
    }

    pub(super) fn counters(
        &mut self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntCounterVec, Error> {
        self.add("counter", IntCounterVec::new(opts(name, help), labels)?)
    }

    pub(super) fn gauge(&mut self, name: &str, help: &str) -> Result<IntGauge, Error> {
        self.add("gauge", IntGauge::with_opts(opts(name, help))?)
    }

    pub(super) fn gauges(
        &mut self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntGaugeVec, Error> {
        self.add("gauge", IntGaugeVec::new(opts(name, help), labels)?)
    }

    /// A gauge with fractions.
    pub(super) fn seconds(&mut self, name: &str, help: &str) -> Result<Gauge, Error> {
        self.add("gauge", Gauge::with_opts(opts(name, help))?)
    }

    pub(super) fn histograms(
        &mut self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: &[f64],
    ) -> Result<HistogramVec, Error> {
        let opts = HistogramOpts::from(opts(name, help)).buckets(buckets.to_vec());
        self.add("histogram", HistogramVec::new(opts, labels)?)
    }

    fn add<C: Collector + Clone + 'static>(
        &mut self,
        kind: &'static str,
        c: C,
    ) -> Result<C, Error> {
        if self.of.contains(&self.role) {
            self.registry.register(Box::new(c.clone()))?;
        }
        self.descriptions
            .extend(c.desc().into_iter().map(|desc| Description {
                of: self.of,
                name: desc.fq_name.clone(),
                kind,
                labels: desc.variable_labels.clone(),
                help: desc.help.clone(),
            }));
        Ok(c)
    }
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace(PREFIX)
}
