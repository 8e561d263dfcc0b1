//! The ConfigMaps that policies name, watched one by one, and their mirrors.
//!
//! One by one, since a watch of a whole namespace would bring the controller everything that is in it. The price is a
//! connection to the API server for each.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::pin::Pin;
use std::sync::Arc;

use futures_util::{FutureExt as _, Stream, StreamExt as _, pin_mut};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::runtime::watcher::{self, watch_object, watcher};
use kube::runtime::{WatchStreamExt as _, reflector};
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::mirror::slim;
use crate::policy::ObjectName;
use crate::source::kube::MIRROR_LABEL;

/// Changes that wait to be looked at before the watches wait.
const QUEUE: usize = 1024;

type Change = (ObjectName, Option<ConfigMap>);
type Mirrors = Pin<Box<dyn Stream<Item = Result<ConfigMap, watcher::Error>> + Send>>;

/// What is known of the ConfigMaps. Dropping it ends the watches.
pub(super) struct ConfigMaps {
    client: Client,
    watches: HashMap<ObjectName, AbortOnDropHandle<()>>,
    changes: (mpsc::Sender<Change>, mpsc::Receiver<Change>),
    known: BTreeMap<ObjectName, Option<ConfigMap>>,
    mirrors: Mirrors,
    store: reflector::Store<ConfigMap>,
}

impl ConfigMaps {
    /// `namespace` is where the mirrors are.
    pub(super) fn new(client: Client, namespace: &str) -> Self {
        let (store, writer) = reflector::store();
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
        let config = watcher::Config::default().labels(&format!("{MIRROR_LABEL}=true"));
        let mirrors = watcher(api, config)
            .default_backoff()
            .modify(slim)
            .reflect(writer)
            .touched_objects();
        Self {
            client,
            watches: HashMap::new(),
            changes: mpsc::channel(QUEUE),
            known: BTreeMap::new(),
            mirrors: Box::pin(mirrors),
            store,
        }
    }

    /// Watches these, and no others.
    pub(super) fn follow(&mut self, names: &BTreeSet<ObjectName>) {
        self.watches.retain(|name, _| names.contains(name));
        self.known.retain(|name, _| names.contains(name));
        for name in names {
            if !may_exist(&name.name) {
                self.known.insert(name.clone(), None);
            } else if !self.watches.contains_key(name) {
                let api = Api::namespaced(self.client.clone(), &name.namespace);
                let watch = watch(api, name.clone(), self.changes.0.clone());
                let watch = AbortOnDropHandle::new(tokio::spawn(watch));
                self.watches.insert(name.clone(), watch);
            }
        }
    }

    /// Ends when something has changed; takes in what else has by then.
    pub(super) async fn changed(&mut self) {
        tokio::select! {
            // Never `None`: we hold a sender.
            Some(change) = self.changes.1.recv() => self.note(change),
            Some(mirror) = self.mirrors.next() => note_mirror(mirror),
        }
        while let Ok(change) = self.changes.1.try_recv() {
            self.note(change);
        }
        while let Some(Some(mirror)) = self.mirrors.next().now_or_never() {
            note_mirror(mirror);
        }
    }

    fn note(&mut self, (name, config_map): Change) {
        if self.watches.contains_key(&name) {
            self.known.insert(name, config_map);
        }
    }

    /// The ConfigMaps that were looked for; `None` for one that does not exist.
    pub(super) fn known(&self) -> &BTreeMap<ObjectName, Option<ConfigMap>> {
        &self.known
    }

    /// The mirrors that exist; `None` before they were listed.
    pub(super) fn mirrors(&self) -> Option<Vec<Arc<ConfigMap>>> {
        let ready = self.store.wait_until_ready().now_or_never();
        ready.map(|_| self.store.state())
    }
}

/// The store has it already.
fn note_mirror(mirror: Result<ConfigMap, watcher::Error>) {
    if let Err(error) = mirror {
        tracing::warn!("mirrored ConfigMaps can't be watched: {error}");
    }
}

async fn watch(api: Api<ConfigMap>, name: ObjectName, changes: mpsc::Sender<Change>) {
    let watch = watch_object(api, &name.name).default_backoff();
    pin_mut!(watch);
    let mut failing = false;
    while let Some(found) = watch.next().await {
        match found {
            Ok(mut found) => {
                failing = false;
                found.iter_mut().for_each(slim);
                if changes.send((name.clone(), found)).await.is_err() {
                    return;
                }
            }
            Err(error) if !failing => {
                failing = true;
                tracing::warn!("ConfigMap {name} can't be watched: {error}");
            }
            Err(_) => {}
        }
    }
}

/// Whether an object can have this name (RFC 1123 subdomain), which also keeps it one term of a field selector.
fn may_exist(name: &str) -> bool {
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
