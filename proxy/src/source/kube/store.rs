//! What was listed and watched of one resource.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::WatchFailure;
use super::watch::Signal;
use crate::policy::{BackendTlsPolicy, ObjectName};

/// The objects of one resource, as far as they are known.
#[derive(Clone, Debug)]
pub(super) struct Store<T> {
    pub(super) objects: BTreeMap<ObjectName, T>,
    /// `objects` were complete once.
    pub(super) listed: bool,
    /// Changes come at once.
    pub(super) watching: bool,
    pub(super) failure: Option<WatchFailure>,
}

impl<T> Default for Store<T> {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            listed: false,
            watching: false,
            failure: None,
        }
    }
}

impl<T: PartialEq> Store<T> {
    /// Takes one signal over; true if the objects are others now, or complete for the first time.
    pub(super) fn take(&mut self, signal: Signal<T>) -> bool {
        match signal {
            Signal::Listed(objects) => {
                let changed = !self.listed || self.objects != objects;
                self.objects = objects;
                self.listed = true;
                changed
            }
            Signal::Applied(name, object) => {
                let changed = self.objects.get(&name) != Some(&object);
                self.objects.insert(name, object);
                changed
            }
            Signal::Deleted(name) => self.objects.remove(&name).is_some(),
            Signal::Watching => {
                self.watching = true;
                self.failure = None;
                false
            }
            Signal::Failed(failure) => {
                self.watching = false;
                self.failure = Some(failure);
                false
            }
        }
    }
}

/// The policies in force, when `known` were before and `live` is what the API server shows. Unless that is `complete`
/// and to be believed, a policy that is not shown is still there.
pub(super) fn in_force(
    mut known: BTreeMap<ObjectName, Arc<BackendTlsPolicy>>,
    live: BTreeMap<ObjectName, Arc<BackendTlsPolicy>>,
    complete: bool,
) -> BTreeMap<ObjectName, Arc<BackendTlsPolicy>> {
    if complete {
        return live;
    }
    known.extend(live);
    known
}
