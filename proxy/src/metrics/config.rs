//! The configuration in force: how old it is, and what stands out in it.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::{Error, Gauge, IntGauge, IntGaugeVec};

use super::registrar::Registrar;
use super::target::SERVICE;
use crate::policy::{CaBundle, Snapshot, ValidationMode};
use crate::tls::describe::not_after;

pub(super) struct ConfigMetrics {
    last_applied: Gauge,
    generation: IntGauge,
    insecure_policies: IntGaugeVec,
    ca_not_after: IntGaugeVec,
    /// By the bundle's place in memory.
    ca_ends: HashMap<usize, (Weak<CaBundle>, Option<i64>)>,
}

impl ConfigMetrics {
    pub(super) fn new(all: &mut Registrar) -> Result<Self, Error> {
        Ok(Self {
            last_applied: all.seconds(
                "config_last_applied_timestamp_seconds",
                "When the configuration in force was applied, in Unix time.",
            )?,
            generation: all.gauge(
                "config_generation",
                "Number of the configuration in force, counted from the start of the process.",
            )?,
            insecure_policies: all.gauges(
                "insecure_policies",
                "A BackendTLSPolicy in force that asks for less than full verification of the server; always 1.",
                &["policy_namespace", "policy", "mode"],
            )?,
            ca_not_after: all.gauges(
                "ca_certificate_not_after_timestamp_seconds",
                "When the first of the CA certificates that a Service's policy names expires, in Unix time; none of \
                 the system's.",
                &SERVICE,
            )?,
            ca_ends: HashMap::new(),
        })
    }

    pub(super) fn applied(
        &mut self,
        generation: u64,
        snapshot: &Snapshot,
        system_roots: Option<&Arc<CaBundle>>,
    ) {
        self.insecure_policies.reset();
        self.ca_not_after.reset();
        for target in snapshot.distinct() {
            let Ok(origination) = &target.plan else {
                continue;
            };
            let (policy, mode) = (&target.policy, origination.options.validation_mode);
            if mode != ValidationMode::Standard {
                self.insecure_policies
                    .with_label_values(&[&*policy.namespace, &policy.name, mode.as_str()])
                    .set(1);
            }
            let roots = &origination.roots;
            let of_system = system_roots.is_some_and(|system| Arc::ptr_eq(system, roots));
            if !of_system && let Some(end) = self.ca_end(roots) {
                let (service, port) = (&target.service, target.port.to_string());
                let labels = [&*service.namespace, &service.name, &port];
                self.ca_not_after.with_label_values(&labels).set(end);
            }
        }
        self.ca_ends
            .retain(|_, (bundle, _)| bundle.strong_count() > 0);
        self.generation
            .set(generation.try_into().unwrap_or(i64::MAX));
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        self.last_applied.set(now.unwrap_or_default().as_secs_f64());
    }

    /// When the first of a bundle's certificates expires.
    fn ca_end(&mut self, bundle: &Arc<CaBundle>) -> Option<i64> {
        let read = || {
            let end = bundle.certificates.iter().filter_map(not_after).min();
            (Arc::downgrade(bundle), end)
        };
        let place = Arc::as_ptr(bundle).addr();
        let known = self.ca_ends.entry(place);
        let known = known.and_modify(|known| {
            // Another bundle has come to the place of one that is gone.
            if known.0.strong_count() == 0 {
                *known = read();
            }
        });
        known.or_insert_with(read).1
    }
}
