//! etcd and kube-apiserver, real ones, on ports of loopback and in a directory of their own.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::GroupVersionKind;
use kube::{Client, Config};
use nodetls_tests::{Ca, Running, free_port};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

/// The directory of the programs that `cargo xtask cluster` builds.
const PROGRAMS: &str = "NODETLS_CLUSTER";

/// Longest wait for anything; back-off has grown to some seconds by then.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

/// An API server without anything else of a cluster.
pub(crate) struct ControlPlane {
    pub(crate) dir: tempfile::TempDir,
    port: u16,
    etcd_port: u16,
    _etcd: Running,
    apiserver: Option<Running>,
    /// Its token is in group system:masters.
    pub(crate) admin: Client,
}

impl ControlPlane {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (port, etcd_port, peer_port) = (free_port(), free_port(), free_port());
        write_keys(dir.path());
        let etcd = etcd(dir.path(), etcd_port, peer_port);
        let mut plane = Self {
            admin: client(dir.path(), port, "admin").await,
            dir,
            port,
            etcd_port,
            _etcd: etcd,
            apiserver: None,
        };
        plane.start_api().await;
        plane
    }

    /// Starts the API server and waits until it is ready.
    pub(crate) async fn start_api(&mut self) {
        let dir = self.dir.path().display();
        let mut command = program("kube-apiserver");
        command.args([
            format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_port),
            format!("--secure-port={}", self.port),
            "--bind-address=127.0.0.1".to_owned(),
            "--advertise-address=192.0.2.1".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
            "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
            "--authorization-mode=RBAC".to_owned(),
            "--disable-admission-plugins=ServiceAccount".to_owned(),
            format!("--token-auth-file={dir}/tokens.csv"),
            format!("--tls-cert-file={dir}/server.crt"),
            format!("--tls-private-key-file={dir}/server.key"),
            "--service-account-issuer=https://test".to_owned(),
            format!("--service-account-key-file={dir}/server.crt"),
            format!("--service-account-signing-key-file={dir}/server.key"),
        ]);
        self.apiserver = Some(spawn(command, self.dir.path(), "apiserver.log"));
        let ready = async {
            loop {
                let request = http_get("/readyz");
                if self.admin.request_text(request).await.is_ok() {
                    return;
                }
                sleep(Duration::from_millis(100)).await;
            }
        };
        if timeout(PATIENCE, ready).await.is_err() {
            let log = fs::read_to_string(self.dir.path().join("apiserver.log")).unwrap();
            panic!("no API server: {}", &log[log.len().saturating_sub(3000)..]);
        }
    }

    /// Kills the API server.
    pub(crate) fn stop_api(&mut self) {
        self.apiserver = None;
    }

    /// A client with the token of nodetls' agent.
    pub(crate) async fn agent(&self) -> Client {
        client(self.dir.path(), self.port, "agent").await
    }

    /// As `kubectl apply --server-side`.
    pub(crate) async fn apply(&self, object: Value) {
        let api = self.api(&object);
        let name = object["metadata"]["name"].as_str().unwrap();
        let params = PatchParams::apply("test").force();
        api.patch(name, &params, &Patch::Apply(&object))
            .await
            .unwrap_or_else(|error| panic!("{object}: {error}"));
    }

    /// Deletes, and does not wait for the end.
    pub(crate) async fn delete(&self, object: &Value) {
        let name = object["metadata"]["name"].as_str().unwrap();
        let api = self.api(object);
        api.delete(name, &DeleteParams::default()).await.unwrap();
    }

    /// Whether the API server has it.
    pub(crate) async fn has(&self, object: &Value) -> bool {
        let name = object["metadata"]["name"].as_str().unwrap();
        matches!(self.api(object).get_opt(name).await, Ok(Some(_)))
    }

    /// Whether objects of this kind and version can be listed.
    pub(crate) async fn serves(&self, object: &Value) -> bool {
        self.api(object).list(&ListParams::default()).await.is_ok()
    }

    fn api(&self, object: &Value) -> Api<DynamicObject> {
        let text = |field: &str| object[field].as_str().unwrap();
        let (group, version) = text("apiVersion")
            .split_once('/')
            .unwrap_or(("", text("apiVersion")));
        let gvk = GroupVersionKind::gvk(group, version, text("kind"));
        let resource = match text("kind") {
            "BackendTLSPolicy" => ApiResource::from_gvk_with_plural(&gvk, "backendtlspolicies"),
            _ => ApiResource::from_gvk(&gvk),
        };
        match object["metadata"]["namespace"].as_str() {
            Some(namespace) => Api::namespaced_with(self.admin.clone(), namespace, &resource),
            None => Api::all_with(self.admin.clone(), &resource),
        }
    }
}

fn http_get(path: &str) -> hyper::Request<Vec<u8>> {
    hyper::Request::get(path).body(Vec::new()).unwrap()
}

fn write_keys(dir: &Path) {
    let ca = Ca::new("Kubernetes");
    let server = ca.sign("127.0.0.1");
    let tokens = "admin,admin,1,system:masters\nagent,system:serviceaccount:nodetls:agent,2,\n";
    for (name, text) in [
        ("ca.crt", ca.pem.as_str()),
        ("server.crt", &server.certificate),
        ("server.key", &server.key),
        ("tokens.csv", tokens),
    ] {
        fs::write(dir.join(name), text).unwrap();
    }
}

fn etcd(dir: &Path, port: u16, peer_port: u16) -> Running {
    let (client, peer) = (
        format!("http://127.0.0.1:{port}"),
        format!("http://127.0.0.1:{peer_port}"),
    );
    let config = json!({
        "name": "etcd", "data-dir": dir.join("etcd"), "log-level": "warn",
        "listen-client-urls": client, "advertise-client-urls": client,
        "listen-peer-urls": peer, "initial-advertise-peer-urls": peer,
        "initial-cluster": format!("etcd={peer}"),
    });
    fs::write(dir.join("etcd.yaml"), config.to_string()).unwrap();
    let mut command = program("etcd");
    command.arg("--config-file").arg(dir.join("etcd.yaml"));
    spawn(command, dir, "etcd.log")
}

fn program(name: &str) -> Command {
    let programs = std::env::var_os(PROGRAMS);
    let programs = programs.unwrap_or_else(|| panic!("{PROGRAMS}: run `cargo xtask e2e`"));
    let mut command = Command::new(Path::new(&programs).join("kubernetes"));
    command.arg(name);
    command
}

fn spawn(mut command: Command, dir: &Path, log: &str) -> Running {
    let log = File::create(dir.join(log)).unwrap();
    command.current_dir(dir).stdin(Stdio::null());
    command.stdout(log.try_clone().unwrap()).stderr(log);
    Running::new(command)
}

async fn client(dir: &Path, port: u16, token: &str) -> Client {
    let file = json!({
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "clusters": [{"name": "test", "cluster": {
            "server": format!("https://127.0.0.1:{port}"),
            "certificate-authority": dir.join("ca.crt"),
        }}],
        "users": [{"name": "test", "user": {"token": token}}],
    });
    let file: Kubeconfig = serde_json::from_value(file).unwrap();
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(file, &options).await;
    Client::try_from(config.unwrap()).unwrap()
}
