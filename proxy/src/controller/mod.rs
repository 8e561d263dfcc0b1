//! `nodetls controller`: the one of the cluster that writes. It mirrors the CA certificates that policies name into
//! nodetls' own namespace, for the agents, and tells the policies' authors what became of them: `status`, Events.
//!
//! A Deployment with any number of replicas: those that don't hold the Lease do nothing.

mod ca_objects;
pub(crate) mod error;
pub(crate) mod events;
mod lease;
mod mirror;
mod reconcile;
mod status;
mod status_writer;
mod text;

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use clap::Args;
use kube::api::{DynamicObject, ListParams, PartialObjectMeta};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::lease::Lease;
pub use self::reconcile::{Controller, Failures};
use self::status_writer::{Outcome, StatusWriter, Wanted};
use crate::access_log::{LogFormat, LogTo, init_logging};
use crate::admin::{self, AdminState};
use crate::metrics::{Metrics, Role};
use crate::policy::{BackendTlsPolicy, Installation, ObjectName, Objects, PolicyStatus};
use crate::readiness::Readiness;
use crate::signals::Signals;
use crate::source::kube::{self as source, Kube};
use crate::tls::system_roots;

/// Under which the API server notes what we write.
const FIELD_MANAGER: &str = "nodetls-controller";
/// The Lease that the leader holds, unless it is told of another.
pub(crate) const LEASE: &str = "nodetls-controller";

/// Mirrors CA certificates for the agents, and writes the policies' statuses: one leader of any number of replicas.
///
/// Examples:
///   nodetls controller
///   nodetls controller --namespace nodetls-system --log-format json
#[derive(Args, Clone, Debug)]
#[command(verbatim_doc_comment)]
pub struct Options {
    /// Namespace of the Lease and of the mirrored CA certificates [default: the one of the pod or kubeconfig]
    #[arg(long, value_name = "NAME")]
    pub namespace: Option<String>,
    /// Name of the Lease that the leader holds
    #[arg(long, value_name = "NAME", default_value = LEASE)]
    pub lease: String,
    /// Take CA certificates from Secrets, too: needs the RBAC rules of the component manifests/components/secrets
    #[arg(long)]
    pub ca_secrets: bool,
    /// Let policies ask for less than full verification of the server, as the agents' flag does
    #[arg(long)]
    pub allow_insecure_validation: bool,
    /// Address of /metrics and /healthz; `[::]` is every address, of IPv4 too
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:15020")]
    pub admin: SocketAddr,
    /// How log lines look
    #[arg(long, value_enum, default_value_t)]
    pub log_format: LogFormat,
    /// What is logged, as a list of target=level
    #[arg(long, value_name = "FILTER", default_value = "info")]
    pub log: String,
}

/// Runs the controller until a signal ends it.
///
/// # Errors
/// When it can't start: what is missing, and the cure.
pub fn start(options: &Options) -> Result<()> {
    init_logging(options.log_format, &options.log, LogTo::Stdout)?;
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(follow(options))
}

async fn follow(options: &Options) -> Result<()> {
    let mut signals = Signals::new()?;
    let shutdown = CancellationToken::new();
    let work = work(options, &shutdown);
    tokio::pin!(work);
    tokio::select! {
        result = &mut work => return result,
        () = signals.next() => {}
    }
    shutdown.cancel();
    work.await
}

/// From the API server to the leader.
async fn work(options: &Options, shutdown: &CancellationToken) -> Result<()> {
    let metrics = Arc::new(Metrics::new(Role::Controller, env!("CARGO_PKG_VERSION"))?);
    let readiness = Readiness::default();
    let admin = AdminState {
        metrics: Arc::clone(&metrics),
        readiness: readiness.clone(),
        live: None,
    };
    admin::start(options.admin, admin).await?;
    let (client, namespace) = source::connect(options.namespace.as_deref()).await?;
    let wanted = source::Options {
        namespace,
        cache: None,
        node: None,
        statuses: true,
    };
    let mut kube = Kube::start(client.clone(), wanted);
    tokio::spawn(source::follow(
        kube.state(),
        Arc::clone(&metrics),
        readiness.clone(),
        |_| (),
    ));
    let waiting = readiness.task("the API server's objects");
    let Some(mut update) = shutdown.run_until_cancelled(kube.next()).await else {
        return Ok(());
    };
    waiting.done();
    // Agents go on with policies that can't be seen without their CRD, and need their CA certificates.
    while !update.complete {
        match shutdown.run_until_cancelled(kube.next()).await {
            Some(next) => update = next,
            None => return Ok(()),
        }
    }
    let (objects, receiver) = watch::channel(Arc::new(update.objects));
    let feed = async move {
        loop {
            let update = kube.next().await;
            if update.complete {
                objects.send_replace(Arc::new(update.objects));
            }
        }
    };
    let leader = run(client, options, receiver, &readiness, &metrics, shutdown);
    tokio::select! {
        result = leader => result,
        () = feed => Ok(()),
    }
}

/// Stands by or leads until `shutdown`, then gives the lease up. `objects` must be complete from its first value on:
/// mirrors of what it does not name are removed.
///
/// # Errors
/// When this process can't be told from the others.
pub async fn run(
    client: Client,
    options: &Options,
    objects: watch::Receiver<Arc<Objects>>,
    readiness: &Readiness,
    metrics: &Metrics,
    shutdown: &CancellationToken,
) -> Result<()> {
    let namespace = options.namespace.as_deref();
    let namespace = namespace.unwrap_or(client.default_namespace()).to_owned();
    let instance = instance()?;
    let identity = identity(&instance)?;
    let roots = system_roots(None);
    for problem in roots.problems {
        tracing::warn!(problem, "the system's trust store");
    }
    let leases = Api::namespaced(client.clone(), &namespace);
    let mut lease = Lease::new(leases, options.lease.clone(), identity);
    let mut starting = Some(readiness.task("the lease's holder known"));
    while !shutdown.is_cancelled() && objects.has_changed().is_ok() {
        let looked = || drop(starting.take());
        if shutdown
            .run_until_cancelled(lease.acquire(looked))
            .await
            .is_none()
        {
            break;
        }
        let installation = Installation {
            system_roots: roots.bundle.clone(),
            insecure_validation: options.allow_insecure_validation,
        };
        let secrets = options.ca_secrets;
        let mut controller =
            Controller::new(client.clone(), &namespace, &instance, installation, secrets);
        metrics.leader.set(1);
        // The lease first: once it is lost, nothing more is written.
        tokio::select! {
            biased;
            () = lease.hold() => {}
            () = shutdown.cancelled() => {}
            () = controller.follow(objects.clone(), readiness) => {}
        }
        drop(controller);
        metrics.leader.set(0);
        readiness.clear(reconcile::PROBLEM);
        readiness.clear_note(reconcile::UNTOLD);
    }
    lease.release().await;
    Ok(())
}

/// Removes our entries of all policies' statuses, when no controller runs any more. How many policies there are.
///
/// # Errors
/// Which statuses could not be written, and why.
pub(crate) async fn remove_statuses(client: Client) -> Result<usize, String> {
    let mut writer = StatusWriter::new(client.clone());
    let Some(resource) = writer.served().await? else {
        return Ok(0);
    };
    let api: Api<DynamicObject> = Api::all_with(client, &resource);
    let list = api.list_metadata(&ListParams::default()).await;
    let list = list.map_err(|error| error::describe(&error))?;
    let policies: Vec<_> = list.items.into_iter().map(emptied).collect();
    let wanted = policies
        .iter()
        .map(|(policy, compiled)| Wanted { policy, compiled });
    let (_, outcomes) = writer.write(wanted.collect()).await?;
    let failed = outcomes
        .iter()
        .filter_map(|(wanted, outcome)| match outcome {
            Outcome::Right { .. } => None,
            Outcome::Outdated => Some(format!(
                "{}: it has changed meanwhile",
                wanted.compiled.policy
            )),
            Outcome::Failed(error) => Some(format!("{}: {error}", wanted.compiled.policy)),
        });
    let failed: Vec<_> = failed.collect();
    match failed.is_empty() {
        true => Ok(policies.len()),
        false => Err(failed.join("; ")),
    }
}

/// A policy of which nothing is told.
fn emptied(object: PartialObjectMeta<DynamicObject>) -> (BackendTlsPolicy, PolicyStatus) {
    let metadata = object.metadata;
    let name = (metadata.namespace.clone(), metadata.name.clone());
    let name = ObjectName::new(name.0.unwrap_or_default(), name.1.unwrap_or_default());
    let compiled = PolicyStatus {
        policy: name,
        generation: metadata.generation,
        ancestors: Vec::new(),
        problems: Vec::new(),
        opted_out: false,
        warnings: Vec::new(),
    };
    let policy = BackendTlsPolicy {
        metadata,
        ..BackendTlsPolicy::default()
    };
    (policy, compiled)
}

/// The host name: in a pod, its name.
fn instance() -> Result<String> {
    proc("/proc/sys/kernel/hostname")
}

/// Unique: two processes may share a host name.
fn identity(instance: &str) -> Result<String> {
    Ok(format!(
        "{instance}_{}",
        proc("/proc/sys/kernel/random/uuid")?
    ))
}

fn proc(file: &str) -> Result<String> {
    let text = std::fs::read_to_string(file).context(file.to_owned())?;
    Ok(text.trim().to_owned())
}
