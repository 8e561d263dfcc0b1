//! `nodetls check --cluster` as a user runs it, against a server that speaks as kube-apiserver does.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};
use tempfile::TempDir;

/// Answers by path; other paths are not found.
type Pages = BTreeMap<&'static str, (u16, Value)>;

struct Api {
    directory: TempDir,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Api {
    fn serve(pages: Pages) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (pages, asked) = (Arc::new(pages), Arc::<Mutex<Vec<_>>>::default());
        let noted = Arc::clone(&asked);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (pages, noted) = (Arc::clone(&pages), Arc::clone(&noted));
                thread::spawn(move || answer(stream, &pages, &noted));
            }
        });
        let directory = TempDir::new().unwrap();
        let kubeconfig = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: none\n\
             clusters: [{{name: c, cluster: {{server: 'http://127.0.0.1:{port}'}}}}]\n\
             users: [{{name: u, user: {{}}}}]\n\
             contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n"
        );
        fs::write(directory.path().join("kubeconfig"), kubeconfig).unwrap();
        Self { directory, asked }
    }

    /// Exit code, standard output and standard error.
    fn check(&self, arguments: &[&str]) -> (i32, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nodetls"));
        command.args(["check", "--cluster", "--context", "c"]);
        command.env("KUBECONFIG", self.directory.path().join("kubeconfig"));
        let output = command.args(arguments).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (
            output.status.code().unwrap(),
            text(output.stdout),
            text(output.stderr),
        )
    }
}

fn answer(stream: TcpStream, pages: &Pages, asked: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).unwrap_or(0) == 0 {
                return;
            }
        }
        let target = head.split(' ').nth(1).unwrap();
        asked.lock().unwrap().push(target.to_owned());
        let path = target.split('?').next().unwrap();
        let missing = (404, failure(404, "not found"));
        let (status, page) = pages.get(path).unwrap_or(&missing);
        let body = page.to_string();
        let length = body.len();
        let head = format!(
            "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        );
        if stream
            .write_all(format!("{head}{body}").as_bytes())
            .is_err()
        {
            return;
        }
    }
}

fn failure(code: u16, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message, "reason": "X"})
}

fn list(kind: &str, api_version: &str, items: Value) -> (u16, Value) {
    let metadata = json!({"resourceVersion": "1"});
    (
        200,
        json!({"kind": kind, "apiVersion": api_version, "metadata": metadata, "items": items}),
    )
}

/// A policy of namespace `shop` for the Service `db`, which trusts an object `ca` of this kind.
fn policy(kind: &str) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "BackendTLSPolicy",
        "metadata": {"name": "db", "namespace": "shop"},
        "spec": {
            "targetRefs": [{"group": "", "kind": "Service", "name": "db"}],
            "validation": {
                "hostname": "db.example.com",
                "caCertificateRefs": [{"group": "", "kind": kind, "name": "ca"}],
            },
        },
    })
}

/// A cluster with that policy and its Service.
fn cluster(kind: &str) -> Pages {
    let service = json!({
        "metadata": {"name": "db", "namespace": "shop"},
        "spec": {"clusterIP": "10.96.0.10", "ports": [{"name": "tls", "port": 443}]},
    });
    Pages::from([
        (
            "/apis/gateway.networking.k8s.io/v1/backendtlspolicies",
            list(
                "BackendTLSPolicyList",
                "gateway.networking.k8s.io/v1",
                json!([policy(kind)]),
            ),
        ),
        (
            "/api/v1/services",
            list("ServiceList", "v1", json!([service])),
        ),
        (
            "/apis/discovery.k8s.io/v1/endpointslices",
            list("EndpointSliceList", "discovery.k8s.io/v1", json!([])),
        ),
    ])
}

fn ca() -> String {
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    params.self_signed(&key).unwrap().pem()
}

#[test]
fn a_cluster_is_judged_as_its_manifests_would_be() {
    let mut pages = cluster("ConfigMap");
    let config_map = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ca", "namespace": "shop"},
        "data": {"ca.crt": ca()},
    });
    pages.insert("/api/v1/namespaces/shop/configmaps/ca", (200, config_map));
    let (code, said, error) = Api::serve(pages).check(&[]);
    assert_eq!((code, error.as_str()), (0, ""), "{said}");
    assert!(said.contains("shop/db  db       True      True"), "{said}");

    let (code, said, _) = Api::serve(cluster("ConfigMap")).check(&["--output", "json"]);
    let report: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        (code, &report["verdict"]),
        (1, &json!("refused")),
        "{report}"
    );
    let error = report["policies"][0]["errors"][0].as_str().unwrap();
    assert!(
        error.starts_with("ConfigMap shop/ca does not exist: create it"),
        "{error}"
    );
}

#[test]
fn what_may_not_be_read_is_told_and_not_judged_as_missing() {
    let mut pages = cluster("Secret");
    let forbidden = (403, failure(403, "secrets \"ca\" is forbidden"));
    pages.insert("/api/v1/namespaces/shop/secrets/ca", forbidden.clone());
    let (code, said, _) = Api::serve(pages).check(&[]);
    assert_eq!(code, 1, "{said}");
    let told = said
        .lines()
        .find(|line| line.starts_with("error: the cluster, Secret shop/ca: can't be read"));
    assert!(
        told.is_some_and(|line| line.contains("use a context whose user may")),
        "{said}"
    );

    let mut pages = cluster("Secret");
    pages.insert("/api/v1/services", forbidden);
    let (code, said, error) = Api::serve(pages).check(&[]);
    assert_eq!((code, said.as_str()), (1, ""));
    assert!(
        error.starts_with("error: services can't be listed: "),
        "{error}"
    );
    assert!(
        error.contains("or name one namespace with --namespace"),
        "{error}"
    );
}

#[test]
fn one_namespace_is_asked_for_alone_and_the_older_api_is_read_too() {
    let all = cluster("ConfigMap");
    let of = |path: &str| all[path].clone();
    let older = "/apis/gateway.networking.k8s.io/v1alpha3/namespaces/shop/backendtlspolicies";
    let api = Api::serve(Pages::from([
        (
            older,
            of("/apis/gateway.networking.k8s.io/v1/backendtlspolicies"),
        ),
        ("/api/v1/namespaces/shop/services", of("/api/v1/services")),
        (
            "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices",
            of("/apis/discovery.k8s.io/v1/endpointslices"),
        ),
    ]));
    let (code, said, _) = api.check(&["--namespace", "shop"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("shop/db"), "{said}");
    let asked = api.asked.lock().unwrap().join(" ");
    assert!(asked.contains("/namespaces/shop/configmaps/ca"), "{asked}");

    let (code, _, error) = Api::serve(Pages::new()).check(&["--namespace", "shop"]);
    assert_eq!(code, 1);
    assert!(
        error.contains("can't be listed") || error.contains("install the CRDs"),
        "{error}"
    );
}

#[test]
fn without_a_cluster_or_with_two_sources_it_says_what_to_do() {
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nodetls"));
        command.arg("check").args(arguments);
        command
            .env("KUBECONFIG", "/nonexistent")
            .env("HOME", "/nonexistent");
        command.env_remove("KUBERNETES_SERVICE_HOST");
        let output = command.output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        (output.status.code().unwrap(), error)
    };
    let (code, error) = run(&["--cluster"]);
    assert_eq!(code, 1, "{error}");
    assert!(
        error.contains("set KUBECONFIG, or name a file with --kubeconfig"),
        "{error}"
    );
    for wrong in [
        &["--cluster", "--manifests", "."][..],
        &[],
        &["--manifests", ".", "--context", "c"],
    ] {
        assert_eq!(run(wrong).0, 2, "{wrong:?}");
    }
}
