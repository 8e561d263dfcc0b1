//! The ConfigMaps, Secrets and ClusterTrustBundles that policies name, watched one by one, and their mirrors.
//!
//! One by one, since a watch of a whole namespace would bring the controller everything that is in it. The price is a
//! connection to the API server for each.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Debug;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::{FutureExt as _, Stream, StreamExt as _, pin_mut};
use k8s_openapi::api::certificates::v1beta1::ClusterTrustBundle;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::runtime::watcher::{self, watch_object, watcher};
use kube::runtime::{WatchStreamExt as _, reflector};
use kube::{Api, Client};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::error::describe;
use crate::policy::{CaKind, CaName, CaObject};
use crate::source::kube::MIRROR_LABEL;

/// Changes that wait to be looked at before the watches wait.
const QUEUE: usize = 1024;

/// What became of an object; or why it can't be read.
type Change = (CaName, Result<Option<CaObject>, String>);
type Mirrors = Pin<Box<dyn Stream<Item = watcher::Result<watcher::Event<ConfigMap>>> + Send>>;

/// What is known of the objects. Dropping it ends the watches.
pub(super) struct CaObjects {
    client: Client,
    watches: HashMap<CaName, AbortOnDropHandle<()>>,
    changes: (mpsc::Sender<Change>, mpsc::Receiver<Change>),
    known: BTreeMap<CaName, Option<CaObject>>,
    /// Why others could not be read yet.
    failures: BTreeMap<CaName, String>,
    mirrors: Mirrors,
    store: reflector::Store<ConfigMap>,
}

impl CaObjects {
    /// `namespace` is where the mirrors are.
    pub(super) fn new(client: Client, namespace: &str) -> Self {
        let (store, writer) = reflector::store();
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
        let config = watcher::Config::default().labels(&format!("{MIRROR_LABEL}=true"));
        let mirrors = watcher(api, config)
            .default_backoff()
            .modify(|mirror| mirror.metadata.managed_fields = None)
            .reflect(writer);
        Self {
            client,
            watches: HashMap::new(),
            changes: mpsc::channel(QUEUE),
            known: BTreeMap::new(),
            failures: BTreeMap::new(),
            mirrors: Box::pin(mirrors),
            store,
        }
    }

    /// Watches these, and no others.
    pub(super) fn follow(&mut self, names: &BTreeSet<CaName>) {
        self.watches.retain(|name, _| names.contains(name));
        self.known.retain(|name, _| names.contains(name));
        self.failures.retain(|name, _| names.contains(name));
        for name in names {
            if !may_exist(&name.object.name) {
                self.known.insert(name.clone(), None);
            } else if !self.watches.contains_key(name) {
                let (client, namespace) = (self.client.clone(), &name.object.namespace);
                let watch = match name.kind {
                    CaKind::ConfigMap => {
                        self.start::<ConfigMap>(name, Api::namespaced(client, namespace))
                    }
                    CaKind::Secret => {
                        self.start::<Secret>(name, Api::namespaced(client, namespace))
                    }
                    CaKind::ClusterTrustBundle => {
                        self.start::<ClusterTrustBundle>(name, Api::all(client))
                    }
                };
                self.watches.insert(name.clone(), watch);
            }
        }
    }

    fn start<K: Watched>(&self, name: &CaName, api: Api<K>) -> AbortOnDropHandle<()> {
        let watch = watch(api, name.clone(), self.changes.0.clone());
        AbortOnDropHandle::new(tokio::spawn(watch))
    }

    /// Ends when something has changed; takes in what else has by then.
    pub(super) async fn changed(&mut self) {
        tokio::select! {
            // Never `None`: we hold a sender.
            Some(change) = self.changes.1.recv() => self.note(change),
            // Also the end of a list without any.
            Some(event) = self.mirrors.next() => note_mirrors(event),
        }
        while let Ok(change) = self.changes.1.try_recv() {
            self.note(change);
        }
        while let Some(Some(event)) = self.mirrors.next().now_or_never() {
            note_mirrors(event);
        }
    }

    fn note(&mut self, (name, found): Change) {
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

    /// The objects that were looked for; `None` for one that does not exist.
    pub(super) fn known(&self) -> &BTreeMap<CaName, Option<CaObject>> {
        &self.known
    }

    /// Why others can't be read, a sentence each.
    pub(super) fn failures(&self) -> impl Iterator<Item = &String> {
        self.failures.values()
    }

    /// The mirrors that exist; `None` before they were listed.
    pub(super) fn mirrors(&self) -> Option<Vec<Arc<ConfigMap>>> {
        let ready = self.store.wait_until_ready().now_or_never();
        ready.map(|_| self.store.state())
    }
}

/// The store has it already.
fn note_mirrors(event: watcher::Result<watcher::Event<ConfigMap>>) {
    if let Err(error) = event {
        tracing::warn!("mirrored ConfigMaps can't be watched: {error}");
    }
}

/// What can be watched as one that holds a CA.
trait Watched:
    kube::Resource<DynamicType = ()>
    + Into<CaObject>
    + Clone
    + Debug
    + DeserializeOwned
    + Send
    + 'static
{
}

impl Watched for ConfigMap {}
impl Watched for Secret {}
impl Watched for ClusterTrustBundle {}

async fn watch<K: Watched>(api: Api<K>, name: CaName, changes: mpsc::Sender<Change>) {
    let watch = watch_object(api, &name.object.name).default_backoff();
    pin_mut!(watch);
    let mut failing = false;
    while let Some(found) = watch.next().await {
        let change = match found {
            Ok(found) => {
                failing = false;
                Ok(found.map(Into::into))
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

fn unreadable(name: &CaName, error: &kube::Error) -> String {
    let text = format!("{name} can't be read: {}", describe(error));
    match (name.kind, error) {
        (CaKind::Secret, kube::Error::Api(status)) if status.code == 403 => {
            format!("{text}; those for Secrets are in manifests/components/secrets")
        }
        _ => text,
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
