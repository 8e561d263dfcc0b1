//! The identities of namespaces, from Secrets that are watched one by one.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::sync::Arc;

use nodetls::identity::{Identities, Identity, Keeper};
use nodetls::pods::Pod;
use nodetls::pods::decide::{PodInfo, Rules};
use nodetls::policy::{
    CaBundle, Options as PolicyOptions, Origination, Snapshot, Target, Upstream,
};
use nodetls::source::kube::Pods;
use nodetls_tests::{Ca, Identity as Made};
use serde_json::Value;
use tokio::sync::watch;

use super::*;

/// What the component `client-certificates` gives the agent besides: here in one namespace, as its documentation
/// recommends, and for one name.
fn may_read(namespace: &str) -> [Value; 2] {
    let (group, name) = ("rbac.authorization.k8s.io", "nodetls-agent-secrets");
    let metadata = json!({"name": name, "namespace": namespace});
    let rule = json!({
        "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["client"], "verbs": ["get", "list", "watch"],
    });
    let agent = json!({"kind": "ServiceAccount", "name": "agent", "namespace": "nodetls"});
    [
        json!({"apiVersion": format!("{group}/v1"), "kind": "Role", "metadata": metadata, "rules": [rule]}),
        json!({
            "apiVersion": format!("{group}/v1"), "kind": "RoleBinding", "metadata": metadata,
            "roleRef": {"apiGroup": group, "kind": "Role", "name": name}, "subjects": [agent],
        }),
    ]
}

fn secret(namespace: &str, Made { certificate, key }: &Made) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"namespace": namespace, "name": "client"},
        "stringData": {"tls.crt": certificate, "tls.key": key},
    })
}

fn pods(namespaces: &[&str]) -> Arc<Pods> {
    let pods = namespaces.iter().map(|namespace| {
        let info = PodInfo {
            namespace: (*namespace).to_owned(),
            ..PodInfo::default()
        };
        (format!("uid-{namespace}"), info)
    });
    Arc::new(pods.collect::<HashMap<_, _>>())
}

/// One target, whose policy names the Secret `client`.
fn snapshot() -> Snapshot {
    let plan = Origination {
        hostname: "www.example.com".to_owned(),
        subject_alt_names: Vec::new(),
        roots: Arc::new(CaBundle {
            certificates: Vec::new(),
        }),
        options: PolicyOptions {
            client_certificate: Some("client".to_owned()),
            ..PolicyOptions::default()
        },
    };
    let target = Target {
        service: name("web"),
        port: 443,
        policy: name("web"),
        policy_uid: None,
        plan: Ok(Arc::new(plan)),
        upstream: Upstream::ServiceAddress,
        headless: false,
        contested_by: Vec::new(),
    };
    let address = "10.96.0.10:443".parse().unwrap();
    Snapshot {
        targets: BTreeMap::from([(address, Arc::new(target))]),
    }
}

async fn of(identities: &Identities, namespace: &str) -> Result<Arc<Identity>, String> {
    let file = Arc::new(File::open("/dev/null").unwrap());
    let pod = Pod::new("pod", Some(namespace), file);
    let found = identities.of(&pod, "client").await;
    found.map_err(|failure| failure.detail)
}

/// Waits for an answer that contains these words.
async fn until_said(identities: &Identities, namespace: &str, words: &str) {
    let mut last = String::new();
    let search = async {
        loop {
            last = format!("{:?}", of(identities, namespace).await);
            if last.contains(words) {
                return;
            }
            sleep(TICK).await;
        }
    };
    if timeout(PATIENCE, search).await.is_err() {
        panic!("{namespace}: never {words:?}, at last {last}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_namespace_has_the_identity_of_its_own_secret() {
    let mut plane = ControlPlane::start().await;
    let ca = Ca::new("test-ca");
    for own in ["nodetls", "a", "b", "c", "kube-system"] {
        plane.apply(namespace(own, json!({}))).await;
    }
    for own in ["a", "b", "kube-system"] {
        for object in may_read(own) {
            plane.apply(object).await;
        }
        let made = ca.client(&format!("client-{own}"));
        plane.apply(secret(own, &made)).await;
    }
    let (to, node) = watch::channel(pods(&["a", "kube-system"]));
    let (keeper, identities) = Keeper::cluster(plane.agent().await, node, Rules::default());
    assert!(
        of(&identities, "a")
            .await
            .unwrap_err()
            .contains("not been read")
    );
    keeper.follow(&snapshot(), &BTreeMap::new());
    until_said(&identities, "a", "client-a").await;
    // No pod of these can ask.
    for other in ["b", "kube-system"] {
        let found = of(&identities, other).await.unwrap_err();
        assert!(found.contains("has not been read yet"), "{found}");
    }
    to.send_replace(pods(&["a", "b", "c"]));
    until_said(&identities, "b", "client-b").await;
    until_said(&identities, "c", "HTTP 403").await;
    for object in may_read("c") {
        plane.apply(object).await;
    }
    until_said(&identities, "c", "Secret c/client does not exist").await;

    // Touched, but the same.
    let before = of(&identities, "b").await.unwrap();
    let renewed = ca.client("client-a2");
    plane.apply(secret("a", &renewed)).await;
    until_said(&identities, "a", "client-a2").await;
    assert!(Arc::ptr_eq(&before, &of(&identities, "b").await.unwrap()));

    plane.stop_api();
    to.send_replace(pods(&["a", "b", "c", "d"]));
    until_said(&identities, "d", "Secret d/client can't be read").await;
    until_said(&identities, "a", "client-a2").await;
    plane.start_api().await;
    plane.delete(&secret("a", &renewed)).await;
    until_said(&identities, "a", "Secret a/client does not exist").await;
    keeper.follow(&Snapshot::default(), &BTreeMap::new());
    until_said(&identities, "b", "has not been read yet").await;
}
