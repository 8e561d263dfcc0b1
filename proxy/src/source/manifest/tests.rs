#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;

fn parsed(text: &str) -> Manifest {
    parse(text.as_bytes())
}

/// The only problem of a manifest: document, object, cause.
#[track_caller]
fn problem(text: &str) -> (usize, Option<String>, String) {
    let mut problems = parsed(text).problems;
    assert_eq!(problems.len(), 1, "{problems:?}");
    let Problem {
        document,
        object,
        cause,
    } = problems.remove(0);
    (document, object, cause)
}

const SERVICE: &str = "apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  clusterIP: 10.96.0.10
  ports: [{name: \"443\", port: 443, targetPort: https}]
";

const POLICY: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: tls, namespace: shop}
spec:
  targetRefs: [{group: '', kind: Service, name: web, sectionName: \"443\"}]
  validation: {hostname: www.example.com, wellKnownCACertificates: System}
";

#[test]
fn documents_of_every_kind() {
    let text = format!(
        "# a comment only\n---\n{SERVICE}---\n---\n{POLICY}---
apiVersion: v1
kind: ConfigMap
metadata: {{name: ca, namespace: ''}}
data:
  ca.crt: |
    -----BEGIN CERTIFICATE-----
    AAAA
    -----END CERTIFICATE-----
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: web-1, labels: {{kubernetes.io/service-name: web}}}}
addressType: IPv4
endpoints: [{{addresses: [10.0.0.1]}}]
ports: [{{port: 8443}}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
...
"
    );
    let Manifest {
        objects, problems, ..
    } = parsed(&text);
    assert_eq!(problems, []);
    let web = ObjectName::new("default", "web");
    let service = &objects.services[&web];
    assert_eq!(service.metadata.namespace.as_deref(), Some("default"));
    let ports = service.spec.as_ref().unwrap().ports.as_ref().unwrap();
    assert_eq!(
        (ports[0].name.as_deref(), ports[0].port),
        (Some("443"), 443)
    );
    let policy = &objects.policies[&ObjectName::new("shop", "tls")];
    assert_eq!(policy.spec["targetRefs"][0]["sectionName"], "443");
    let ca = &objects.ca_objects[&CaName::config_map("default", "ca")];
    assert_eq!(
        ca.pem.as_ref().unwrap().0,
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    );
    assert_eq!(objects.endpoint_slices.len(), 1);
}

#[test]
fn json_and_lists() {
    let json = "{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"List\",\n\t\"items\": [\n\t\t{\"apiVersion\": \"v1\", \
                \"kind\": \"Service\", \"metadata\": {\"name\": \"a\\/b\\u00e9\\ud83d\\ude00\"}},\n\t\t{\"apiVersion\": \"v1\", \
                \"kind\": \"Secret\", \"metadata\": {\"name\": \"s\"}}\n\t]\n}\n";
    let Manifest {
        objects, problems, ..
    } = parsed(json);
    assert_eq!(problems, []);
    assert!(
        objects
            .services
            .contains_key(&ObjectName::new("default", "a/bé😀"))
    );
    let none = parsed("{apiVersion: v1, kind: List, items: null}");
    assert_eq!((none.objects, none.problems), (Objects::default(), vec![]));
}

#[test]
fn v1alpha3_is_read_and_an_unknown_head_of_a_policy_is_refused() {
    let alpha = POLICY.replace("io/v1", "io/v1alpha3");
    assert_eq!(parsed(&alpha).objects.policies.len(), 1);
    for (from, to) in [
        ("io/v1", "io/v1alpha2"),
        ("gateway.networking.k8s.io/v1", "v1"),
        ("TLS", "Tls"),
    ] {
        let (_, object, cause) = problem(&POLICY.replacen(from, to, 1));
        assert!(object.unwrap().ends_with(" shop/tls"), "{to}");
        assert!(
            cause.contains("apiVersion: gateway.networking.k8s.io/v1,"),
            "{cause}"
        );
    }
    let knative = SERVICE.replace("v1", "serving.knative.dev/v1");
    assert_eq!(parsed(&knative).problems, []);
}

#[test]
fn a_bad_document_leaves_the_others() {
    let wrong = SERVICE
        .replace("port: 443", "port: https")
        .replace("name: web", "name: bad");
    let text = format!("{SERVICE}---\n{wrong}---\n{POLICY}");
    let Manifest { objects, .. } = parsed(&text);
    assert_eq!((objects.services.len(), objects.policies.len()), (1, 1));
    let (document, object, cause) = problem(&text);
    assert_eq!(
        (document, object.as_deref()),
        (2, Some("Service default/bad"))
    );
    assert!(
        cause.starts_with("spec.ports[0].port: invalid type: string"),
        "{cause}"
    );
}

#[test]
fn what_is_no_object_is_named() {
    for (text, part) in [
        ("just text", "not a Kubernetes object"),
        ("- a\n- b", "not a Kubernetes object"),
        ("kind: Service\nmetadata: {name: a}", "apiVersion and kind"),
        ("apiVersion: v1\nkind: Service", "metadata.name"),
        (
            "apiVersion: v1\nkind: Service\nmetadata: text",
            "metadata.name",
        ),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: 12}",
            "metadata.name",
        ),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: 1}",
            "metadata.namespace",
        ),
        (
            "{apiVersion: v1, kind: List, items: 3}",
            "items must be a list",
        ),
        ("a: [1, 2", "line 1"),
        ("a: 1\na: 2\n", "duplicate"),
    ] {
        let (document, _, cause) = problem(text);
        assert_eq!(document, 1);
        assert!(
            cause.to_lowercase().contains(part.to_lowercase().as_str()),
            "{text:?}: {cause}"
        );
    }
    let (_, object, cause) = problem(&format!("{SERVICE}---\n{SERVICE}"));
    assert_eq!(object.as_deref(), Some("Service default/web"));
    assert!(cause.contains("twice"), "{cause}");
}

#[test]
fn an_error_does_not_quote_the_file() {
    let text = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {key: hush-hush\n";
    let (_, _, cause) = problem(text);
    assert!(!cause.contains("hush"), "{cause}");
}

#[test]
fn bombs_are_refused_at_once() {
    let mut aliases = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let last = level - 1;
        aliases += &format!(
            "a{level}: &a{level} [{}]\n",
            vec![format!("*a{last}"); 10].join(", ")
        );
    }
    let deep = "[".repeat(100_000);
    let blocks: String = (0..2000).map(|depth| " ".repeat(depth) + "a:\n").collect();
    let start = std::time::Instant::now();
    for bomb in [aliases, deep, blocks] {
        let Manifest {
            objects, problems, ..
        } = parsed(&bomb);
        assert!(!problems.is_empty());
        assert_eq!(objects, Objects::default());
    }
    assert!(start.elapsed().as_secs() < 20);
    parse(&[0xff, 0xfe, 0x00]);
    assert!(!parse(b"\xc3\x28: 1").problems.is_empty());
}

/// Of a Secret named `ca` with these fields.
fn secret(fields: &str) -> Result<CaObject, String> {
    let text = format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: ca}}\n{fields}");
    let mut manifest = parsed(&text);
    match manifest.problems.pop() {
        Some(problem) => Err(problem.cause),
        None => {
            let name = CaName::secret("default", "ca");
            Ok(manifest.objects.ca_objects.remove(&name).unwrap())
        }
    }
}

#[test]
fn of_a_secret_the_certificates_are_read() {
    for (fields, pem) in [
        ("data: {ca.crt: UEVN}", Some("PEM")),
        ("data:\n  ca.crt: |\n    UE\n    VN\n", Some("PEM")),
        ("stringData: {ca.crt: PEM}", Some("PEM")),
        (
            "data: {ca.crt: T0xE}\nstringData: {ca.crt: PEM}",
            Some("PEM"),
        ),
        // As of sops.
        (
            "data: {ca.crt: UEVN, tls.key: 'ENC[x]', no: 5}",
            Some("PEM"),
        ),
        ("data: {tls.key: UEVN}", None),
        ("data: null", None),
    ] {
        let read = secret(fields).unwrap().pem.map(|pem| pem.0);
        assert_eq!(read.as_deref(), pem.map(str::as_bytes), "{fields}");
    }
}

#[test]
fn what_is_wrong_with_a_secret_is_told_without_its_content() {
    for (fields, part) in [
        ("data: {ca.crt: 'hush!'}", "ca.crt is not base64"),
        ("data: {ca.crt: [hush]}", "ca.crt must be a string"),
        ("stringData: {ca.crt: {a: hush}}", "ca.crt must be a string"),
        ("data: hush", "data and stringData must be maps"),
        ("stringData: [hush]", "data and stringData must be maps"),
    ] {
        let cause = secret(fields).unwrap_err();
        assert!(cause.contains(part), "{cause}");
        assert!(!cause.contains("hush"), "{cause}");
    }
}
