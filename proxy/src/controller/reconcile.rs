//! What the leader does with the objects: mirrors, statuses, Events.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ApiResource, DeleteParams, Patch, PatchParams};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::sleep;

use super::FIELD_MANAGER;
use super::ca_objects::CaObjects;
use super::error::{TIMEOUT, describe, is_not_found, within};
use super::events::{Events, Notice, notices};
use super::mirror::{diff, mirror};
use super::status_writer::{Outcome, StatusWriter, Wanted};
use crate::policy::{CaName, Compiler, Installation, ObjectName, Objects, ca_names};
use crate::readiness::Readiness;
use crate::source::kube::mirror_name;

/// Under which readiness tells what can't be done.
pub(super) const PROBLEM: &str = "controller";
/// Under which it tells what could not be told: a quota of a tenant may refuse Events, and must keep nobody from being ready.
pub(super) const UNTOLD: &str = "Events";
/// Mirrors, and policies' Events, that are written at a time.
const PARALLEL: usize = 8;
/// First wait after a failure; doubled for each that follows.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// Longest wait after a failure; without one, to see what was edited.
const IDLE: Duration = Duration::from_secs(60);

/// One term of a leader. Nothing of it may be polled or kept when the lease is lost: dropping it ends everything.
pub struct Controller {
    client: Client,
    namespace: String,
    ca_objects: CaObjects,
    ca_secrets: bool,
    statuses: StatusWriter,
    events: Events,
    /// Why an Event could not be written. It is tried again.
    untold: Option<String>,
    installation: Installation,
    compiler: Compiler,
}

/// What could not be done, a sentence each. `None` of them is final.
pub type Failures = Vec<String>;

impl Controller {
    /// `namespace` is nodetls' own, `instance` the pod that this is, `installation` has the trust store of its image.
    /// Unless `ca_secrets`, no Secret is ever asked for.
    pub fn new(
        client: Client,
        namespace: &str,
        instance: &str,
        installation: Installation,
        ca_secrets: bool,
    ) -> Self {
        Self {
            ca_objects: CaObjects::new(client.clone(), namespace),
            ca_secrets,
            statuses: StatusWriter::new(client.clone()),
            events: Events::new(client.clone(), instance),
            untold: None,
            namespace: namespace.to_owned(),
            client,
            installation,
            compiler: Compiler::default(),
        }
    }

    /// Follows the objects until nobody sends them any more.
    pub(super) async fn follow(
        &mut self,
        mut objects: watch::Receiver<Arc<Objects>>,
        readiness: &Readiness,
    ) {
        let mut retry = FIRST_RETRY;
        loop {
            let now = Arc::clone(&objects.borrow_and_update());
            let failures = self.reconcile(&now).await;
            for failure in failures.iter().chain(&self.untold) {
                tracing::error!("{failure}");
            }
            match failures.is_empty() {
                true => readiness.clear(PROBLEM),
                false => drop(readiness.set_problem(PROBLEM, failures.join("; "))),
            }
            match &self.untold {
                None => readiness.clear_note(UNTOLD),
                Some(untold) => drop(readiness.set_note(UNTOLD, untold)),
            }
            let wait = if failures.is_empty() && self.untold.is_none() {
                retry = FIRST_RETRY;
                IDLE
            } else {
                let wait = retry;
                retry = (retry * 2).min(IDLE);
                wait
            };
            tokio::select! {
                changed = objects.changed() => if changed.is_err() { return; },
                () = self.ca_objects.changed() => {}
                () = sleep(wait) => {}
            }
        }
    }

    /// Brings mirrors, statuses and Events up to the objects. What it does not know yet (a ConfigMap whose watch has just
    /// begun) it leaves alone; [`Controller::changed`] tells when to try again.
    pub async fn reconcile(&mut self, objects: &Objects) -> Failures {
        let mut objects = objects.clone();
        objects.ca_secrets = self.ca_secrets;
        let named = ca_names(&objects);
        self.ca_objects
            .follow(&named.values().flatten().cloned().collect());
        let mut failures: Failures = self.ca_objects.failures().cloned().collect();
        failures.extend(self.mirror(&named).await);
        failures.extend(self.status(objects, &named).await);
        failures
    }

    /// Ends when a ConfigMap or Secret has changed, and it is time to reconcile.
    pub async fn changed(&mut self) {
        self.ca_objects.changed().await;
    }

    async fn mirror(&mut self, named: &BTreeMap<ObjectName, BTreeSet<CaName>>) -> Failures {
        let Some(existing) = self.ca_objects.mirrors() else {
            return Failures::new();
        };
        let known = self.ca_objects.known();
        let wanted = named.values().flatten().map(|source| {
            let mirror = known
                .get(source)
                .map(|content| mirror(&self.namespace, source, content.as_ref()));
            (mirror_name(source), mirror)
        });
        let diff = diff(wanted.collect(), existing.iter().map(AsRef::as_ref));
        let api = Api::namespaced(self.client.clone(), &self.namespace);
        let applied = diff.apply.into_iter().map(|mirror| apply(&api, mirror));
        let deleted = diff.delete.into_iter().map(|name| delete(&api, name));
        // Collected, as a stream that maps while it runs would not be Send.
        let (applied, deleted): (Vec<_>, Vec<_>) = (applied.collect(), deleted.collect());
        let applied = stream::iter(applied).buffer_unordered(PARALLEL);
        let deleted = stream::iter(deleted).buffer_unordered(PARALLEL);
        let done = [applied.collect::<Vec<_>>().await, deleted.collect().await].concat();
        done.into_iter().filter_map(Result::err).collect()
    }

    async fn status(
        &mut self,
        mut objects: Objects,
        named: &BTreeMap<ObjectName, BTreeSet<CaName>>,
    ) -> Failures {
        self.untold = None;
        let known = self.ca_objects.known();
        let found = known
            .iter()
            .filter_map(|(name, found)| Some((name.clone(), found.clone()?)));
        objects.ca_objects = found.collect();
        let compiled = self.compiler.compile(&objects, &self.installation);
        let complete = |name| {
            let mut sources = named.get(name).into_iter().flatten();
            sources.all(|source| known.contains_key(source))
        };
        let complete = compiled
            .statuses
            .iter()
            .filter(|status| complete(&status.policy));
        let wanted = complete.filter_map(|compiled| {
            let policy = objects.policies.get(&compiled.policy)?;
            Some(Wanted { policy, compiled })
        });
        let wanted: Vec<_> = wanted.collect();
        self.statuses
            .retain(|name| objects.policies.contains_key(name));
        if wanted.is_empty() {
            return Failures::new();
        }
        let (resource, outcomes) = match self.statuses.write(wanted).await {
            Ok(written) => written,
            Err(error) => return vec![format!("statuses can't be written: {error}")],
        };
        let (mut failures, mut telling) = (Failures::new(), Vec::new());
        for (wanted, outcome) in outcomes {
            let name = &wanted.compiled.policy;
            match outcome {
                Outcome::Right { left_out, .. } => {
                    let notices = notices(wanted.compiled, &left_out);
                    telling.push(tell(&self.events, &resource, wanted, notices));
                }
                Outcome::Outdated => {
                    tracing::debug!(policy = %name, "not the one that was compiled")
                }
                Outcome::Failed(error) => failures.push(format!(
                    "BackendTLSPolicy {name}: its status can't be written: {error}"
                )),
            }
        }
        let told = stream::iter(telling).buffer_unordered(PARALLEL);
        for (name, error) in told.collect::<Vec<_>>().await.into_iter().flatten() {
            self.statuses.forget(name);
            let untold = format!("BackendTLSPolicy {name}: an Event can't be written: {error}");
            self.untold.get_or_insert(untold);
        }
        failures
    }
}

/// The policy, and why its author could not be told.
async fn tell<'a>(
    events: &Events,
    resource: &ApiResource,
    wanted: Wanted<'a>,
    notices: Vec<Notice>,
) -> Option<(&'a ObjectName, String)> {
    let uid = wanted.policy.metadata.uid.as_deref();
    let name = &wanted.compiled.policy;
    let told = events.tell(resource, name, uid, notices).await;
    Some((name, told.err()?))
}

async fn apply(api: &Api<ConfigMap>, mirror: ConfigMap) -> Result<(), String> {
    let name = mirror.metadata.name.clone().unwrap_or_default();
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let patch = Patch::Apply(&mirror);
    match within(TIMEOUT, api.patch(&name, &params, &patch)).await {
        Ok(_) => Ok(()),
        Err(error) => Err(format!(
            "ConfigMap {name} can't be applied: {}",
            describe(&error)
        )),
    }
}

async fn delete(api: &Api<ConfigMap>, name: String) -> Result<(), String> {
    match within(TIMEOUT, api.delete(&name, &DeleteParams::default())).await {
        Ok(_) => Ok(()),
        Err(error) if is_not_found(&error) => Ok(()),
        Err(error) => Err(format!(
            "ConfigMap {name} can't be deleted: {}",
            describe(&error)
        )),
    }
}
