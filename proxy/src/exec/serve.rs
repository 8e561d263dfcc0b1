//! The proxy of one command.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, poll};
use tokio::time::timeout;

use super::Options;
use super::instance::Instance;
use crate::access_log::{LogFormat, LogTo, init_logging};
use crate::agent::{log_status, raise_fd_limit};
use crate::identity::{DEFAULT_NAMESPACE, Keeper};
use crate::metrics::{Metrics, Role};
use crate::pods::netns::NetnsThread;
use crate::pods::{Enrolled, Pod, Ready, local_route};
use crate::policy::{self, Installation, Snapshot};
use crate::proxy::{Dialer, Limits, Names, Proxy};
use crate::publisher::Publisher;
use crate::source::{Files, Update};
use crate::tls::system_roots;
use crate::watch_dir::DirWatcher;

/// How often to look whether an event was missed.
const RECONCILE: Duration = Duration::from_secs(1);
/// How long the command's last connections may take to end after it.
const DRAIN: Duration = Duration::from_secs(5);

pub(super) fn run(options: &Options) -> Result<()> {
    init_logging(LogFormat::Text, &options.log, LogTo::Stderr)?;
    raise_fd_limit();
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(serve(options))
}

async fn serve(options: &Options) -> Result<()> {
    let (mut files, update) = Files::load(&options.manifests).await?;
    // Whoever asks for TLS gets it, or nothing.
    if let Some(error) = update.errors.first() {
        bail!("{error}");
    }
    ensure!(
        !update.objects.policies.is_empty(),
        "--manifests {} has no BackendTLSPolicy (directories in it are not read)",
        options.manifests.display()
    );
    let installation = Installation {
        system_roots: system_roots(None).bundle,
        insecure_validation: options.allow_insecure_validation,
    };
    // The instance is removed before its epoch ends: until then it counts as alive, and is left alone by others.
    let (epoch, mut maps, mut redirect, listeners, instance) = Instance::new(&options.pins)?;
    let thread = NetnsThread::start()?;
    let metrics = Arc::new(Metrics::new(Role::Agent, env!("CARGO_PKG_VERSION"))?);
    let mut publisher = Publisher::new(&maps, redirect.ids(), Arc::clone(&metrics));
    let (keeper, identities) = Keeper::manifests();
    let dialer = Dialer {
        netns: thread.clone(),
        own_sockets: Arc::clone(&maps.own_sockets),
        names: Names::default(),
        connect_timeout: options.connect_timeout,
        handshake_timeout: options.handshake_timeout,
        identities,
    };
    let limits = Limits {
        connections_per_netns: usize::MAX,
        memory: None,
    };
    let proxy = Arc::new(Proxy::new(publisher.routes(), dialer, limits, metrics)?);

    // The command's netns is ours. In any other, connects to targets are refused.
    let netns = Arc::new(File::open("/proc/self/ns/net")?);
    let pod = Pod::new("exec", Some(DEFAULT_NAMESPACE), netns);
    let ready = Ready::here(listeners, redirect.ids())?;
    let mut pod = Enrolled::new(&redirect, pod, ready)?;
    pod.serve(&proxy)?;
    pod.redirect(&mut maps.pods)?;
    redirect.attach(&instance.cgroup, &mut maps)?;
    let mut publish = |publisher: &mut Publisher, update: &Update| {
        let snapshot = compile(update, &installation);
        keeper.follow(&snapshot, &update.secrets);
        // It has fewer ids than TARGETS has room.
        publisher
            .publish(&mut maps, &epoch, &snapshot, true)
            .map(drop)
    };
    publish(&mut publisher, &update)?;
    pod.listen()?;

    let mut others = None;
    let mut cgroup = DirWatcher::new(&instance.cgroup, RECONCILE)?;
    tell(instance.cgroup.as_os_str().as_bytes()).context("whoever started us has gone")?;
    while !instance.is_over() {
        let first = redirect.keep_order(&instance.cgroup);
        let first = first.unwrap_or_else(|error| Some(format!("{error:#}")));
        if let Some(others) = first.as_ref().filter(|_| first != others) {
            tracing::warn!("{others}");
        }
        others = first;
        tokio::select! {
            () = cgroup.changed() => publisher.expire_retired(),
            update = files.next() => {
                if let Err(error) = publish(&mut publisher, &update) {
                    tracing::error!(error = format!("{error:#}"), "the change is not in force");
                }
            }
        }
    }
    // As long as the listeners are ours, the range is too. (A netns without IPv6 has no route.)
    let _ = local_route::remove(redirect.ids());
    // With the pod goes the duplicate of its listeners, which would keep them open.
    drop(pod);
    proxy.draining.cancel();
    proxy.tasks.close();
    let _ = timeout(DRAIN, proxy.tasks.wait()).await;
    Ok(())
}

/// Hands the cgroup's path to the process that started us, and waits until that has become the command.
fn tell(cgroup: &[u8]) -> Result<()> {
    let mut pipe = io::stdout().lock();
    pipe.write_all(&[cgroup, b"\n"].concat())?;
    pipe.flush()?;
    poll(&mut [PollFd::new(&pipe, PollFlags::empty())], None)?;
    Ok(())
}

fn compile(update: &Update, installation: &Installation) -> Snapshot {
    for error in &update.errors {
        tracing::error!("{error}");
    }
    let compiled = policy::compile(&update.objects, installation);
    for status in &compiled.statuses {
        log_status(status, update.policy_files.get(&status.policy));
    }
    compiled.snapshot
}
