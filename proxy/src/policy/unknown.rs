//! What the CRD has no word for. The compiler passes over it, as the API server does; its author should know.

use serde_json::Value;

use super::fields::{Node, Problems};

const VALIDATION: [&str; 4] = [
    "hostname",
    "subjectAltNames",
    "caCertificateRefs",
    "wellKnownCACertificates",
];

/// The fields of `spec` that the CRD doesn't have, and the keys of its options that it reserves: a sentence each. The
/// API server drops such a field, and `kubectl apply` (strict validation) refuses it.
pub(super) fn unknown_fields(spec: &Value) -> Problems {
    let mut found = Problems::new();
    let spec = Node::root("spec", spec);
    only(&spec, &["targetRefs", "validation", "options"], &mut found);
    let reference = ["group", "kind", "name"];
    let target = ["group", "kind", "name", "sectionName"];
    each(&spec.get("targetRefs"), &target, &mut found);
    let validation = spec.get("validation");
    only(&validation, &VALIDATION, &mut found);
    each(&validation.get("caCertificateRefs"), &reference, &mut found);
    let name = ["type", "hostname", "uri"];
    each(&validation.get("subjectAltNames"), &name, &mut found);
    for (key, option) in spec.get("options").entries() {
        if !key.contains('/') {
            let what = "has no domain before its name, as in \"example.com/name\": the Gateway API reserves such keys, \
                        and nodetls reads none";
            option.wrong(&mut found, what);
        }
    }
    found
}

fn each(list: &Node, known: &[&str], found: &mut Problems) {
    // What is wrong with the list itself is told by whoever reads it.
    for entry in list.list(usize::MAX, &mut Problems::new()) {
        only(&entry, known, found);
    }
}

fn only(object: &Node, known: &[&str], found: &mut Problems) {
    for (key, field) in object.entries() {
        if !known.contains(&key) {
            let known = known.join(", ");
            field.wrong(
                found,
                &format!(
                    "unknown field, ignored here and refused by kubectl apply; known are: {known}"
                ),
            );
        }
    }
}
