#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};

use super::*;

fn config_map(value: Value) -> ConfigMap {
    serde_json::from_value(value).unwrap()
}

fn source() -> CaName {
    CaName::config_map("shop", "ca")
}

/// The mirror of `shop/ca`, if that has this content.
fn mirror_of(data: Value) -> ConfigMap {
    mirror("nodetls", &source(), Some(&config_map(data).into()))
}

fn wanted(mirror: Option<ConfigMap>) -> BTreeMap<String, Option<ConfigMap>> {
    BTreeMap::from([(mirror_name(&source()), mirror)])
}

#[test]
fn a_mirror_holds_the_certificates_alone_and_names_its_source() {
    // printf 'ConfigMap shop/ca' | sha256sum
    assert_eq!(mirror_name(&source()), "ca-1d28b9696316d0c6");
    let content =
        json!({"data": {"ca.crt": "PEM", "password": "x"}, "binaryData": {"other": "eA=="}});
    let mirror = serde_json::to_value(mirror_of(content)).unwrap();
    assert_eq!(
        mirror,
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {
                "name": "ca-1d28b9696316d0c6", "namespace": "nodetls",
                "labels": {"nodetls.io/mirror": "true"},
                "annotations": {
                    "nodetls.io/source-kind": "ConfigMap",
                    "nodetls.io/source-namespace": "shop", "nodetls.io/source-name": "ca",
                },
            },
            "data": {"ca.crt": "PEM"},
        })
    );
    let binary = mirror_of(json!({"binaryData": {"ca.crt": "/w=="}}));
    assert_eq!(binary.data, None);
    assert_eq!(binary.binary_data.unwrap()["ca.crt"].0, [0xff]);
}

#[test]
fn a_missing_source_or_key_is_a_mirror_without_data() {
    let missing = mirror("nodetls", &source(), None);
    assert_eq!((&missing.data, &missing.binary_data), (&None, &None));
    assert!(mirrored_object(missing.clone()).absent);
    let other_key = mirror_of(json!({"data": {"ca.pem": "PEM", "more": ""}}));
    assert_eq!((&other_key.data, &other_key.binary_data), (&None, &None));
    let told = mirrored_object(other_key.clone());
    assert_eq!(
        (told.absent, told.keys),
        (false, vec!["ca.pem".to_owned(), "more".to_owned()])
    );
    let empty = mirrored_object(mirror_of(json!({})));
    assert_eq!((empty.absent, empty.keys.len()), (false, 0));
    assert_eq!(
        diff(wanted(Some(other_key.clone())), [&missing]).apply,
        [other_key]
    );
    assert_eq!(diff(wanted(Some(missing.clone())), []).apply, [missing]);
}

#[test]
fn applies_what_differs_and_only_that() {
    let one = mirror_of(json!({"data": {"ca.crt": "1"}}));
    let two = mirror_of(json!({"data": {"ca.crt": "2"}}));
    let none = mirror("nodetls", &source(), None);
    for (existing, new) in [(&one, &two), (&one, &none), (&none, &one)] {
        let diff = diff(wanted(Some(new.clone())), [existing]);
        assert_eq!(diff.apply, std::slice::from_ref(new));
        assert_eq!(diff.delete, Vec::<String>::new());
    }
    // As it comes from the API server.
    let mut stored = one.clone();
    stored.metadata.resource_version = Some("7".to_owned());
    stored.binary_data = Some(BTreeMap::new());
    assert_eq!(diff(wanted(Some(one.clone())), [&stored]), Diff::default());
    // Somebody took the label away, or made it stand for another ConfigMap.
    stored.metadata.labels = None;
    assert_eq!(diff(wanted(Some(one.clone())), [&stored]).apply.len(), 1);
    let mut stolen = one.clone();
    let annotations = stolen.metadata.annotations.as_mut().unwrap();
    annotations.insert(SOURCE_NAME.to_owned(), "other".to_owned());
    assert_eq!(diff(wanted(Some(one)), [&stolen]).apply.len(), 1);
}

#[test]
fn leaves_alone_what_it_does_not_know_yet() {
    let existing = mirror_of(json!({"data": {"ca.crt": "1"}}));
    assert_eq!(diff(wanted(None), [&existing]), Diff::default());
    assert_eq!(diff(wanted(None), []), Diff::default());
}

#[test]
fn deletes_unreferenced_mirrors_and_nothing_else() {
    let ours = mirror_of(json!({"data": {"ca.crt": "1"}}));
    let mut renamed = ours.clone();
    renamed.metadata.name = Some("ca-0000000000000000".to_owned());
    let label = json!({"metadata": {"name": "ca-1", "labels": {"nodetls.io/mirror": "true"}}});
    let diff = diff(BTreeMap::new(), [&ours, &renamed, &config_map(label)]);
    assert_eq!(diff.delete, [mirror_name(&source())]);
    assert_eq!(diff.apply, []);
}

/// What of a Secret with this `ca.crt` is mirrored.
fn of_secret(ca: &str) -> Option<String> {
    let data = [(CA_KEY, ca), ("tls.key", "KEY")];
    let data = data.map(|(key, value)| (key.to_owned(), ByteString(value.into())));
    let secret = Secret {
        data: Some(data.into()),
        ..Secret::default()
    };
    let mirror = mirror("nodetls", &secret_name(), Some(&secret.into()));
    assert_eq!(mirror.binary_data, None);
    let data = mirror.data?;
    assert_eq!(data.len(), 1, "{data:?}");
    Some(data[CA_KEY].clone())
}

fn secret_name() -> CaName {
    CaName::secret("shop", "ca")
}

#[test]
fn of_a_secret_nothing_but_certificates_is_mirrored() {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
    let ca = params.self_signed(&key).unwrap().pem().replace('\r', "");
    assert_eq!(of_secret(&ca).as_ref(), Some(&ca));

    let key = key.serialize_pem();
    assert_eq!(
        of_secret(&format!("# x\n{key}{ca}{key}y")),
        Some(ca.clone())
    );
    assert_eq!(of_secret(&key), None);
    // A key under a certificate's name, and one in a certificate that was cut off.
    let disguised = key.replace("PRIVATE KEY", "CERTIFICATE");
    let cut = ca.replace("-----END CERTIFICATE-----\n", "");
    for pem in [
        &disguised,
        &format!("{ca}{disguised}"),
        &format!("{cut}{key}"),
        "",
    ] {
        assert_eq!(of_secret(pem), None, "{pem}");
    }
}

#[test]
fn a_secret_is_not_the_config_map_of_its_name() {
    let secret = mirror("nodetls", &secret_name(), None);
    let annotations = secret.metadata.annotations.as_ref().unwrap();
    assert_eq!(annotations[SOURCE_KIND], "Secret");
    let config_map = mirror("nodetls", &source(), None);
    assert_ne!(secret.metadata.name, config_map.metadata.name);
    // Secrets are no longer allowed: nothing names them.
    let diff = diff(wanted(Some(config_map.clone())), [&secret, &config_map]);
    assert_eq!(diff.delete, [mirror_name(&secret_name())]);
    assert_eq!(diff.apply, []);
}
