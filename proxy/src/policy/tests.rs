//! Tests of the compiler as a whole: objects in, targets and conditions out. By rule, in the files of `tests/`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod ca;
mod conflict;
mod external;
mod headless;
mod incremental;
mod options;
mod properties;
mod secrets;
mod service;
mod targets;
mod validate;
mod warnings;

use std::sync::{Arc, LazyLock};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};

use super::*;

/// Two CAs, in PEM.
static CA: LazyLock<[String; 2]> = LazyLock::new(|| [new_ca("one"), new_ca("two")]);

fn new_ca(name: &str) -> String {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
        .self_signed(&KeyPair::generate().unwrap())
        .unwrap()
        .pem()
}

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

fn default_name(name: &str) -> ObjectName {
    ObjectName::new("default", name)
}

/// Objects in the namespace `default`, and what they compile to.
#[derive(Clone, Default)]
struct World {
    objects: Objects,
    installation: Installation,
}

impl World {
    /// Service `web` (10.0.0.1, ports https 443 and alt 8443) and ConfigMap `ca`.
    fn new() -> Self {
        let ports = json!([{"name": "https", "port": 443}, {"name": "alt", "port": 8443}]);
        Self::default()
            .service("web", json!({"clusterIP": "10.0.0.1", "ports": ports}))
            .config_map("ca", json!({"ca.crt": CA[0]}))
    }

    fn service(self, name: &str, spec: Value) -> Self {
        self.service_with_status(name, spec, json!({}))
    }

    fn service_with_status(mut self, name: &str, spec: Value, status: Value) -> Self {
        let service = serde_json::from_value(json!({"spec": spec, "status": status})).unwrap();
        self.objects
            .services
            .insert(default_name(name), Arc::new(service));
        self
    }

    fn config_map(mut self, name: &str, data: Value) -> Self {
        let config_map: ConfigMap = serde_json::from_value(json!({"data": data})).unwrap();
        let name = CaName::config_map("default", name);
        self.objects.ca_objects.insert(name, config_map.into());
        self
    }

    /// A Secret whose `ca.crt` is this; Secrets are allowed.
    fn secret(mut self, name: &str, pem: &str) -> Self {
        let data = [(CA_KEY.to_owned(), ByteString(pem.into()))].into();
        let secret = Secret {
            data: Some(data),
            ..Secret::default()
        };
        let name = CaName::secret("default", name);
        self.objects.ca_objects.insert(name, secret.into());
        self.objects.ca_secrets = true;
        self
    }

    /// An EndpointSlice of the Service `web`.
    fn slice(self, name: &str, slice: Value) -> Self {
        self.slice_with_labels(name, json!({"kubernetes.io/service-name": "web"}), slice)
    }

    fn slice_with_labels(mut self, name: &str, labels: Value, mut slice: Value) -> Self {
        slice["metadata"] = json!({"labels": labels});
        let slice = serde_json::from_value(slice).unwrap();
        self.objects
            .endpoint_slices
            .insert(default_name(name), Arc::new(slice));
        self
    }

    /// A policy as in a file: without creationTimestamp.
    fn policy(mut self, name: &str, spec: Value) -> Self {
        let policy = serde_json::from_value(json!({"spec": spec})).unwrap();
        self.objects
            .policies
            .insert(default_name(name), Arc::new(policy));
        self
    }

    /// A policy created at a second after 1970.
    fn policy_at(mut self, second: i64, name: &str, spec: Value) -> Self {
        self = self.policy(name, spec);
        let policy = self.objects.policies.get_mut(&default_name(name)).unwrap();
        let created = Timestamp::from_second(second).unwrap();
        Arc::make_mut(policy).metadata.creation_timestamp = Some(Time(created));
        self
    }

    fn compile(&self) -> Compiled {
        compile(&self.objects, &self.installation)
    }
}

/// A valid spec for a target, with ConfigMap `ca`.
fn spec(service: &str, section: Option<&str>) -> Value {
    let mut target = json!({"group": "", "kind": "Service", "name": service});
    if let Some(section) = section {
        target["sectionName"] = section.into();
    }
    let ca = json!({"group": "", "kind": "ConfigMap", "name": "ca"});
    json!({
        "targetRefs": [target],
        "validation": {"hostname": "www.example.com", "caCertificateRefs": [ca]},
    })
}

/// [`spec`] with another hostname, to tell plans apart.
fn spec_for_host(service: &str, section: Option<&str>, hostname: &str) -> Value {
    let mut spec = spec(service, section);
    spec["validation"]["hostname"] = hostname.into();
    spec
}

impl Compiled {
    fn status(&self, policy: &str) -> &PolicyStatus {
        self.statuses
            .iter()
            .find(|status| status.policy == default_name(policy))
            .unwrap()
    }

    /// Condition `Accepted` of a policy with one target.
    fn accepted(&self, policy: &str) -> &Condition {
        let [ancestor] = self.status(policy).ancestors.as_slice() else {
            panic!("not one ancestor: {:?}", self.status(policy));
        };
        &ancestor.accepted
    }

    fn resolved_refs(&self, policy: &str) -> &Condition {
        self.status(policy).ancestors[0]
            .resolved_refs
            .as_ref()
            .unwrap()
    }

    fn target(&self, address: &str) -> &Target {
        let target = self.snapshot.targets.get(&address.parse().unwrap());
        target.unwrap_or_else(|| panic!("no target {address}"))
    }

    fn origination(&self, address: &str) -> &Origination {
        self.target(address).plan.as_ref().unwrap()
    }

    fn refusal(&self, address: &str) -> &Refusal {
        self.target(address).plan.as_ref().unwrap_err()
    }

    fn addresses(&self) -> Vec<String> {
        self.snapshot
            .targets
            .keys()
            .map(ToString::to_string)
            .collect()
    }
}

/// Asserts a condition, and that its message has all these parts.
#[track_caller]
fn assert_condition(condition: &Condition, status: bool, reason: Reason, parts: &[&str]) {
    assert_eq!(
        (condition.status, condition.reason),
        (status, reason),
        "{}",
        condition.message
    );
    for part in parts {
        assert!(
            condition.message.contains(part),
            "{part:?} is not in {:?}",
            condition.message
        );
    }
}

#[test]
fn a_valid_policy_gives_a_target_for_each_port() {
    let compiled = World::new().policy("p", spec("web", None)).compile();
    assert_eq!(compiled.addresses(), ["10.0.0.1:443", "10.0.0.1:8443"]);
    let target = compiled.target("10.0.0.1:8443");
    assert_eq!((target.port, &target.service), (8443, &default_name("web")));
    assert_eq!(target.policy, default_name("p"));
    let origination = compiled.origination("10.0.0.1:8443");
    assert_eq!(origination.hostname, "www.example.com");
    assert_eq!(origination.subject_alt_names, []);
    assert_eq!(origination.roots.certificates, [der(&CA[0])]);
    assert_condition(
        compiled.accepted("p"),
        true,
        Reason::Accepted,
        &["default/web", "all ports"],
    );
    assert_condition(compiled.resolved_refs("p"), true, Reason::ResolvedRefs, &[]);
    assert_eq!(compiled.status("p").problems, [""; 0]);
}

#[test]
fn without_objects_there_is_nothing() {
    assert_eq!(World::default().compile(), Compiled::default());
}

#[test]
fn a_policy_reads_from_and_writes_to_json() {
    let document = json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "BackendTLSPolicy",
        "metadata": {"name": "p", "namespace": "default", "generation": 7,
            "creationTimestamp": "2026-01-02T03:04:05Z", "annotations": {"a": "b"}},
        "spec": spec("web", Some("https")),
        "status": {"ancestors": []},
    });
    let policy: BackendTlsPolicy = serde_json::from_value(document).unwrap();
    assert_eq!(policy.metadata.name.as_deref(), Some("p"));
    assert_eq!(policy.metadata.generation, Some(7));
    assert_eq!(
        policy
            .metadata
            .creation_timestamp
            .as_ref()
            .unwrap()
            .0
            .as_second(),
        1767323045
    );
    let again: BackendTlsPolicy =
        serde_json::from_value(serde_json::to_value(&policy).unwrap()).unwrap();
    assert_eq!(again, policy);
}

#[test]
fn unreadable_metadata_loses_a_field_and_not_the_policy() {
    let metadata = json!({"name": "p", "generation": "x", "annotations": {"a": 1}});
    let document = json!({"metadata": metadata, "spec": spec("web", None)});
    let policy: BackendTlsPolicy = serde_json::from_value(document).unwrap();
    assert_eq!(policy.metadata.name.as_deref(), Some("p"));
    assert_eq!(
        (policy.metadata.generation, &policy.metadata.annotations),
        (None, &None)
    );
    assert!(policy.spec["validation"].is_object());
    let policy: BackendTlsPolicy = serde_json::from_value(json!({"metadata": 5})).unwrap();
    assert_eq!(policy, BackendTlsPolicy::default());
}

#[test]
fn the_status_carries_the_generation() {
    let mut world = World::new().policy("p", spec("web", None));
    let policy = world.objects.policies.get_mut(&default_name("p")).unwrap();
    Arc::make_mut(policy).metadata.generation = Some(3);
    assert_eq!(world.compile().status("p").generation, Some(3));
}
