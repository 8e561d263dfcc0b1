//! From objects to what is in force, and what is told of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::time::Instant;

use super::report::{conditions, log_status};
use super::{Agent, MANIFESTS, RECONCILE, TARGETS};
use crate::policy::{ObjectName, PolicyStatus};
use crate::publisher::CAPACITY;
use crate::room::describe;
use crate::source::Update;

impl Agent {
    /// Compiles, and publishes if we are in charge.
    pub(super) fn apply(&mut self, update: &Update) {
        for error in &update.errors {
            tracing::error!("{error}");
        }
        self.metrics
            .config_errors
            .set(i64::try_from(update.errors.len()).unwrap_or(i64::MAX));
        let unreadable = update.errors.iter().map(ToString::to_string).collect();
        self.live.update(|facts| facts.unreadable = unreadable);
        let compiled = self.compiler().compile(&update.objects, &self.installation);
        let mut snapshot = compiled.snapshot;
        let (before, statuses) = (&self.snapshot, &compiled.statuses);
        let objects = &update.objects;
        self.linger.keep(before, &mut snapshot, statuses, objects);
        self.report(compiled.statuses, &update.policy_files);
        self.snapshot = Arc::new(snapshot);
        self.keeper.follow(&self.snapshot, &update.secrets);
        self.complete |= update.complete;
        match update.errors.first() {
            // An agent before us may have read it: what it published stays refused until we can.
            Some(error) if !self.complete => {
                self.readiness.set_problem(MANIFESTS, error.to_string());
            }
            _ => self.readiness.clear(MANIFESTS),
        }
        if self.in_charge() {
            self.publish();
        }
    }

    /// What can't be published changes nothing that is in force.
    pub(super) fn publish(&mut self) {
        let (publisher, maps) = (&mut self.publisher, &mut self.maps);
        match publisher.publish(maps, &self.epoch, &self.snapshot, self.complete) {
            Ok(left_out) => {
                self.published = true;
                self.earlier.start_again();
                self.publish_again = None;
                self.generation += 1;
                let system = self.installation.system_roots.as_ref();
                self.metrics
                    .config_applied(self.generation, &self.snapshot, system);
                self.readiness.clear(TARGETS);
                self.tell_left_out(&left_out);
                self.count_audited();
                let targets = self.snapshot.targets.len() - left_out.len();
                tracing::info!(targets, "published");
            }
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "targets can't be published");
                self.readiness.set_problem(TARGETS, format!("{error:#}"));
                self.count_unpublished(self.publisher.missing(&self.snapshot).max(1));
                // A map may have room again, and a freed id have rested.
                self.publish_again = Some(Instant::now() + RECONCILE);
            }
        }
    }

    /// Whose author has written too much: that is no reason to call the node's agent not ready.
    fn tell_left_out(&self, left_out: &BTreeSet<SocketAddr>) {
        self.count_unpublished(left_out.len());
        let mut in_force = Arc::clone(&self.snapshot);
        let mut text = None;
        if left_out.is_empty() {
            self.readiness.clear_note(TARGETS);
        } else {
            let said = describe(&in_force.targets, CAPACITY, left_out);
            if self.readiness.set_note(TARGETS, &said) {
                tracing::error!("{said}");
            }
            text = Some(said);
            let targets = &mut Arc::make_mut(&mut in_force).targets;
            targets.retain(|address, _| !left_out.contains(address));
        }
        self.live.update(|facts| {
            facts.snapshot = in_force;
            facts.left_out = text;
        });
    }

    fn count_unpublished(&self, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.metrics.targets_unpublished.set(count);
    }

    /// Logs what changed of the policies' statuses, and sets their metrics.
    fn report(&mut self, statuses: Vec<Arc<PolicyStatus>>, files: &BTreeMap<ObjectName, PathBuf>) {
        if *self.statuses == *statuses {
            return;
        }
        let before = &self.statuses;
        let known = |status: &Arc<PolicyStatus>| {
            let place = before.binary_search_by(|other| other.policy.cmp(&status.policy));
            place.is_ok_and(|place| before[place] == *status)
        };
        for status in statuses.iter().filter(|status| !known(status)) {
            log_status(status, files.get(&status.policy));
        }
        let conditions: Vec<_> = statuses.iter().flat_map(|one| conditions(one)).collect();
        self.metrics.set_policy_status(&conditions);
        self.statuses = statuses.into();
        let policies = Arc::clone(&self.statuses);
        self.live.update(|facts| facts.policies = policies);
    }

    fn count_audited(&mut self) {
        if let Some(audit) = &self.audit
            && let Err(error) = audit.count_targets(&mut self.maps)
        {
            tracing::error!(
                error = format!("{error:#}"),
                "what would be redirected can't be counted"
            );
        }
    }

    /// Tells what only shows with time: which handshakes fail.
    pub(super) fn observe(&self) {
        let failing: Arc<[_]> = self.proxy.routes.borrow().failing().into();
        if let Some(cluster) = &self.cluster {
            cluster.events.tell(Arc::clone(&failing));
        }
        let audited = self.audit.as_ref();
        let audited = audited.map(|audit| audit.found(&self.maps, &self.metrics).into());
        self.live.update(|facts| {
            facts.failing = failing;
            facts.audited = audited;
        });
    }
}
