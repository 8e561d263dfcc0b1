//! What is in force: published to the agent, and kept for the next start.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kube::Api;
use kube::api::DynamicObject;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};

use super::cache::{self, Kept};
use super::driver::Driver;
use super::mirror::mirrored;
use super::store::in_force;
use super::{Namespaces, Pods, Synced, crd};
use crate::policy::{ObjectName, Objects};
use crate::source::Update;

/// How long a look at the CRD may take, and when to look again.
const CRD_LOOK: Duration = Duration::from_secs(5);

/// The cache is written at most so often.
const KEEP: Duration = Duration::from_secs(5);

impl Driver {
    /// Publishes what changed; at first nothing before all is complete.
    pub(super) async fn publish(&mut self) {
        if self.synced != Synced::Live && !self.listed() {
            return;
        }
        self.put_policies_in_force().await;
        if self.synced != Synced::Live {
            self.cached = None;
            self.synced = Synced::Live;
        }
        let namespaces_changed = std::mem::take(&mut self.namespaces_changed);
        if namespaces_changed {
            let namespaces = Arc::new(self.namespaces());
            self.outputs.namespaces.send_replace(namespaces);
        }
        if std::mem::take(&mut self.pods_changed) || namespaces_changed {
            let pods = self.pods();
            let changed = |before: &mut Arc<Pods>| {
                let changed = **before != pods;
                if changed {
                    *before = Arc::new(pods);
                }
                changed
            };
            self.outputs.pods.send_if_modified(changed);
        }
        if std::mem::take(&mut self.objects_changed) {
            // Made when there is room for it, so that it is not old when it is taken.
            let updates = self.outputs.updates.clone();
            if let Ok(room) = updates.reserve().await {
                // Without its CRD no policy is seen, and those of before may not be known here.
                let complete = self.crd().is_some_and(|crd| crd.vouches());
                room.send(update(self.objects(), complete));
            }
        }
        let earliest = self.kept.map_or_else(Instant::now, |kept| kept + KEEP);
        self.keep_at.get_or_insert(earliest);
    }

    async fn put_policies_in_force(&mut self) {
        let (live, listed) = match &self.policies {
            Some((_, watched)) => (watched.store.objects.clone(), watched.store.listed),
            None => (BTreeMap::new(), false),
        };
        let mut complete = listed && self.crd().is_some_and(|crd| crd.vouches());
        if complete && self.known.keys().any(|name| !live.contains_key(name)) {
            complete = self.crd_is_there().await;
            if !complete {
                self.objects_changed = true;
                self.debounce.later(CRD_LOOK);
            }
        }
        self.known = in_force(std::mem::take(&mut self.known), live, complete);
    }

    /// Asks the API server itself: the watch of the CRD may lag behind that of the policies.
    async fn crd_is_there(&self) -> bool {
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &crd::definitions());
        match timeout(CRD_LOOK, api.get_metadata_opt(crd::NAME)).await {
            Ok(Ok(Some(crd))) => crd.metadata.deletion_timestamp.is_none(),
            Ok(Ok(None)) => false,
            Ok(Err(error)) => {
                tracing::warn!(%error, "policies are gone; kept until their CRD can be looked at");
                false
            }
            Err(_) => false,
        }
    }

    /// What the last run left takes the place of what can't be had now.
    pub(super) async fn publish_cache(&mut self) {
        let Some(cached) = self.cached.take() else {
            return;
        };
        self.synced = Synced::Cached {
            written: cached.written(),
        };
        let namespaces = Arc::new(cached.namespaces.clone());
        self.outputs.namespaces.send_replace(namespaces);
        let pods = Arc::new(cached.pods.clone());
        self.outputs.pods.send_replace(pods);
        let updates = self.outputs.updates.clone();
        if let Ok(room) = updates.reserve().await {
            // What came into force just before the last run ended may not be in it.
            room.send(update(cached.objects(), false));
        }
    }

    pub(super) async fn read_cache(&mut self) {
        let Some(dir) = self.dir.clone() else {
            return;
        };
        let path = cache::path(&dir);
        match spawn_blocking(move || cache::read(&dir)).await {
            Ok(Ok(cached)) => self.cached = cached,
            Ok(Err(error)) => {
                tracing::warn!(path = %path.display(), %error, "the last run's objects are not used");
            }
            Err(_) => {}
        }
        if let Some(cached) = &self.cached {
            self.known = cached.clone().objects().policies;
        }
    }

    pub(super) async fn keep(&mut self) {
        self.keep_at = None;
        self.kept = Some(Instant::now());
        let Some(dir) = self.dir.clone() else {
            return;
        };
        let shown = dir.display().to_string();
        let kept = Kept::new(self.objects(), self.namespaces(), self.pods());
        let write = move || cache::write(&dir, &kept.encode(SystemTime::now())?);
        let result = spawn_blocking(write)
            .await
            .unwrap_or_else(|error| Err(error.into()));
        self.cache_failure = result.err().map(|error| {
            format!(
                "the last objects can't be kept in {shown}: {error}; see that it can be written"
            )
        });
    }

    fn objects(&self) -> Objects {
        let ca_objects = self.config_maps.store.objects.values();
        Objects {
            services: self.services.store.objects.clone(),
            endpoint_slices: self.endpoint_slices.store.objects.clone(),
            policies: self.known.clone(),
            ..mirrored(ca_objects.cloned())
        }
    }

    /// The node's, each with its Namespace's labels.
    fn pods(&self) -> Pods {
        let watched = self.pods.iter();
        let pods = watched.flat_map(|watched| watched.store.objects.values());
        let pods = pods.map(|(uid, info)| {
            let mut info = info.clone();
            let namespace = ObjectName::new("", &info.namespace);
            if let Some(namespace) = self.namespaces.store.objects.get(&namespace) {
                info.namespace_labels = namespace.labels.clone();
            }
            (uid.clone(), info)
        });
        pods.collect()
    }

    fn namespaces(&self) -> Namespaces {
        let namespaces = self.namespaces.store.objects.iter();
        namespaces
            .map(|(name, namespace)| (name.name.clone(), namespace.clone()))
            .collect()
    }
}

fn update(objects: Objects, complete: bool) -> Update {
    Update {
        objects,
        complete,
        secrets: BTreeMap::new(),
        errors: Vec::new(),
        policy_files: BTreeMap::new(),
    }
}
