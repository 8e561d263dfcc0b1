//! Which targets are left out where not all fit: so that no namespace keeps those of others from being in force.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use crate::policy::Target;

/// The addresses of `targets` for which there is no room among `capacity`. Each namespace has the same share, and what it
/// does not need is the others'; within one, those that are in force come first.
pub(crate) fn left_out(
    targets: &BTreeMap<SocketAddr, Arc<Target>>,
    capacity: usize,
    in_force: impl Fn(SocketAddr) -> bool,
) -> BTreeSet<SocketAddr> {
    if targets.len() <= capacity {
        return BTreeSet::new();
    }
    let mut of_namespace: BTreeMap<&str, Vec<SocketAddr>> = BTreeMap::new();
    for (address, target) in targets {
        let of_this = of_namespace.entry(&target.service.namespace).or_default();
        of_this.push(*address);
    }
    let share = share(of_namespace.values().map(Vec::len).collect(), capacity);
    let mut out = BTreeSet::new();
    for addresses in of_namespace.values_mut() {
        addresses.sort_by_key(|address| !in_force(*address));
        out.extend(addresses.drain(share.min(addresses.len())..));
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
        "{} addresses are targeted, but the map TARGETS holds {capacity}: left out are {}; have fewer policies on large \
         headless Services there",
        targets.len(),
        of_namespace.collect::<Vec<_>>().join(", ")
    )
}

/// The most that each may have if together they are to have no more than `capacity`.
fn share(mut wanted: Vec<usize>, capacity: usize) -> usize {
    wanted.sort_unstable();
    let mut room = capacity;
    for (before, want) in wanted.iter().enumerate() {
        let share = room / (wanted.len() - before);
        if *want > share {
            return share;
        }
        room -= want;
    }
    capacity
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_wants_little_gets_all_of_it() {
        assert_eq!(share(vec![100, 3, 60], 63), 30);
        assert_eq!(share(vec![100, 3], 63), 60);
        assert_eq!(share(vec![10, 20, 30], 60), 60);
        assert_eq!(share(vec![1, 1, 1], 2), 0);
        assert_eq!(share(vec![], 2), 2);
    }
}
