//! Where the agent's objects, network namespaces and cgroup come from: a directory of manifests, or a cluster.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use kube::Client;
use tokio::sync::watch;

use super::events::Events;
use super::{Options, RECONCILE};
use crate::identity::{Identities, Keeper};
use crate::metrics::Metrics;
use crate::pods::cgroups::{CgroupOptions, CgroupPods};
use crate::pods::decide::Rules;
use crate::pods::lister::Lister;
use crate::pods::named::NamedNetns;
use crate::readiness::Readiness;
use crate::redirect::{bypass_pinned, default_cgroup, is_cgroup2};
use crate::source::kube::{self as source, Kube, Namespaces, Pods};
use crate::source::{Files, Source, Update};
use crate::status::{Live, NodePods};

/// All that can fail for reasons of our own, before anything is taken over.
pub(super) struct Inputs {
    pub(super) source: Source,
    /// What the source had first.
    pub(super) update: Update,
    pub(super) lister: Lister,
    /// The programs' place.
    pub(super) cgroup: PathBuf,
    pub(super) keeper: Keeper,
    pub(super) identities: Identities,
    /// What a cluster has besides.
    pub(super) cluster: Option<Cluster>,
}

pub(super) struct Cluster {
    pub(super) client: Client,
    pub(super) node: String,
    /// Nodetls' own.
    pub(super) namespace: String,
    pub(super) namespaces: watch::Receiver<Arc<Namespaces>>,
    pub(super) pods: watch::Receiver<Arc<Pods>>,
    pub(super) events: Events,
    rules: Rules,
}

/// Nodetls' own Namespace.
pub(super) struct OwnNamespace {
    name: String,
    all: watch::Receiver<Arc<Namespaces>>,
}

impl Cluster {
    /// For who asks of a pod.
    pub(super) fn pods_of_node(&self) -> NodePods {
        NodePods {
            node: self.node.clone(),
            infos: self.pods.clone(),
            rules: self.rules.clone(),
        }
    }

    pub(super) fn own_namespace(&self) -> OwnNamespace {
        OwnNamespace {
            name: self.namespace.clone(),
            all: self.namespaces.clone(),
        }
    }
}

impl OwnNamespace {
    /// Whether it is being deleted, and us with it: nobody comes after us.
    pub(super) fn is_terminating(&self) -> bool {
        let all = self.all.borrow();
        all.get(&self.name).is_some_and(|own| own.terminating)
    }
}

impl Inputs {
    /// A directory of manifests, and named network namespaces.
    pub(super) async fn files(manifests: &Path, options: &Options) -> Result<Self> {
        let (files, update) = Files::load(manifests).await?;
        let named = NamedNetns::new(&options.netns_dir, &options.netns, RECONCILE)?;
        // Who can write the manifests may read them.
        let (keeper, identities) = Keeper::manifests();
        Ok(Self {
            source: Source::Files(Box::new(files)),
            update,
            lister: Lister::Named(named),
            cgroup: options.cgroup.clone().map_or_else(default_cgroup, Ok)?,
            keeper,
            identities,
            cluster: None,
        })
    }

    /// A node of a cluster. Waits until the objects are complete: from the API server, or what the last run kept.
    pub(super) async fn cluster(
        options: &Options,
        own_cookie: u64,
        metrics: &Arc<Metrics>,
        readiness: &Readiness,
        live: &Live,
    ) -> Result<Self> {
        let node = options.node.clone().context(
            "--node or the environment's NODE_NAME must name this node (or --manifests a directory, without Kubernetes)",
        )?;
        // Before any connect: pinned programs may guard a policy on the API server itself.
        bypass_pinned(&options.pins, own_cookie)?;
        let (client, namespace) = source::connect(options.namespace.as_deref()).await?;
        let rules = Rules {
            opt_in: options.opt_in,
            excluded_namespaces: options.exclude_namespace.iter().cloned().collect(),
            own_namespace: Some(namespace.clone()),
        };
        let mut pods = CgroupPods::new(
            CgroupOptions {
                root: options.cgroup_root.clone(),
                node_netns: options.node_netns.clone(),
                rules: rules.clone(),
            },
            RECONCILE,
        )?;
        let cgroup = match &options.cgroup {
            Some(cgroup) => cgroup.clone(),
            None => attach_point(&mut pods)?,
        };
        let wanted = source::Options {
            namespace: namespace.clone(),
            cache: Some(options.cache.clone()),
            node: Some(node.clone()),
            statuses: false,
        };
        let mut kube = Kube::start(client.clone(), wanted);
        let live = live.clone();
        let show = move |problems: Vec<String>| {
            live.update(|facts| facts.out_of_step = problems.into());
        };
        let metrics = Arc::clone(metrics);
        tokio::spawn(source::follow(
            kube.state(),
            metrics,
            readiness.clone(),
            show,
        ));
        let waiting = readiness.task("the API server's objects");
        let update = kube.next().await;
        waiting.done();
        let mut infos = kube.pods();
        pods.set_pods(infos.borrow_and_update().as_ref().clone());
        let (keeper, identities) = if options.client_certificates {
            Keeper::cluster(client.clone(), kube.pods(), rules.clone())
        } else {
            Keeper::forbidden()
        };
        Ok(Self {
            keeper,
            identities,
            update,
            lister: Lister::Cgroups(Box::new(pods)),
            cgroup,
            cluster: Some(Cluster {
                pods: infos,
                events: Events::start(client.clone(), &node, kube.state()),
                namespaces: kube.namespaces(),
                rules,
                client,
                node,
                namespace,
            }),
            source: Source::Kube(kube),
        })
    }
}

/// The kubelet's cgroup: there our programs see a connect before those at the root, which may change its address.
fn attach_point(pods: &mut CgroupPods) -> Result<PathBuf> {
    let kubepods = pods.kubepods()?;
    ensure!(
        is_cgroup2(&kubepods)?,
        "the pods' processes are in {}, a hierarchy of cgroup v1, where no eBPF program sees their connects: name the root \
         of the host's cgroup v2 hierarchy as --cgroup",
        kubepods.display()
    );
    Ok(kubepods)
}
