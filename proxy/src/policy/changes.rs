//! Objects by name, as they were and as they are.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

/// An object that is not what it was.
pub(super) struct Change<K, V> {
    pub(super) name: K,
    pub(super) before: Option<V>,
    pub(super) now: Option<V>,
}

type Entry<'a, K, V> = (&'a K, &'a V);

/// An object, by pointer, has one name: that need not be looked at.
pub(super) fn same<K, T>(before: Entry<K, Arc<T>>, now: Entry<K, Arc<T>>) -> bool {
    Arc::ptr_eq(before.1, now.1)
}

/// What is other in `now` than in `seen`, which is brought up to date. What is the `same` is not compared.
pub(super) fn changes<K: Clone + Ord, V: Clone + PartialEq>(
    seen: &mut BTreeMap<K, V>,
    now: &BTreeMap<K, V>,
    same: fn(Entry<K, V>, Entry<K, V>) -> bool,
) -> Vec<Change<K, V>> {
    let mut differing = Vec::new();
    let (mut before, mut after) = (seen.iter().peekable(), now.iter().peekable());
    loop {
        // Both are sorted by name.
        let order = match (before.peek(), after.peek()) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(before), Some(after)) if same(*before, *after) => Ordering::Equal,
            (Some(before), Some(after)) => before.0.cmp(after.0),
        };
        let before = before.next_if(|_| order.is_le());
        let now = after.next_if(|_| order.is_ge());
        if let (Some(before), Some(now)) = (before, now)
            && same(before, now)
        {
            continue;
        }
        let Some((name, _)) = before.or(now) else {
            break;
        };
        differing.push(Change {
            name: name.clone(),
            before: before.map(|(_, before)| before.clone()),
            now: now.map(|(_, now)| now.clone()),
        });
    }
    if differing.len() > now.len() / 8 {
        seen.clone_from(now); // of many, the faster way
    } else {
        for change in &differing {
            match &change.now {
                Some(now) => _ = seen.insert(change.name.clone(), now.clone()),
                None => _ = seen.remove(&change.name),
            }
        }
    }
    differing.retain(|change| change.before != change.now);
    differing
}

/// Enters all, which replace others of their keys.
pub(super) fn extend<K: Ord, V>(map: &mut BTreeMap<K, V>, entries: Vec<(K, V)>) {
    if entries.len() > map.len() / 8 {
        map.append(&mut entries.into_iter().collect()); // of many, the faster way
    } else {
        map.extend(entries);
    }
}
