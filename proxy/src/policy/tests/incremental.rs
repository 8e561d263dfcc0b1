//! A compiler with a memory gives what one without gives.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

/// An object is put into its place, or removed.
#[derive(Clone, Debug)]
enum Change {
    Service(ObjectName, Option<Value>),
    Slice(ObjectName, Option<Value>),
    Ca(ObjectName, Option<&'static str>),
    Policy(ObjectName, Option<Value>),
    /// All objects are read again: equal, and not the same.
    ReadAgain,
    CaSecrets(bool),
    InsecureValidation(bool),
}

fn name(names: [&'static str; 3]) -> impl Strategy<Value = ObjectName> {
    let namespace = select(vec!["default", "other"]);
    (namespace, select(names.to_vec())).prop_map(|(ns, name)| ObjectName::new(ns, name))
}

/// ClusterIPs, chosen addresses and endpoints meet.
fn service() -> impl Strategy<Value = Value> {
    let ip = select(vec!["10.0.0.1", "10.0.0.2", "None"]);
    let external = option::of(select(vec!["10.0.0.1", "10.0.0.2", "192.0.2.1"]));
    let host = annotation("nodetls.io/external-host", ["a.example", "?"]);
    (ip, external, 0..3_u16, host).prop_map(|(ip, external, port, annotations)| {
        let ports = json!([{"name": "a", "port": 443}, {"name": "b", "port": 444 + port},
            {"name": "c", "port": 443, "protocol": "UDP"}]);
        let external: Vec<_> = external.into_iter().collect();
        json!({
            "metadata": {"annotations": annotations},
            "spec": {"clusterIP": ip, "externalIPs": external, "ports": ports},
        })
    })
}

/// Mostly none.
fn annotation(key: &'static str, values: [&'static str; 2]) -> impl Strategy<Value = Value> {
    let value = option::weighted(0.2, select(values.to_vec()));
    value.prop_map(move |value| value.map_or(json!({}), |value| json!({ (key): value })))
}

fn slice() -> impl Strategy<Value = Value> {
    let endpoints = vec(
        select(vec!["10.0.0.1", "10.1.0.1", "10.1.0.2", "fd00::1"]),
        0..4,
    );
    let label = option::of(Just(""));
    (select(vec!["s", "t", "u"]), endpoints, label).prop_map(|(service, endpoints, label)| {
        let endpoints: Vec<_> = endpoints
            .iter()
            .map(|ip| json!({"addresses": [ip]}))
            .collect();
        let mut labels = json!({"kubernetes.io/service-name": service});
        if let Some(label) = label {
            labels["service.kubernetes.io/headless"] = label.into();
        }
        json!({
            "metadata": {"labels": labels}, "addressType": "IPv4", "endpoints": endpoints,
            "ports": [{"name": "a", "port": 443}, {"name": "b", "port": 443}],
        })
    })
}

fn policy() -> impl Strategy<Value = Value> {
    let section = option::of(select(vec!["a", "b", "c", "443", "none"]));
    let target = (select(vec!["s", "t", "u"]), section).prop_map(|(service, section)| {
        json!({"group": "", "kind": "Service", "name": service, "sectionName": section})
    });
    let ca = (
        select(vec!["ConfigMap", "Secret"]),
        select(vec!["ca", "cb"]),
    )
        .prop_map(|(kind, name)| json!({"group": "", "kind": kind, "name": name}));
    let host = select(vec!["a.example.com", "b.example.com", "10.0.0.9"]);
    let created = option::of(select(vec!["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"]));
    let redirect = annotation("nodetls.io/redirect", ["disabled", "enabled"]);
    let mode = annotation(
        "nodetls.io/validation-mode",
        ["InsecureAllowExpired", "Standard"],
    );
    let strategy = (
        vec(target, 0..4),
        vec(ca, 0..3),
        host,
        created,
        redirect,
        mode,
    );
    strategy.prop_map(|(targets, cas, host, created, annotations, options)| {
        json!({
            "metadata": {"creationTimestamp": created, "annotations": annotations},
            "spec": {
                "targetRefs": targets, "options": options,
                "validation": {"hostname": host, "caCertificateRefs": cas},
            },
        })
    })
}

fn change() -> impl Strategy<Value = Change> {
    let pem = option::of(select(vec![CA[0].as_str(), CA[1].as_str(), "", "no PEM"]));
    prop_oneof![
        8 => (name(["s", "t", "u"]), option::of(service())).prop_map(|(n, s)| Change::Service(n, s)),
        8 => (name(["1", "2", "3"]), option::of(slice())).prop_map(|(n, s)| Change::Slice(n, s)),
        4 => (name(["ca", "cb", "cc"]), pem).prop_map(|(n, pem)| Change::Ca(n, pem)),
        12 => (name(["p", "q", "r"]), option::of(policy())).prop_map(|(n, p)| Change::Policy(n, p)),
        1 => Just(Change::ReadAgain),
        1 => any::<bool>().prop_map(Change::CaSecrets),
        1 => any::<bool>().prop_map(Change::InsecureValidation),
    ]
}

fn put<K: Ord, T: serde::de::DeserializeOwned>(
    to: &mut BTreeMap<K, Arc<T>>,
    name: K,
    value: Option<Value>,
) {
    match value {
        Some(value) => _ = to.insert(name, Arc::new(serde_json::from_value(value).unwrap())),
        None => _ = to.remove(&name),
    }
}

fn apply(change: Change, to: &mut Objects, installation: &mut Installation) {
    match change {
        Change::Service(name, service) => put(&mut to.services, name, service),
        Change::Slice(name, slice) => put(&mut to.endpoint_slices, name, slice),
        Change::Policy(name, policy) => put(&mut to.policies, name, policy),
        Change::Ca(object, pem) => {
            for kind in [CaKind::ConfigMap, CaKind::Secret] {
                let name = CaName {
                    kind,
                    object: object.clone(),
                };
                let ca = pem.map(|pem| CaObject {
                    absent: false,
                    pem: Some(ByteString(pem.into())),
                    keys: Vec::new(),
                });
                match ca {
                    Some(ca) => _ = to.ca_objects.insert(name, ca),
                    None => _ = to.ca_objects.remove(&name),
                }
            }
        }
        Change::ReadAgain => {
            let policies = to.policies.values_mut();
            policies.for_each(|policy| *policy = Arc::new(BackendTlsPolicy::clone(policy)));
        }
        Change::CaSecrets(allowed) => to.ca_secrets = allowed,
        Change::InsecureValidation(allowed) => installation.insecure_validation = allowed,
    }
}

proptest! {
    #[test]
    fn a_compiler_with_a_memory_gives_the_same(batches in vec(vec(change(), 1..4), 1..40)) {
        let mut objects = Objects::default();
        let mut installation = Installation::default();
        let mut compiler = Compiler::default();
        for batch in batches {
            for change in batch {
                apply(change, &mut objects, &mut installation);
            }
            let full = compile(&objects, &installation);
            prop_assert_eq!(&compiler.compile(&objects, &installation), &full, "{:#?}", objects);
            prop_assert_eq!(compiler.compile(&objects, &installation), full, "nothing has changed");
        }
    }
}

#[test]
fn what_did_not_change_is_the_very_same() {
    let mut world = World::new().policy("p", spec("web", None));
    let ports = json!([{"port": 443}]);
    world = world.service("other", json!({"clusterIP": "10.0.0.2", "ports": ports}));
    world = world.policy("q", spec("other", None));
    let mut compiler = Compiler::default();
    let before = compiler.compile(&world.objects, &world.installation);
    world = world.policy("q", spec_for_host("other", None, "b.example.com"));
    let after = compiler.compile(&world.objects, &world.installation);
    let same = |address: &str| {
        let address = address.parse().unwrap();
        Arc::ptr_eq(
            &before.snapshot.targets[&address],
            &after.snapshot.targets[&address],
        )
    };
    assert!(same("10.0.0.1:443") && !same("10.0.0.2:443"));
    let same: Vec<_> = before
        .statuses
        .iter()
        .zip(&after.statuses)
        .map(|(a, b)| Arc::ptr_eq(a, b))
        .collect();
    assert_eq!(same, [true, false]);
    assert_eq!(after.origination("10.0.0.2:443").hostname, "b.example.com");
}
