//! `cargo xtask cluster up`: from nothing to Ready.

use std::fs::{self, DirEntry};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::containerd::Containerd;
use super::daemons::Daemons;
use super::node::{FIRST, NODES};
use super::{
    Families, LOGS, Progress, STATE, ask, cgroups, config, down, images, monitoring, node,
    nodes_ready, programs, ready, sources, traefik,
};
use crate::sh;

/// How long a step may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// Starts the cluster, unless it is up. What a crash left is removed first.
pub(super) fn run(families: Families) -> Result<()> {
    if ready()? {
        println!("the cluster is up already (`cargo xtask cluster down` ends it)");
        return Ok(());
    }
    if Path::new(STATE).exists() || !cgroups::left()?.is_empty() {
        println!("an earlier cluster is not whole any more: removing what is left of it");
        down::clean()?;
    }
    let progress = Progress::start();
    let built = programs()?;
    sh::run(&mut sh::cargo(
        "build --quiet --locked --package nodetls-tests --bins",
    ))?;
    progress.say("programs are there");
    if let Err(error) = start(&built, families, &progress) {
        down::stop().context("cleaning up failed; `cargo xtask cluster down` tries again")?;
        let logs = format!("cluster up failed; logs stay in {LOGS} until the next up or down");
        return Err(error.context(logs));
    }
    Ok(())
}

/// The directories of what is built once.
pub(super) struct Built {
    programs: PathBuf,
    traefik: PathBuf,
    monitoring: PathBuf,
}

/// Builds what has not been built yet.
pub(super) fn programs() -> Result<Built> {
    Ok(Built {
        programs: programs::directory().context("building the cluster's programs")?,
        traefik: traefik::directory().context("building Traefik")?,
        monitoring: monitoring::directory().context("building what monitoring is measured by")?,
    })
}

fn start(built: &Built, families: Families, progress: &Progress) -> Result<()> {
    let programs = &built.programs;
    fs::create_dir_all(LOGS)?;
    let images = Path::new(STATE).join("images");
    images::build(programs, &built.traefik, &images).context("building the images")?;
    progress.say("images are built");

    down::note_before()?;
    config::write(families).context("writing the configuration")?;
    node::create(families).context("making the nodes")?;
    progress.say("nodes: namespaces, mounts, network");

    let mut daemons = Daemons::new(programs, families);
    daemons.start(FIRST, "etcd")?;
    daemons.start(FIRST, "kube-apiserver")?;
    for node in &NODES {
        daemons.start(node, "containerd")?;
    }
    let kubernetes = programs.join("kubernetes");
    write_client("kubectl", &format!("{} kubectl", kubernetes.display()))?;
    write_client("helm", &programs.join("helm").display().to_string())?;
    let dashboard = built.monitoring.join(monitoring::DASHBOARD);
    fs::copy(dashboard, Path::new(STATE).join("dashboard"))?;
    let containerd = Containerd(programs);
    daemons.wait("containerd ready", PATIENCE, || containerd.answers())?;
    let archives: Vec<_> = fs::read_dir(&images)?.collect::<Result<_, _>>()?;
    let archives: Vec<_> = archives.iter().map(DirEntry::path).collect();
    containerd.import(&archives)?;
    progress.say("containerd has the images");
    let answers = || ask("get --raw /readyz").is_ok();
    daemons.wait("API server ready", PATIENCE, answers)?;
    progress.say("API server is ready");

    // Earlier they would end: the controllers' rights are not there yet.
    daemons.start(FIRST, "kube-controller-manager")?;
    daemons.start(FIRST, "kube-scheduler")?;
    for node in &NODES {
        daemons.start(node, "kubelet")?;
        daemons.start(node, "kube-proxy")?;
    }
    let manifests = [
        sources().join("manifests"),
        Path::new(STATE).join("dns.yaml"),
        programs.join(programs::CRD_FILE),
        built.traefik.join(traefik::CRDS),
        built.monitoring.clone(),
    ];
    for manifest in &manifests {
        ask(&format!(
            "apply --server-side --filename {}",
            manifest.display()
        ))?;
    }
    daemons.wait("nodes Ready", PATIENCE, nodes_ready)?;
    progress.say("nodes are Ready");
    let usable = || {
        ask("get serviceaccount default").is_ok()
            && ask("-n kube-system rollout status deployment/coredns --watch=false")
                .is_ok_and(|said| said.contains("successfully"))
            && ask("get backendtlspolicies").is_ok()
    };
    daemons.wait("CoreDNS ready", PATIENCE, usable)?;
    fs::write(Path::new(STATE).join("up"), "")?;
    progress.say("up: try `cargo xtask kubectl get pods -A`, `cargo xtask e2e`");
    Ok(())
}

/// A script that runs a client of the API server, which only the nodes' network reaches, as the cluster's administrator.
fn write_client(name: &str, program: &str) -> Result<()> {
    let holder = cgroups::unified()?
        .join(FIRST.name)
        .join("holder/cgroup.procs");
    let script = format!(
        "#!/bin/sh\n# {name}, as the cluster's administrator. Only the nodes' network reaches the API server.\n\
         export KUBECONFIG={STATE}/admin.kubeconfig\n\
         exec nsenter --target \"$(cat {})\" --net -- {program} \"$@\"\n",
        holder.display(),
    );
    node::executable(&Path::new(STATE).join(name), &script)
}
