//! The controller against a real API server: etcd and kube-apiserver alone, as programs that `cargo xtask cluster` built.
//!
//! `NODETLS_CLUSTER=DIR cargo test -p nodetls-tests --features cluster --test controller`; DIR holds `kubernetes` and
//! `backendtlspolicies.yaml`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "controller/api_server.rs"]
mod api_server;
#[path = "controller/events.rs"]
mod events;
#[path = "controller/secrets.rs"]
mod secrets;

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret, Service};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, Resource};
use nodetls::access_log::{LogFormat, LogTo, init_logging};
use nodetls::controller::{self, Options};
use nodetls::metrics::{Metrics, Role};
use nodetls::policy::{ObjectName, Objects};
use nodetls::readiness::Readiness;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use self::api_server::{ApiServer, policies};

/// Of a test: its server, its clients, its namespace of users and nodetls' own.
struct World {
    server: Arc<ApiServer>,
    admin: Client,
    users: String,
    own: String,
}

/// A controller that runs in this process.
struct Replica {
    shutdown: CancellationToken,
    readiness: Readiness,
    task: JoinHandle<()>,
}

impl World {
    async fn new(server: Arc<ApiServer>, name: &str) -> Self {
        // Once for all tests: what the controllers could not do.
        let _ = init_logging(LogFormat::Text, "off,nodetls=info", LogTo::Stderr);
        let admin = server.client("admin").await;
        let (users, own) = (format!("{name}-users"), format!("{name}-nodetls"));
        for namespace in [&users, &own] {
            let namespace = json!({"metadata": {"name": namespace}});
            create(&Api::<Namespace>::all(admin.clone()), namespace).await;
        }
        server.allow_writes(&admin, &own).await;
        let world = Self {
            server,
            admin,
            users,
            own,
        };
        let service = json!({"metadata": {"name": "web"}, "spec": {"ports": [{"name": "https", "port": 443}]}});
        create(&world.users::<Service>(), service).await;
        world
    }

    fn users<K: Resource<Scope = k8s_openapi::NamespaceResourceScope>>(&self) -> Api<K>
    where
        K::DynamicType: Default,
    {
        Api::namespaced(self.admin.clone(), &self.users)
    }

    fn policies(&self) -> Api<DynamicObject> {
        Api::namespaced_with(
            self.admin.clone(),
            &self.users,
            &policies(self.server.version),
        )
    }

    fn mirrors(&self) -> Api<ConfigMap> {
        Api::namespaced(self.admin.clone(), &self.own)
    }

    fn lease(&self) -> Api<Lease> {
        Api::namespaced(self.admin.clone(), &self.own)
    }

    async fn policy(&self, name: &str, config_map: &str) {
        self.policy_of("ConfigMap", name, config_map).await;
    }

    async fn policy_of(&self, kind: &str, name: &str, ca: &str) {
        let policy = json!({
            "apiVersion": format!("gateway.networking.k8s.io/{}", self.server.version),
            "kind": "BackendTLSPolicy",
            "metadata": {"name": name},
            "spec": {
                "targetRefs": [{"group": "", "kind": "Service", "name": "web", "sectionName": "https"}],
                "validation": {
                    "hostname": "www.example.com",
                    "caCertificateRefs": [{"group": "", "kind": kind, "name": ca}],
                },
            },
        });
        create(&self.policies(), policy).await;
    }

    async fn config_map(&self, name: &str, data: Value) {
        let config_map = json!({"metadata": {"name": name}, "data": data});
        create(&self.users::<ConfigMap>(), config_map).await;
    }

    async fn secret(&self, name: &str, data: Value) {
        let secret = json!({"metadata": {"name": name}, "stringData": data});
        create(&self.users::<Secret>(), secret).await;
    }

    async fn ancestors(&self, policy: &str) -> Vec<Value> {
        let policy = self.policies().get(policy).await.unwrap();
        let ancestors = policy.data["status"]["ancestors"].as_array();
        ancestors.cloned().unwrap_or_default()
    }

    /// Status and reason of a condition of our entry.
    async fn condition(&self, policy: &str, kind: &str) -> Option<(String, String)> {
        let ancestors = self.ancestors(policy).await;
        let mut ours = ancestors.iter();
        let ours = ours.find(|entry| entry["controllerName"] == "nodetls.io/controller")?;
        let mut conditions = ours["conditions"].as_array()?.iter();
        let condition = conditions.find(|condition| condition["type"] == kind)?;
        let text = |field: &str| condition[field].as_str().unwrap().to_owned();
        Some((text("status"), text("reason")))
    }

    async fn mirror(&self, source: &str) -> Option<ConfigMap> {
        self.mirror_of("ConfigMap", source).await
    }

    async fn mirror_of(&self, kind: &str, source: &str) -> Option<ConfigMap> {
        let labelled = ListParams::default().labels("nodetls.io/mirror=true");
        let mirrors = self.mirrors().list(&labelled).await.unwrap();
        let mut mirrors = mirrors.into_iter();
        mirrors.find(|mirror| {
            let annotations = mirror.metadata.annotations.as_ref().unwrap();
            annotations["nodetls.io/source-kind"] == kind
                && annotations["nodetls.io/source-namespace"] == self.users
                && annotations["nodetls.io/source-name"] == source
        })
    }

    async fn holder(&self) -> Option<String> {
        let lease = self.lease().get_opt("nodetls-controller").await.unwrap()?;
        lease.spec.unwrap().holder_identity
    }

    /// Starts a controller that may do what nodetls' controller may.
    async fn replica(&self) -> Replica {
        self.replica_with(false).await
    }

    async fn replica_with(&self, ca_secrets: bool) -> Replica {
        let client = self.server.client("controller").await;
        let options = Options {
            namespace: Some(self.own.clone()),
            lease: "nodetls-controller".to_owned(),
            ca_secrets,
            allow_insecure_validation: false,
            admin: "127.0.0.1:0".parse().unwrap(),
            log_format: Default::default(),
            log: "info".to_owned(),
        };
        let objects = self.objects().await;
        let (shutdown, readiness) = (CancellationToken::new(), Readiness::default());
        let (ended, ready) = (shutdown.clone(), readiness.clone());
        let task = tokio::spawn(async move {
            let metrics = Metrics::new(Role::Controller, "test").unwrap();
            let run = controller::run(client, &options, objects, &ready, &metrics, &ended);
            run.await.unwrap();
        });
        Replica {
            shutdown,
            readiness,
            task,
        }
    }

    /// The policies and Services of the users' namespace, as a source would send them.
    async fn objects(&self) -> watch::Receiver<Arc<Objects>> {
        let (policies, services) = (self.policies(), self.users::<Service>());
        let first = read(&policies, &services).await.unwrap();
        let (sender, receiver) = watch::channel(Arc::new(first));
        tokio::spawn(async move {
            while !sender.is_closed() {
                // What can't be read is as it was.
                if let Ok(objects) = read(&policies, &services).await {
                    sender.send_if_modified(|before| {
                        let changed = **before != objects;
                        *before = Arc::new(objects);
                        changed
                    });
                }
                sleep(Duration::from_millis(50)).await;
            }
        });
        receiver
    }
}

impl Replica {
    /// As SIGTERM would.
    async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap();
    }
}

async fn create<K>(api: &Api<K>, object: Value) -> K
where
    K: Clone + DeserializeOwned + Serialize + std::fmt::Debug,
{
    let object = serde_json::from_value(object).unwrap();
    api.create(&PostParams::default(), &object).await.unwrap()
}

async fn read(
    policies: &Api<DynamicObject>,
    services: &Api<Service>,
) -> Result<Objects, kube::Error> {
    let all = ListParams::default();
    let mut objects = Objects::default();
    for policy in policies.list(&all).await? {
        let name = name(&policy.metadata);
        let policy = serde_json::from_value(serde_json::to_value(policy).unwrap()).unwrap();
        objects.policies.insert(name, Arc::new(policy));
    }
    for service in services.list(&all).await? {
        let name = name(&service.metadata);
        objects.services.insert(name, Arc::new(service));
    }
    Ok(objects)
}

fn name(metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> ObjectName {
    let (namespace, name) = (metadata.namespace.clone(), metadata.name.clone());
    ObjectName::new(namespace.unwrap(), name.unwrap())
}

/// Waits until it holds, and says how long that took.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) -> Duration {
    let start = Instant::now();
    let wait = async {
        while !holds().await {
            sleep(Duration::from_millis(20)).await;
        }
    };
    let limit = Duration::from_secs(60);
    timeout(limit, wait)
        .await
        .unwrap_or_else(|_| panic!("not within {limit:?}: {what}"));
    let elapsed = start.elapsed();
    eprintln!("{what}: {} ms", elapsed.as_millis());
    elapsed
}

fn pair(status: &str, reason: &str) -> Option<(String, String)> {
    Some((status.to_owned(), reason.to_owned()))
}

fn ca() -> Value {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    json!({"ca.crt": params.self_signed(&key).unwrap().pem()})
}

/// The entry of a Gateway's controller.
fn foreign(message: &str) -> Value {
    json!({
        "ancestorRef": {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "gw"},
        "controllerName": "example.com/gateway",
        "conditions": [{
            "type": "Accepted", "status": "True", "reason": "Accepted", "message": message,
            "observedGeneration": 1, "lastTransitionTime": "2026-01-01T00:00:00Z",
        }],
    })
}

/// As a careful other controller does: reads, changes its own entry, writes what it read.
async fn write_foreign(api: &Api<DynamicObject>, policy: &str, entry: &Value) {
    loop {
        let now = api.get(policy).await.unwrap();
        let mut ancestors = now.data["status"]["ancestors"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        match ancestors
            .iter_mut()
            .find(|other| other["controllerName"] == entry["controllerName"])
        {
            Some(place) => *place = entry.clone(),
            None => ancestors.push(entry.clone()),
        }
        let patch = json!({
            "metadata": {"resourceVersion": now.metadata.resource_version},
            "status": {"ancestors": ancestors},
        });
        let patch = Patch::Merge(patch);
        match api
            .patch_status(policy, &PatchParams::default(), &patch)
            .await
        {
            Ok(_) => return,
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn status_lives_with_another_controllers_entry() {
    let world = World::new(ApiServer::shared(), "status").await;
    world.config_map("ca", ca()).await;
    world.policy("p", "ca").await;
    write_foreign(&world.policies(), "p", &foreign("first")).await;

    let replica = world.replica().await;
    until("accepted", async || {
        world.condition("p", "Accepted").await == pair("True", "Accepted")
    })
    .await;
    assert_eq!(replica.readiness.missing(), Vec::<String>::new());
    let ancestors = world.ancestors("p").await;
    assert_eq!((ancestors.len(), &ancestors[0]), (2, &foreign("first")));
    assert_eq!(
        ancestors[1]["ancestorRef"],
        json!({"group": "", "kind": "Service", "name": "web", "sectionName": "https"})
    );

    // Others write all the time while we do: hostnames change, and each is a new generation.
    let mut others = tokio::task::JoinSet::new();
    for number in 0..6 {
        let policies = world.policies();
        others.spawn(async move {
            let entry = |round| {
                let mut entry = foreign(&format!("round {round}"));
                entry["controllerName"] = format!("example.com/gateway-{number}").into();
                entry
            };
            write_foreign(&policies, "p", &entry(0)).await;
            for round in 1..60 {
                let now = policies.get("p").await.unwrap();
                let ancestors = now.data["status"]["ancestors"].as_array().unwrap();
                assert!(
                    ancestors.contains(&entry(round - 1)),
                    "written over: {ancestors:#?}"
                );
                write_foreign(&policies, "p", &entry(round)).await;
            }
        });
    }
    let policies = world.policies();
    for round in 0..100 {
        let hostname = format!("www-{round}.example.com");
        let patch = Patch::Merge(json!({"spec": {"validation": {"hostname": hostname}}}));
        policies
            .patch("p", &PatchParams::default(), &patch)
            .await
            .unwrap();
    }
    others.join_all().await;
    until("our entry, of the last generation", async || {
        let generation = policies.get("p").await.unwrap().metadata.generation;
        let ancestors = world.ancestors("p").await;
        ancestors[1]["conditions"][0]["observedGeneration"].as_i64() == generation
    })
    .await;

    // Nothing changes: nothing is written.
    let before = world
        .policies()
        .get("p")
        .await
        .unwrap()
        .metadata
        .resource_version;
    sleep(Duration::from_secs(3)).await;
    assert_eq!(
        world
            .policies()
            .get("p")
            .await
            .unwrap()
            .metadata
            .resource_version,
        before
    );

    // A target of a kind that is not ours: our entry goes.
    let other = json!([{"group": "example.com", "kind": "Backend", "name": "web"}]);
    let patch = Patch::Merge(json!({"spec": {"targetRefs": other}}));
    policies
        .patch("p", &PatchParams::default(), &patch)
        .await
        .unwrap();
    until("our entry gone", async || {
        let ancestors = world.ancestors("p").await;
        ancestors.len() == 7 && ancestors[0] == foreign("first")
    })
    .await;
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_follow_their_sources() {
    let world = World::new(ApiServer::shared(), "mirror").await;
    let mut content = ca();
    content["password"] = "secret".into();
    world.config_map("ca", content.clone()).await;
    world.policy("p", "ca").await;
    world.policy("q", "absent").await;
    let replica = world.replica().await;
    until("mirrored", async || world.mirror("ca").await.is_some()).await;
    let mirror = world.mirror("ca").await.unwrap();
    assert_eq!(json!(mirror.data), json!({"ca.crt": content["ca.crt"]}));
    until("mirrored without data", async || {
        world
            .mirror("absent")
            .await
            .is_some_and(|mirror| mirror.data.is_none())
    })
    .await;

    let config_maps: Api<ConfigMap> = world.users();
    let edit = async |data: Value| {
        let patch = Patch::Merge(json!({"data": data}));
        config_maps
            .patch("ca", &PatchParams::default(), &patch)
            .await
            .unwrap();
    };
    let mirrored = async || {
        world
            .mirror("ca")
            .await
            .unwrap()
            .data
            .map(|data| json!(data))
    };
    edit(json!({"ca.crt": "2"})).await;
    until("edited", async || {
        mirrored().await == Some(json!({"ca.crt": "2"}))
    })
    .await;
    edit(json!({"ca.crt": null})).await;
    until("key removed", async || mirrored().await.is_none()).await;
    edit(json!({"ca.crt": "3"})).await;
    until("key added", async || {
        mirrored().await == Some(json!({"ca.crt": "3"}))
    })
    .await;
    config_maps
        .delete("ca", &DeleteParams::default())
        .await
        .unwrap();
    until("source removed", async || mirrored().await.is_none()).await;

    let name = mirror.metadata.name.unwrap();
    world
        .mirrors()
        .delete(&name, &DeleteParams::default())
        .await
        .unwrap();
    until("removed mirror is back", async || {
        world.mirror("ca").await.is_some()
    })
    .await;
    world
        .policies()
        .delete("p", &DeleteParams::default())
        .await
        .unwrap();
    until("no longer referenced", async || {
        world.mirror("ca").await.is_none()
    })
    .await;
    assert!(world.mirror("absent").await.is_some());
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_leads() {
    let world = World::new(ApiServer::shared(), "lease").await;
    world.config_map("ca", ca()).await;
    let first = world.replica().await;
    until("a leader", async || world.holder().await.is_some()).await;
    let leader = world.holder().await;
    let second = world.replica().await;
    // The second looks more than once, and leaves it alone.
    sleep(Duration::from_secs(5)).await;
    assert_eq!(second.readiness.missing(), Vec::<String>::new());
    assert_eq!(world.holder().await, leader);

    // The leader ends, and gives the lease up.
    first.stop().await;
    let took = until("handed over", async || {
        world
            .holder()
            .await
            .is_some_and(|holder| Some(holder) != leader)
    })
    .await;
    assert!(took < Duration::from_secs(5), "{took:?}");
    world.policy("p", "ca").await;
    until("the second writes", async || {
        world.condition("p", "Accepted").await.is_some()
    })
    .await;

    // The leader dies.
    let leader = world.holder().await;
    let third = world.replica().await;
    second.task.abort();
    let took = until("taken over", async || world.holder().await != leader).await;
    assert!(took > Duration::from_secs(10), "{took:?}");

    // Somebody else takes the lease: the leader writes no more.
    let stolen =
        Patch::Merge(json!({"spec": {"holderIdentity": "thief", "leaseDurationSeconds": 3600}}));
    let lease = world.lease();
    lease
        .patch("nodetls-controller", &PatchParams::default(), &stolen)
        .await
        .unwrap();
    sleep(Duration::from_secs(5)).await;
    world.policy("late", "ca").await;
    sleep(Duration::from_secs(5)).await;
    assert_eq!(world.condition("late", "Accepted").await, None);
    assert_eq!(world.holder().await.as_deref(), Some("thief"));
    third.stop().await;
    assert_eq!(
        world.holder().await.as_deref(),
        Some("thief"),
        "not ours to release"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn status_is_written_where_only_v1alpha3_is_served() {
    let world = World::new(Arc::new(ApiServer::start("v1alpha3")), "alpha").await;
    world.config_map("ca", ca()).await;
    world.policy("p", "ca").await;
    let replica = world.replica().await;
    until("accepted", async || {
        world.condition("p", "Accepted").await == pair("True", "Accepted")
    })
    .await;
    replica.stop().await;
}
