//! What `manifests/` installs: rights, as the API server sees them, and what the pods' templates say.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod components;
mod monitoring;
mod pods;
mod readme;
mod rights;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use nodetls_e2e::{KUBECTL, kubectl, nodetls};
use serde_json::Value;

const NAMESPACE: &str = "nodetls-system";

/// A directory for one test, empty at its start.
fn directory(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).unwrap();
    directory
}

/// Writes a kustomization of `manifests/` with these components, and `more` lines; returns its directory.
fn overlay(name: &str, components: &[&str], more: &str) -> PathBuf {
    let directory = directory(name);
    nodetls::kustomization(&directory, components, more);
    directory
}

/// The objects of a kustomization, as the API server would store them: it refuses what it doesn't know.
fn render(overlay: &Path) -> Vec<Value> {
    let dry_run = ["apply", "--dry-run=server", "--output=json", "--kustomize"];
    let text = kubectl(&[&dry_run[..], &[&overlay.display().to_string()]].concat());
    let list: Value = serde_json::from_str(&text).unwrap();
    list["items"].as_array().unwrap().clone()
}

/// The objects of a kustomization, whether the API server would take them or not.
fn kustomize(overlay: &Path) -> Vec<Value> {
    nodetls_e2e::objects(&kubectl(&["kustomize", &overlay.display().to_string()]))
}

fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> Option<&'a Value> {
    let mut all = objects.iter();
    all.find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
}

/// The container of this DaemonSet or Deployment.
fn container<'a>(objects: &'a [Value], workload: &str) -> &'a Value {
    &pod(objects, workload)["containers"][0]
}

/// The pods' spec of this DaemonSet or Deployment.
fn pod<'a>(objects: &'a [Value], workload: &str) -> &'a Value {
    let found = objects.iter().find(|object| {
        object["metadata"]["name"] == workload && object["spec"]["template"].is_object()
    });
    &found.expect(workload)["spec"]["template"]["spec"]
}

/// kubectl with the rights of a service account's token.
fn kubectl_as(token: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(KUBECTL);
    command.args(["--token", token]).args(arguments);
    command.output().unwrap()
}
