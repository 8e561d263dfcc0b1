//! The agent: brings the parts up in the order that never leaves a gap, then follows every change until it is told to
//! end.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use nodetls_ebpf::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access_log::{LogFormat, init_logging};
use crate::admin::{self, AdminState};
use crate::metrics::{Metrics, PolicyCondition};
use crate::pods::Pods;
use crate::pods::named::NamedNetns;
use crate::pods::netns::{NetnsThread, current_cookie};
use crate::policy::{self, CaBundle, PolicyStatus};
use crate::proxy::{Dialer, Proxy};
use crate::publisher::Publisher;
use crate::readiness::{Pending, Readiness};
use crate::redirect::{EbpfView, Maps, Redirect, default_cgroup};
use crate::source::{Files, Update};
use crate::tls::system_roots;
use crate::watch_dir::DirWatcher;

/// How often to look whether anything was missed.
const RECONCILE: Duration = Duration::from_secs(10);
/// How often to look after retired targets and the epoch.
const TICK: Duration = Duration::from_secs(1);

/// Redirects, and originates TLS: the data plane of one machine.
///
/// Examples:
///   nodetls agent --manifests /etc/nodetls --netns 'pod-*'
///   nodetls agent --manifests . --netns client --admin 127.0.0.1:15020 --log-format json
#[derive(Args, Clone, Debug)]
#[command(verbatim_doc_comment)]
pub struct Options {
    /// Directory of Kubernetes manifests (Service, EndpointSlice, ConfigMap, BackendTLSPolicy); followed live
    #[arg(long, value_name = "DIR")]
    pub manifests: PathBuf,
    /// Named network namespaces to enrol, as shell patterns; also those that appear later
    #[arg(long, value_name = "PATTERN", required = true, num_args = 1..)]
    pub netns: Vec<String>,
    /// Address of /metrics and /healthz
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:15020")]
    pub admin: SocketAddr,
    /// Cgroup (v2) whose processes' connects are looked at [default: the root of the hierarchy]
    #[arg(long, value_name = "DIR")]
    pub cgroup: Option<PathBuf>,
    /// Directory on a bpffs that holds what outlives the agent
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/nodetls")]
    pub pins: PathBuf,
    /// Directory of named network namespaces
    #[arg(long, value_name = "DIR", default_value = "/run/netns")]
    pub netns_dir: PathBuf,
    /// Seconds to wait for a TCP connection to a Service
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub connect_timeout: Duration,
    /// Seconds to wait for a TLS handshake with a Service
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub handshake_timeout: Duration,
    /// Connections that each network namespace may have open at a time (two file descriptors each); more are reset
    #[arg(long, value_name = "N", default_value = "10000")]
    pub connections_per_netns: usize,
    /// Seconds that open connections may go on after SIGTERM; a second SIGTERM ends them at once
    #[arg(long, value_name = "SECONDS", default_value = "25", value_parser = seconds)]
    pub drain_timeout: Duration,
    /// How log lines look
    #[arg(long, value_enum, default_value_t)]
    pub log_format: LogFormat,
    /// What is logged, as a list of target=level
    #[arg(long, value_name = "FILTER", default_value = "info")]
    pub log: String,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

/// Runs the agent until a signal ends it.
///
/// # Errors
/// When it can't start: what is missing, and the cure.
pub fn run(options: Options) -> Result<()> {
    init_logging(options.log_format, &options.log)?;
    raise_fd_limit();
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(async {
            let mut agent = Agent::start(options).await?;
            let result = agent.follow().await;
            agent.drain().await;
            result
        })
}

/// Every connection takes two descriptors; the soft limit is for programs that use select(2).
fn raise_fd_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files can't be raised");
    }
}

struct Agent {
    drain_timeout: Duration,
    maps: Maps,
    _redirect: Redirect,
    pods: Pods,
    netns_dir: DirWatcher,
    files: Files,
    system_roots: Option<Arc<CaBundle>>,
    statuses: Vec<PolicyStatus>,
    generation: u64,
    publisher: Publisher,
    proxy: Arc<Proxy>,
    metrics: Arc<Metrics>,
    readiness: Readiness,
    published: Option<Pending>,
}

impl Agent {
    async fn start(options: Options) -> Result<Self> {
        let metrics = Arc::new(Metrics::new(env!("CARGO_PKG_VERSION"))?);
        let readiness = Readiness::default();
        let pending = [
            "programs attached",
            "network namespaces enrolled",
            "targets published",
        ]
        .map(|name| readiness.task(name));
        let [attached, enrolled, published] = pending;
        let stop_admin = CancellationToken::new();
        let listener = TcpListener::bind(options.admin)
            .await
            .with_context(|| format!("--admin {}: can't listen", options.admin))?;
        tracing::info!(address = %listener.local_addr()?, "admin");
        let state = AdminState {
            metrics: Arc::clone(&metrics),
            readiness: readiness.clone(),
        };
        tokio::spawn(admin::serve(listener, Arc::new(state), stop_admin));

        let (files, update) = Files::load(&options.manifests).await?;
        let named = NamedNetns::new(&options.netns_dir, &options.netns)?;
        let netns_dir = DirWatcher::new(&options.netns_dir, RECONCILE)?;
        let own_cookie = current_cookie().context("the cookie of our netns (kernel 5.14)")?;
        let cgroup = options.cgroup.clone().map_or_else(default_cgroup, Ok)?;
        // First of all, before any connect: a policy must never lock us out ourselves.
        let bypass_own = |maps: &mut Maps| maps.pods.set(own_cookie, Mode::Bypass);
        let (redirect, mut maps) = Redirect::attach(&options.pins, &cgroup, bypass_own)?;
        let epoch = maps.take_epoch()?;
        tracing::info!(cgroup = %cgroup.display(), epoch, "programs attached");
        attached.done();

        let thread = NetnsThread::start()?;
        let publisher = Publisher::new(&maps, epoch, Arc::clone(&metrics));
        let proxy = Arc::new(Proxy {
            routes: publisher.routes(),
            dialer: Arc::new(Dialer {
                netns: thread.clone(),
                own_sockets: Arc::clone(&maps.own_sockets),
                connect_timeout: options.connect_timeout,
                handshake_timeout: options.handshake_timeout,
            }),
            connections_per_netns: options.connections_per_netns,
            metrics: Arc::clone(&metrics),
            draining: CancellationToken::new(),
            ending: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        let view = EbpfView::open(redirect.pins())?;
        metrics.on_scrape(Box::new(move || view.stats()));
        let roots = system_roots();
        for problem in roots.problems {
            tracing::warn!(problem, "the system's trust store");
        }
        let mut agent = Self {
            drain_timeout: options.drain_timeout,
            pods: Pods::new(named, thread, redirect.pins().to_owned(), epoch),
            _redirect: redirect,
            maps,
            netns_dir,
            files,
            system_roots: roots.bundle,
            statuses: Vec::new(),
            generation: 0,
            publisher,
            proxy,
            metrics,
            readiness,
            published: Some(published),
        };
        // Pods before targets: a published target must find every pod enrolled.
        agent.reconcile_pods().await;
        agent.pods.remove_stale(&mut agent.maps.pods, own_cookie);
        enrolled.done();
        agent.apply(&update);
        Ok(agent)
    }

    /// Follows changes until a signal, or until another agent takes over.
    async fn follow(&mut self) -> Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                update = self.files.next() => self.apply(&update),
                () = self.netns_dir.changed() => self.reconcile_pods().await,
                _ = tick.tick() => {
                    self.publisher.expire_retired();
                    if self.publisher.superseded(&self.maps)? {
                        tracing::info!("another agent has taken over");
                        return Ok(());
                    }
                }
                _ = terminate.recv() => return Ok(()),
                _ = interrupt.recv() => return Ok(()),
            }
        }
    }

    async fn reconcile_pods(&mut self) {
        const NAME: &str = "network namespaces";
        match self.pods.reconcile(&mut self.maps.pods, &self.proxy).await {
            Ok(failed) if failed.is_empty() => self.readiness.clear(NAME),
            Ok(failed) => {
                for (netns, error) in &failed {
                    tracing::error!(netns, error = format!("{error:#}"), "not enrolled");
                }
                let names: Vec<_> = failed.keys().map(String::as_str).collect();
                self.readiness
                    .set_problem(NAME, format!("not enrolled: {}", names.join(", ")));
            }
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "pods can't be listed");
                self.readiness.set_problem(NAME, format!("{error:#}"));
            }
        }
        self.metrics
            .pods_enrolled
            .set(i64::try_from(self.pods.len()).unwrap_or(i64::MAX));
    }

    /// Compiles and publishes. What can't be published changes nothing that is in force.
    fn apply(&mut self, update: &Update) {
        for error in &update.errors {
            tracing::error!("{error}");
        }
        self.metrics
            .config_errors
            .set(i64::try_from(update.errors.len()).unwrap_or(i64::MAX));
        let compiled = policy::compile(&update.objects, self.system_roots.as_ref());
        self.report(compiled.statuses);
        match self.publisher.publish(&mut self.maps, &compiled.snapshot) {
            Ok(()) => {
                self.generation += 1;
                self.metrics.config_applied(self.generation);
                self.readiness.clear("targets");
                if let Some(published) = self.published.take() {
                    published.done();
                }
                tracing::info!(targets = compiled.snapshot.targets.len(), "published");
            }
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "targets can't be published");
                self.readiness.set_problem("targets", format!("{error:#}"));
            }
        }
    }

    /// Logs what changed of the policies' statuses, and sets their metrics.
    fn report(&mut self, statuses: Vec<PolicyStatus>) {
        for status in statuses
            .iter()
            .filter(|status| !self.statuses.contains(status))
        {
            log_status(status);
        }
        let conditions: Vec<_> = statuses.iter().flat_map(conditions).collect();
        self.metrics.set_policy_status(&conditions);
        self.statuses = statuses;
    }

    /// Takes no new connections, and lets the open ones end. A second signal ends them at once.
    async fn drain(self) {
        let (tasks, limit) = (&self.proxy.tasks, self.drain_timeout);
        self.proxy.draining.cancel();
        tasks.close();
        tracing::info!(?limit, "draining");
        let again = async {
            let mut signals = (
                signal(SignalKind::terminate()),
                signal(SignalKind::interrupt()),
            );
            if let (Ok(terminate), Ok(interrupt)) = (&mut signals.0, &mut signals.1) {
                tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            }
        };
        tokio::select! {
            _ = timeout(limit, tasks.wait()) => {}
            () = again => {}
        }
        self.proxy.ending.cancel();
        // Each only has to write its line.
        let _ = timeout(TICK, tasks.wait()).await;
    }
}

fn log_status(status: &PolicyStatus) {
    let policy = &status.policy;
    for problem in &status.problems {
        tracing::error!(%policy, "{problem}");
    }
    for ancestor in &status.ancestors {
        let conditions = [Some(&ancestor.accepted), ancestor.resolved_refs.as_ref()];
        for condition in conditions.into_iter().flatten() {
            let (reason, message) = (condition.reason.as_str(), &condition.message);
            if condition.status {
                tracing::info!(%policy, service = ancestor.service, reason, "{message}");
            } else {
                tracing::error!(%policy, service = ancestor.service, reason, "{message}");
            }
        }
    }
}

fn conditions(status: &PolicyStatus) -> impl Iterator<Item = PolicyCondition> {
    let condition = |condition: &'static str, reason: &'static str| PolicyCondition {
        namespace: status.policy.namespace.clone(),
        policy: status.policy.name.clone(),
        condition,
        reason,
    };
    status.ancestors.iter().flat_map(move |ancestor| {
        let resolved = ancestor.resolved_refs.as_ref();
        [Some(condition(
            "Accepted",
            ancestor.accepted.reason.as_str(),
        ))]
        .into_iter()
        .chain([resolved.map(|resolved| condition("ResolvedRefs", resolved.reason.as_str()))])
        .flatten()
    })
}
