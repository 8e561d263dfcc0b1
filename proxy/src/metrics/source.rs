//! How well the objects' source is in step with the API server.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::{Error, Gauge, IntGaugeVec};

use super::registrar::Registrar;
use crate::source::kube::State;

pub(super) struct SourceMetrics {
    state: State,
    last_sync: Gauge,
    crd: IntGaugeVec,
    watch_failed: IntGaugeVec,
}

impl SourceMetrics {
    pub(super) fn new(all: &mut Registrar) -> Result<Self, Error> {
        Ok(Self {
            state: State::default(),
            last_sync: all.seconds(
                "config_last_sync_timestamp_seconds",
                "When the configuration was last known to be the API server's, in Unix time; 0 without a cluster.",
            )?,
            crd: all.gauges(
                "crd_state",
                "What the API server says of BackendTLSPolicy: served, absent, unsupported or terminating; always 1.",
                &["state"],
            )?,
            watch_failed: all.gauges(
                "watch_failed",
                "1 while a resource can't be watched at the API server.",
                &["resource"],
            )?,
        })
    }

    pub(super) fn set(&mut self, state: &State) {
        self.crd.reset();
        if let Some(crd) = &state.crd {
            self.crd.with_label_values(&[crd.as_str()]).set(1);
        }
        self.watch_failed.reset();
        for resource in state.failures.keys() {
            let labels = [resource.as_str()];
            self.watch_failed.with_label_values(&labels).set(1);
        }
        self.state = state.clone();
    }

    /// Time goes on while the state stays.
    pub(super) fn refresh(&self) {
        let synced = self.state.last_sync(SystemTime::now());
        if let Some(since) = synced.and_then(|at| at.duration_since(UNIX_EPOCH).ok()) {
            self.last_sync.set(since.as_secs_f64());
        }
    }
}
