//! etcd and kube-apiserver on loopback ports, with the CRD of BackendTLSPolicy and two users: `admin`, and `controller`
//! with the rights of nodetls' controller and no more.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::sleep;
use std::time::{Duration, Instant};

use kube::api::{Api, ApiResource, DynamicObject, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::GroupVersionKind;
use kube::{Client, Config};
use nodetls_tests::free_port;
use serde_json::{Value, json};

static SHARED: Mutex<Weak<ApiServer>> = Mutex::new(Weak::new());

/// A running API server; dropping it ends it.
pub(crate) struct ApiServer {
    /// The version of BackendTLSPolicy that it serves.
    pub(crate) version: &'static str,
    directory: tempfile::TempDir,
    port: u16,
    programs: Vec<Child>,
}

/// How to ask for BackendTLSPolicies.
pub(crate) fn policies(version: &str) -> ApiResource {
    let kind = GroupVersionKind::gvk("gateway.networking.k8s.io", version, "BackendTLSPolicy");
    ApiResource::from_gvk_with_plural(&kind, "backendtlspolicies")
}

impl ApiServer {
    /// One for all tests that run at the time.
    pub(crate) fn shared() -> Arc<Self> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let server = Arc::new(Self::start("v1"));
            *shared = Arc::downgrade(&server);
            server
        })
    }

    /// Starts one that serves only this version.
    pub(crate) fn start(version: &'static str) -> Self {
        let (cluster, directory) = (cluster(), tempfile::tempdir().unwrap());
        let mut server = Self {
            version,
            directory,
            port: free_port(),
            programs: Vec::new(),
        };
        let (etcd, peer) = (free_port(), free_port());
        let etcd = format!("http://127.0.0.1:{etcd}");
        let config = json!({
            "name": "e", "data-dir": server.path("etcd"), "log-level": "warn",
            "listen-client-urls": etcd, "advertise-client-urls": etcd,
            "listen-peer-urls": format!("http://127.0.0.1:{peer}"),
            "initial-advertise-peer-urls": format!("http://127.0.0.1:{peer}"),
            "initial-cluster": format!("e=http://127.0.0.1:{peer}"),
        });
        fs::write(server.path("etcd.yaml"), config.to_string()).unwrap();
        let file = server.path("etcd.yaml").display().to_string();
        server.spawn(&cluster, "etcd", &[("config-file", &file)]);
        server.start_api(&cluster, &etcd);
        server.wait_until_ready(&cluster);
        server.install(&cluster);
        server
    }

    fn start_api(&mut self, cluster: &Path, etcd: &str) {
        let key = rcgen::KeyPair::generate().unwrap();
        fs::write(self.path("sa.key"), key.serialize_pem()).unwrap();
        fs::write(self.path("sa.pub"), key.public_key_pem()).unwrap();
        let users = "admin,admin,admin,system:masters\ncontroller,controller,controller,\n";
        fs::write(self.path("tokens.csv"), users).unwrap();
        for user in ["admin", "controller"] {
            let config = json!({
                "apiVersion": "v1", "kind": "Config", "current-context": "c",
                "clusters": [{"name": "c", "cluster": {
                    "server": format!("https://127.0.0.1:{}", self.port), "insecure-skip-tls-verify": true,
                }}],
                "users": [{"name": "u", "user": {"token": user}}],
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            });
            fs::write(self.path(user), config.to_string()).unwrap();
        }
        let (key, public) = (self.text("sa.key"), self.text("sa.pub"));
        let (certs, tokens) = (self.text("certs"), self.text("tokens.csv"));
        let (audit_policy, audit_log) = (self.text("audit.json"), self.text("audit.log"));
        let secrets = json!([{"group": "", "resources": ["secrets"]}]);
        let audit = json!({
            "apiVersion": "audit.k8s.io/v1", "kind": "Policy",
            "rules": [
                {"level": "Metadata", "users": ["controller"], "resources": secrets, "omitStages": ["ResponseComplete"]},
                {"level": "None"},
            ],
        });
        fs::write(self.path("audit.json"), audit.to_string()).unwrap();
        let port = self.port.to_string();
        let flags = [
            ("etcd-servers", etcd),
            ("bind-address", "127.0.0.1"),
            ("secure-port", &port),
            ("cert-dir", &certs),
            ("authorization-mode", "RBAC"),
            ("audit-policy-file", &audit_policy),
            ("audit-log-path", &audit_log),
            ("token-auth-file", &tokens),
            ("service-cluster-ip-range", "10.96.0.0/16"),
            ("service-account-issuer", "https://kubernetes.default.svc"),
            ("service-account-key-file", &public),
            ("service-account-signing-key-file", &key),
            ("disable-admission-plugins", "ServiceAccount"),
            ("feature-gates", "ClusterTrustBundle=true"),
            (
                "runtime-config",
                "certificates.k8s.io/v1beta1/clustertrustbundles=true",
            ),
        ];
        self.spawn(cluster, "kube-apiserver", &flags);
    }

    fn spawn(&mut self, cluster: &Path, program: &str, flags: &[(&str, &str)]) {
        let log = File::create(self.path(&format!("{program}.log"))).unwrap();
        let mut command = Command::new(cluster.join("kubernetes"));
        command.arg(program);
        command.args(
            flags
                .iter()
                .map(|(flag, value)| format!("--{flag}={value}")),
        );
        command.stdout(log.try_clone().unwrap()).stderr(log);
        self.programs.push(command.spawn().unwrap());
    }

    fn wait_until_ready(&mut self, cluster: &Path) {
        let start = Instant::now();
        while self.kubectl(cluster, &["get", "--raw", "/readyz"]).is_err() {
            let ended = self
                .programs
                .iter_mut()
                .any(|child| child.try_wait().unwrap().is_some());
            if ended || start.elapsed() > Duration::from_secs(90) {
                let log = fs::read_to_string(self.path("kube-apiserver.log")).unwrap();
                panic!("no API server:\n{}", &log[log.len().saturating_sub(3000)..]);
            }
            sleep(Duration::from_millis(200));
        }
        eprintln!("API server ready: {:?}", start.elapsed());
    }

    /// The CRD, and what the controller may do in the whole cluster.
    fn install(&self, cluster: &Path) {
        let crd = fs::read_to_string(cluster.join("backendtlspolicies.yaml")).unwrap();
        fs::write(self.path("crd.yaml"), crd).unwrap();
        let crd = self.text("crd.yaml");
        self.kubectl(cluster, &["apply", "--server-side", "-f", &crd])
            .unwrap();
        if self.version != "v1" {
            self.serve_only(cluster, self.version);
        }
        let wait = [
            "wait",
            "--for=condition=established",
            "--timeout=30s",
            "-f",
            &crd,
        ];
        self.kubectl(cluster, &wait).unwrap();
    }

    /// Replaces the CRD by one whose only version is called `version`.
    fn serve_only(&self, cluster: &Path, version: &str) {
        let crd = self.text("crd.yaml");
        let stored = self
            .kubectl(cluster, &["get", "-o", "json", "-f", &crd])
            .unwrap();
        let mut stored: Value = serde_json::from_str(&stored).unwrap();
        let versions = stored["spec"]["versions"].as_array().unwrap().clone();
        let mut v1 = versions
            .into_iter()
            .find(|one| one["name"] == "v1")
            .unwrap();
        v1["name"] = version.into();
        let metadata = &stored["metadata"];
        let metadata = json!({"name": metadata["name"], "annotations": metadata["annotations"]});
        stored["spec"]["versions"] = json!([v1]);
        let new = json!({
            "apiVersion": stored["apiVersion"], "kind": stored["kind"],
            "metadata": metadata, "spec": stored["spec"],
        });
        fs::write(self.path("crd.json"), new.to_string()).unwrap();
        self.kubectl(cluster, &["delete", "-f", &crd]).unwrap();
        let new = self.text("crd.json");
        self.kubectl(cluster, &["create", "-f", &new]).unwrap();
        fs::copy(self.path("crd.json"), self.path("crd.yaml")).unwrap();
    }

    fn kubectl(&self, cluster: &Path, args: &[&str]) -> Result<String, String> {
        let mut kubectl = Command::new(cluster.join("kubernetes"));
        kubectl
            .arg("kubectl")
            .args(args)
            .env("KUBECONFIG", self.path("admin"));
        let output = kubectl.output().unwrap();
        match output.status.success() {
            true => Ok(String::from_utf8(output.stdout).unwrap()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    /// A client of a user.
    pub(crate) async fn client(&self, user: &str) -> Client {
        let kubeconfig = Kubeconfig::read_from(self.path(user)).unwrap();
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(kubeconfig, &options)
            .await
            .unwrap();
        Client::try_from(config).unwrap()
    }

    /// Lets the controller do in the namespace `own` what it may do in nodetls' own, and elsewhere what it may do there.
    pub(crate) async fn allow_writes(&self, admin: &Client, own: &str) {
        let rule = |group: &str, resource: &str, verbs: &[&str]| json!({"apiGroups": [group], "resources": [resource], "verbs": verbs});
        let everywhere = json!([
            rule("gateway.networking.k8s.io", "backendtlspolicies", &["get"]),
            rule(
                "gateway.networking.k8s.io",
                "backendtlspolicies/status",
                &["patch"]
            ),
            rule("", "configmaps", &["get", "list", "watch"]),
            rule(
                "certificates.k8s.io",
                "clustertrustbundles",
                &["get", "list", "watch"]
            ),
            rule("events.k8s.io", "events", &["create"]),
        ]);
        let there = json!([
            rule("", "configmaps", &["create", "patch", "delete"]),
            rule(
                "coordination.k8s.io",
                "leases",
                &["get", "create", "update"]
            ),
        ]);
        let cluster = format!("{own}-everywhere");
        put(
            admin,
            None,
            "ClusterRole",
            json!({"metadata": {"name": cluster}, "rules": everywhere}),
        )
        .await;
        put(
            admin,
            None,
            "ClusterRoleBinding",
            binding("ClusterRole", &cluster),
        )
        .await;
        put(
            admin,
            Some(own),
            "Role",
            json!({"metadata": {"name": own}, "rules": there}),
        )
        .await;
        put(admin, Some(own), "RoleBinding", binding("Role", own)).await;
    }

    /// Lets the controller read Secrets, as the component `secrets` does.
    pub(crate) async fn allow_secrets(&self, admin: &Client, own: &str) {
        let name = format!("{own}-secrets");
        let rule = json!({"apiGroups": [""], "resources": ["secrets"], "verbs": ["list", "watch"]});
        let role = json!({"metadata": {"name": name}, "rules": [rule]});
        put(admin, None, "ClusterRole", role).await;
        let binding = binding("ClusterRole", &name);
        put(admin, None, "ClusterRoleBinding", binding).await;
    }

    /// The controller's requests for Secrets of a namespace, as the audit log has them.
    pub(crate) fn secret_requests(&self, namespace: &str) -> Vec<Value> {
        let log = fs::read_to_string(self.path("audit.log")).unwrap_or_default();
        let requests = log
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        requests
            .filter(|request: &Value| request["objectRef"]["namespace"] == namespace)
            .collect()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        for child in self.programs.iter_mut().rev() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn binding(kind: &str, role: &str) -> Value {
    json!({
        "metadata": {"name": role},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "controller"}],
    })
}

async fn put(admin: &Client, namespace: Option<&str>, kind: &str, object: Value) {
    let kind = GroupVersionKind::gvk("rbac.authorization.k8s.io", "v1", kind);
    let resource = ApiResource::from_gvk(&kind);
    let api: Api<DynamicObject> = match namespace {
        Some(namespace) => Api::namespaced_with(admin.clone(), namespace, &resource),
        None => Api::all_with(admin.clone(), &resource),
    };
    let object = serde_json::from_value(object).unwrap();
    api.create(&PostParams::default(), &object).await.unwrap();
}

fn cluster() -> PathBuf {
    let directory =
        env::var_os("NODETLS_CLUSTER").expect("NODETLS_CLUSTER: the directory of `kubernetes`");
    directory.into()
}
