//! Brings the watches together: takes their signals, and says when to publish and when to keep.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace as KubeNamespace, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DynamicObject, PartialObjectMeta};
use kube::{Api, Client};
use tokio::sync::{mpsc, watch as latest};
use tokio::time::{Instant, sleep_until};

use super::cache::Kept;
use super::debounce::Debounce;
use super::store::Store;
use super::watch::{Feed, Query, Signal};
use super::{Crd, MIRROR_LABEL, Namespace, Namespaces, Options, Pods, Resource, State, Synced};
use super::{crd, reduce, report};
use crate::pods::decide::PodInfo;
use crate::policy::{BackendTlsPolicy, CaName, CaObject, HEADLESS, ObjectName};
use crate::source::Update;

/// How long the API server may take to list everything before the cache takes its place.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where results go.
pub(super) struct Outputs {
    pub(super) updates: mpsc::Sender<Update>,
    pub(super) state: latest::Sender<State>,
    pub(super) namespaces: latest::Sender<Arc<Namespaces>>,
    pub(super) pods: latest::Sender<Arc<Pods>>,
}

/// A feed and what came from it.
pub(super) struct Watched<T> {
    feed: Feed<T>,
    pub(super) store: Store<T>,
}

impl<T: Send + 'static> Watched<T> {
    fn new(feed: Feed<T>) -> Self {
        let store = Store::default();
        Self { feed, store }
    }
}

pub(super) struct Driver {
    pub(super) client: Client,
    /// Where the objects are kept.
    pub(super) dir: Option<PathBuf>,
    /// What is kept of a policy.
    pub(super) read_policy: fn(DynamicObject) -> Option<Arc<BackendTlsPolicy>>,
    pub(super) outputs: Outputs,
    pub(super) crd: Watched<Crd>,
    pub(super) services: Watched<Arc<Service>>,
    /// Of headless Services only: of others kube-proxy or the CNI picks the endpoint.
    pub(super) endpoint_slices: Watched<Arc<EndpointSlice>>,
    pub(super) namespaces: Watched<Namespace>,
    pub(super) config_maps: Watched<(CaName, CaObject)>,
    /// The node's, with the uids that their cgroups have; `None` when nobody wants them.
    pub(super) pods: Option<Watched<(String, PodInfo)>>,
    /// With their version; `None` while they can't be read.
    pub(super) policies: Option<(&'static str, Watched<Arc<BackendTlsPolicy>>)>,
    /// The policies in force.
    pub(super) known: BTreeMap<ObjectName, Arc<BackendTlsPolicy>>,
    pub(super) synced: Synced,
    pub(super) cache_failure: Option<String>,
    /// What the last run left, until it is needed or not needed any more.
    pub(super) cached: Option<Kept>,
    pub(super) objects_changed: bool,
    pub(super) namespaces_changed: bool,
    pub(super) pods_changed: bool,
    pub(super) debounce: Debounce,
    /// When the cache was written last, and when it is to be written next.
    pub(super) kept: Option<Instant>,
    pub(super) keep_at: Option<Instant>,
}

/// Never returns but when nobody listens any more.
pub(super) async fn run(client: Client, options: Options, outputs: Outputs) {
    let mut driver = Driver::new(client, options, outputs);
    driver.read_cache().await;
    driver.follow().await;
}

impl Driver {
    fn new(client: Client, options: Options, outputs: Outputs) -> Self {
        let mirrored = Query {
            labels: Some(format!("{MIRROR_LABEL}=true")),
            ..Query::all(Resource::ConfigMaps)
        };
        let headless = Query {
            labels: Some(HEADLESS.to_owned()),
            ..Query::all(Resource::EndpointSlices)
        };
        let definition = Query {
            fields: Some(format!("metadata.name={}", crd::NAME)),
            ..Query::all(Resource::Crd)
        };
        let crds = Api::all_with(client.clone(), &crd::definitions());
        let services: Api<Service> = Api::all(client.clone());
        let endpoint_slices: Api<EndpointSlice> = Api::all(client.clone());
        let namespaces: Api<PartialObjectMeta<KubeNamespace>> = Api::all(client.clone());
        let config_maps: Api<ConfigMap> = Api::namespaced(client.clone(), &options.namespace);
        let read = |object: DynamicObject| Some(Crd::of(&object));
        let pods = options.node.map(|node| {
            let query = Query {
                fields: Some(format!("spec.nodeName={node}")),
                ..Query::all(Resource::Pods)
            };
            let api: Api<Pod> = Api::all(client.clone());
            Watched::new(Feed::start(api, query, reduce::pod))
        });
        Self {
            crd: Watched::new(Feed::start(crds, definition, read)),
            services: Watched::new(Feed::start(
                services,
                Query::all(Resource::Services),
                reduce::service,
            )),
            endpoint_slices: Watched::new(Feed::start(
                endpoint_slices,
                headless,
                reduce::endpoint_slice,
            )),
            namespaces: Watched::new(Feed::start(
                namespaces,
                Query::all(Resource::Namespaces),
                reduce::namespace,
            )),
            config_maps: Watched::new(Feed::start(config_maps, mirrored, reduce::mirror)),
            pods,
            policies: None,
            known: BTreeMap::new(),
            synced: Synced::No,
            cache_failure: None,
            cached: None,
            objects_changed: false,
            namespaces_changed: false,
            pods_changed: false,
            debounce: Debounce::default(),
            kept: None,
            keep_at: None,
            client,
            dir: options.cache,
            read_policy: match options.statuses {
                true => reduce::policy_and_version,
                false => reduce::policy,
            },
            outputs,
        }
    }

    async fn follow(mut self) {
        let patience = Instant::now() + PATIENCE;
        let updates = self.outputs.updates.clone();
        loop {
            let unsynced = self.cached.is_some() && self.synced == Synced::No;
            let objects_changed = tokio::select! {
                signal = self.crd.feed.next() => {
                    let changed = self.crd.store.take(signal);
                    self.follow_crd();
                    changed
                }
                signal = self.services.feed.next() => self.services.store.take(signal),
                signal = self.endpoint_slices.feed.next() => self.endpoint_slices.store.take(signal),
                signal = self.config_maps.feed.next() => self.config_maps.store.take(signal),
                signal = self.namespaces.feed.next() => {
                    if self.namespaces.store.take(signal) {
                        self.namespaces_changed = true;
                        self.debounce.touch();
                    }
                    false
                }
                signal = next(self.policies.as_mut().map(|(_, watched)| watched)) => {
                    self.policies.as_mut().is_some_and(|(_, watched)| watched.store.take(signal))
                }
                signal = next(self.pods.as_mut()) => {
                    if self.pods.as_mut().is_some_and(|watched| watched.store.take(signal)) {
                        self.pods_changed = true;
                        self.debounce.touch();
                    }
                    false
                }
                () = self.debounce.due() => { self.publish().await; false }
                () = at(self.keep_at) => { self.keep().await; false }
                () = sleep_until(patience), if unsynced => { self.publish_cache().await; false }
                () = updates.closed() => return,
            };
            if objects_changed {
                self.objects_changed = true;
                self.debounce.touch();
            }
            if unsynced && report::failures(&self).next().is_some() {
                self.publish_cache().await;
            }
            report::report(&self, &self.outputs.state);
        }
    }

    /// What the API server says of BackendTLSPolicy; `None` before it was asked.
    pub(super) fn crd(&self) -> Option<Crd> {
        let store = &self.crd.store;
        let found = store.objects.values().next().cloned();
        store.listed.then(|| found.unwrap_or_default())
    }

    /// Watches policies in the version that is served now.
    fn follow_crd(&mut self) {
        let version = self.crd().and_then(|crd| crd.version());
        if version == self.policies.as_ref().map(|(version, _)| *version) {
            return;
        }
        self.policies = version.map(|version| {
            let api = Api::all_with(self.client.clone(), &crd::policies(version));
            let query = Query::all(Resource::Policies);
            (
                version,
                Watched::new(Feed::start(api, query, self.read_policy)),
            )
        });
    }

    /// Whether every watch has listed once.
    pub(super) fn listed(&self) -> bool {
        let policies = self.policies.as_ref();
        self.crd.store.listed
            && self.services.store.listed
            && self.endpoint_slices.store.listed
            && self.namespaces.store.listed
            && self.config_maps.store.listed
            && self
                .pods
                .as_ref()
                .is_none_or(|watched| watched.store.listed)
            && policies.is_none_or(|(_, watched)| watched.store.listed)
    }
}

async fn next<T: Send + 'static>(watched: Option<&mut Watched<T>>) -> Signal<T> {
    match watched {
        Some(watched) => watched.feed.next().await,
        None => std::future::pending().await,
    }
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
