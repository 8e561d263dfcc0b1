//! Tells the outside how well the source is in step: the state value, and a log line for what changed of it.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch as latest;

use super::driver::Driver;
use super::{State, Synced, WatchFailure};
use crate::metrics::Metrics;
use crate::readiness::Readiness;

/// Under which readiness tells of the API server.
const API_SERVER: &str = "API server";

/// Shows the state as metrics and as a note beside readiness, and its problems to `show`, until nobody sets it any more.
pub(crate) async fn follow(
    mut state: latest::Receiver<State>,
    metrics: Arc<Metrics>,
    readiness: Readiness,
    show: impl Fn(Vec<String>),
) {
    loop {
        let now = state.borrow_and_update().clone();
        metrics.set_source(&now);
        let problems = now.problems();
        if problems.is_empty() {
            readiness.clear_note(API_SERVER);
        } else {
            readiness.set_note(API_SERVER, problems.join("; "));
        }
        show(problems);
        if state.changed().await.is_err() {
            return;
        }
    }
}

/// What can't be watched now.
pub(super) fn failures(driver: &Driver) -> impl Iterator<Item = &WatchFailure> {
    let policies = driver.policies.as_ref();
    let pods = driver.pods.as_ref();
    [
        driver.crd.store.failure.as_ref(),
        policies.and_then(|(_, watched)| watched.store.failure.as_ref()),
        driver.services.store.failure.as_ref(),
        driver.endpoint_slices.store.failure.as_ref(),
        driver.namespaces.store.failure.as_ref(),
        driver.config_maps.store.failure.as_ref(),
        pods.and_then(|watched| watched.store.failure.as_ref()),
    ]
    .into_iter()
    .flatten()
}

/// Shows the state, if it is another than before.
pub(super) fn report(driver: &Driver, to: &latest::Sender<State>) {
    let next = state(driver, &to.borrow());
    to.send_if_modified(|before| {
        let changed = *before != next;
        if changed {
            log(before, &next);
            *before = next;
        }
        changed
    });
}

fn state(driver: &Driver, before: &State) -> State {
    let policies = driver.policies.as_ref();
    let pods = driver.pods.as_ref();
    let in_step = driver.synced == Synced::Live
        && driver.crd.store.watching
        && driver.services.store.watching
        && driver.endpoint_slices.store.watching
        && driver.namespaces.store.watching
        && driver.config_maps.store.watching
        && pods.is_none_or(|watched| watched.store.watching)
        && policies.is_none_or(|(_, watched)| watched.store.watching);
    let left_step = match before.in_step {
        _ if in_step => None,
        true => Some(SystemTime::now()),
        false => before.left_step,
    };
    let crd = driver.crd();
    let vouched = crd.as_ref().is_none_or(|crd| crd.vouches());
    let failures = failures(driver);
    State {
        synced: driver.synced,
        frozen: !vouched && !driver.known.is_empty(),
        crd,
        in_step,
        left_step,
        failures: failures.map(|f| (f.resource, f.clone())).collect(),
        cache_failure: driver.cache_failure.clone(),
    }
}

fn log(before: &State, now: &State) {
    if now.synced != before.synced {
        match now.synced {
            Synced::No => {}
            Synced::Cached { written } => {
                let age = SystemTime::now()
                    .duration_since(written)
                    .unwrap_or_default();
                tracing::warn!(
                    ?age,
                    "the last run's objects are in force: the API server can't be asked"
                );
            }
            Synced::Live => tracing::info!("in step with the API server"),
        }
    }
    if (now.crd != before.crd || now.frozen != before.frozen)
        && let Some(crd) = &now.crd
    {
        let frozen = now.frozen;
        if crd.vouches() {
            tracing::info!("{crd}");
        } else {
            tracing::warn!(frozen, "{crd}");
        }
    }
    for failure in now.failures.values() {
        if before.failures.get(&failure.resource) != Some(failure) {
            tracing::warn!("{failure}");
        }
    }
    for resource in before.failures.keys() {
        if !now.failures.contains_key(resource) {
            tracing::info!(%resource, "watched again");
        }
    }
    if let Some(failure) = &now.cache_failure
        && now.cache_failure != before.cache_failure
    {
        tracing::warn!("{failure}");
    }
}
