//! Audit mode: nothing is redirected. What would be is counted, and each targeted port is tried: does it speak TLS, and
//! would its certificate pass?

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use aya::maps::PerCpuValues;
use aya::util::nr_cpus;
use futures_util::{StreamExt as _, stream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::task::AbortOnDropHandle;

use crate::failure::Failure;
use crate::metrics::{Audited, Metrics};
use crate::pods::Pod;
use crate::policy::{ObjectName, Target};
use crate::proxy::{Dialer, Route, Routes, probe};
use crate::redirect::Maps;

/// How long a result counts. Every node tries every port, so not often.
const AGAIN: Duration = Duration::from_secs(600);
/// Ports tried at a time.
const PARALLEL: usize = 4;
/// Changes come in groups.
const DEBOUNCE: Duration = Duration::from_millis(100);

type Port = (ObjectName, u16);
type Results = BTreeMap<Port, Result<(), Failure>>;

pub(super) struct Audit {
    routes: watch::Receiver<Arc<Routes>>,
    results: watch::Receiver<Results>,
    _task: AbortOnDropHandle<()>,
}

impl Audit {
    /// Starts to try the targeted ports, from our own netns.
    pub(super) fn start(routes: watch::Receiver<Arc<Routes>>, dialer: Arc<Dialer>) -> Result<Self> {
        let netns = Arc::new(File::open("/proc/self/ns/net")?);
        let pod = Arc::new(Pod::new("(the agent's own)", None, netns));
        let (to, results) = watch::channel(Results::new());
        let task = tokio::spawn(follow(routes.clone(), dialer, pod, to));
        Ok(Self {
            routes,
            results,
            _task: AbortOnDropHandle::new(task),
        })
    }

    /// Has the programs count for every target, and for no other. A count that is there goes on.
    pub(super) fn count_targets(&self, maps: &mut Maps) -> Result<()> {
        let routes = Arc::clone(&self.routes.borrow());
        let counted: HashSet<u32> = maps.audited.keys().flatten().collect();
        for id in counted.iter().filter(|id| !routes.by_id.contains_key(id)) {
            maps.audited.remove(id)?;
        }
        for id in routes.by_id.keys().filter(|id| !counted.contains(id)) {
            let none = PerCpuValues::try_from(vec![0; nr_cpus().map_err(|(_, error)| error)?])?;
            maps.audited.insert(id, none, 0)?;
        }
        Ok(())
    }

    /// What was found so far, by Service and port.
    pub(super) fn found(&self, maps: &Maps, metrics: &Metrics) -> Vec<Audited> {
        let mut found: BTreeMap<Port, u64> = BTreeMap::new();
        for (id, route) in &self.routes.borrow().by_id {
            let connects = maps.audited.get(id, 0);
            let connects = connects.map_or(0, |of_cpus| of_cpus.iter().sum());
            *found.entry(port(route)).or_default() += connects;
        }
        let results = self.results.borrow();
        let rows = found
            .into_iter()
            .map(|((service, port), connects)| Audited {
                probe: results.get(&(service.clone(), port)).cloned(),
                service,
                port,
                connects,
            });
        let rows: Vec<_> = rows.collect();
        metrics.set_audited(&rows);
        rows
    }
}

fn port(route: &Route) -> Port {
    (route.target.service.clone(), route.target.port)
}

/// Tries every port when it is new or its target has changed, and again after a while.
async fn follow(
    mut routes: watch::Receiver<Arc<Routes>>,
    dialer: Arc<Dialer>,
    pod: Arc<Pod>,
    results: watch::Sender<Results>,
) {
    let mut tried: BTreeMap<Port, (Arc<Target>, Instant)> = BTreeMap::new();
    loop {
        let now = Arc::clone(&routes.borrow_and_update());
        let mut due: BTreeMap<Port, Arc<Route>> = BTreeMap::new();
        let mut all = BTreeSet::new();
        for route in now.by_id.values() {
            let fresh = tried
                .get(&port(route))
                .is_some_and(|(before, at)| *before == route.target && at.elapsed() < AGAIN);
            if !fresh {
                due.insert(port(route), Arc::clone(route));
            }
            all.insert(port(route));
        }
        tried.retain(|port, _| all.contains(port));
        results.send_modify(|results| results.retain(|port, _| tried.contains_key(port)));
        let probes = due.into_iter().map(|(port, route)| {
            let (dialer, pod) = (Arc::clone(&dialer), Arc::clone(&pod));
            async move {
                let result = probe(dialer, pod, Arc::clone(&route)).await;
                (port, route, result)
            }
        });
        let mut probes = stream::iter(probes).buffer_unordered(PARALLEL);
        while let Some((port, route, result)) = probes.next().await {
            results.send_modify(|results| drop(results.insert(port.clone(), result)));
            tried.insert(port, (Arc::clone(&route.target), Instant::now()));
        }
        let oldest = tried.values().map(|(_, at)| *at).min();
        tokio::select! {
            changed = routes.changed() => match changed {
                Ok(()) => sleep(DEBOUNCE).await,
                Err(_) => return,
            },
            () = sleep_until(oldest.unwrap_or_else(Instant::now) + AGAIN) => {}
        }
    }
}
