//! Which targets are left out where not all fit: so that one namespace does not take the room of others.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::iter::once;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::policy::Target;

/// Of each four places that others leave, one namespace may have three.
const SHARE: usize = 3;

/// The addresses of `targets` for which there is no room among `capacity`. What is in force stays. Of the others those of
/// the namespaces with the fewest come first, as long as their namespace, or another one that claims the address, does not
/// have its share.
pub(crate) fn left_out(
    targets: &BTreeMap<SocketAddr, Arc<Target>>,
    capacity: usize,
    in_force: impl Fn(SocketAddr) -> bool,
) -> BTreeSet<SocketAddr> {
    let mut out = BTreeSet::new();
    // Whoever has them all has less than the share.
    if targets.len() <= capacity / 2 {
        return out;
    }
    let mut wanted: HashMap<&str, usize> = HashMap::new();
    for target in targets.values() {
        *wanted.entry(&target.service.namespace).or_default() += 1;
    }
    let (kept, mut new): (Vec<_>, Vec<_>) =
        targets.iter().partition(|(address, _)| in_force(**address));
    new.sort_by_cached_key(|(_, target)| wanted[&*target.service.namespace]);
    let (mut room, mut taken) = (capacity, HashMap::<&str, usize>::new());
    for (address, target) in kept.into_iter().chain(new) {
        let own = &*target.service.namespace;
        let has = |namespace: &str| taken.get(namespace).copied().unwrap_or_default();
        let mut claimants = once(own).chain(target.contested_by.iter().map(|other| &**other));
        let charged = match in_force(*address) && room > 0 {
            true => Some(own),
            false => claimants.find(|namespace| has(namespace) < SHARE * room),
        };
        match charged {
            Some(namespace) => {
                *taken.entry(namespace).or_default() += 1;
                room -= 1;
            }
            None => _ = out.insert(*address),
        }
    }
    out
}

/// What is left out, for people.
pub(crate) fn describe(
    targets: &BTreeMap<SocketAddr, Arc<Target>>,
    capacity: usize,
    left_out: &BTreeSet<SocketAddr>,
) -> String {
    let mut of_namespace: BTreeMap<&str, usize> = BTreeMap::new();
    for target in left_out.iter().filter_map(|address| targets.get(address)) {
        let of_this = of_namespace.entry(&target.service.namespace).or_default();
        *of_this += 1;
    }
    let of_namespace = of_namespace.iter();
    let of_namespace =
        of_namespace.map(|(namespace, count)| format!("{count} of namespace {namespace}"));
    format!(
        "{} addresses are targeted, while the map TARGETS holds {capacity}, of which a namespace has three quarters of what \
         others leave at most: left out are {}; have fewer policies on large headless Services there",
        targets.len(),
        of_namespace.collect::<Vec<_>>().join(", ")
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::policy::{ObjectName, Refusal, Upstream};

    fn target(namespace: &str, contested_by: &[&str]) -> Arc<Target> {
        let refusal = Refusal {
            reason: "Test",
            message: String::new(),
        };
        Arc::new(Target {
            service: ObjectName::new(namespace, "s"),
            port: 1,
            policy: ObjectName::new(namespace, "p"),
            policy_uid: None,
            plan: Err(refusal),
            upstream: Upstream::ServiceAddress,
            headless: true,
            contested_by: contested_by.iter().map(|name| Arc::from(*name)).collect(),
        })
    }

    fn address(number: u16) -> SocketAddr {
        ([10, 0, 0, 1], number).into()
    }

    type Targets = BTreeMap<SocketAddr, Arc<Target>>;

    /// `count` of one namespace, with the ports from `first` on.
    fn of(namespace: &str, first: u16, count: u16) -> Targets {
        let target = target(namespace, &[]);
        let ports = first..first + count;
        ports
            .map(|port| (address(port), Arc::clone(&target)))
            .collect()
    }

    #[test]
    fn all_that_fits_is_in() {
        assert!(left_out(&of("a", 0, 50), 100, |_| false).is_empty());
        assert!(left_out(&of("a", 0, 75), 100, |_| false).is_empty());
    }

    #[test]
    fn one_namespace_leaves_a_quarter_to_others_whoever_comes_first() {
        let mut targets = of("greedy", 0, 200);
        assert_eq!(left_out(&targets, 100, |_| false).len(), 125);
        // It has its share, and keeps it.
        let in_force = |address: SocketAddr| address.port() < 75;
        targets.extend(of("small", 200, 10));
        let out = left_out(&targets, 100, in_force);
        assert_eq!(out.len(), 125);
        assert!(
            out.iter()
                .all(|address| (75..200).contains(&address.port()))
        );
    }

    #[test]
    fn what_is_in_force_stays_whatever_else_there_is() {
        let mut targets = of("a", 0, 90);
        let in_force = |address: SocketAddr| address.port() < 90;
        targets.extend(of("b", 90, 90));
        targets.extend(of("c", 180, 2));
        let out = left_out(&targets, 100, in_force);
        assert!(out.iter().all(|address| address.port() >= 90));
        assert!(!out.contains(&address(180)) && !out.contains(&address(181)));
    }

    #[test]
    fn who_claims_anothers_address_does_not_have_it_left_out() {
        let mut targets = of("greedy", 0, 200);
        targets.insert(address(300), target("greedy", &["victim"]));
        assert!(!left_out(&targets, 100, |_| false).contains(&address(300)));
    }
}
