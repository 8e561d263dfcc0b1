#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tokio::sync::watch;

use super::client::{Client, Fate, Node};
use crate::pods::decide::{PodInfo, REDIRECT, Rules};
use crate::status::{Facts, Netns, NetnsState, NodePods};

/// A pod of namespace `shop`, with uid `uid-NAME`.
fn pod(name: &str, change: impl FnOnce(&mut PodInfo)) -> (String, PodInfo) {
    let mut info = PodInfo {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        ..PodInfo::default()
    };
    change(&mut info);
    (format!("uid-{name}"), info)
}

fn netns(cookie: u64, state: NetnsState) -> Netns {
    Netns {
        name: None,
        cookie,
        state,
        link: None,
    }
}

/// What becomes of a pod's connects on a node with these pods; the netns of cookie 1 is enrolled, of 2 is not, and of 3
/// lacks its program.
fn client(pods: &[(String, PodInfo)], names: &[(u64, &str)], name: &str) -> Result<Client, String> {
    let infos: HashMap<_, _> = pods.iter().cloned().collect();
    let (_sender, infos) = watch::channel(Arc::new(infos));
    let cluster = NodePods {
        node: "node1".to_owned(),
        infos,
        rules: Rules {
            own_namespace: Some("nodetls-system".to_owned()),
            ..Rules::default()
        },
    };
    let names = names
        .iter()
        .map(|(cookie, name)| (*cookie, (*name).to_owned()));
    let facts = Facts {
        netns: names.collect(),
        not_enrolled: Arc::new(BTreeMap::from([(
            "uid-web/4026".to_owned(),
            "no loopback device".to_owned(),
        )])),
        ..Facts::default()
    };
    let node = Node {
        facts: &facts,
        cluster: Some(&cluster),
        netns: vec![
            netns(1, NetnsState::Enrolled),
            netns(2, NetnsState::Denied),
            netns(3, NetnsState::Detached),
        ],
    };
    node.client(name).map_err(|error| error.to_string())
}

/// Why a pod `shop/web` is left alone.
#[track_caller]
fn left_alone(change: impl FnOnce(&mut PodInfo), expected: &str, way_out: &str) {
    let client =
        client(&[pod("web", change)], &[(1, "shop/web")], "web").unwrap_or_else(|e| panic!("{e}"));
    let Fate::Untouched { why, cure } = client.fate else {
        panic!("{expected}");
    };
    assert!(why.contains(expected), "{why}");
    assert!(cure.contains(way_out), "{cure}");
}

#[test]
fn each_reason_to_leave_a_pod_alone_is_told_with_its_way_out() {
    let say = |map: &mut BTreeMap<String, String>, value: &str| {
        _ = map.insert(REDIRECT.to_owned(), value.to_owned())
    };
    left_alone(
        |info| info.host_network = true,
        "hostNetwork",
        "without hostNetwork",
    );
    left_alone(
        |info| say(&mut info.labels, "disabled"),
        "redirect: disabled",
        "write enabled",
    );
    left_alone(
        |info| say(&mut info.namespace_labels, "disabled"),
        "redirect: disabled",
        "write enabled",
    );
    left_alone(
        |info| info.namespace = "kube-system".to_owned(),
        "namespace kube-system",
        "redirect: enabled",
    );
    left_alone(
        |info| info.namespace = "nodetls-system".to_owned(),
        "nodetls' own",
        "another namespace",
    );
    left_alone(
        |info| info.containers = vec!["istio-proxy".to_owned()],
        "mesh",
        "out of the mesh",
    );
    left_alone(
        |info| info.runtime_class = Some("gvisor".to_owned()),
        "RuntimeClass",
        "another RuntimeClass",
    );
}

#[test]
fn an_enrolled_pod_is_turned_whether_it_goes_by_name_or_uid() {
    let pods = [pod("web", |_| {})];
    for known in ["shop/web", "uid-web"] {
        for name in ["web", "shop/web"] {
            let client = client(&pods, &[(1, known)], name).unwrap_or_else(|e| panic!("{e}"));
            assert!(matches!(client.fate, Fate::Turned), "{known} {name}");
            assert_eq!(client.name, "shop/web");
            assert_eq!(client.namespace.as_deref(), Some("shop"));
        }
    }
}

#[test]
fn a_pod_that_is_not_enrolled_is_refused_with_the_cause() {
    let pods = [pod("web", |_| {})];
    for (names, cause) in [
        (vec![], "not enrolled: no loopback device"),
        (vec![(2, "shop/web")], "not enrolled: no loopback device"),
        (vec![(3, "shop/web")], "sk_lookup program"),
    ] {
        let client = client(&pods, &names, "web").unwrap_or_else(|e| panic!("{e}"));
        let Fate::Refused { why, .. } = client.fate else {
            panic!("{cause}");
        };
        assert!(why.contains(cause), "{why}");
    }
}

#[test]
fn a_pod_that_is_not_here_or_is_one_of_several_is_an_error() {
    let other = |info: &mut PodInfo| info.namespace = "bank".to_owned();
    let (uid, info) = pod("web", other);
    let pods = [pod("web", |_| {}), (format!("{uid}-2"), info)];
    let error = client(&pods, &[], "web").err().unwrap();
    assert!(error.contains("name one of bank/web, shop/web"), "{error}");
    assert!(client(&pods, &[], "bank/web").is_ok());
    let error = client(&pods, &[], "shop/db").err().unwrap();
    assert!(
        error.contains("no pod shop/db on node node1: ask the agent of the pod's node"),
        "{error}"
    );
}
