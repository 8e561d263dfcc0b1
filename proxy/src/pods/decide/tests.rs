#![allow(clippy::unwrap_used)]
use super::*;
use Bypass::*;

/// A pod `default/web`, changed.
fn pod(change: impl FnOnce(&mut PodInfo)) -> PodInfo {
    let mut info = PodInfo {
        namespace: "default".to_owned(),
        name: "web".to_owned(),
        containers: vec!["web".to_owned()],
        ..PodInfo::default()
    };
    change(&mut info);
    info
}

fn set(map: &mut BTreeMap<String, String>, key: &str, value: &str) {
    map.insert(key.to_owned(), value.to_owned());
}

#[test]
fn decisions() {
    let label = |value: &'static str| pod(|p| set(&mut p.labels, REDIRECT, value));
    let annotation = |value: &'static str| pod(|p| set(&mut p.annotations, REDIRECT, value));
    let namespace = |value: &'static str| pod(|p| set(&mut p.namespace_labels, REDIRECT, value));
    let container = |name: &'static str| pod(|p| p.containers.push(name.to_owned()));
    let runtime = |name: &'static str| pod(|p| p.runtime_class = Some(name.to_owned()));
    let in_namespace = |name: &'static str| pod(|p| p.namespace = name.to_owned());
    let enrol = Decision::Enrol;
    // (what, pod, opt-out mode, opt-in mode)
    let table = [
        ("plain", pod(|_| {}), enrol, Decision::Bypass(NotOptedIn)),
        (
            "label",
            label("disabled"),
            Decision::Bypass(OptedOut),
            Decision::Bypass(OptedOut),
        ),
        ("label on", label("enabled"), enrol, enrol),
        (
            "label typo",
            label("Disabled"),
            enrol,
            Decision::Bypass(NotOptedIn),
        ),
        (
            "annotation",
            annotation("disabled"),
            Decision::Bypass(OptedOut),
            Decision::Bypass(OptedOut),
        ),
        (
            "namespace",
            namespace("disabled"),
            Decision::Bypass(OptedOut),
            Decision::Bypass(OptedOut),
        ),
        ("namespace on", namespace("enabled"), enrol, enrol),
        (
            "the pod beats its namespace",
            pod(|p| {
                set(&mut p.namespace_labels, REDIRECT, "disabled");
                set(&mut p.annotations, REDIRECT, "enabled");
            }),
            enrol,
            enrol,
        ),
        (
            "kube-system",
            in_namespace("kube-system"),
            Decision::Bypass(ExcludedNamespace),
            Decision::Bypass(ExcludedNamespace),
        ),
        (
            "kube-system, asked for",
            pod(|p| {
                p.namespace = "kube-system".to_owned();
                set(&mut p.labels, REDIRECT, "enabled");
            }),
            enrol,
            enrol,
        ),
        (
            "ours",
            in_namespace("nodetls"),
            Decision::Bypass(Own),
            Decision::Bypass(Own),
        ),
        (
            "hostNetwork, asked for",
            pod(|p| {
                p.host_network = true;
                set(&mut p.labels, REDIRECT, "enabled");
            }),
            Decision::Bypass(HostNetwork),
            Decision::Bypass(HostNetwork),
        ),
        (
            "istio",
            container("istio-proxy"),
            Decision::Bypass(Mesh),
            Decision::Bypass(Mesh),
        ),
        (
            "linkerd",
            container("linkerd-proxy"),
            Decision::Bypass(Mesh),
            Decision::Bypass(Mesh),
        ),
        (
            "ztunnel",
            pod(|p| {
                set(
                    &mut p.annotations,
                    "ambient.istio.io/redirection",
                    "enabled",
                )
            }),
            Decision::Bypass(Mesh),
            Decision::Bypass(Mesh),
        ),
        (
            "ambient namespace",
            pod(|p| {
                set(
                    &mut p.namespace_labels,
                    "istio.io/dataplane-mode",
                    "ambient",
                )
            }),
            Decision::Bypass(Mesh),
            Decision::Bypass(Mesh),
        ),
        (
            "ambient namespace, not this pod",
            pod(|p| {
                set(
                    &mut p.namespace_labels,
                    "istio.io/dataplane-mode",
                    "ambient",
                );
                set(&mut p.labels, "istio.io/dataplane-mode", "none");
            }),
            enrol,
            Decision::Bypass(NotOptedIn),
        ),
        (
            "gvisor",
            runtime("gvisor"),
            Decision::Bypass(Runtime),
            Decision::Bypass(Runtime),
        ),
        (
            "kata",
            runtime("kata-qemu"),
            Decision::Bypass(Runtime),
            Decision::Bypass(Runtime),
        ),
        (
            "nvidia",
            runtime("nvidia"),
            enrol,
            Decision::Bypass(NotOptedIn),
        ),
    ];
    let rules = |opt_in| Rules {
        opt_in,
        own_namespace: Some("nodetls".to_owned()),
        ..Rules::default()
    };
    for (what, info, opt_out, opt_in) in table {
        assert_eq!(decide(Some(&info), &rules(false)), opt_out, "{what}");
        assert_eq!(decide(Some(&info), &rules(true)), opt_in, "{what}, opt-in");
    }
    assert_eq!(decide(None, &rules(false)), Decision::Enrol, "unknown");
    assert_eq!(
        decide(None, &rules(true)),
        Decision::Deny,
        "unknown, opt-in"
    );
}

#[test]
fn a_value_that_means_nothing_is_told() {
    let info = pod(|p| set(&mut p.labels, REDIRECT, "off"));
    assert_eq!(info.unknown_redirect(), Some("off"));
    assert_eq!(pod(|_| {}).unknown_redirect(), None);
}

#[test]
fn a_static_pod_is_known_by_its_hash() {
    let mut annotations = BTreeMap::new();
    assert_eq!(cgroup_uid("819592d6-72a1", &annotations), "819592d6-72a1");
    let hash = "8f2a6e5c0d1b4a3f9e7c6b5a4d3c2b1a";
    set(&mut annotations, "kubernetes.io/config.mirror", hash);
    assert_eq!(cgroup_uid("819592d6-72a1", &annotations), hash);
    let another = "51d1a2f0-11d1";
    set(&mut annotations, "kubernetes.io/config.mirror", another);
    assert_eq!(cgroup_uid("819592d6-72a1", &annotations), "819592d6-72a1");
}
