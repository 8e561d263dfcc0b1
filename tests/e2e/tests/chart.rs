//! The Helm chart: that it installs what the kustomize base and its components do, refuses values that it does not know,
//! and leaves nothing when it is uninstalled.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use nodetls_e2e::{HELM, NODES, Namespace, POLICY, alone, kubectl, nodetls, text, until};
use serde_json::Value;

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../manifests/chart");
const NAMESPACE: &str = "nodetls-system";
const URL: &str = "http://server/";
/// The version that is upgraded.
const BEFORE: &str = "0.0.9";
/// What Helm's conventions add.
const HELMS: [&str; 2] = ["app.kubernetes.io/managed-by", "helm.sh/chart"];
/// Each component of `manifests/components/`, and the values that stand for it.
const COMPONENTS: [(&str, &str); 8] = [
    ("audit", "mode=audit"),
    ("boot-guard", "bootGuard.enabled=true"),
    ("client-certificates", "clientCertificates=true"),
    ("insecure-validation", "insecureValidation=true"),
    ("monitoring", "monitoring=true"),
    ("node-roots", "nodeRoots.enabled=true"),
    ("secrets", "caSecrets=true"),
    ("startup-taint", "startupTaint=true"),
];

fn run(arguments: &[&str]) -> Output {
    Command::new(HELM).args(arguments).output().unwrap()
}

fn helm(arguments: &[&str]) -> Result<String, String> {
    let output = run(arguments);
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout).unwrap()),
        false => Err(text(&output)),
    }
}

/// What the chart makes of these values.
fn template(values: &[&str]) -> Result<String, String> {
    let set = values.iter().flat_map(|value| ["--set", value]);
    let arguments = [
        "template",
        "nodetls",
        CHART,
        "--namespace",
        NAMESPACE,
        "--no-hooks",
        // Without a cluster to ask.
        "--kube-version=1.35.0",
    ];
    helm(&arguments.into_iter().chain(set).collect::<Vec<_>>())
}

/// Objects by kind and name, without what Helm's conventions add.
fn objects(yaml: &str) -> BTreeMap<String, Value> {
    let objects = nodetls_e2e::objects(yaml).into_iter();
    let objects = objects.filter(|object| object["kind"] != "Namespace");
    let objects = objects.map(|mut object| {
        let labels = object["metadata"]["labels"].as_object_mut().unwrap();
        for label in HELMS {
            labels.remove(label);
        }
        // Flags have no order.
        let arguments = object.pointer_mut("/spec/template/spec/containers/0/args");
        if let Some(Value::Array(arguments)) = arguments {
            arguments.sort_by_key(Value::to_string);
        }
        let name = |of: &Value| of.as_str().unwrap().to_owned();
        (
            [name(&object["kind"]), name(&object["metadata"]["name"])].join(" "),
            object,
        )
    });
    objects.collect()
}

/// What kustomize makes of the base and these components.
fn kustomized(components: &[&str]) -> String {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("chart-kustomized");
    fs::create_dir_all(&directory).unwrap();
    nodetls::kustomization(&directory, components, "");
    kubectl(&["kustomize", &directory.display().to_string()])
}

#[test]
fn it_is_what_kustomize_makes() {
    let all: Vec<_> = COMPONENTS.to_vec();
    let each = COMPONENTS.iter().map(|component| vec![*component]);
    for chosen in [vec![], all].into_iter().chain(each) {
        let (names, values): (Vec<_>, Vec<_>) = chosen.into_iter().unzip();
        let chart = objects(&template(&values).unwrap());
        let kustomize = objects(&kustomized(&names));
        let kinds = |objects: &BTreeMap<String, Value>| objects.keys().cloned().collect::<Vec<_>>();
        assert_eq!(kinds(&chart), kinds(&kustomize), "{names:?}");
        for (name, object) in &kustomize {
            assert_eq!(&chart[name], object, "{names:?}: {name}");
        }
    }
}

#[test]
fn the_operator_gets_its_label_and_alerts_their_runbooks() {
    let rendered = template(&[
        "monitoring=true",
        "monitoringLabels.release=stack",
        "runbooks=https://wiki.example/nodetls",
    ]);
    let objects = objects(&rendered.unwrap());
    for name in ["PodMonitor nodetls", "PrometheusRule nodetls"] {
        let labels = &objects[name]["metadata"]["labels"];
        assert_eq!(labels["release"], "stack", "{name}");
        assert_eq!(labels["app.kubernetes.io/part-of"], "nodetls", "{name}");
    }
    let rules = &objects["PrometheusRule nodetls"]["spec"]["groups"][0]["rules"];
    for rule in rules.as_array().unwrap() {
        let url = rule["annotations"]["runbook_url"].as_str().unwrap();
        assert!(url.starts_with("https://wiki.example/nodetls#"), "{url}");
    }
}

#[test]
fn every_component_is_among_the_values() {
    let components = Path::new(CHART).join("../components");
    let mut there: Vec<_> = fs::read_dir(components)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    there.sort();
    assert_eq!(there, COMPONENTS.map(|(name, _)| name));
}

#[test]
fn values_that_it_does_not_know_are_refused_by_name() {
    for (value, said) in [
        ("mode=strict", "mode"),
        ("caSecret=true", "caSecret"),
        ("agent.drainTimeout=soon", "drainTimeout"),
        ("image.digest=latest", "digest"),
        ("nodeRoots.file=certs.pem", "file"),
    ] {
        let error = template(&[value]).unwrap_err();
        assert!(error.contains(said), "{value}: {error}");
    }
}

#[test]
fn its_values_reach_the_agents() {
    let rendered = template(&[
        "image.repository=registry.example.com/nodetls",
        "image.tag=v9",
        "optIn=true",
        "excludedNamespaces={a,b}",
        "agent.drainTimeout=60",
        "agent.extraArgs={--log=debug}",
        "controller.replicas=3",
    ]);
    let objects = objects(&rendered.unwrap());
    let agent = &objects["DaemonSet nodetls-agent"]["spec"]["template"]["spec"];
    assert_eq!(agent["terminationGracePeriodSeconds"], 65);
    let container = &agent["containers"][0];
    assert_eq!(container["image"], "registry.example.com/nodetls:v9");
    let arguments = container["args"].as_array().unwrap();
    for expected in [
        "--opt-in",
        "--exclude-namespace=a",
        "--exclude-namespace=b",
        "--drain-timeout=60",
        "--log=debug",
    ] {
        assert!(arguments.contains(&expected.into()), "{arguments:?}");
    }
    let controller = &objects["Deployment nodetls-controller"];
    assert_eq!(controller["spec"]["replicas"], 3);
}

#[test]
fn it_is_well_formed() {
    let said = helm(&["lint", "--strict", CHART]).unwrap();
    assert!(said.contains("0 chart(s) failed"), "{said}");
    let version = concat!("version: ", env!("CARGO_PKG_VERSION"));
    let chart = fs::read_to_string(Path::new(CHART).join("Chart.yaml")).unwrap();
    assert_eq!(chart.matches(version).count(), 1, "{chart}");
    assert!(
        chart.contains(&version.replace("version", "appVersion")),
        "{chart}"
    );
}

/// Installs again as the other tests expect it when dropped.
struct Install;

impl Drop for Install {
    fn drop(&mut self) {
        let _ = helm(&[
            "uninstall",
            "nodetls",
            "--namespace",
            NAMESPACE,
            "--ignore-not-found",
        ]);
        kubectl(&[
            "delete",
            "namespace",
            NAMESPACE,
            "--ignore-not-found",
            "--timeout=60s",
        ]);
        nodetls::install();
    }
}

/// The chart and the image as another version would have them; the chart's directory.
fn version_before() -> String {
    let now = env!("CARGO_PKG_VERSION");
    for node in NODES {
        nodetls::tag(
            node,
            &format!("nodetls:{now}"),
            &format!("nodetls:{BEFORE}"),
        );
    }
    let directory = format!("{}/chart-before", env!("CARGO_TARGET_TMPDIR"));
    let _ = fs::remove_dir_all(&directory);
    let copied = Command::new("cp").args(["-rL", CHART, &directory]).status();
    assert!(copied.unwrap().success());
    let file = format!("{directory}/Chart.yaml");
    let chart = fs::read_to_string(&file).unwrap();
    fs::write(file, chart.replace(now, BEFORE)).unwrap();
    directory
}

/// `helm test` passes until a policy is refused, and says which and why.
fn judged(namespace: &Namespace) {
    // The pod's log comes on standard error.
    let test = || {
        let output = run(&["test", "nodetls", "--namespace", NAMESPACE]);
        let said = text(&output);
        if output.status.success() {
            Ok(said)
        } else {
            Err(said)
        }
    };
    // Refused policies of other tests may be on their way out.
    let said = until("helm test passes", test);
    assert!(said.contains(", refused: 0"), "{said}");
    namespace.apply(&POLICY.replace("name: ca}", "name: absent}"));
    let said = test().unwrap_err();
    assert!(
        said.contains("ConfigMap e2e-chart/absent does not exist"),
        "{said}"
    );
    namespace.apply(POLICY);
}

#[test]
fn installed_upgraded_and_uninstalled_it_leaves_nothing() {
    let _alone = alone();
    let namespace = Namespace::with_backend("e2e-chart");
    namespace.clients(&[("client", "node1")]);
    namespace.until_ok("client", URL);
    let _again = Install;
    let installed = nodetls::installed();
    kubectl(&[
        "delete",
        "--kustomize",
        installed.to_str().unwrap(),
        "--timeout=90s",
    ]);

    let before = version_before();
    let install = format!("install nodetls {before} --namespace {NAMESPACE} --create-namespace");
    let audit = "--set mode=audit --wait --timeout=120s";
    let install = [&install, audit]
        .map(|words| words.split(' '))
        .into_iter()
        .flatten();
    let notes = helm(&install.collect::<Vec<_>>()).unwrap();
    assert!(notes.contains(BEFORE), "{notes}");
    assert!(notes.contains("in audit mode"), "{notes}");
    let plain = namespace.curl("client", &[URL]);
    assert_eq!(
        plain.status, 400,
        "the server's word for plaintext: {plain:?}"
    );
    // Another version, and the values that it was installed with: it audits still.
    let upgrade = format!("upgrade nodetls {CHART} --namespace {NAMESPACE} --wait --timeout=120s");
    let upgrade: Vec<_> = upgrade.split(' ').collect();
    helm(&upgrade).unwrap();
    assert_eq!(namespace.curl("client", &[URL]).status, 400);
    helm(&[&upgrade[..], &["--reuse-values", "--set", "mode=enforce"]].concat()).unwrap();
    namespace.until_ok("client", URL);
    judged(&namespace);

    let gone = [
        "uninstall",
        "nodetls",
        "--namespace",
        NAMESPACE,
        "--wait",
        "--timeout=120s",
    ];
    helm(&gone).unwrap();
    nodetls::until_nodes_are_clean();
    let ancestors = "--output=jsonpath={.status.ancestors}";
    assert_eq!(
        namespace.kubectl(&["get", "backendtlspolicy", "server", ancestors]),
        "[]"
    );
    let left = [
        "get",
        "clusterroles,clusterrolebindings,configmaps,leases,serviceaccounts,pods,jobs",
        "--namespace",
        NAMESPACE,
        "--output=name",
    ];
    until("nothing is left", || {
        let left = kubectl(&left);
        let ours = |one: &&str| {
            one.contains("nodetls")
                || one.starts_with("configmap/") && *one != "configmap/kube-root-ca.crt"
        };
        match left.lines().find(ours) {
            None => Ok(()),
            Some(one) => Err(one.to_owned()),
        }
    });
}
