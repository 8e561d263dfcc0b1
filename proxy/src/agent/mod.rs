//! The agent: brings the parts up in the order that never leaves a gap, then follows every change until it is told to
//! end, or a newer agent is ready.

mod apply;
mod audit;
mod boot_guard;
mod earlier;
mod events;
mod handover;
mod inputs;
mod linger;
mod options;
mod others;
mod report;
mod taint;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nodetls_ebpf::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at, sleep, timeout};

use self::audit::Audit;
use self::boot_guard::BootGuard;
use self::earlier::Earlier;
use self::inputs::{Cluster, Inputs};
use self::linger::Linger;
pub use self::options::Options;
pub(crate) use self::options::seconds;
pub(crate) use self::report::log_status;
use crate::access_log::{LogTo, init_logging, set_node};
use crate::admin::{self, AdminState};
use crate::exec;
use crate::identity::Keeper;
use crate::metrics::{Metrics, Role};
use crate::pods::Pods;
use crate::pods::netns::{NetnsThread, current_cookie};
use crate::policy::{Compiler, Installation, PolicyStatus, Snapshot};
use crate::proxy::{Dialer, Limits, Names, Proxy};
use crate::publisher::Publisher;
use crate::readiness::{Pending, Readiness};
use crate::redirect::{
    EbpfView, Effect, Epoch, Maps, Redirect, foreign, has_living_agent, layouts,
};
use crate::signals::Signals;
use crate::source::Source;
use crate::source::kube::Pods as PodInfos;
use crate::status::{Live, Parts};
use crate::tls::system_roots;
use crate::uninstall;

/// How often to look whether anything was missed.
const RECONCILE: Duration = Duration::from_secs(10);
/// How often to look after retired targets and the epoch.
const TICK: Duration = Duration::from_secs(1);
/// How long we still accept after another agent took over: connects may be under way.
const LINGER: Duration = Duration::from_secs(1);

/// What can keep the agent from being ready, as `/healthz/ready` and `nodetls status` name it.
pub(crate) const NETNS: &str = "network namespaces";
pub(crate) const TARGETS: &str = "targets";
pub(crate) const AGENT: &str = "agent";
pub(crate) const MANIFESTS: &str = "manifests";
const BPFFS: &str = "bpffs";

/// Runs the agent until a signal ends it.
///
/// # Errors
/// When it can't start: what is missing, and the cure.
pub fn run(options: Options) -> Result<()> {
    init_logging(options.log_format, &options.log, LogTo::Stdout)?;
    if let Some(node) = &options.node {
        set_node(node);
    }
    raise_fd_limit();
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(async {
            let (pins, cache) = (options.pins.clone(), options.cache.clone());
            let units = options.boot_guard.clone();
            let mut agent = Agent::start(options).await?;
            let mut signals = Signals::new()?;
            let result = agent.follow(&mut signals).await;
            let pins = agent.redirect.moved_base().map_or(pins, Path::to_owned);
            let own = agent.cluster.as_ref().map(Cluster::own_namespace);
            agent.drain(&mut signals).await;
            if own.is_some() && result.is_ok() && !signals.told {
                outlast(&pins, &mut signals).await?;
            }
            if own.is_some_and(|own| own.is_terminating()) {
                tracing::info!("nodetls' Namespace is being deleted: removing all from this node");
                uninstall::remove(&pins, &cache, units.as_deref())?;
            }
            result
        })
}

/// Waits to be told to end. A container that ends is started again, and would take over from the agent that did from us;
/// which is right only when there is no such agent any more.
async fn outlast(pins: &Path, signals: &mut Signals) -> Result<()> {
    loop {
        tokio::select! {
            () = signals.next() => return Ok(()),
            () = sleep(TICK) => {}
        }
        let lives = layouts(pins).iter().any(|layout| has_living_agent(layout));
        ensure!(
            lives,
            "the agent that took over has gone, or the pins have: starting again"
        );
    }
}

/// Every connection takes two descriptors; the soft limit is for programs that use select(2).
pub(crate) fn raise_fd_limit() {
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
    cgroup: PathBuf,
    drain_timeout: Duration,
    redirect: Redirect,
    maps: Maps,
    epoch: Epoch,
    foreign: Vec<PathBuf>,
    pods: Pods,
    source: Source,
    keeper: Keeper,
    cluster: Option<Cluster>,
    audit: Option<Audit>,
    /// A newer agent has the maps, and is not ready.
    standing_by: bool,
    installation: Installation,
    compiler: Arc<Mutex<Compiler>>,
    /// By name.
    statuses: Arc<[Arc<PolicyStatus>]>,
    snapshot: Arc<Snapshot>,
    linger: Linger,
    /// Whether the objects were ever complete.
    complete: bool,
    published: bool,
    /// When to try again what could not be published.
    publish_again: Option<Instant>,
    generation: u64,
    publisher: Publisher,
    proxy: Arc<Proxy>,
    metrics: Arc<Metrics>,
    readiness: Readiness,
    live: Live,
    starting: Option<Pending>,
    remove_taint: bool,
    boot_guard: BootGuard,
    earlier: Earlier,
    /// As `--pins` says.
    base: PathBuf,
    since: Instant,
}

impl Agent {
    async fn start(options: Options) -> Result<Self> {
        let metrics = Arc::new(Metrics::new(Role::Agent, env!("CARGO_PKG_VERSION"))?);
        let readiness = Readiness::default();
        let starting = readiness.task("programs attached, pods enrolled, targets published");
        let live = Live::default();
        let admin = AdminState {
            metrics: Arc::clone(&metrics),
            readiness: readiness.clone(),
            live: Some(live.clone()),
        };
        admin::start(options.admin, admin).await?;

        // All that can fail for reasons of our own comes before we take anything over.
        let own_cookie = current_cookie().context("the cookie of our netns")?;
        let inputs = match &options.manifests {
            Some(manifests) => Inputs::files(manifests, &options).await?,
            None => Inputs::cluster(&options, own_cookie, &metrics, &readiness, &live).await?,
        };
        let roots = system_roots(options.system_roots.as_deref());
        for problem in roots.problems {
            tracing::warn!(problem, "the system's trust store");
        }
        let thread = NetnsThread::start()?;
        let (redirect, mut maps) = Redirect::load(&options.pins, options.mode)?;
        if let Err(error) = exec::collect_stale(&options.pins) {
            tracing::warn!(%error, "what killed `nodetls exec` left can't be collected");
        }
        let epoch = Epoch::take(redirect.pins(), &mut maps)?;
        live.update(|facts| {
            facts.pins.clone_from(&options.pins);
            facts.epoch = epoch.number();
        });
        let publisher = Publisher::new(&maps, redirect.ids(), Arc::clone(&metrics));
        let dialer = Dialer {
            netns: thread.clone(),
            own_sockets: Arc::clone(&maps.own_sockets),
            names: Names::default(),
            connect_timeout: options.connect_timeout,
            handshake_timeout: options.handshake_timeout,
            identities: inputs.identities,
        };
        let proxy = Arc::new(Proxy::new(
            publisher.routes(),
            dialer,
            Limits {
                connections_per_netns: options.connections_per_netns,
                memory: options.memory_limit,
            },
            Arc::clone(&metrics),
        )?);
        let view = EbpfView::open(redirect.pins())?;
        metrics.on_scrape(Box::new(move || view.stats()));
        let audit = match options.mode {
            Effect::Enforce => None,
            Effect::Audit => Some(Audit::start(publisher.routes(), Arc::clone(&proxy.dialer))?),
        };
        let compiler = Arc::<Mutex<Compiler>>::default();
        live.set_parts(Parts {
            compiler: Arc::clone(&compiler),
            proxy: Arc::clone(&proxy),
            cluster: inputs.cluster.as_ref().map(Cluster::pods_of_node),
        });
        let foreign = foreign(&options.pins);
        let layouts = foreign
            .iter()
            .map(PathBuf::as_path)
            .chain([redirect.pins()]);
        let earlier = Earlier::new(options.cut_earlier_connections, layouts);
        let mut agent = Self {
            cgroup: inputs.cgroup,
            drain_timeout: options.drain_timeout,
            pods: Pods::new(
                inputs.lister,
                thread,
                epoch.number(),
                own_cookie,
                options.mode,
            ),
            redirect,
            maps,
            epoch,
            foreign,
            source: inputs.source,
            keeper: inputs.keeper,
            cluster: inputs.cluster,
            audit,
            standing_by: false,
            installation: Installation {
                system_roots: roots.bundle,
                insecure_validation: options.allow_insecure_validation,
            },
            compiler,
            statuses: Arc::default(),
            snapshot: Arc::default(),
            linger: Linger::default(),
            complete: false,
            published: false,
            publish_again: None,
            generation: 0,
            publisher,
            proxy,
            metrics,
            readiness,
            live,
            starting: Some(starting),
            remove_taint: options.remove_taint,
            boot_guard: BootGuard::new(&options),
            earlier,
            base: options.pins,
            since: Instant::now(),
        };
        // First of all, before any connect: a policy must never lock us out ourselves.
        agent.maps.pods.set(own_cookie, Mode::Bypass)?;
        // Pods before programs and targets: there may be targets already, and a published one must find all enrolled.
        agent.reconcile_pods().await;
        if agent.epoch.has_serving_elders() || !agent.foreign.is_empty() {
            agent.attach()?;
            agent.apply(&inputs.update);
        } else {
            // Programs last: what they turn is served at once, also where audit mode has let it pass until now.
            agent.apply(&inputs.update);
            if agent.in_charge() {
                agent.listen()?;
            }
            agent.attach()?;
        }
        if agent.in_charge() {
            agent.settle()?;
        }
        Ok(agent)
    }

    fn attach(&mut self) -> Result<()> {
        self.redirect.attach(&self.cgroup, &mut self.maps)?;
        let (epoch, cgroup) = (self.epoch.number(), self.cgroup.display());
        tracing::info!(%cgroup, epoch, "programs attached");
        self.look_for_others();
        Ok(())
    }

    /// Follows changes until a signal, or until another agent has taken over.
    async fn follow(&mut self, signals: &mut Signals) -> Result<()> {
        let mut tick = interval(TICK);
        // Those of pods that are just enrolled are there.
        let mut routes = interval_at(Instant::now() + RECONCILE, RECONCILE);
        let mut looks = interval(RECONCILE);
        for timer in [&mut tick, &mut routes, &mut looks] {
            timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        loop {
            tokio::select! {
                update = self.source.next() => {
                    self.apply(&update);
                    if self.in_charge() {
                        self.settle()?;
                    }
                }
                () = self.pods.changed(), if !self.standing_by => self.reconcile_pods().await,
                infos = pod_infos(&mut self.cluster) => {
                    self.pods.set_pods(infos);
                    self.reconcile_pods().await;
                }
                _ = tick.tick() => {
                    self.publisher.expire_retired();
                    if self.linger.expire(&mut self.snapshot) && self.in_charge() {
                        self.publish();
                    }
                    self.observe();
                    self.look_for_others();
                    if !self.keep_charge().await? {
                        return Ok(());
                    }
                }
                _ = routes.tick() => self.keep_routes().await,
                _ = looks.tick() => self.look_for_earlier().await,
                found = self.earlier.found() => self.tell_of_earlier(found),
                () = signals.next() => return Ok(()),
            }
        }
    }

    /// Who explains waits for a compilation; we wait for an explanation.
    fn compiler(&self) -> MutexGuard<'_, Compiler> {
        self.compiler.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn keep_routes(&mut self) {
        if let Ok(_charge) = self.epoch.hold(&self.maps) {
            self.pods.keep_routes(&mut self.maps.pods).await;
        }
    }

    async fn reconcile_pods(&mut self) {
        let Ok(_charge) = self.epoch.hold(&self.maps) else {
            return;
        };
        let (modes, proxy) = (&mut self.maps.pods, &self.proxy);
        let mut not_enrolled = BTreeMap::new();
        match self.pods.reconcile(&self.redirect, modes, proxy).await {
            Ok(failed) if failed.is_empty() => self.readiness.clear(NETNS),
            Ok(failed) => {
                let mut texts = Vec::new();
                for (netns, error) in failed {
                    let error = format!("{error:#}");
                    tracing::error!(netns, error, "not enrolled");
                    texts.push(format!("{netns} ({error})"));
                    not_enrolled.insert(netns, error);
                }
                self.readiness
                    .set_problem(NETNS, format!("not enrolled: {}", texts.join(", ")));
            }
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "pods can't be listed");
                self.readiness.set_problem(NETNS, format!("{error:#}"));
            }
        }
        let (names, pods) = (self.pods.names(), self.pods.enrolled());
        self.live.update(|facts| {
            facts.netns = names;
            facts.pods = pods;
            facts.not_enrolled = Arc::new(not_enrolled);
        });
        self.metrics.set_bypassed(&self.pods.bypassed());
        self.metrics
            .pods_enrolled
            .set(i64::try_from(self.pods.len()).unwrap_or(i64::MAX));
    }

    /// Takes no new connections, and lets the open ones end. A second signal ends them at once.
    async fn drain(self, signals: &mut Signals) {
        let limit = self.drain_timeout;
        self.readiness
            .set_problem(AGENT, "draining: it takes no new connections");
        tracing::info!(?limit, "draining");
        if let Err(error) = self.epoch.set_serving(false) {
            tracing::warn!(%error, "an agent that comes now may wait for this one");
        }
        if !self.in_charge() {
            sleep(LINGER).await;
        }
        // With the pods' go the duplicates of their listeners, which would keep them open.
        drop(self.pods);
        let tasks = &self.proxy.tasks;
        self.proxy.draining.cancel();
        tasks.close();
        let again = async {
            if !signals.told {
                // Another agent has taken over, and now we are told to end: we do already.
                signals.next().await;
            }
            signals.next().await;
        };
        tokio::select! {
            _ = timeout(limit, tasks.wait()) => {}
            () = again => {}
        }
        self.proxy.ending.cancel();
        // Each only has to write its line.
        let _ = timeout(TICK, tasks.wait()).await;
        let _ = timeout(TICK, self.proxy.write_lines()).await;
    }
}

/// Resolves when the API server tells of other pods; never without a cluster.
async fn pod_infos(cluster: &mut Option<Cluster>) -> PodInfos {
    let pods: Option<&mut watch::Receiver<_>> = cluster.as_mut().map(|cluster| &mut cluster.pods);
    let Some(pods) = pods else {
        return std::future::pending().await;
    };
    // The sender lives as long as the source.
    let _ = pods.changed().await;
    pods.borrow_and_update().as_ref().clone()
}
