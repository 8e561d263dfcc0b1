//! Tests of the judgement and of its text; the built binary is tested in `proxy/tests/check.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod table;
mod trust;

use std::sync::Arc;

use k8s_openapi::api::core::v1::ConfigMap;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};
use serde_json::{Value, json};

use super::*;
use crate::policy::{CaName, CaObject, ObjectName};
use crate::source::{FileError, Update};

/// 2030-01-01T00:00:00Z.
const NOW: i64 = 1_893_456_000;
const DAY: i64 = 86_400;

/// Parameters of a self-signed CA that is valid from a day before [`NOW`] until so many seconds after it.
fn ca_params(name: &str, left: i64) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.not_before = rcgen::date_time_ymd(1970, 1, 1)
        + std::time::Duration::from_secs((NOW - DAY).unsigned_abs());
    params.not_after = rcgen::date_time_ymd(1970, 1, 1)
        + std::time::Duration::from_secs((NOW + left).unsigned_abs());
    params
}

fn ca(name: &str, left: i64) -> String {
    let key = KeyPair::generate().unwrap();
    ca_params(name, left).self_signed(&key).unwrap().pem()
}

fn with_ca(pem: &str) -> CaObject {
    let config_map = json!({"data": {"ca.crt": pem}});
    let config_map: ConfigMap = serde_json::from_value(config_map).unwrap();
    config_map.into()
}

/// Manifests in the namespace `default`, as they were read.
#[derive(Default)]
struct World(Update);

impl World {
    /// Service `web`, 10.0.0.1, port https 443; ConfigMap `ca`, which is good for ten years.
    fn new() -> Self {
        Self::default()
            .service("web", json!([{"name": "https", "port": 443}]))
            .config_map("ca", &ca("test CA", 3650 * DAY))
    }

    fn service(mut self, name: &str, ports: Value) -> Self {
        let service = json!({"spec": {"clusterIP": "10.0.0.1", "ports": ports}});
        let service = serde_json::from_value(service).unwrap();
        self.0
            .objects
            .services
            .insert(ObjectName::new("default", name), Arc::new(service));
        self
    }

    fn config_map(mut self, name: &str, pem: &str) -> Self {
        let name = CaName::config_map("default", name);
        self.0.objects.ca_objects.insert(name, with_ca(pem));
        self
    }

    fn secret(mut self, name: &str, pem: &str) -> Self {
        let name = CaName::secret("default", name);
        self.0.objects.ca_objects.insert(name, with_ca(pem));
        self.0.objects.ca_secrets = true;
        self
    }

    /// A valid policy for `web` with ConfigMap `ca`, after `change`.
    fn policy(mut self, name: &str, change: impl FnOnce(&mut Value)) -> Self {
        let mut spec = json!({
            "targetRefs": [{"group": "", "kind": "Service", "name": "web"}],
            "validation": {
                "hostname": "www.example.com",
                "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "ca"}],
            },
        });
        change(&mut spec);
        let policy = serde_json::from_value(json!({"spec": spec})).unwrap();
        self.0
            .objects
            .policies
            .insert(ObjectName::new("default", name), Arc::new(policy));
        self
    }

    fn judge(&self) -> Report {
        judge(&self.0, Timestamp::from_second(NOW).unwrap(), 30)
    }

    /// The judgement on the only policy.
    fn judge_one(&self) -> PolicyReport {
        let report = self.judge();
        let [policy] = report.policies.as_slice() else {
            panic!("not one policy: {report:#?}");
        };
        assert_eq!(report.verdict, policy.verdict);
        policy.clone()
    }
}

fn nothing(_: &mut Value) {}

/// Type, status and reason of the conditions for the first target.
fn conditions(policy: &PolicyReport) -> Vec<[&'static str; 3]> {
    let conditions = policy.ancestors[0].conditions.iter();
    conditions.map(|c| [c.type_, c.status, c.reason]).collect()
}

#[test]
fn a_good_policy() {
    let policy = World::new().policy("p", nothing).judge_one();
    assert_eq!(policy.verdict, Verdict::Accepted);
    assert_eq!(
        conditions(&policy),
        [
            ["Accepted", "True", "Accepted"],
            ["ResolvedRefs", "True", "ResolvedRefs"]
        ]
    );
    assert_eq!((policy.errors, policy.warnings), (vec![], vec![]));
}

/// The names of the JSON are a promise to scripts.
#[test]
fn the_form_of_the_json() {
    let mut world = World::new().policy("p", |spec| {
        spec["targetRefs"][0]["sectionName"] = "https".into();
        spec["validation"]["hostname"] = "10.0.0.9".into();
    });
    world.0.errors.push(FileError {
        file: "a.yaml".into(),
        document: Some(2),
        object: Some("Service default/x".into()),
        cause: "several\n  lines".into(),
    });
    let problem = "spec.validation.hostname: \"10.0.0.9\" is an IP address: use a DNS name of the server's certificate";
    let condition = |type_, status, reason, message| json!({"type": type_, "status": status, "reason": reason, "message": message});
    let expected = json!({
        "verdict": "refused",
        "policies": [{
            "namespace": "default",
            "name": "p",
            "verdict": "refused",
            "ancestors": [{
                "ancestorRef": {"group": "", "kind": "Service", "name": "web", "sectionName": "https"},
                "conditions": [
                    condition("Accepted", "False", "Invalid", problem),
                    condition("ResolvedRefs", "True", "ResolvedRefs", "all CA certificate references are usable"),
                ],
            }],
            "errors": [problem],
            "warnings": [],
        }],
        "unreadable": [{"file": "a.yaml", "document": 2, "object": "Service default/x", "cause": "several lines"}],
        "warnings": [],
    });
    assert_eq!(serde_json::to_value(world.judge()).unwrap(), expected);
}

#[test]
fn each_mistake_is_told_once() {
    let policy = World::new().policy("p", |spec| {
        let target = spec["targetRefs"][0].clone();
        spec["targetRefs"] = json!([target, target]);
        spec["validation"]["caCertificateRefs"][0]["name"] = "absent".into();
        spec["validation"]["hostName"] = "x".into();
    });
    let policy = policy.judge_one();
    assert_eq!(policy.ancestors.len(), 2);
    assert_eq!(policy.errors.len(), 2, "{:#?}", policy.errors);
    assert!(policy.errors[0].starts_with("spec.targetRefs[1].sectionName: must be set"));
    assert!(policy.errors[1].starts_with("ConfigMap default/absent does not exist"));
    assert_eq!(policy.warnings.len(), 1, "{:#?}", policy.warnings);
}

#[test]
fn a_missing_service_refuses() {
    let policy = World::new().policy("p", |spec| spec["targetRefs"][0]["name"] = "absent".into());
    let policy = policy.judge_one();
    assert_eq!(policy.verdict, Verdict::Refused);
    assert_eq!(
        conditions(&policy)[0],
        ["Accepted", "False", "TargetNotFound"]
    );
    assert!(policy.errors[0].starts_with("Service default/absent does not exist: create it"));
}

/// The policy works with the other reference, but not as its author wrote it.
#[test]
fn one_bad_reference_refuses() {
    let policy = World::new().policy("p", |spec| {
        let secret = json!({"group": "", "kind": "Secret", "name": "ca"});
        let refs = spec["validation"]["caCertificateRefs"]
            .as_array_mut()
            .unwrap();
        refs.push(secret);
    });
    let policy = policy.judge_one();
    assert_eq!(
        conditions(&policy),
        [
            ["Accepted", "True", "Accepted"],
            ["ResolvedRefs", "False", "InvalidKind"]
        ]
    );
    assert_eq!(policy.verdict, Verdict::Refused);
}

#[test]
fn the_loser_of_a_conflict_is_refused() {
    let report = World::new()
        .policy("p", nothing)
        .policy("q", nothing)
        .judge();
    let verdicts: Vec<_> = report
        .policies
        .iter()
        .map(|policy| policy.verdict)
        .collect();
    assert_eq!(verdicts, [Verdict::Accepted, Verdict::Refused]);
    assert_eq!(report.verdict, Verdict::Refused);
    assert_eq!(
        conditions(&report.policies[1])[0],
        ["Accepted", "False", "Conflicted"]
    );
}

/// Accepted by its conditions, but not on an address that two Services claim.
#[test]
fn a_refused_address_refuses() {
    let world = World::new()
        .service("other", json!([{"port": 443}]))
        .policy("p", nothing);
    let world = world.policy("q", |spec| {
        spec["targetRefs"][0]["name"] = "other".into();
        spec["validation"]["hostname"] = "other.example.com".into();
    });
    for policy in world.judge().policies {
        assert_eq!(conditions(&policy)[0], ["Accepted", "True", "Accepted"]);
        assert_eq!(policy.verdict, Verdict::Refused);
        assert!(policy.errors[0].starts_with("10.0.0.1:443 belongs to several Services"));
    }
}

#[test]
fn warnings_alone_refuse_nothing() {
    let plaintext = json!([{"name": "web", "port": 80, "appProtocol": "http"}, {"name": "q", "port": 443, "protocol": "UDP"}]);
    let world = World::new().service("web", plaintext);
    let policy = world
        .policy("p", |spec| spec["tls"] = json!({}))
        .judge_one();
    assert_eq!(policy.verdict, Verdict::Accepted);
    assert_eq!(policy.errors, [""; 0]);
    assert_eq!(policy.warnings.len(), 3, "{:#?}", policy.warnings);
}

#[test]
fn udp_alone_refuses() {
    let world = World::new().service(
        "web",
        json!([{"name": "q", "port": 443, "protocol": "UDP"}]),
    );
    let policy = world.policy("p", nothing).judge_one();
    assert_eq!(conditions(&policy)[0], ["Accepted", "False", "Invalid"]);
}

#[test]
fn targets_of_other_kinds_only() {
    let pool = json!({"group": "example.com", "kind": "InferencePool", "name": "p"});
    let policy = World::new()
        .policy("p", |spec| spec["targetRefs"] = json!([pool]))
        .judge_one();
    assert_eq!(policy.verdict, Verdict::Accepted);
    assert_eq!(policy.ancestors, []);
    assert!(policy.warnings[0].starts_with("spec.targetRefs names no Service"));
}

/// A spec without a target has no conditions, and is refused all the same.
#[test]
fn an_unreadable_spec_refuses() {
    let policy = World::new()
        .policy("p", |spec| *spec = json!("x"))
        .judge_one();
    assert_eq!(policy.ancestors, []);
    assert_eq!(policy.verdict, Verdict::Refused);
    assert_eq!(policy.errors, ["spec: must be an object"]);
}

/// The machine that checks is not the node.
#[test]
fn a_system_trust_store_is_assumed() {
    let policy = World::new().policy("p", |spec| {
        spec["validation"] =
            json!({"hostname": "a.example.com", "wellKnownCACertificates": "System"});
    });
    assert_eq!(policy.judge_one().verdict, Verdict::Accepted);
}

#[test]
fn nothing_to_judge_is_a_warning_and_something_unreadable_refuses() {
    let mut world = World::new();
    let report = world.judge();
    assert_eq!(report.verdict, Verdict::Accepted);
    assert!(report.warnings[0].starts_with("no BackendTLSPolicy"));
    world.0.errors.push(FileError {
        file: "a.yaml".into(),
        document: None,
        object: None,
        cause: "cannot be read".into(),
    });
    assert_eq!(world.judge().verdict, Verdict::Refused);
}
