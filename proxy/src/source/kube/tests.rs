#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::DynamicObject;
use serde_json::{Value, from_value, json};

use super::cache::{self, CacheError, Kept};
use super::mirror::mirrored;
use super::store::{Store, in_force};
use super::watch::Signal;
use super::*;
use crate::policy::{BackendTlsPolicy, CaName, CaObject, ObjectName, Objects};

fn name(name: &str) -> ObjectName {
    ObjectName::new("shop", name)
}

fn policy(hostname: &str) -> Arc<BackendTlsPolicy> {
    let spec = json!({"validation": {"hostname": hostname}});
    let policy = json!({"metadata": {"namespace": "shop", "name": "web"}, "spec": spec});
    Arc::new(from_value(policy).unwrap())
}

fn listed(objects: &[(&str, u8)]) -> Signal<u8> {
    Signal::Listed(objects.iter().map(|(n, v)| (name(n), *v)).collect())
}

fn failure(status: Option<u16>) -> WatchFailure {
    WatchFailure {
        resource: Resource::Services,
        status,
        cause: "because".to_owned(),
    }
}

#[test]
fn a_store_follows_its_watch_and_tells_what_changed() {
    let mut store = Store::default();
    assert!(!store.take(Signal::Failed(failure(None))));
    assert!(!store.listed && store.failure.is_some());
    assert!(store.take(listed(&[])), "complete for the first time");
    assert!(store.failure.is_some(), "a list is no watch yet");
    assert!(!store.take(Signal::Watching));
    assert!(store.watching && store.failure.is_none());

    assert!(store.take(Signal::Applied(name("a"), 1)));
    assert!(!store.take(Signal::Applied(name("a"), 1)), "the same again");
    assert!(store.take(Signal::Applied(name("a"), 2)));
    assert!(!store.take(Signal::Deleted(name("b"))), "unknown here");
    assert!(!store.take(Signal::Failed(failure(Some(500)))));
    assert!(!store.watching && store.listed);
    assert_eq!(store.objects, BTreeMap::from([(name("a"), 2)]), "stay");

    assert!(!store.take(listed(&[("a", 2)])), "listed again, the same");
    assert!(store.take(listed(&[("c", 3)])), "a list replaces all");
    assert_eq!(store.objects, BTreeMap::from([(name("c"), 3)]));
    assert!(store.take(Signal::Deleted(name("c"))));
}

#[test]
fn a_removal_counts_only_in_a_complete_picture() {
    let known = BTreeMap::from([(name("a"), policy("old")), (name("b"), policy("b"))]);
    let live = BTreeMap::from([(name("a"), policy("new")), (name("c"), policy("c"))]);
    assert_eq!(in_force(known.clone(), live.clone(), true), live);
    let frozen = in_force(known, live, false);
    assert_eq!(frozen.len(), 3);
    assert_eq!(frozen[&name("a")], policy("new"), "an edit counts always");
    assert_eq!(frozen[&name("b")], policy("b"));
}

fn crd(versions: &[(&str, bool)], established: &str, deleted: bool) -> Crd {
    let versions: Vec<Value> = versions
        .iter()
        .map(|(name, served)| json!({"name": name, "served": served, "schema": {}}))
        .collect();
    let mut object = json!({
        "metadata": {"name": super::crd::NAME},
        "spec": {"versions": versions},
        "status": {"conditions": [{"type": "Established", "status": established}]},
    });
    if deleted {
        object["metadata"]["deletionTimestamp"] = json!("2026-11-21T00:00:00Z");
    }
    let object: DynamicObject = from_value(object).unwrap();
    Crd::of(&object)
}

#[test]
fn the_crd_tells_which_version_to_watch() {
    let served = |version| Crd::Served { version };
    let both = [("v1alpha3", true), ("v1", true)];
    assert_eq!(crd(&both, "True", false), served("v1"));
    let old = [("v1", false), ("v1alpha3", true)];
    assert_eq!(crd(&old, "True", false), served("v1alpha3"));
    assert_eq!(crd(&both, "False", false), Crd::Absent, "not established");

    let unknown = crd(&[("v1alpha2", true), ("v1", false)], "True", false);
    assert_eq!(
        unknown.to_string(),
        "BackendTLSPolicy is served as v1alpha2 only, not as v1 or v1alpha3: install the CRDs of Gateway API 1.4 or \
         newer"
    );
    assert_eq!(unknown.version(), None);
}

#[test]
fn a_crd_on_its_way_out_vouches_for_no_removal() {
    let going = crd(&[("v1", true)], "True", true);
    assert_eq!(
        going,
        Crd::Terminating {
            version: Some("v1")
        }
    );
    assert_eq!(going.version(), Some("v1"), "can still be read");
    assert!(!going.vouches() && !Crd::Absent.vouches());
    assert!(crd(&[("v1", true)], "True", false).vouches());
}

#[test]
fn of_a_policy_what_the_compiler_reads_is_kept() {
    let object: DynamicObject = from_value(json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "BackendTLSPolicy",
        "metadata": {
            "namespace": "shop", "name": "web", "generation": 3, "resourceVersion": "77", "uid": "u",
            "creationTimestamp": "2026-11-21T00:00:00Z",
            "annotations": {"nodetls.io/x": "1", "kubectl.kubernetes.io/last-applied-configuration": "{}"},
            "managedFields": [{"manager": "kubectl"}],
        },
        "spec": {"validation": "not an object"},
        "status": {"ancestors": []},
    }))
    .unwrap();
    let with_version = reduce::policy_and_version(object.clone()).unwrap();
    assert_eq!(
        with_version.metadata.resource_version.as_deref(),
        Some("77")
    );
    let kept = serde_json::to_value(reduce::policy(object).as_deref()).unwrap();
    let expected = json!({
        "metadata": {
            "namespace": "shop", "name": "web", "generation": 3, "creationTimestamp": "2026-11-21T00:00:00Z",
            "annotations": {"nodetls.io/x": "1"}, "uid": "u",
        },
        "spec": {"validation": "not an object"},
    });
    assert_eq!(kept, expected);
}

#[test]
fn of_a_pod_what_decides_is_kept() {
    let pod = |metadata: Value| {
        let spec = json!({
            "hostNetwork": true, "runtimeClassName": "kata",
            "containers": [{"name": "app"}], "initContainers": [{"name": "istio-proxy"}],
        });
        reduce::pod(from_value(json!({"metadata": metadata, "spec": spec})).unwrap())
    };
    let metadata = json!({
        "namespace": "shop", "name": "web", "uid": "u", "labels": {"app": "web"},
        "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}"},
    });
    let (uid, info) = pod(metadata).unwrap();
    let expected = PodInfo {
        namespace: "shop".to_owned(),
        name: "web".to_owned(),
        labels: BTreeMap::from([("app".to_owned(), "web".to_owned())]),
        host_network: true,
        containers: vec!["app".to_owned(), "istio-proxy".to_owned()],
        runtime_class: Some("kata".to_owned()),
        ..PodInfo::default()
    };
    assert_eq!((uid.as_str(), info), ("u", expected));
    let mirror = json!({"uid": "u", "annotations": {"kubernetes.io/config.mirror": "hash"}});
    assert_eq!(pod(mirror).unwrap().0, "hash", "a static pod's cgroup");
    assert_eq!(pod(json!({"name": "no uid"})), None);
}

fn slice(ready: bool) -> EndpointSlice {
    from_value(json!({
        "metadata": {
            "namespace": "shop", "name": "db-1", "resourceVersion": "7", "labels": {
                "kubernetes.io/service-name": "db", "service.kubernetes.io/headless": "", "app": "db",
            },
        },
        "addressType": "IPv4",
        "ports": [{"name": "sql", "port": 5432, "protocol": "TCP", "appProtocol": "x"}],
        "endpoints": [{
            "addresses": ["10.1.0.1"], "conditions": {"ready": ready}, "nodeName": "node1", "zone": "a",
            "targetRef": {"kind": "Pod", "name": "db-0"},
        }],
    }))
    .unwrap()
}

#[test]
fn of_a_slice_no_condition_is_kept() {
    let kept = reduce::endpoint_slice(slice(true)).unwrap();
    assert_eq!(reduce::endpoint_slice(slice(false)).unwrap(), kept);
    let expected = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"namespace": "shop", "name": "db-1", "labels": {
            "kubernetes.io/service-name": "db", "service.kubernetes.io/headless": "",
        }},
        "addressType": "IPv4", "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}],
        "endpoints": [{"addresses": ["10.1.0.1"]}],
    });
    assert_eq!(serde_json::to_value(&*kept).unwrap(), expected);
}

fn mirror_of(kind: &str, name: &str) -> ConfigMap {
    from_value(json!({
        "metadata": {
            "namespace": "nodetls", "name": name, "labels": {"nodetls.io/mirror": "true"},
            "annotations": {
                "nodetls.io/source-kind": kind,
                "nodetls.io/source-namespace": "shop", "nodetls.io/source-name": "ca",
            },
        },
        "data": {"ca.crt": "PEM", "tls.key": "KEY"},
        "binaryData": {"more": "AAAA"},
    }))
    .unwrap()
}

#[test]
fn mirrored_certificates_get_the_name_of_their_source() {
    // printf 'ConfigMap shop/ca' | sha256sum
    let (config_map, secret) = ("ca-1d28b9696316d0c6", "ca-60261ee53d5b3033");
    assert_eq!(mirror_name(&CaName::config_map("shop", "ca")), config_map);
    assert_eq!(mirror_name(&CaName::secret("shop", "ca")), secret);
    let (source, kept) = reduce::mirror(mirror_of("Secret", secret)).unwrap();
    assert_eq!(source, CaName::secret("shop", "ca"));
    assert_eq!(kept.pem.unwrap().0, b"PEM");
    for (kind, name) in [
        ("ConfigMap", "ca-0000000000000000"),
        ("ConfigMap", secret),
        ("Other", config_map),
    ] {
        assert_eq!(reduce::mirror(mirror_of(kind, name)), None, "{kind} {name}");
    }
    let mut of_no_kind = mirror_of("ConfigMap", config_map);
    let annotations = of_no_kind.metadata.annotations.as_mut().unwrap();
    annotations.remove(SOURCE_KIND);
    assert_eq!(reduce::mirror(of_no_kind), None);
}

#[test]
fn a_mirrored_secret_says_that_secrets_are_allowed() {
    let ca = |name| (name, CaObject::default());
    let config_map = ca(CaName::config_map("shop", "ca"));
    assert!(!mirrored([]).ca_secrets);
    assert!(!mirrored([config_map.clone()]).ca_secrets);
    let both = mirrored([config_map, ca(CaName::secret("shop", "ca"))]);
    assert!(both.ca_secrets);
    assert_eq!(both.ca_objects.len(), 2);
}

fn objects() -> (Objects, Namespaces) {
    let service: Service = from_value(json!({
        "metadata": {"namespace": "shop", "name": "web"},
        "spec": {"clusterIP": "10.96.0.10", "ports": [{"port": 443, "targetPort": "https"}]},
    }))
    .unwrap();
    let slice = reduce::endpoint_slice(slice(true)).unwrap();
    let ca = CaName::config_map("shop", "ca");
    let ca = reduce::mirror(mirror_of("ConfigMap", &mirror_name(&ca))).unwrap();
    let objects = Objects {
        services: BTreeMap::from([(name("web"), Arc::new(service))]),
        endpoint_slices: BTreeMap::from([(name("db-1"), slice)]),
        ca_objects: BTreeMap::from([ca]),
        policies: BTreeMap::from([(name("web"), policy("web.example"))]),
        ..Objects::default()
    };
    let namespace = Namespace {
        labels: BTreeMap::from([("nodetls.io/redirect".to_owned(), "disabled".to_owned())]),
        terminating: false,
        annotations: BTreeMap::new(),
    };
    (objects, BTreeMap::from([("shop".to_owned(), namespace)]))
}

#[test]
fn the_cache_gives_back_what_was_kept() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("made/when/missing");
    assert!(cache::read(&dir).unwrap().is_none());

    let (objects, namespaces) = objects();
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000);
    let pods = Pods::from([("uid".to_owned(), PodInfo::default())]);
    let kept = Kept::new(objects.clone(), namespaces.clone(), pods.clone());
    cache::write(&dir, b"an older one").unwrap();
    cache::write(&dir, &kept.encode(then).unwrap()).unwrap();

    let path = cache::path(&dir);
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(!fs::read_to_string(&path).unwrap().contains("KEY"));
    let files: Vec<_> = fs::read_dir(&dir).unwrap().collect();
    assert_eq!(files.len(), 1, "no temporary file is left: {files:?}");

    let read = cache::read(&dir).unwrap().unwrap();
    assert_eq!(read.written(), then);
    assert_eq!(read.namespaces, namespaces);
    assert_eq!(read.pods, pods);
    assert_eq!(read.objects(), objects);
}

#[test]
fn a_cache_that_is_not_whole_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (objects, namespaces) = objects();
    let good = Kept::new(objects, namespaces, Pods::new())
        .encode(SystemTime::now())
        .unwrap();
    let reads = |bytes: &[u8]| {
        cache::write(dir.path(), bytes).unwrap();
        cache::read(dir.path())
    };
    assert!(reads(&good).unwrap().is_some());
    for end in 0..good.len() {
        assert!(Kept::decode(&good[..end]).is_err(), "cut to {end} bytes");
    }
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    assert!(matches!(reads(&flipped), Err(CacheError::Damaged)));
    let other = String::from_utf8(good).unwrap().replacen(" 3 ", " 2 ", 1);
    assert!(matches!(
        reads(other.as_bytes()),
        Err(CacheError::OtherVersion)
    ));
    fs::remove_file(cache::path(dir.path())).unwrap();
    fs::create_dir(cache::path(dir.path())).unwrap();
    assert!(matches!(
        cache::read(dir.path()),
        Err(CacheError::Unreadable(_))
    ));
}

#[test]
fn a_failure_names_cause_and_cure() {
    let texts = [
        (Some(403), "HTTP 403: because; apply the RBAC rules"),
        (None, "watched: because; see that the API"),
    ];
    for (status, part) in texts {
        let text = failure(status).to_string();
        assert!(
            text.starts_with("services can't be ") && text.contains(part),
            "{text}"
        );
    }
}

#[test]
fn the_last_sync_is_when_the_last_watch_broke() {
    let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let mut state = State::default();
    assert_eq!(state.last_sync(at(9)), None);
    state.synced = Synced::Cached { written: at(1) };
    assert_eq!(state.last_sync(at(9)), Some(at(1)));
    state.synced = Synced::Live;
    state.in_step = true;
    assert_eq!(state.last_sync(at(9)), Some(at(9)));
    (state.in_step, state.left_step) = (false, Some(at(5)));
    assert_eq!(state.last_sync(at(9)), Some(at(5)));
}

#[test]
fn frozen_policies_are_a_problem_that_is_told() {
    let state = State {
        crd: Some(Crd::Absent),
        frozen: true,
        failures: BTreeMap::from([(Resource::Services, failure(Some(403)))]),
        ..State::default()
    };
    let problems = state.problems();
    assert_eq!(problems.len(), 2);
    assert!(
        problems[0].ends_with("newer; the policies of before stay in force"),
        "{problems:?}"
    );
}
