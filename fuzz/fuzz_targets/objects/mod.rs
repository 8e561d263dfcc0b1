//! Objects made of a few words each, so that they meet; here and there a field that is anything at all.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use k8s_openapi::ByteString;
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use nodetls::fuzzing::ca_certificates;
use nodetls::policy::{CaBundle, CaKind, CaName, CaObject, ObjectName};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

/// `seeds.sh` made it.
const PEM: [&[u8]; 2] = [
    include_bytes!("../../corpus/pem/ca"),
    include_bytes!("../../corpus/pem/bundle"),
];
const IPS: [&str; 10] = [
    "10.0.0.1",
    "10.0.0.2",
    "10.1.0.1",
    "fd00::1",
    "fd00::2",
    "::ffff:10.0.0.1",
    "127.0.0.1",
    "fd6e:6f64:6574:6c73::7f80:1",
    "0.0.0.0",
    "x",
];
const PORT_NAMES: [&str; 5] = ["a", "b", "443", "8443", ""];
const NUMBERS: [i64; 7] = [443, 444, 8443, 1, 65_535, 0, 65_536];

/// The node's trust store.
pub(crate) fn system_roots() -> Arc<CaBundle> {
    static ROOTS: LazyLock<Arc<CaBundle>> =
        LazyLock::new(|| Arc::new(ca_certificates(PEM[0]).unwrap()));
    ROOTS.clone()
}

/// Puts an object into its place, or removes one. What the API's types do not take is nobody's object.
pub(crate) fn put<T: DeserializeOwned>(
    input: &mut Unstructured,
    to: &mut BTreeMap<ObjectName, Arc<T>>,
    make: fn(&mut Unstructured) -> Result<Value>,
) -> Result<()> {
    let name = name(input)?;
    if input.ratio(1, 6)? {
        to.remove(&name);
    } else if let Ok(object) = serde_json::from_value(make(input)?) {
        to.insert(name, Arc::new(object));
    }
    Ok(())
}

/// The same of what holds CA certificates.
pub(crate) fn put_ca(input: &mut Unstructured, to: &mut BTreeMap<CaName, CaObject>) -> Result<()> {
    let kind = *input.choose(&[
        CaKind::ConfigMap,
        CaKind::Secret,
        CaKind::ClusterTrustBundle,
    ])?;
    let mut object = name(input)?;
    if kind == CaKind::ClusterTrustBundle {
        object.namespace = "".into();
    }
    let name = CaName { kind, object };
    let mut pem = input.choose(&PEM)?.to_vec();
    match input.int_in_range(0..=9)? {
        0 => {
            to.remove(&name);
            return Ok(());
        }
        1 => pem.clear(),
        2 => {
            let at = input.choose_index(pem.len())?;
            pem[at] = input.arbitrary()?;
        }
        _ => {}
    }
    let pem = input.ratio(9, 10)?.then_some(ByteString(pem));
    let keys = vec!["ca.crt".to_owned()];
    let absent = pem.is_none() && input.ratio(1, 2)?;
    to.insert(name, CaObject { pem, keys, absent });
    Ok(())
}

fn name(input: &mut Unstructured) -> Result<ObjectName> {
    let namespace = input.choose(&["default", "other"])?;
    Ok(ObjectName::new(namespace, input.choose(&["s", "t", "u"])?))
}

pub(crate) fn service(input: &mut Unstructured) -> Result<Value> {
    let ip = word(
        input,
        &[
            "10.0.0.1",
            "10.0.0.2",
            "fd00::1",
            "None",
            "",
            "::ffff:10.0.0.2",
        ],
    )?;
    let ips = list(input, 2, |input| word(input, &IPS))?;
    let kind = word(
        input,
        &["ClusterIP", "ClusterIP", "LoadBalancer", "ExternalName"],
    )?;
    let host = word(
        input,
        &["a.example", "a.example:8443", "A.EXAMPLE.", "10.0.0.1", "?"],
    )?;
    let annotations = some(input, 5, json!({"nodetls.io/external-host": host}))?;
    let selector = some(input, 3, json!({"app": "a"}))?;
    Ok(json!({
        "metadata": {"annotations": annotations},
        "spec": {
            "clusterIP": ip, "clusterIPs": some(input, 3, ips)?, "type": kind, "selector": selector,
            "externalName": some(input, 9, json!("a.example"))?,
            "externalIPs": list(input, 3, |input| word(input, &IPS))?,
            "ports": list(input, 4, port)?,
        },
        "status": {"loadBalancer": {"ingress": list(input, 2, |input| Ok(json!({"ip": word(input, &IPS)?})))?}},
    }))
}

fn port(input: &mut Unstructured) -> Result<Value> {
    let target = [json!(8443), json!("b"), json!(-1), Value::Null];
    Ok(json!({
        "name": word(input, &PORT_NAMES)?, "port": input.choose(&NUMBERS)?,
        "protocol": word(input, &["TCP", "TCP", "UDP", "SCTP", "tcp"])?,
        "appProtocol": word(input, &["https", "http", "kubernetes.io/ws"])?,
        "targetPort": input.choose(&target)?,
    }))
}

pub(crate) fn slice(input: &mut Unstructured) -> Result<Value> {
    let mut labels = json!({"kubernetes.io/service-name": word(input, &["s", "t", "u"])?});
    if input.arbitrary()? {
        labels["service.kubernetes.io/headless"] = json!("");
    }
    let ready = [json!({"ready": true}), json!({"ready": false}), Value::Null];
    let endpoint = |input: &mut Unstructured| {
        let addresses = list(input, 3, |input| word(input, &IPS))?;
        Ok(json!({"addresses": addresses, "conditions": input.choose(&ready)?}))
    };
    Ok(json!({
        "metadata": {"labels": labels}, "addressType": word(input, &["IPv4", "IPv6"])?,
        "endpoints": list(input, 4, endpoint)?, "ports": list(input, 3, port)?,
    }))
}

pub(crate) fn policy(input: &mut Unstructured) -> Result<Value> {
    let created = word(
        input,
        &[
            "2020-01-01T00:00:00Z",
            "2021-01-01T00:00:00Z",
            "2020-01-01T00:00:00.5+01:00",
        ],
    )?;
    let redirect = word(input, &["disabled", "enabled", "?"])?;
    let annotations = some(input, 8, json!({"nodetls.io/redirect": redirect}))?;
    let targets = list(input, 4, target_ref)?;
    let validation = validation(input)?;
    let spec = json!({"targetRefs": targets, "validation": validation, "options": options(input)?});
    Ok(json!({
        "metadata": {
            "creationTimestamp": some(input, 2, created)?, "annotations": annotations,
            "generation": input.arbitrary::<u8>()?,
        },
        "spec": odd(input, spec)?,
    }))
}

fn target_ref(input: &mut Unstructured) -> Result<Value> {
    let target = json!({
        "group": word(input, &["", "", "", "core", "apps"])?,
        "kind": word(input, &["Service", "Service", "Service", "service", "Pod"])?,
        "name": word(input, &["s", "t", "u"])?,
        "sectionName": word(input, &PORT_NAMES)?,
    });
    odd(input, target)
}

fn validation(input: &mut Unstructured) -> Result<Value> {
    let ca = |input: &mut Unstructured| {
        let kind = word(
            input,
            &["ConfigMap", "ConfigMap", "Secret", "ClusterTrustBundle"],
        )?;
        let group = match kind.as_str() {
            Some("ClusterTrustBundle") => "certificates.k8s.io",
            _ => "",
        };
        let name = word(input, &["s", "t", "u"])?;
        odd(input, json!({"group": group, "kind": kind, "name": name}))
    };
    let san = |input: &mut Unstructured| {
        let (hostname, uri) = (
            word(input, &["a.example", "*.a.example", "*.com", "*", ""])?,
            word(input, &["spiffe://a/b", "x", "https://[::1]/"])?,
        );
        let san = json!({
            "type": word(input, &["Hostname", "URI"])?, "hostname": some(input, 2, hostname)?, "uri": some(input, 2, uri)?,
        });
        odd(input, san)
    };
    let mut validation = json!({
        "hostname": word(input, &["a.example", "a.example", "A.example", "*.a.example", "10.0.0.1", "a_b.example", ""])?,
        "subjectAltNames": list(input, 2, san)?,
    });
    if input.ratio(1, 5)? {
        validation["wellKnownCACertificates"] = word(input, &["System", "System", "Other"])?;
    }
    if !input.ratio(1, 8)? {
        validation["caCertificateRefs"] = list(input, 3, ca)?;
    }
    odd(input, validation)
}

const PIN: &str = "cert:0000000000000000000000000000000000000000000000000000000000000000";

fn options(input: &mut Unstructured) -> Result<Value> {
    const OPTIONS: [(&str, &[&str]); 12] = [
        ("min-tls-version", &["1.2", "1.3"]),
        ("max-tls-version", &["1.2", "1.3"]),
        (
            "cipher-suites",
            &[
                "TLS_AES_128_GCM_SHA256",
                "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, TLS_AES_256_GCM_SHA384",
            ],
        ),
        (
            "key-exchange-groups",
            &["X25519", "secp256r1,X25519MLKEM768"],
        ),
        ("alpn", &["h2", "none", "h2,http/1.1", ","]),
        (
            "validation-mode",
            &[
                "Standard",
                "InsecureAllowExpired",
                "InsecureSkipVerification",
            ],
        ),
        ("connect-timeout", &["1s", "0s", "99999999999h", "-1s"]),
        ("handshake-timeout", &["500ms", "1h"]),
        ("pinned-sha256", &[PIN, "spki:"]),
        ("client-certificate", &["s", "?"]),
        ("rewrite-host", &["true", "false", "yes"]),
        ("client-tls", &["pass-through", "wrap"]),
    ];
    let mut options = Map::new();
    for _ in 0..input.int_in_range(0..=3)? {
        let (key, values) = input.choose(&OPTIONS)?;
        options.insert(format!("nodetls.io/{key}"), word(input, values)?);
    }
    odd(input, Value::Object(options))
}

/// One of these, or rarely another text.
fn word(input: &mut Unstructured, words: &[&str]) -> Result<Value> {
    match input.int_in_range(0..=31)? {
        0 => Ok(json!(input.arbitrary::<String>()?)),
        _ => Ok(json!(input.choose(words)?)),
    }
}

/// The value, once in so many times.
fn some(input: &mut Unstructured, times: u32, value: Value) -> Result<Value> {
    Ok(if input.ratio(1, times)? {
        value
    } else {
        Value::Null
    })
}

fn list(
    input: &mut Unstructured,
    most: usize,
    make: impl Fn(&mut Unstructured) -> Result<Value>,
) -> Result<Value> {
    let length = input.int_in_range(0..=most)?;
    (0..length).map(|_| make(input)).collect()
}

/// The value, or rarely something else in its place or among its fields.
fn odd(input: &mut Unstructured, mut value: Value) -> Result<Value> {
    if !input.ratio(1, 16)? {
        return Ok(value);
    }
    let other = match input.int_in_range(0..=5)? {
        0 => Value::Null,
        1 => json!(input.arbitrary::<i64>()?),
        2 => json!(input.arbitrary::<String>()?),
        3 => json!([value.clone(), value.clone()]),
        4 => json!({}),
        _ => json!(input.arbitrary::<bool>()?),
    };
    let Some(fields) = value.as_object_mut().filter(|fields| !fields.is_empty()) else {
        return Ok(other);
    };
    let place = input.choose_index(fields.len() + 1)?;
    match fields.values_mut().nth(place) {
        Some(field) => *field = other,
        None => value = other,
    }
    Ok(value)
}
