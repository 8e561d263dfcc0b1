//! Objects watched one by one, since a watch of a whole namespace would bring everything that is in it. The price is a
//! connection to the API server for each.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::{Debug, Display};
use std::hash::Hash;
use std::pin::Pin;

use futures_util::{StreamExt as _, pin_mut};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, watch_object};
use kube::{Api, Client};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::policy::ObjectName;

/// Changes that wait to be looked at before the watches wait.
const QUEUE: usize = 1024;

/// Where a watch tells what became of an object; or why it can't be read.
pub(crate) type Changes<N, T> = mpsc::Sender<(N, Result<Option<T>, String>)>;

type Watch = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What is known of objects of type `T`, by names of type `N`. Dropping it ends the watches.
pub(crate) struct Watches<N, T> {
    client: Client,
    watches: HashMap<N, AbortOnDropHandle<()>>,
    to: Changes<N, T>,
    changes: mpsc::Receiver<(N, Result<Option<T>, String>)>,
    known: BTreeMap<N, Option<T>>,
    /// Why others could not be read yet.
    failures: BTreeMap<N, String>,
}

impl<N: Clone + Ord + Hash, T> Watches<N, T> {
    /// None is watched yet.
    pub(crate) fn new(client: Client) -> Self {
        let (to, changes) = mpsc::channel(QUEUE);
        Self {
            client,
            watches: HashMap::new(),
            to,
            changes,
            known: BTreeMap::new(),
            failures: BTreeMap::new(),
        }
    }

    /// Watches these, and no others; `start` makes a new watch (see [`watch`]).
    pub(crate) fn follow(
        &mut self,
        names: &BTreeSet<N>,
        object: impl Fn(&N) -> ObjectName,
        start: impl Fn(Client, N, Changes<N, T>) -> Watch,
    ) {
        self.watches.retain(|name, _| names.contains(name));
        self.known.retain(|name, _| names.contains(name));
        self.failures.retain(|name, _| names.contains(name));
        for name in names {
            if !may_exist(&object(name).name) {
                self.known.insert(name.clone(), None);
            } else if !self.watches.contains_key(name) {
                let watch = start(self.client.clone(), name.clone(), self.to.clone());
                let watch = AbortOnDropHandle::new(tokio::spawn(watch));
                self.watches.insert(name.clone(), watch);
            }
        }
    }

    /// Ends when something has changed; takes in what else has by then. Cancelling it loses nothing.
    pub(crate) async fn changed(&mut self) {
        // Never `None`: we hold a sender.
        if let Some(change) = self.changes.recv().await {
            self.note(change);
        }
        self.catch_up();
    }

    /// Takes in what has changed by now.
    pub(crate) fn catch_up(&mut self) {
        while let Ok(change) = self.changes.try_recv() {
            self.note(change);
        }
    }

    fn note(&mut self, (name, found): (N, Result<Option<T>, String>)) {
        if !self.watches.contains_key(&name) {
            return;
        }
        match found {
            Ok(object) => {
                self.failures.remove(&name);
                self.known.insert(name, object);
            }
            Err(error) => drop(self.failures.insert(name, error)),
        }
    }

    /// The objects that were looked for; `None` for one that does not exist. What can't be looked at again stays.
    pub(crate) fn known(&self) -> &BTreeMap<N, Option<T>> {
        &self.known
    }

    /// Why objects can't be read, a sentence each.
    pub(crate) fn failures(&self) -> &BTreeMap<N, String> {
        &self.failures
    }
}

/// What can be watched so.
pub(crate) trait Object:
    kube::Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static
{
}

impl<K> Object for K where
    K: kube::Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static
{
}

/// Watches `object`, and tells what `read` takes of it as `name`'s. Ends when nobody listens any more.
pub(crate) async fn watch<K: Object, N: Clone + Display, T>(
    api: Api<K>,
    name: N,
    object: &str,
    read: impl Fn(K) -> T,
    unreadable: fn(&N, &kube::Error) -> String,
    changes: Changes<N, T>,
) {
    let watch = watch_object(api, object).default_backoff();
    pin_mut!(watch);
    let mut failing = false;
    while let Some(found) = watch.next().await {
        let change = match found {
            Ok(found) => {
                failing = false;
                Ok(found.map(&read))
            }
            // Listed anew until that succeeds, which will be told. Of other errors the end is told only by the next change.
            Err(watcher::Error::InitialListFailed(error)) if is_not_served(&error) => Ok(None),
            Err(watcher::Error::InitialListFailed(error)) => Err(unreadable(&name, &error)),
            Err(error) => {
                if !failing {
                    tracing::warn!("{name} can't be watched: {error}");
                }
                failing = true;
                continue;
            }
        };
        if changes.send((name.clone(), change)).await.is_err() {
            return;
        }
    }
}

/// A list of a kind that the API server serves is never "not found".
fn is_not_served(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// Whether an object can have this name (RFC 1123 subdomain), which also keeps it one term of a field selector.
pub(super) fn may_exist(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
    (1..=253).contains(&name.len()) && name.chars().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::may_exist;

    #[test]
    fn a_field_selector_names_one_object() {
        assert!(may_exist("ca"));
        assert!(may_exist("kube-root-ca.crt"));
        for name in ["", "a,metadata.name=b", "a!=b", "A", "ä", &"a".repeat(254)] {
            assert!(!may_exist(name), "{name}");
        }
    }
}
