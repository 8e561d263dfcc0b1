//! The ConfigMaps, Secrets and ClusterTrustBundles that policies name, and their mirrors, watched.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;

use futures_util::{FutureExt as _, Stream, StreamExt as _};
use k8s_openapi::api::certificates::v1beta1::ClusterTrustBundle;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::runtime::watcher::{self, watcher};
use kube::runtime::{WatchStreamExt as _, reflector};
use kube::{Api, Client};

use super::error::describe;
use crate::policy::{CaKind, CaName, CaObject};
use crate::source::kube::{MIRROR_LABEL, by_name};

type Mirrors = Pin<Box<dyn Stream<Item = watcher::Result<watcher::Event<ConfigMap>>> + Send>>;

/// What is known of the objects. Dropping it ends the watches.
pub(super) struct CaObjects {
    objects: by_name::Watches<CaName, CaObject>,
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
            objects: by_name::Watches::new(client),
            mirrors: Box::pin(mirrors),
            store,
        }
    }

    /// Watches these, and no others.
    pub(super) fn follow(&mut self, names: &BTreeSet<CaName>) {
        let object = |name: &CaName| name.object.clone();
        self.objects.follow(names, object, |client, name, changes| {
            let namespace = name.object.namespace.clone();
            match name.kind {
                CaKind::ConfigMap => {
                    let api: Api<ConfigMap> = Api::namespaced(client, &namespace);
                    Box::pin(watch(api, name, changes))
                }
                CaKind::Secret => {
                    let api: Api<Secret> = Api::namespaced(client, &namespace);
                    Box::pin(watch(api, name, changes))
                }
                CaKind::ClusterTrustBundle => {
                    let api: Api<ClusterTrustBundle> = Api::all(client);
                    Box::pin(watch(api, name, changes))
                }
            }
        });
    }

    /// Ends when something has changed; takes in what else has by then.
    pub(super) async fn changed(&mut self) {
        tokio::select! {
            () = self.objects.changed() => {}
            // Also the end of a list without any.
            Some(event) = self.mirrors.next() => note_mirrors(event),
        }
        self.objects.catch_up();
        while let Some(Some(event)) = self.mirrors.next().now_or_never() {
            note_mirrors(event);
        }
    }

    /// The objects that were looked for; `None` for one that does not exist.
    pub(super) fn known(&self) -> &BTreeMap<CaName, Option<CaObject>> {
        self.objects.known()
    }

    /// Why others can't be read, a sentence each.
    pub(super) fn failures(&self) -> impl Iterator<Item = &String> {
        self.objects.failures().values()
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

async fn watch<K: by_name::Object + Into<CaObject>>(
    api: Api<K>,
    name: CaName,
    changes: by_name::Changes<CaName, CaObject>,
) {
    let object = name.object.name.clone();
    by_name::watch(api, name, &object, K::into, unreadable, changes).await;
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
