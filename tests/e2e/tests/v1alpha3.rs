//! A cluster that serves policies as v1alpha3 only. In a file of its own, as tests of different files are run one after
//! another: the CRD is the whole cluster's.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::process::Command;

use nodetls_e2e::envoy_gateway::{self, Certificate};
use nodetls_e2e::{kubectl, text};

const MODULE: &str = "sigs.k8s.io/gateway-api";
/// The newest release whose experimental channel has v1alpha3 alone.
const OLD_RELEASE: &str = "sigs.k8s.io/gateway-api@v1.3.0";
const CRD: &str = "backendtlspolicies.gateway.networking.k8s.io";

/// The file of the CRD in Gateway API's Go module, looked up from `directory`.
fn crd(directory: &Path, module: &str, channel: &str) -> String {
    let mut go = Command::new("go");
    go.args(["mod", "download", "-json", module]);
    let output = go.current_dir(directory).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let json = String::from_utf8(output.stdout).unwrap();
    let (_, directory) = json.split_once("\"Dir\": \"").expect(&json);
    let directory = directory.split('"').next().unwrap();
    format!("{directory}/config/crd/{channel}/gateway.networking.k8s.io_backendtlspolicies.yaml")
}

/// Deletes the cluster's CRD, and all policies with it; then another takes its place.
fn replace_crd(file: &str) {
    kubectl(&["delete", "crd", CRD, "--ignore-not-found", "--timeout=60s"]);
    kubectl(&["apply", "--server-side", "--filename", file]);
    kubectl(&[
        "wait",
        "--for=condition=Established",
        "crd",
        CRD,
        "--timeout=60s",
    ]);
    // kubectl remembers for ten minutes which versions are served, unless it lists them.
    kubectl(&["api-resources", "--api-group=gateway.networking.k8s.io"]);
}

/// The CRD that `cargo xtask cluster up` installed; it is again when this is dropped.
struct Own(String);

impl Drop for Own {
    fn drop(&mut self) {
        replace_crd(&self.0);
    }
}

#[test]
fn envoy_gateways_steps_with_an_old_releases_experimental_crd() {
    let cluster = Path::new(env!("CARGO_MANIFEST_DIR")).join("../cluster");
    let _own = Own(crd(&cluster, MODULE, "standard"));
    replace_crd(&crd(&std::env::temp_dir(), OLD_RELEASE, "experimental"));
    let versions = "--output=jsonpath={.spec.versions[?(@.served==true)].name}";
    assert_eq!(kubectl(&["get", "crd", CRD, versions]), "v1alpha3");

    let certificate = Certificate::WithSubjectAltName;
    let namespace = envoy_gateway::follow("e2e-envoy-v1alpha3", "v1alpha3", &certificate);
    let (status, answer) = envoy_gateway::request(&namespace);
    assert_eq!(status, 200, "{answer}");
    let name = r#""serverName": "www.example.com""#;
    assert!(answer.contains(name), "{answer}");
    let accepted =
        r#"--for=jsonpath={.status.ancestors[0].conditions[?(@.type=="Accepted")].status}=True"#;
    let policy = "backendtlspolicies.v1alpha3.gateway.networking.k8s.io/enable-backend-tls";
    namespace.kubectl(&["wait", accepted, policy, "--timeout=30s"]);
}
