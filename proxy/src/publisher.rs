//! Brings a compiled snapshot into force, in the order that never leaves a gap: a target is known to the proxy before
//! the kernel turns connections to it, and leaves the kernel before it leaves the proxy.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nodetls_ebpf::{Address, CANARY_ID, IdRange, MAX_TARGETS};
use tokio::sync::watch;

use crate::addr::OriginalDst;
use crate::failure::{Failure, Reason};
use crate::metrics::Metrics;
use crate::policy::{Snapshot, Target};
use crate::proxy::{Route, Routes};
use crate::redirect::{Epoch, Maps, TargetIds, address_key, address_of};
use crate::room::left_out;
use crate::tls::{TlsClient, TlsClients};

/// How many addresses can be targeted: two entries of TARGETS are the canary's, one for each family.
pub(crate) const CAPACITY: usize = MAX_TARGETS as usize - 2;
/// How long the proxy still serves a target that left the kernel: connects may be under way.
const RETIREMENT: Duration = Duration::from_secs(10);

/// The one writer of TARGETS and IDS, and of the proxy's routes.
pub struct Publisher {
    range: IdRange,
    ids: TargetIds,
    published: BTreeMap<SocketAddr, Arc<Route>>,
    retired: Vec<(Instant, Arc<Route>)>,
    /// Who still goes by an id that was freed.
    freed: HashMap<u32, Weak<Route>>,
    tls: TlsClients,
    metrics: Arc<Metrics>,
    routes: watch::Sender<Arc<Routes>>,
}

impl Publisher {
    /// Goes on from what is pinned.
    pub fn new(maps: &Maps, range: IdRange, metrics: Arc<Metrics>) -> Self {
        let none = Routes {
            ids: range,
            by_id: HashMap::new(),
        };
        Self {
            range,
            ids: TargetIds::read(maps, range),
            published: BTreeMap::new(),
            retired: Vec::new(),
            freed: HashMap::new(),
            tls: TlsClients::default(),
            metrics,
            routes: watch::Sender::new(Arc::new(none)),
        }
    }

    /// What the proxy follows.
    pub fn routes(&self) -> watch::Receiver<Arc<Routes>> {
        self.routes.subscribe()
    }

    /// Reads the pinned ids again, after another agent has written some.
    pub fn read_ids(&mut self, maps: &Maps) {
        self.ids = TargetIds::read(maps, self.range);
    }

    /// Brings `snapshot` into force. Returns what did not fit, and was not in force before. `complete` is false when it may
    /// lack targets because something could not be read: then those that an earlier agent published stay targets, and are
    /// refused.
    ///
    /// After an error what was in force before still is, but for new ids; unless the kernel refuses a write to TARGETS,
    /// which leaves the rest of the new targets unpublished.
    ///
    /// # Errors
    /// When another agent owns the maps now, all ids are in use, or the kernel refuses a write.
    pub fn publish(
        &mut self,
        maps: &mut Maps,
        epoch: &Epoch,
        snapshot: &Snapshot,
        complete: bool,
    ) -> Result<BTreeSet<SocketAddr>> {
        let _charge = epoch.hold(maps)?;
        let before = read_targets(maps);
        let in_force = |address| before.contains_key(&address);
        let left_out = left_out(&snapshot.targets, CAPACITY, in_force);
        let next = self.build(maps, snapshot, &left_out)?;
        let plans = snapshot.distinct();
        let plans = plans.filter_map(|target| target.plan.as_ref().ok());
        self.tls.retain(plans);
        let mut gone = std::mem::replace(&mut self.published, next);
        gone.retain(|address, _| !self.published.contains_key(address));
        let now = Instant::now();
        self.retired
            .extend(gone.values().map(|route| (now, Arc::clone(route))));
        self.send();
        // First, since old and new together may not fit. Whoever is under way still finds the old in the proxy.
        self.remove_others(maps, &before, &gone, complete)?;
        for (address, route) in &self.published {
            if before.get(address) == Some(&route.id) {
                continue;
            }
            maps.targets
                .insert(address_key(*address), route.id, 0)
                .with_context(|| format!("{address} can't be written to the map TARGETS"))?;
        }
        self.metrics
            .targets_published
            .set(i64::try_from(self.published.len()).unwrap_or(i64::MAX));
        Ok(left_out)
    }

    /// How many of its addresses are not in force.
    pub fn missing(&self, snapshot: &Snapshot) -> usize {
        let addresses = snapshot.targets.keys();
        let is_missing = |address: &&SocketAddr| !self.published.contains_key(*address);
        addresses.filter(is_missing).count()
    }

    /// Forgets targets that left the kernel a while ago. To be called now and then.
    pub fn expire_retired(&mut self) {
        let expired = |(since, _): &mut (Instant, _)| since.elapsed() >= RETIREMENT;
        let expired: Vec<_> = self.retired.extract_if(.., expired).collect();
        if expired.is_empty() {
            return;
        }
        let port = |route: &Route| (route.target.service.clone(), route.target.port);
        let published: HashSet<_> = self.published.values().map(|route| port(route)).collect();
        self.freed.retain(|_, route| route.strong_count() > 0);
        for (_, route) in expired {
            self.freed.insert(route.id, Arc::downgrade(&route));
            let (service, port) = port(&route);
            if !published.contains(&(service.clone(), port)) {
                self.metrics.forget(&service.namespace, &service.name, port);
            }
        }
        self.send();
    }

    fn build(
        &mut self,
        maps: &mut Maps,
        snapshot: &Snapshot,
        left_out: &BTreeSet<SocketAddr>,
    ) -> Result<BTreeMap<SocketAddr, Arc<Route>>> {
        let mut taken = Vec::new();
        let targets = snapshot.targets.iter();
        let fitting = targets.filter(|(address, _)| !left_out.contains(address));
        let routes = fitting.map(|(address, target)| {
            let id = self.id(maps, *address, &mut taken)?;
            let route = match self.published.get(address) {
                Some(route) if route.id == id && route.target == *target => Arc::clone(route),
                _ => self.build_route(id, *address, target),
            };
            Ok((*address, route))
        });
        let routes: Result<_> = routes.collect();
        if routes.is_err() {
            // Else they would be in use for ever, if these targets are never published.
            for address in taken {
                self.ids.free(maps, address)?;
            }
        }
        routes
    }

    /// Also of those that have an id: another agent may have freed it.
    fn id(
        &mut self,
        maps: &mut Maps,
        address: SocketAddr,
        taken: &mut Vec<Address>,
    ) -> Result<u32> {
        let freed = &self.freed;
        let in_use = |id| freed.get(&id).is_some_and(|route| route.strong_count() > 0);
        let address = address_key(address);
        let (id, new) = self.ids.allocate(maps, address, in_use)?;
        if new {
            taken.push(address);
        }
        Ok(id)
    }

    fn build_route(&self, id: u32, address: SocketAddr, target: &Arc<Target>) -> Arc<Route> {
        let service = &target.service;
        let metrics = self
            .metrics
            .target(&service.namespace, &service.name, target.port);
        let (original_dst, target) = (OriginalDst(address), Arc::clone(target));
        let tls = self.tls_client(&target);
        Arc::new(Route::new(id, original_dst, target, tls, metrics))
    }

    fn tls_client(&self, target: &Target) -> Result<Arc<TlsClient>, Failure> {
        match &target.plan {
            Ok(origination) => self.tls.get_or_create(origination),
            Err(refusal) => {
                let detail = format!(
                    "policy {}: {}: {}",
                    target.policy, refusal.reason, refusal.message
                );
                Err(Failure::new(Reason::PolicyRefused, detail))
            }
        }
    }

    /// Removes what is `gone`, and what an earlier agent left in the map, if nothing is missing.
    fn remove_others(
        &mut self,
        maps: &mut Maps,
        before: &HashMap<SocketAddr, u32>,
        gone: &BTreeMap<SocketAddr, Arc<Route>>,
        complete: bool,
    ) -> Result<()> {
        let is_other = |address: &SocketAddr| match complete {
            true => !self.published.contains_key(address),
            false => gone.contains_key(address),
        };
        for address in before.keys().filter(|address| is_other(address)) {
            let key = address_key(*address);
            maps.targets.remove(&key)?;
            self.ids.free(maps, key)?;
        }
        Ok(())
    }

    fn send(&self) {
        let retired = self.retired.iter().map(|(_, route)| route);
        // A published route comes last: it wins over a retired one of the same id.
        let by_id = retired
            .chain(self.published.values())
            .map(|route| (route.id, Arc::clone(route)));
        self.routes.send_replace(Arc::new(Routes {
            ids: self.range,
            by_id: by_id.collect(),
        }));
    }
}

/// All of TARGETS but the canary's entries.
fn read_targets(maps: &Maps) -> HashMap<SocketAddr, u32> {
    let entries = maps.targets.iter().flatten();
    let targets = entries.filter(|(_, id)| *id != CANARY_ID);
    targets.map(|(key, id)| (address_of(key), id)).collect()
}
