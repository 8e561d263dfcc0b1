//! `cargo xtask cluster install`: nodetls of this checkout, as `kubectl apply -k manifests` installs it.

use std::fs;

use anyhow::{Context, Result, bail};

use super::containerd::Containerd;
use super::{Progress, ask, programs, ready};
use crate::image::{self, Profile};
use crate::oci::Arch;
use crate::sh;

const NAMESPACE: &str = "nodetls-system";

/// Builds the image, gives it to the nodes, applies the manifests and waits until all pods are Ready. Where nothing has
/// changed since the last time, nothing changes.
///
/// # Errors
/// No cluster, a build that fails, or pods that do not become ready: with their logs.
pub(super) fn run(profile: Profile) -> Result<()> {
    if !ready()? {
        bail!("the cluster is not up: `cargo xtask cluster up`");
    }
    let progress = Progress::start();
    let built = image::build(profile, Arch::HERE, image::default_archive(Arch::HERE))?;
    progress.say("nodetls' image is built");

    let programs = programs::directory()?;
    let containerd = Containerd(&programs);
    if !containerd.has(image::NAME, &built.digest)? {
        containerd.import(&[built.archive])?;
    }
    progress.say("containerd has it");

    let overlay = sh::top().join("target/image/install");
    fs::create_dir_all(&overlay)?;
    fs::write(
        overlay.join("kustomization.yaml"),
        kustomization(&built.digest),
    )?;
    ask(&format!("apply --kustomize {}", overlay.display()))?;
    progress.say("the manifests are applied");

    for workload in ["daemonset/nodetls-agent", "deployment/nodetls-controller"] {
        let status = format!("--namespace {NAMESPACE} rollout status {workload} --timeout 120s");
        ask(&status).with_context(problems)?;
        progress.say(&format!("{workload}: all pods are Ready"));
    }
    Ok(())
}

/// The manifests, and which image they mean: another one under the same tag is another pod.
fn kustomization(digest: &str) -> String {
    format!(
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [../../../manifests]\n\
         commonAnnotations: {{nodetls.io/image: '{digest}'}}\n"
    )
}

/// What a user would look at next.
fn problems() -> String {
    let ours = format!("--namespace {NAMESPACE}");
    let said = [
        format!("{ours} get pods --output wide"),
        format!("{ours} logs --prefix --tail 5 --selector app.kubernetes.io/name=nodetls"),
    ];
    let said = said.map(|args| ask(&args).unwrap_or_else(|error| format!("{error:#}")));
    format!("nodetls' pods are not Ready\n{}", said.join("\n"))
}
