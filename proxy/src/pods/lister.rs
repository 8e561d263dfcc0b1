//! What can tell which network namespaces there are, and what is to be done with each.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::sync::Arc;

use anyhow::Result;

use super::cgroups::CgroupPods;
use super::decide::{Bypass, Decision, PodInfo};
use super::named::NamedNetns;
use crate::identity::DEFAULT_NAMESPACE;

/// A netns that exists now.
#[derive(Clone, Debug)]
pub struct Netns {
    /// For people: `namespace/pod`, the pod's uid while the API server has not told of it, or the netns' own name.
    pub label: String,
    /// The Kubernetes namespace of its pod, once the API server has told of it; that of a named netns is `default`.
    pub namespace: Option<String>,
    /// Open, so that it can be entered.
    pub file: Arc<File>,
    /// Tells a netns from another that was given the same name later.
    pub inode: u64,
    /// What is to be done with it.
    pub decision: Decision,
    /// The pod it belongs to, as cgroups name it; `None` for the node's own and for named ones.
    pub pod_uid: Option<String>,
    /// It is not the pod's own: something in the pod has made it, such as containers in it, or a browser's sandbox.
    pub nested: bool,
}

/// All that exist now.
#[derive(Debug, Default)]
pub struct Listing {
    /// By name.
    pub netns: BTreeMap<String, Netns>,
    /// Pods that could not be looked at, by uid; what was known of them is still listed.
    pub failed: BTreeMap<String, anyhow::Error>,
}

/// Where netns come from.
pub enum Lister {
    /// Those with a name.
    Named(NamedNetns),
    /// Those of this node's pods.
    Cgroups(Box<CgroupPods>),
}

impl Lister {
    /// All that exist now.
    ///
    /// # Errors
    /// The directory of names, or the tree of cgroups, can't be read: nothing is known.
    pub fn list(&mut self) -> Result<Listing> {
        match self {
            Self::Named(named) => {
                let list = named.list()?.into_iter();
                let netns = list.map(|(name, named)| {
                    let decision = if named.matches {
                        Decision::Enrol
                    } else {
                        Decision::Bypass(Bypass::NotNamed)
                    };
                    let netns = Netns {
                        label: name.clone(),
                        namespace: Some(DEFAULT_NAMESPACE.to_owned()),
                        file: Arc::new(named.file),
                        inode: named.inode,
                        decision,
                        pod_uid: None,
                        nested: false,
                    };
                    (name, netns)
                });
                Ok(Listing {
                    netns: netns.collect(),
                    failed: BTreeMap::new(),
                })
            }
            Self::Cgroups(pods) => pods.list(),
        }
    }

    /// Resolves when it is time to list again. Cancelling it loses nothing.
    pub async fn changed(&mut self) {
        match self {
            Self::Named(named) => named.changed().await,
            Self::Cgroups(pods) => pods.changed().await,
        }
    }

    /// What the API server says of this node's pods now, by [`cgroup_uid`](super::decide::cgroup_uid). Named netns have
    /// none.
    pub fn set_pods(&mut self, infos: HashMap<String, PodInfo>) {
        if let Self::Cgroups(pods) = self {
            pods.set_pods(infos);
        }
    }
}
