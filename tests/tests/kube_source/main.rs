//! The Kubernetes source against a real API server; `cargo xtask e2e` runs this.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A broken rig is a failed test.

use std::path::Path;
use std::time::{Duration, SystemTime};

use kube::Client;
use nodetls::policy::{CaName, ObjectName, Objects};
use nodetls::source::kube::{Crd, Kube, Options, Resource, State, Synced};
use serde_json::json;
use tokio::time::{sleep, timeout};

mod control_plane;
mod crd;
mod identities;
mod objects;

use control_plane::{ControlPlane, PATIENCE};
use objects::{definition, mirror, namespace, policy, rbac, service, slice};

const TICK: Duration = Duration::from_millis(50);

/// A cluster with the agent's rights, a Service, a mirrored CA and no CRD.
async fn cluster() -> ControlPlane {
    let plane = ControlPlane::start().await;
    plane.apply(namespace("nodetls", json!({}))).await;
    plane.apply(namespace("shop", json!({"team": "a"}))).await;
    for object in rbac() {
        plane.apply(object).await;
    }
    plane.apply(service("web", 443)).await;
    plane
        .apply(mirror(&CaName::config_map("shop", "ca"), "PEM"))
        .await;
    plane
}

/// The same with a CRD that serves v1, and policies of these names.
async fn cluster_with(policies: &[&str]) -> ControlPlane {
    let plane = cluster().await;
    install(&plane, &["v1"]).await;
    for name in policies {
        plane.apply(policy("v1", name, "web.example")).await;
    }
    plane
}

/// Installs the CRD and waits until policies can be written.
async fn install(plane: &ControlPlane, versions: &[&str]) {
    plane.apply(definition(versions)).await;
    let probe = policy(versions[versions.len() - 1], "probe", "probe.example");
    let served = async {
        while !plane.serves(&probe).await {
            sleep(TICK).await;
        }
    };
    timeout(PATIENCE, served).await.unwrap();
}

fn start(client: Client, cache: &Path) -> Kube {
    let options = Options {
        namespace: "nodetls".to_owned(),
        cache: Some(cache.to_owned()),
        node: Some("node1".to_owned()),
        statuses: false,
    };
    Kube::start(client, options)
}

/// The objects as soon as they are so; `always` holds for each update on the way.
async fn until_while(
    kube: &mut Kube,
    wanted: impl Fn(&Objects) -> bool,
    always: impl Fn(&Objects) -> bool,
) -> Objects {
    let mut last = None;
    let search = async {
        loop {
            let objects = kube.next().await.objects;
            assert!(always(&objects), "{objects:#?}");
            if wanted(&objects) {
                return objects;
            }
            last = Some(objects);
        }
    };
    match timeout(PATIENCE, search).await {
        Ok(objects) => objects,
        Err(_) => panic!("never so; at last {last:#?}, {:#?}", *kube.state().borrow()),
    }
}

async fn until(kube: &mut Kube, wanted: impl Fn(&Objects) -> bool) -> Objects {
    until_while(kube, wanted, |_| true).await
}

async fn state(kube: &Kube, wanted: impl Fn(&State) -> bool) -> State {
    let mut states = kube.state();
    let found = timeout(PATIENCE, states.wait_for(|state| wanted(state))).await;
    match found {
        Ok(state) => state.unwrap().clone(),
        Err(_) => panic!("never so: {:#?}", *kube.state().borrow()),
    }
}

fn pem<'a>(now: &'a Objects, ca: &CaName) -> Option<&'a str> {
    let pem = now.ca_objects.get(ca)?.pem.as_ref()?;
    std::str::from_utf8(&pem.0).ok()
}

/// The first port of the Service `web`.
fn port_of_web(now: &Objects) -> i32 {
    let spec = now.services[&name("web")].spec.as_ref().unwrap();
    spec.ports.as_ref().unwrap()[0].port
}

fn name(name: &str) -> ObjectName {
    ObjectName::new("shop", name)
}

fn hostname(objects: &Objects, policy: &str) -> Option<String> {
    let spec = &objects.policies.get(&name(policy))?.spec;
    Some(spec["validation"]["hostname"].as_str()?.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_then_follows_changes() {
    let plane = cluster_with(&["one", "two"]).await;
    let mut kube = start(plane.agent().await, &plane.dir.path().join("cache"));
    let first = kube.next().await.objects;
    assert_eq!(first.policies.len(), 2, "complete from the first on");
    assert!(first.services.contains_key(&name("web")));
    let default = ObjectName::new("default", "kubernetes");
    assert!(
        first.services[&default]
            .spec
            .as_ref()
            .unwrap()
            .cluster_ip
            .is_some()
    );
    let ca = CaName::config_map("shop", "ca");
    assert_eq!(pem(&first, &ca), Some("PEM"));
    assert!(!first.ca_secrets);
    let namespaces = kube.namespaces();
    assert_eq!(namespaces.borrow()["shop"].labels["team"], "a");
    let live = state(&kube, |state| state.in_step).await;
    assert_eq!(
        (live.synced, live.crd),
        (Synced::Live, Some(Crd::Served { version: "v1" }))
    );
    assert!(
        live.failures.is_empty() && !live.frozen,
        "{:?}",
        kube.state()
    );

    plane.apply(policy("v1", "one", "other.example")).await;
    until(&mut kube, |now| {
        hostname(now, "one").as_deref() == Some("other.example")
    })
    .await;
    plane.delete(&policy("v1", "two", "")).await;
    until(&mut kube, |now| now.policies.len() == 1).await;
    plane.apply(mirror(&ca, "NEW")).await;
    until(&mut kube, |now| pem(now, &ca) == Some("NEW")).await;
    let secret = CaName::secret("shop", "ca");
    plane.apply(mirror(&secret, "SECRET")).await;
    let both = until(&mut kube, |now| pem(now, &secret) == Some("SECRET")).await;
    assert!(
        both.ca_secrets && pem(&both, &ca) == Some("NEW"),
        "{both:#?}"
    );
    plane.delete(&mirror(&secret, "")).await;
    until(&mut kube, |now| !now.ca_secrets).await;
    plane.delete(&service("web", 443)).await;
    until(&mut kube, |now| !now.services.contains_key(&name("web"))).await;

    plane.apply(namespace("shop", json!({"team": "b"}))).await;
    let mut namespaces = kube.namespaces();
    let changed = namespaces.wait_for(|all| all["shop"].labels["team"] == "b");
    timeout(PATIENCE, changed).await.unwrap().unwrap();
}

/// Of other Services somebody else picks the endpoint.
#[tokio::test(flavor = "multi_thread")]
async fn slices_are_those_of_headless_services_and_little_of_them() {
    let plane = cluster_with(&["one"]).await;
    plane.apply(slice("db-1", true, &["10.1.0.1"], true)).await;
    plane
        .apply(slice("web-1", false, &["10.1.0.9"], true))
        .await;
    let mut kube = start(plane.agent().await, &plane.dir.path().join("cache"));
    let first = kube.next().await.objects.endpoint_slices;
    assert!(first.keys().eq([&name("db-1")]), "{first:?}");
    let kept = serde_json::to_value(&*first[&name("db-1")]).unwrap();
    let expected = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"namespace": "shop", "name": "db-1", "labels": {
            "kubernetes.io/service-name": "db", "service.kubernetes.io/headless": "",
        }},
        "addressType": "IPv4", "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}],
        "endpoints": [{"addresses": ["10.1.0.1"]}],
    });
    assert_eq!(kept, expected);

    // Nothing that matters, and then something.
    plane.apply(slice("db-1", true, &["10.1.0.1"], false)).await;
    plane
        .apply(slice("web-1", false, &["10.1.0.8"], true))
        .await;
    let quiet = timeout(Duration::from_secs(2), kube.next()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    plane
        .apply(slice("db-1", true, &["10.1.0.1", "10.1.0.2"], false))
        .await;
    let endpoints = |now: &Objects| {
        now.endpoint_slices
            .get(&name("db-1"))
            .map(|slice| slice.endpoints.len())
    };
    until(&mut kube, |now| endpoints(now) == Some(2)).await;
    plane.delete(&slice("db-1", true, &[], true)).await;
    until(&mut kube, |now| now.endpoint_slices.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_changes_are_few_updates() {
    let plane = cluster_with(&["one"]).await;
    let mut kube = start(plane.agent().await, &plane.dir.path().join("cache"));
    kube.next().await;
    let before = SystemTime::now();
    let write = async {
        for change in 1..=1000_u16 {
            plane.apply(service("web", change)).await;
        }
    };
    let read = async {
        let mut updates = 0;
        while port_of_web(&kube.next().await.objects) < 1000 {
            updates += 1;
        }
        updates
    };
    let (updates, ()) = timeout(PATIENCE, async { tokio::join!(read, write) })
        .await
        .unwrap();
    let seconds = before.elapsed().unwrap().as_secs_f64();
    println!("{updates} updates for 1,000 changes in {seconds:.1} s");
    assert!(f64::from(updates) < 5.0 + seconds * 10.0, "{updates}");
}

#[tokio::test(flavor = "multi_thread")]
async fn goes_on_without_the_api_server_and_after_it() {
    let mut plane = cluster_with(&["one", "two"]).await;
    let cache = plane.dir.path().join("cache");
    plane.apply(slice("db-1", true, &["10.1.0.1"], true)).await;
    let mut kube = start(plane.agent().await, &cache);
    let objects = kube.next().await.objects;
    assert_eq!(objects.endpoint_slices.len(), 1);
    state(&kube, |state| state.in_step).await;
    let kept = async {
        while !cache.join("objects-3").exists() {
            sleep(TICK).await;
        }
    };
    timeout(PATIENCE, kept).await.unwrap();

    plane.stop_api();
    let refused = |state: &State| {
        let mut failures = state.failures.values();
        state.failures.len() == 7 && failures.all(|failure| failure.cause.contains("refused"))
    };
    let away = state(&kube, refused).await;
    assert!(away.last_sync(SystemTime::now()).unwrap() < SystemTime::now());

    let mut restarted = start(plane.agent().await, &cache);
    assert_eq!(
        restarted.next().await.objects,
        objects,
        "the same from the cache"
    );
    let cached = state(&restarted, |state| state.synced != Synced::No).await;
    assert!(matches!(cached.synced, Synced::Cached { .. }), "{cached:?}");
    assert_eq!(restarted.namespaces().borrow()["shop"].labels["team"], "a");

    plane.start_api().await;
    plane.delete(&policy("v1", "two", "")).await;
    plane.apply(service("web", 8443)).await;
    let one = |now: &Objects| now.policies.contains_key(&name("one"));
    for kube in [&mut kube, &mut restarted] {
        until_while(kube, |now| now.policies.len() == 1, one).await;
        let live = state(kube, |state| state.in_step).await;
        assert!(
            live.failures.is_empty() && live.synced == Synced::Live,
            "{live:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_right_is_named_and_not_half_synced() {
    let plane = cluster_with(&["one"]).await;
    let mut short = rbac().remove(0);
    let rules = short["rules"].as_array_mut().unwrap();
    rules.retain(|rule| rule["resources"] != json!(["services"]));
    plane.apply(short).await;
    let mut kube = start(plane.agent().await, &plane.dir.path().join("cache"));
    let refused = state(&kube, |state| !state.failures.is_empty()).await;
    let failure = &refused.failures[&Resource::Services];
    assert_eq!(failure.status, Some(403));
    let text = failure.to_string();
    assert!(
        text.contains("system:serviceaccount:nodetls:agent") && text.contains("RBAC"),
        "{text}"
    );
    assert!(
        timeout(Duration::from_secs(6), kube.next()).await.is_err(),
        "not half synced"
    );

    plane.apply(rbac().remove(0)).await;
    let objects = kube.next().await.objects;
    assert!(objects.policies.len() == 1 && objects.services.len() == 2);
    assert!(
        state(&kube, |state| state.in_step)
            .await
            .failures
            .is_empty()
    );
}
