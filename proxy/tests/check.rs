//! `nodetls check` as a user runs it: the built binary, its exit codes and what it prints.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The root of the repository.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

fn check() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nodetls"));
    command.arg("check").stdin(Stdio::null());
    command
}

/// Runs it on manifests; returns exit code and standard output. Nothing may be on standard error.
fn judge(path: &Path, more: &[&str]) -> (i32, String) {
    let mut command = check();
    let command = command.arg("--manifests").arg(path).args(more);
    let output = command.output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    (output.status.code().unwrap(), stdout(output))
}

fn stdout(output: Output) -> String {
    String::from_utf8(output.stdout).unwrap()
}

/// A CA certificate that is valid until the start of this year, in PEM.
fn ca(until: i32) -> String {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params
        .distinguished_name
        .push(DnType::CommonName, "test CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.not_before = rcgen::date_time_ymd(2000, 1, 1);
    params.not_after = rcgen::date_time_ymd(until, 1, 1);
    let key = KeyPair::generate().unwrap();
    params.self_signed(&key).unwrap().pem()
}

/// A ConfigMap as kubectl makes it.
fn config_map(name: &str, pem: &str) -> String {
    let metadata = json!({"name": name, "namespace": "default"});
    let data = json!({"ca.crt": pem});
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}).to_string()
}

/// The examples of this repository, in a directory of their own: `examples/envoy-gateway` below it.
fn examples() -> TempDir {
    let dir = TempDir::new().unwrap();
    let copy = dir.path().join("examples/envoy-gateway");
    fs::create_dir_all(&copy).unwrap();
    for file in fs::read_dir(Path::new(ROOT).join("examples/envoy-gateway")).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), copy.join(file.file_name())).unwrap();
    }
    dir
}

/// The commands that README.md shows, with the output below each; kubectl's place is taken by [`config_map`].
#[test]
fn the_readme_shows_what_is_printed() {
    let readme = fs::read_to_string(Path::new(ROOT).join("README.md")).unwrap();
    let title = "## Check manifests before they are applied\n";
    let (_, section) = readme.split_once(title).unwrap();
    let block = section.split("```").nth(1).unwrap().trim_start();
    let dir = examples();
    let (mut printed, mut codes) = (String::new(), Vec::new());
    for line in block.lines().filter_map(|line| line.strip_prefix("$ ")) {
        printed.push_str(&format!("$ {line}\n"));
        if let Some(arguments) = line.strip_prefix("nodetls check ") {
            let mut command = check();
            let command = command.args(arguments.split(' ')).current_dir(dir.path());
            let output = command.output().unwrap();
            codes.push(output.status.code().unwrap());
            printed.push_str(&stdout(output));
        } else {
            let kubectl = "kubectl create configmap example-ca --from-file=ca.crt";
            assert!(line.starts_with(kubectl), "{line}");
            let (_, file) = line.split_once(" > ").unwrap();
            let config_map = config_map("example-ca", &ca(4000));
            fs::write(dir.path().join(file), config_map).unwrap();
        }
    }
    assert_eq!(printed, block);
    assert_eq!(codes, [1, 0]);
}

/// Runs as JSON and as YAML, which must be the same value with the same exit code.
fn report(path: &Path) -> (i32, Value) {
    let (code, text) = judge(path, &["-o", "json"]);
    let json: Value = serde_json::from_str(&text).unwrap();
    let (code_of_yaml, text) = judge(path, &["--output", "yaml"]);
    let yaml: Value = serde_saphyr::from_str(&text).unwrap();
    assert_eq!(yaml, json, "{text}");
    assert_eq!(code, code_of_yaml);
    (code, json)
}

#[test]
fn a_good_directory() {
    let dir = examples();
    let path = dir.path().join("examples/envoy-gateway");
    let config_map = config_map("example-ca", &ca(4000));
    fs::write(path.join("ca.yaml"), config_map).unwrap();
    let (code, report) = report(&path);
    assert_eq!((code, &report["verdict"]), (0, &json!("accepted")));
    let ancestor = &report["policies"][0]["ancestors"][0];
    assert_eq!(ancestor["ancestorRef"]["sectionName"], "443");
}

const SERVICE: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: "no"}
spec:
  clusterIP: 10.0.0.1
  ports: [{name: web, port: 80, appProtocol: http}]
"#;

const EXPIRED: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: "1e3"}
spec:
  tls: "a: b\n# c"
  targetRefs: [{group: "", kind: Service, name: "no", sectionName: web}]
  validation:
    hostname: www.example.com
    caCertificateRefs: [{group: "", kind: ConfigMap, name: expired}]
"#;

const WILDCARD: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: "null"}
spec:
  targetRefs: [{group: "", kind: Service, name: "~", sectionName: "0x1f"}]
  validation:
    hostname: "*.example.com"
    wellKnownCACertificates: System
"#;

const NO_SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {ports: 5}
";

#[track_caller]
fn assert_has(value: &Value, part: &str) {
    let text = value.as_str().unwrap();
    assert!(text.contains(part), "{part:?} is not in {text:?}");
}

/// Names that YAML would read as something else are among them.
#[test]
fn a_bad_directory() {
    let dir = TempDir::new().unwrap();
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    write(
        "bad.yaml",
        &[SERVICE, EXPIRED, WILDCARD, NO_SERVICE].join("---"),
    );
    write("cut.yaml", "kind: [");
    write("expired.json", &config_map("expired", &ca(2001)));
    let (code, report) = report(dir.path());
    assert_eq!((code, &report["verdict"]), (1, &json!("refused")));

    let [expired, wildcard] = report["policies"].as_array().unwrap().as_slice() else {
        panic!("not two policies: {report:#}");
    };
    assert_eq!(expired["name"], "1e3");
    let accepted = &expired["ancestors"][0]["conditions"][0];
    assert_eq!(accepted["status"], "True");
    assert_eq!(expired["verdict"], "refused");
    assert_has(
        &expired["errors"][0],
        "\"test CA\" expired at 2001-01-01T00:00:00Z",
    );
    assert_has(&expired["warnings"][0], "spec[\"tls\"]: unknown field");
    assert_has(
        &expired["warnings"][1],
        "appProtocol \"http\" says plaintext",
    );
    let target = &wildcard["ancestors"][0]["ancestorRef"];
    assert_eq!(target["sectionName"], "0x1f");
    assert_has(&wildcard["errors"][0], "has a wildcard");

    let [service, cut] = report["unreadable"].as_array().unwrap().as_slice() else {
        panic!("not two documents: {report:#}");
    };
    assert_has(&service["file"], "bad.yaml");
    assert_eq!(service["document"], 4);
    assert_eq!(service["object"], "Service default/web");
    assert_has(&cut["file"], "cut.yaml");

    let (code, text) = judge(dir.path(), &[]);
    assert_eq!(code, 1);
    for part in [
        "default/1e3   no:web   True ",
        "default/null  ~:0x1f   False (Invalid)",
        "bad.yaml, document 4, Service default/web: spec.ports: invalid type",
        "policies: 2, refused: 2, unreadable: 2, warnings: 2\n",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}

/// kgateway's way: `kubectl create secret generic NAME --from-file=ca.crt`.
#[test]
fn a_ca_in_a_secret() {
    let dir = examples();
    let path = dir.path().join("examples/envoy-gateway");
    let policy = path.join("policy.yaml");
    let text = fs::read_to_string(&policy).unwrap();
    fs::write(&policy, text.replace("kind: ConfigMap", "kind: Secret")).unwrap();
    let (code, text) = judge(&path, &[]);
    assert_eq!(code, 1);
    let missing = "policy.yaml: Secret default/example-ca does not exist: create it";
    assert!(text.contains(missing), "{text}");

    let secret = config_map("example-ca", &ca(4000));
    let secret = secret
        .replace("ConfigMap", "Secret")
        .replace("\"data\"", "\"stringData\"");
    fs::write(path.join("ca.yaml"), secret).unwrap();
    let (code, report) = report(&path);
    assert_eq!((code, &report["verdict"]), (0, &json!("accepted")));
    let warnings = report["policies"][0]["warnings"].as_array().unwrap();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_has(
        &warnings[0],
        "Secret default/example-ca: in a cluster, CA certificates are taken from Secrets only where",
    );
}

/// With a warning, which alone refuses nothing.
#[test]
fn one_file_and_standard_input() {
    let policy = WILDCARD
        .replace("*.", "")
        .replace('~', "no")
        .replace("0x1f", "web");
    let good = [SERVICE, &policy].join("---");
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("rendered");
    fs::write(&file, &good).unwrap();
    let (code, text) = judge(&file, &[]);
    assert_eq!(code, 0, "{text}");
    let warning = "rendered: Service default/no, port web 80/TCP: appProtocol";
    assert!(text.contains(warning), "{text}");

    let mut command = check();
    let command = command.args(["--manifests", "-"]).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(good.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let file = file.display().to_string();
    assert_eq!(stdout(output), text.replace(&file, "standard input"));
}

#[test]
fn wrong_usage_and_what_cannot_be_read_or_written() {
    let run = |arguments: &[&str]| check().args(arguments).output().unwrap();
    for arguments in [
        &[][..],
        &["--manifests", ".", "-o", "xml"],
        &["--manifests", ".", "--expiry-days", "soon"],
    ] {
        assert_eq!(run(arguments).status.code(), Some(2), "{arguments:?}");
    }

    let absent = run(&["--manifests", "/absent/dir"]);
    assert_eq!(absent.status.code(), Some(1));
    let error = String::from_utf8_lossy(&absent.stderr).into_owned();
    let expected = "error: --manifests /absent/dir can't be read: name a directory";
    assert!(error.starts_with(expected), "{error}");
    assert_eq!(stdout(absent), "");

    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut command = check();
    let command = command
        .args(["--manifests", "."])
        .stdout(full)
        .stderr(Stdio::piped());
    let output = command.spawn().unwrap().wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.starts_with("error: standard output"), "{error}");
}
