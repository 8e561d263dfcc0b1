//! Addresses of a Service that was deleted, or has others now. kube-proxy's rules and DNS lead to its endpoints for a
//! moment longer, and it may come back at once: until then its policy holds for them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::policy::{Objects, PolicyStatus, Snapshot, Target, addresses};

/// kube-proxy writes its rules a second after a change by default (`minSyncPeriod`); busy, some more.
const LINGER: Duration = Duration::from_secs(5);

/// Since when which addresses have been nobody's.
#[derive(Default)]
pub(super) struct Linger(BTreeMap<SocketAddr, Instant>);

impl Linger {
    /// Adds to `next` what `before` had and only the Service's absence takes away.
    pub(super) fn keep(
        &mut self,
        before: &Snapshot,
        next: &mut Snapshot,
        statuses: &[Arc<PolicyStatus>],
        objects: &Objects,
    ) {
        let since = std::mem::take(&mut self.0);
        // An endpoint's address may be another pod's by now.
        let gone = before.targets.iter().filter(|(_, target)| !target.headless);
        let gone = gone.filter(|(address, _)| !next.targets.contains_key(address));
        let gone = gone.filter(|(_, target)| is_named(statuses, target));
        let mut left: BTreeMap<_, _> = gone.map(|(a, t)| (*a, Arc::clone(t))).collect();
        if left.is_empty() {
            return;
        }
        for address in objects.services.values().flat_map(|one| addresses(one)) {
            left.remove(&address);
        }
        let now = Instant::now();
        for (address, target) in left {
            let since = since.get(&address).copied().unwrap_or(now);
            if since.elapsed() < LINGER {
                self.0.insert(address, since);
                next.targets.insert(address, target);
            }
        }
    }

    /// Takes out of `snapshot` what has lingered; whether there was any. To be called now and then.
    pub(super) fn expire(&mut self, snapshot: &mut Arc<Snapshot>) -> bool {
        let over = |_: &SocketAddr, since: &mut Instant| since.elapsed() >= LINGER;
        let over: Vec<_> = self.0.extract_if(.., over).collect();
        for (address, _) in &over {
            Arc::make_mut(snapshot).targets.remove(address);
        }
        !over.is_empty()
    }
}

/// Whether the target's policy still names its Service, which need not be there.
fn is_named(statuses: &[Arc<PolicyStatus>], target: &Target) -> bool {
    let found = statuses.binary_search_by(|status| status.policy.cmp(&target.policy));
    found.is_ok_and(|place| {
        let mut ancestors = statuses[place].ancestors.iter();
        ancestors.any(|ancestor| *ancestor.service == *target.service.name)
    })
}
