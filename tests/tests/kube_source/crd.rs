//! The CRD comes, changes its versions and goes.

use std::time::Duration;

use nodetls::policy::Objects;
use nodetls::source::kube::{Crd, Kube, Resource, Synced};
use serde_json::json;
use tokio::time::{sleep, timeout};

use super::control_plane::{ControlPlane, PATIENCE};
use super::objects::{definition, policy, rbac, service};
use super::{
    TICK, cluster, cluster_with, install, name, port_of_web, start, state, until, until_while,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_crd_that_comes_later_is_picked_up_in_its_version() {
    let plane = cluster().await;
    let mut kube = start(plane.agent().await, &plane.dir.path().join("cache"));
    let first = kube.next().await.objects;
    assert!(first.policies.is_empty() && first.services.contains_key(&name("web")));
    let idle = state(&kube, |state| state.in_step).await;
    assert_eq!((idle.crd, idle.frozen), (Some(Crd::Absent), false));

    install(&plane, &["v1alpha2"]).await;
    let useless = state(&kube, |state| state.crd != Some(Crd::Absent)).await;
    assert!(
        useless.problems()[0].contains("served as v1alpha2 only"),
        "{useless:?}"
    );

    install(&plane, &["v1alpha2", "v1alpha3"]).await;
    plane.apply(policy("v1alpha3", "one", "web.example")).await;
    until(&mut kube, |now| now.policies.len() == 1).await;
    let old = state(&kube, |state| state.in_step).await;
    assert_eq!(
        old.crd,
        Some(Crd::Served {
            version: "v1alpha3"
        })
    );

    install(&plane, &["v1alpha2", "v1alpha3", "v1"]).await;
    state(&kube, |state| {
        state.crd == Some(Crd::Served { version: "v1" })
    })
    .await;
    plane.apply(policy("v1", "two", "web.example")).await;
    let kept = |now: &Objects| now.policies.contains_key(&name("one"));
    until_while(&mut kube, |now| now.policies.len() == 2, kept).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_crd_takes_no_policy_with_it() {
    let plane = cluster_with(&["one", "two", "three"]).await;
    let cache = plane.dir.path().join("cache");
    let mut kube = start(plane.agent().await, &cache);
    assert_eq!(kube.next().await.objects.policies.len(), 3);
    state(&kube, |state| state.in_step).await;

    plane.delete(&definition(&["v1"])).await;
    let frozen = state(&kube, |state| state.crd == Some(Crd::Absent)).await;
    assert!(frozen.frozen && !plane.has(&definition(&["v1"])).await);
    plane.apply(service("web", 8443)).await;
    let all = |now: &Objects| now.policies.len() == 3;
    until_while(&mut kube, |now| port_of_web(now) == 8443, all).await;

    // A restart while it is gone, with the cache.
    drop(kube);
    let mut kube = start(plane.agent().await, &cache);
    assert_eq!(kube.next().await.objects.policies.len(), 3);
    assert!(
        state(&kube, |state| state.synced == Synced::Live)
            .await
            .frozen
    );

    // The same without one: what an earlier agent published must not be taken for removed.
    let mut other = start(plane.agent().await, &plane.dir.path().join("empty"));
    let unknown = other.next().await;
    assert!(unknown.objects.policies.is_empty() && !unknown.complete);

    // It comes back: from then on what the API server has is true again.
    install(&plane, &["v1"]).await;
    plane.apply(policy("v1", "four", "web.example")).await;
    until(&mut kube, |now| now.policies.keys().eq([&name("four")])).await;
    assert!(!state(&kube, |state| state.in_step).await.frozen);
}

/// A finalizer keeps the CRD in its deletion, after the API server has removed the other policies.
#[tokio::test(flavor = "multi_thread")]
async fn a_crd_that_is_being_deleted_takes_no_policy_with_it() {
    let plane = cluster_with(&["one", "two"]).await;
    let mut held = policy("v1", "held", "web.example");
    held["metadata"]["finalizers"] = json!(["nodetls.test/held"]);
    plane.apply(held).await;
    let mut kube = start(plane.agent().await, &plane.dir.path().join("cache"));
    assert_eq!(kube.next().await.objects.policies.len(), 3);
    state(&kube, |state| state.in_step).await;

    plane.delete(&definition(&["v1"])).await;
    let going = state(&kube, |state| state.frozen).await;
    assert!(
        going.problems()[0].contains("is being deleted"),
        "{going:?}"
    );
    gone(&plane, &["one", "two"]).await;
    unharmed_by_a_service(&plane, &mut kube, 3).await;
}

/// What its watch does not tell, a look at the CRD does.
#[tokio::test(flavor = "multi_thread")]
async fn a_removal_is_believed_only_after_a_look_at_the_crd() {
    let plane = cluster_with(&["one", "two"]).await;
    let mut role = rbac().remove(0);
    role["rules"][0]["verbs"] = json!(["get", "list"]);
    plane.apply(role).await;
    let mut kube = start(plane.agent().await, &plane.dir.path().join("cache"));
    assert_eq!(kube.next().await.objects.policies.len(), 2);
    state(&kube, |state| state.failures.contains_key(&Resource::Crd)).await;

    plane.delete(&definition(&["v1"])).await;
    gone(&plane, &["one", "two"]).await;
    unharmed_by_a_service(&plane, &mut kube, 2).await;
}

async fn gone(plane: &ControlPlane, policies: &[&str]) {
    for name in policies {
        let policy = policy("v1", name, "");
        let removed = async {
            while plane.has(&policy).await {
                sleep(TICK).await;
            }
        };
        timeout(PATIENCE, removed).await.unwrap();
    }
    // For the events of it, which have a watch of their own.
    sleep(Duration::from_secs(1)).await;
}

/// A Service's change comes through, and finds all policies there.
async fn unharmed_by_a_service(plane: &ControlPlane, kube: &mut Kube, policies: usize) {
    plane.apply(service("other", 8443)).await;
    let other = |now: &Objects| now.services.contains_key(&name("other"));
    until_while(kube, other, |now| now.policies.len() == policies).await;
}
