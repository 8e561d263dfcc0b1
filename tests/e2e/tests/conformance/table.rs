//! `docs/conformance.md`: what a run of all rows has shown.

use std::fmt::Write as _;

use nodetls_e2e::{document, kubectl};
use serde_json::Value;

use crate::{GROUPS, Group};

const INTRODUCTION: &str = "\
# Conformance

The tests that Gateway API's conformance suite has of `BackendTLSPolicy`, one row for each case, driven from plain pods:
a client that knows nothing of TLS dials the Service, where upstream sends a request through a Gateway. What it dials, what
the policy says and how certificates are made is as there; the status is asserted as there, but that the ancestor is the
Service (`group: \"\"`, `kind: Service`, the targetRef's `name` and `sectionName`), and that each condition has the policy's
current generation. A request fails when three answers in a row are 502 (TLS failed) or 503 (the policy is refused), and
none before is 200. That TLS was originated, and with which SNI, the server itself tells.

Written by `NODETLS_BLESS=1 cargo test --package nodetls-e2e --test conformance` on the cluster of `cargo xtask cluster up`;
it is written only when all rows pass. `cargo xtask e2e` fails if a row does, or if this file is not what its run has shown.
A row is a test of that name in [tests/e2e/tests/conformance/](../tests/e2e/tests/conformance/).
";

/// Upstream's tests without a row, and why.
const LEFT_OUT: &str = "
## Left out

| Upstream test | In its place |
|---|---|
| GatewayTLSBackendClientCertificate | A Gateway's own certificate, which pods don't have: that of `spec.tls.backend` of a Gateway. nodetls' client certificates are the client pod's, by an option of the policy, and have tests of their own. |
| GatewayInvalidTLSBackendConfiguration | The same. |
| BackendTLSPolicy, its second route (re-encryption behind an HTTPS listener) | There is no listener. A client that speaks TLS itself is passed through, which the recipes' tests show. |
";

/// Compares the document with what this run has shown, or writes it.
///
/// # Errors
/// As [`document::check`].
pub(crate) fn check() -> Result<(), String> {
    document::check("conformance.md", "conformance", &generated(), |text| text)
}

/// Only called when all rows have passed.
fn generated() -> String {
    let versions: Value = serde_json::from_str(&kubectl(&["version", "--output=json"])).unwrap();
    let crd = "crd/backendtlspolicies.gateway.networking.k8s.io";
    let crd: Value = serde_json::from_str(&kubectl(&["get", crd, "--output=json"])).unwrap();
    let bundle = &crd["metadata"]["annotations"]["gateway.networking.k8s.io/bundle-version"];
    let mut text = format!(
        "{INTRODUCTION}\nnodetls {}, Gateway API {}, Kubernetes {}\n",
        env!("CARGO_PKG_VERSION"),
        bundle.as_str().unwrap(),
        versions["serverVersion"]["gitVersion"].as_str().unwrap()
    );
    let (upstream, own): (Vec<&Group>, _) =
        GROUPS.iter().partition(|group| !group.features.is_empty());
    text += "\n## Upstream's tests\n\n| Test (features) | Driven by | Row | Asserted | Result |\n|---|---|---|---|---|\n";
    for group in upstream {
        rows(
            &mut text,
            group,
            &format!("{} ({})", group.title, group.features),
        );
    }
    text += "\n## What upstream does not test\n\n| Subject | Driven by | Row | Asserted | Result |\n|---|---|---|---|---|\n";
    for group in own {
        rows(&mut text, group, group.title);
    }
    text + LEFT_OUT
}

fn rows(text: &mut String, group: &Group, title: &str) {
    // Said once, for all rows of the group.
    let mut subject = format!("{title} | {}", group.driven_by);
    for row in group.rows {
        let (name, asserted) = (row.name, row.asserted);
        writeln!(text, "| {subject} | `{name}` | {asserted} | passed |").unwrap();
        "|".clone_into(&mut subject);
    }
}
