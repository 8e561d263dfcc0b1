//! What the fuzz targets share: a policy's wishes, and what must be true of every compiled snapshot.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use nodetls::policy::{
    BackendTlsPolicy, CaBundle, Compiled, ObjectName, Objects, Options, Origination, Snapshot,
};
use nodetls::tls::TlsClient;
use serde_json::Value;

/// What a plain policy asks for.
pub fn origination(roots: Arc<CaBundle>) -> Origination {
    Origination {
        hostname: "a.example".to_owned(),
        subject_alt_names: Vec::new(),
        roots,
        options: Options::default(),
    }
}

/// Panics if `compiled` is not what `objects` may come to: a status for each policy, a plan that works or a refusal in
/// words for each target, and no targeted port without either.
pub fn check(objects: &Objects, compiled: &Compiled) {
    let statuses = compiled.statuses.iter().map(|status| &status.policy);
    assert!(
        statuses.eq(objects.policies.keys()),
        "a status each, in order"
    );
    let mut plans = HashSet::new();
    for (address, target) in &compiled.snapshot.targets {
        assert!(
            objects.policies.contains_key(&target.policy),
            "{address}: of no policy"
        );
        assert!(
            objects.services.contains_key(&target.service),
            "{address}: of no Service"
        );
        match &target.plan {
            Ok(plan) if plans.insert(Arc::as_ptr(plan)) => {
                let client = TlsClient::new(plan);
                assert!(client.is_ok(), "{address}: {}", client.err().unwrap());
            }
            Ok(_) => {}
            Err(refusal) => assert!(!refusal.reason.is_empty() && !refusal.message.is_empty()),
        }
    }
    for (name, policy) in &objects.policies {
        covers(name, policy, objects, &compiled.snapshot);
    }
}

/// Every ClusterIP and port that the policy targets in so many words is in the snapshot.
fn covers(name: &ObjectName, policy: &BackendTlsPolicy, objects: &Objects, snapshot: &Snapshot) {
    let annotations = policy.metadata.annotations.iter().flatten();
    let mut annotations = annotations.map(|(key, value)| (key.as_str(), value.as_str()));
    if annotations.any(|pair| pair == ("nodetls.io/redirect", "disabled")) {
        return;
    }
    for target in policy.spec["targetRefs"].as_array().into_iter().flatten() {
        let named = |field: &str, wanted: &str| match &target[field] {
            Value::String(text) => text == wanted,
            _ => true,
        };
        let service = target["name"].as_str().unwrap_or_default();
        let service = objects
            .services
            .get(&ObjectName::new(&name.namespace, service));
        let Some(service) = service.filter(|_| named("group", "") && named("kind", "Service"))
        else {
            continue;
        };
        for dialled in dialled(service, &target["sectionName"]) {
            let found = snapshot.targets.contains_key(&dialled);
            assert!(
                found,
                "{dialled}: policy {name} targets it, and it is left in plaintext"
            );
        }
    }
}

/// What clients dial for a section: the port of that name, or all when there is none.
fn dialled(service: &Service, section: &Value) -> Vec<SocketAddr> {
    let Some(spec) = &service.spec else {
        return Vec::new();
    };
    let ips = spec
        .cluster_ip
        .iter()
        .chain(spec.cluster_ips.iter().flatten());
    if ips.clone().any(|ip| ip == "None") || spec.type_.as_deref() == Some("ExternalName") {
        return Vec::new();
    }
    let ports = spec
        .ports
        .iter()
        .flatten()
        .filter(|port| (1..=65_535).contains(&port.port));
    let meant = ports.filter(|port| match section {
        Value::String(name) if !name.is_empty() => port.name.as_ref() == Some(name),
        Value::Number(_) => false,
        _ => true,
    });
    // Of ports of one name (only in files) the first.
    let meant = meant.take(if section.is_string() && section != "" {
        1
    } else {
        usize::MAX
    });
    let tcp = meant.filter(|port| !matches!(port.protocol.as_deref(), Some("UDP" | "SCTP")));
    let numbers: Vec<u16> = tcp.filter_map(|port| port.port.try_into().ok()).collect();
    let ips = ips.filter_map(|ip| ip.parse::<IpAddr>().ok());
    let dialled = |ip: IpAddr| numbers.iter().map(move |port| SocketAddr::new(ip, *port));
    ips.map(|ip| ip.to_canonical()).flat_map(dialled).collect()
}
