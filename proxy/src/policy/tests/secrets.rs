//! `caCertificateRefs` to Secrets.

use std::collections::BTreeSet;

use k8s_openapi::api::certificates::v1beta1::ClusterTrustBundle;

use super::ca::{assert_unusable, with_refs};
use super::*;

#[test]
fn a_secret_must_be_allowed() {
    let mut world = World::new().secret("s", &CA[1]);
    world.objects.ca_secrets = false;
    let compiled = with_refs(world.clone(), &[("", "Secret", "s")]);
    let parts = [
        "Secret default/s: this installation takes no CA certificates from Secrets",
        "nodetls controller --ca-secrets, component manifests/components/secrets",
        "or use a ConfigMap",
    ];
    assert_unusable(&compiled, Reason::InvalidKind, &parts);

    world.objects.ca_secrets = true;
    let compiled = with_refs(world.clone(), &[("", "Secret", "s")]);
    let roots = &compiled.origination("10.0.0.1:443").roots;
    assert_eq!(roots.certificates, [der(&CA[1])]);
    assert_condition(compiled.resolved_refs("p"), true, Reason::ResolvedRefs, &[]);

    // The ConfigMap `ca` is no Secret.
    let compiled = with_refs(world, &[("", "Secret", "ca")]);
    let parts = ["Secret default/ca does not exist: create it"];
    assert_unusable(&compiled, Reason::InvalidCaCertificateRef, &parts);
}

#[test]
fn a_secret_and_a_config_map_of_one_name_are_united() {
    let world = World::new().secret("ca", &CA[1]);
    let compiled = with_refs(world, &[("", "Secret", "ca"), ("", "ConfigMap", "ca")]);
    let roots = &compiled.origination("10.0.0.1:443").roots;
    assert_eq!(roots.certificates, [der(&CA[1]), der(&CA[0])]);
}

#[test]
fn named_objects_need_not_exist_and_secrets_count_where_allowed() {
    let mut spec = spec("web", None);
    let refs = [
        ("", "ConfigMap", "ca"),
        ("", "ConfigMap", "absent"),
        ("", "ConfigMap", "ca"),
        ("", "Secret", "ca"),
        ("x.example", "Secret", "other"),
    ];
    let refs = refs.map(|(group, kind, name)| json!({"group": group, "kind": kind, "name": name}));
    spec["validation"]["caCertificateRefs"] = refs.into_iter().collect();
    let mut system = spec.clone();
    system["validation"] = json!({"hostname": "a.example", "wellKnownCACertificates": "System"});
    let mut world = World::new().policy("p", spec).policy("q", system);
    let config_maps = ["absent", "ca"].map(|name| CaName::config_map("default", name));
    let named = ca_names(&world.objects);
    assert_eq!(named[&default_name("p")], config_maps.clone().into());
    assert!(named[&default_name("q")].is_empty());

    world.objects.ca_secrets = true;
    let mut all: BTreeSet<_> = config_maps.into();
    all.insert(CaName::secret("default", "ca"));
    assert_eq!(ca_names(&world.objects)[&default_name("p")], all);
}

#[test]
fn what_is_wrong_with_a_secret_is_told_without_its_content() {
    let key = KeyPair::generate().unwrap().serialize_pem();
    for (pem, part) in [
        (key.as_str(), "has no \"-----BEGIN CERTIFICATE-----\" block"),
        (&key.replace('\n', "\\n"), "is malformed at certificate 1"),
        (
            &key.replace("PRIVATE KEY", "CERTIFICATE"),
            "is not an X.509 certificate",
        ),
        (
            &key.replace("PRIVATE KEY", "CERTIFICATE").replace('M', "!"),
            "it is not base64",
        ),
    ] {
        let compiled = with_refs(World::new().secret("s", pem), &[("", "Secret", "s")]);
        let parts = ["Secret default/s, key \"ca.crt\"", part];
        assert_unusable(&compiled, Reason::InvalidCaCertificateRef, &parts);
        let told = format!("{:?}", compiled.statuses);
        let body = key.lines().nth(1).unwrap();
        assert!(!told.contains(&body[..8]), "{told}");
        assert!(!told.contains("45, 45"), "bytes: {told}");
    }
}

#[test]
fn a_cluster_trust_bundle_has_no_namespace() {
    let reference = [("certificates.k8s.io", "ClusterTrustBundle", "company")];
    let compiled = with_refs(World::new(), &reference);
    let parts = [
        "ClusterTrustBundle company does not exist, or is not served",
        "under spec.trustBundle",
    ];
    assert_unusable(&compiled, Reason::InvalidCaCertificateRef, &parts);

    let mut world = World::new();
    let bundle = json!({"metadata": {"name": "company"}, "spec": {"trustBundle": CA[1]}});
    let bundle: ClusterTrustBundle = serde_json::from_value(bundle).unwrap();
    let name = CaName {
        kind: CaKind::ClusterTrustBundle,
        object: ObjectName::new("", "company"),
    };
    world.objects.ca_objects.insert(name.clone(), bundle.into());
    let compiled = with_refs(world.clone(), &reference);
    let roots = &compiled.origination("10.0.0.1:443").roots;
    assert_eq!(roots.certificates, [der(&CA[1])]);
    let both = [reference[0], ("", "ConfigMap", "ca")];
    let compiled = with_refs(world.clone(), &both);
    let roots = &compiled.origination("10.0.0.1:443").roots;
    assert_eq!(roots.certificates, [der(&CA[1]), der(&CA[0])]);

    // Of another group it is another kind.
    let compiled = with_refs(world, &[("", "ClusterTrustBundle", "company")]);
    assert_unusable(
        &compiled,
        Reason::InvalidKind,
        &["this kind is not supported"],
    );
}
