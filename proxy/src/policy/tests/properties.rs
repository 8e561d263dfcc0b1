//! Property tests: precedence against a naive second implementation, fail closed, and no panic on any JSON.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::select;
use rustls::pki_types::ServerName;

use super::*;

/// A policy, with a hostname of its own.
#[derive(Clone, Debug)]
struct Claim {
    name: String,
    created: Option<i64>,
    /// Service → section.
    targets: BTreeMap<&'static str, Option<&'static str>>,
    valid: bool,
}

/// Name, ClusterIP, addresses; the headless one's slice has every port's number plus 10,000.
const SERVICES: [(&str, &str, &[&str]); 3] = [
    ("s1", "10.0.0.1", &["10.0.0.1"]),
    ("s2", "10.0.0.2", &["10.0.0.2"]),
    ("headless", "None", &["10.1.0.1", "10.1.0.2"]),
];
/// Name, number, TCP.
const PORTS: [(&str, u16, bool); 3] =
    [("https", 443, true), ("alt", 8443, true), ("q", 443, false)];

fn claims() -> impl Strategy<Value = Vec<Claim>> {
    let service = select(vec!["s1", "s2", "headless", "absent"]);
    let sections = ["https", "443", "alt", "8443", "q", "nope"];
    let section = proptest::option::of(select(sections.to_vec()));
    let claim = (
        proptest::option::of(0..3_i64),
        btree_map(service, section, 1..4),
        any::<bool>(),
    );
    btree_map("[a-d]{1,2}", claim, 0..12)
        .prop_map(|claims| {
            let claim = |(name, (created, targets, valid))| Claim {
                name,
                created,
                targets,
                valid,
            };
            claims.into_iter().map(claim).collect::<Vec<_>>()
        })
        .prop_shuffle()
}

fn world(claims: &[Claim]) -> World {
    let mut world = World::new();
    world.objects.services.clear();
    for (name, ip, addresses) in SERVICES {
        let port = |(name, number, tcp)| json!({"name": name, "port": number, "protocol": if tcp { "TCP" } else { "UDP" }});
        world = world.service(
            name,
            json!({"clusterIP": ip, "ports": PORTS.map(port).to_vec()}),
        );
        if ip == "None" {
            let port = |(name, number, tcp): (&str, u16, bool)| json!({"name": name, "port": number + 10_000, "protocol": if tcp { "TCP" } else { "UDP" }});
            let endpoint = |ip: &&str| json!({"addresses": [ip]});
            let slice = json!({
                "addressType": "IPv4", "ports": PORTS.map(port).to_vec(),
                "endpoints": addresses.iter().map(endpoint).collect::<Vec<_>>(),
            });
            let labels = json!({"kubernetes.io/service-name": name});
            world = world.slice_with_labels(name, labels, slice);
        }
    }
    for claim in claims {
        let host = if claim.valid {
            format!("{}.example.com", claim.name)
        } else {
            "10.0.0.9".into()
        };
        let mut spec = spec_for_host("", None, &host);
        let target = |(service, section): (&&str, &Option<&str>)| json!({"group": "", "kind": "Service", "name": service, "sectionName": section});
        spec["targetRefs"] = claim.targets.iter().map(target).collect();
        world = match claim.created {
            Some(created) => world.policy_at(created, &claim.name, spec),
            None => world.policy(&claim.name, spec),
        };
    }
    world
}

/// Name of the port meant; `None` is the whole Service.
fn port(section: Option<&'static str>) -> Option<&'static str> {
    match section {
        Some("443") => Some("https"),
        Some("8443") => Some("alt"),
        other => other,
    }
}

impl Claim {
    fn has(&self, service: &str, wanted: Option<&str>) -> bool {
        let section = self.targets.get(service);
        section.is_some_and(|section| port(*section) == wanted)
    }

    fn beats(&self, other: &Claim) -> bool {
        let created = |claim: &Claim| claim.created.unwrap_or(i64::MAX);
        (created(self), &self.name) < (created(other), &other.name)
    }

    fn loses_in(&self, claims: &[Claim], service: &str, port: Option<&str>) -> bool {
        claims
            .iter()
            .any(|other| other.has(service, port) && other.beats(self))
    }

    fn expected_reason(
        &self,
        claims: &[Claim],
        service: &str,
        section: Option<&'static str>,
    ) -> Reason {
        let exists = service != "absent" && section != Some("nope");
        match () {
            () if !exists && !self.valid => Reason::Invalid,
            () if !exists => Reason::TargetNotFound,
            () if self.loses_in(claims, service, port(section)) => Reason::Conflicted,
            () if !self.valid || section == Some("q") => Reason::Invalid,
            () => Reason::Accepted,
        }
    }
}

/// Who must be in force at a port of a Service.
fn expected<'a>(claims: &'a [Claim], service: &str, port: &str) -> Option<&'a Claim> {
    let winner = |port: Option<&str>| {
        let mut same = claims.iter().filter(|c| c.has(service, port));
        same.find(|claim| !claim.loses_in(claims, service, port))
    };
    winner(Some(port)).or_else(|| winner(None))
}

/// Any JSON, with the field names of the API strewn in.
fn any_json() -> impl Strategy<Value = Value> {
    let words = [
        "targetRefs",
        "validation",
        "options",
        "group",
        "kind",
        "name",
        "sectionName",
        "hostname",
        "caCertificateRefs",
        "wellKnownCACertificates",
        "subjectAltNames",
        "type",
        "uri",
        "nodetls.io/x",
    ];
    let values = [
        "",
        "Service",
        "web",
        "https",
        "443",
        "ConfigMap",
        "ca",
        "System",
        "URI",
        "Hostname",
        "a.example.com",
        "10.0.0.9",
        "spiffe://",
        "*.",
        "é://",
        "\u{0}",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        select(values.to_vec()).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 64, 8, move |inner| {
        let key =
            prop_oneof![4 => select(words.to_vec()).prop_map(String::from), 1 => any::<String>()];
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            btree_map(key, inner, 0..8).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn precedence_is_as_in_the_naive_implementation(claims in claims()) {
        let compiled = world(&claims).compile();
        for (service, ip, addresses) in SERVICES {
            for (port, number, _) in PORTS.iter().filter(|(_, _, tcp)| *tcp) {
                let dialled = number + if ip == "None" { 10_000 } else { 0 };
                for address in addresses {
                    let address: SocketAddr = format!("{address}:{dialled}").parse().unwrap();
                    let target = compiled.snapshot.targets.get(&address);
                    let expected = expected(&claims, service, port);
                    prop_assert_eq!(target.map(|t| &t.policy.name), expected.map(|claim| &claim.name));
                    let (Some(target), Some(expected)) = (target, expected) else { continue };
                    prop_assert_eq!(target.port, *number);
                    prop_assert_eq!(target.plan.is_ok(), expected.valid);
                    if let Ok(plan) = &target.plan {
                        prop_assert_eq!(&plan.hostname, &format!("{}.example.com", expected.name));
                    }
                }
            }
        }
        for claim in &claims {
            let ancestors = &compiled.status(&claim.name).ancestors;
            for ((service, section), ancestor) in claim.targets.iter().zip(ancestors) {
                let reason = claim.expected_reason(&claims, service, *section);
                prop_assert_eq!(ancestor.accepted.reason, reason, "{:?}", claim);
                prop_assert_eq!(ancestor.accepted.status, reason == Reason::Accepted);
            }
            prop_assert_eq!(ancestors.len(), claim.targets.len());
        }
        prop_assert!(compiled.snapshot.targets.len() <= 8);
    }

    #[test]
    fn the_order_of_insertion_changes_nothing(claims in claims()) {
        let mut reversed = claims.clone();
        reversed.reverse();
        prop_assert_eq!(world(&claims).compile(), world(&reversed).compile());
    }

    /// Whatever else a policy says: if its target can be read, the port is never left in plaintext.
    #[test]
    fn a_policy_that_names_its_target_always_gives_targets(
        validation in any_json(),
        options in any_json(),
        extra in any_json(),
        group in prop_oneof![Just(Value::Null), Just(json!("")), Just(json!("core")), Just(json!(3))],
        kind in prop_oneof![Just(Value::Null), Just(json!("Service")), Just(json!({}))],
        section in prop_oneof![Just(json!("https")), Just(json!("443")), Just(json!(443)), any_json()],
    ) {
        let target = json!({"group": group, "kind": kind, "name": "web", "sectionName": section});
        let wholly = !matches!(&section, Value::String(s) if !s.is_empty()) && !section.is_number();
        let refs = json!([extra, target]);
        let spec = json!({"targetRefs": refs, "validation": validation, "options": options});
        let compiled = World::new().policy("p", spec).compile();
        let named = wholly || section == "https" || section == "443" || section == 443;
        if named {
            let status = compiled.status("p");
            let target = compiled.target("10.0.0.1:443");
            prop_assert_eq!(target.plan.is_ok(), status.problems.is_empty() && status.ancestors[0].accepted.status);
            let accepted = &status.ancestors.last().unwrap().accepted;
            prop_assert_eq!(target.plan.is_ok(), accepted.status);
            if let Err(refusal) = &target.plan {
                prop_assert_eq!(refusal.reason, accepted.reason.as_str());
            }
        }
    }

    #[test]
    fn no_json_panics(spec in any_json(), metadata in any_json()) {
        let document = json!({"metadata": metadata, "spec": spec});
        let policy: BackendTlsPolicy = serde_json::from_value(document).unwrap();
        let mut world = World::new();
        world.objects.policies.insert(default_name("p"), policy.into());
        let compiled = world.compile();
        prop_assert_eq!(compiled.statuses.len(), 1);
        let status = compiled.status("p");
        let valid = status.problems.is_empty();
        prop_assert!(valid || compiled.snapshot.targets.values().all(|t| t.plan.is_err()));
    }

    /// What is accepted as hostname can be sent as SNI.
    #[test]
    fn an_accepted_hostname_is_a_dns_name_for_rustls(hostname in "[a-zA-Z0-9_*.:-]{1,12}|[a-z]{60,70}(\\.[a-z0-9]{1,4})?") {
        let spec = spec_for_host("web", None, &hostname);
        let compiled = World::new().policy("p", spec).compile();
        let name = ServerName::try_from(hostname.as_str());
        if compiled.target("10.0.0.1:443").plan.is_ok() {
            prop_assert!(matches!(name, Ok(ServerName::DnsName(_))), "{}", hostname);
        }
    }
}
