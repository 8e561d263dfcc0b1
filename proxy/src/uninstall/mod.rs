//! `nodetls uninstall`: takes everything of ours out of a machine's kernel, or out of a whole cluster.

mod cluster;
mod node;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use tokio::time::sleep;

use crate::access_log::{LogFormat, LogTo, init_logging};
use crate::admin::{self, AdminState};
use crate::agent::seconds;
use crate::metrics::{Metrics, Role};
use crate::readiness::Readiness;
use crate::signals::Signals;

pub(crate) use node::remove;

/// Between two attempts of one that stays.
const RETRY: Duration = Duration::from_secs(1);

/// Removes the programs, links and maps pinned by an agent, and says what it removed. Needs root.
///
/// From then on connections to targeted Services are what they were before: plaintext, if the clients speak plaintext.
/// An agent must not be running, nor a command of `nodetls exec`.
///
/// Examples:
///   nodetls uninstall
///   nodetls uninstall --cluster --namespace nodetls-system
#[derive(Args, Clone, Debug)]
#[command(verbatim_doc_comment)]
pub struct Options {
    /// Directory of the agent's pins
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/nodetls")]
    pub pins: PathBuf,
    /// Directory of the last objects, kept by an agent in a cluster
    #[arg(long, value_name = "DIR", default_value = "/var/lib/nodetls")]
    pub cache: PathBuf,
    /// The host's directory of systemd units, where an agent installed the boot guard
    #[arg(long, value_name = "DIR")]
    pub boot_guard: Option<PathBuf>,
    /// Try until all is removed, then stay, and be ready at this address: so a DaemonSet's pod says that its node is clean
    #[arg(long, value_name = "ADDR")]
    pub serve: Option<SocketAddr>,
    /// Uninstall from the whole cluster: controller, statuses, every node, then all objects
    #[arg(long, conflicts_with_all = ["pins", "cache", "boot_guard", "serve"])]
    pub cluster: bool,
    /// With --cluster: namespace of nodetls itself [default: the one of the pod or kubeconfig]
    #[arg(long, value_name = "NAME", requires = "cluster")]
    pub namespace: Option<String>,
    /// With --cluster: leave the objects that were installed to what installed them, such as Helm
    #[arg(long, requires = "cluster")]
    pub keep_objects: bool,
    /// With --cluster: seconds that the nodes may take
    #[arg(long, value_name = "SECONDS", default_value = "600", value_parser = seconds)]
    pub timeout: Duration,
}

/// Removes what agents and ended commands have pinned below the directory, and the cgroups of those commands.
///
/// # Errors
/// When an agent or a command is running, or something stays.
pub fn run(options: &Options) -> Result<()> {
    init_logging(LogFormat::Text, "warn", LogTo::Stderr)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    if options.cluster {
        let namespace = options.namespace.as_deref();
        let uninstalling = cluster::run(namespace, options.timeout, options.keep_objects);
        return runtime.block_on(uninstalling);
    }
    match options.serve {
        None => remove(&options.pins, &options.cache, options.boot_guard.as_deref()),
        Some(address) => runtime.block_on(serve(options, address)),
    }
}

async fn serve(options: &Options, address: SocketAddr) -> Result<()> {
    let mut signals = Signals::new()?;
    let readiness = Readiness::default();
    let removing = readiness.task("what is pinned on this node removed");
    let admin = AdminState {
        metrics: Arc::new(Metrics::new(Role::Uninstall, env!("CARGO_PKG_VERSION"))?),
        readiness: readiness.clone(),
        live: None,
    };
    admin::start(address, admin).await?;
    let work = async {
        let units = options.boot_guard.as_deref();
        while let Err(error) = remove(&options.pins, &options.cache, units) {
            let error = format!("{error:#}");
            if readiness.set_problem("uninstall", &error) {
                tracing::error!(error, "not removed yet");
            }
            sleep(RETRY).await;
        }
        readiness.clear("uninstall");
        removing.done();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = work => {}
        () = signals.next() => {}
    }
    Ok(())
}
