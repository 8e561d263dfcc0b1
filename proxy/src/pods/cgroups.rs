//! The pods of this node, found without the container runtime's API: by the host's cgroup tree and /proc. (What
//! `/proc/PID/cgroup` says is relative to the reader's cgroup namespace, so a container can't use it.)

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use super::decide::{Bypass, Decision, PodInfo, Rules, decide};
use super::kubepods::{self, PodDir};
use super::lister::{Listing, Netns};
use super::process::{NetnsByInode, is_shared_with_parent, netns, node_netns, open_netns, started};
use super::watch::Watch;

/// How many network namespaces a pod may have, as for containers of its own: from more, connects to targets are refused.
pub const NETNS_PER_POD: usize = 64;

/// Where to look, and what to do with what is found.
#[derive(Clone, Debug, Default)]
pub struct CgroupOptions {
    /// A mounted cgroup directory that this node's `kubepods` is in (at most five levels below); else all cgroup
    /// hierarchies of the mount table are searched, v2 first.
    pub root: Option<PathBuf>,
    /// Files that are the node's own netns; else it is learned from the process that started us.
    pub node_netns: Vec<PathBuf>,
    /// Which pods to enrol.
    pub rules: Rules,
}

/// The pods of this node.
pub struct CgroupPods {
    hierarchies: Vec<PathBuf>,
    kubepods: Option<PathBuf>,
    rules: Rules,
    infos: HashMap<String, PodInfo>,
    node: NetnsByInode,
    /// By inode, as of the last look.
    known: BTreeMap<u64, Known>,
    /// Pods that had more than their number at the last look.
    crowded: BTreeSet<String>,
    watch: Watch,
}

/// A pod's netns. Held open, so that its inode is not given to another.
struct Known {
    uid: String,
    file: Arc<File>,
    /// A process outside the pod is in it too: it may be the node's, whatever we learned.
    shared: bool,
    nested: bool,
}

/// What one pod has to do with one netns.
struct Claim {
    uid: String,
    file: Arc<File>,
    pids: Vec<u32>,
    shared: bool,
    nested: bool,
}

impl CgroupPods {
    /// Looks at nothing yet, but learns the node's own netns. `reconcile` is the time between two looks when nothing
    /// tells of a change. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// inotify can't be used, or the node's netns can't be told.
    pub fn new(options: CgroupOptions, reconcile: Duration) -> Result<Self> {
        let hierarchies = match options.root {
            Some(root) => vec![root],
            None => kubepods::cgroup_mounts(&fs::read_to_string("/proc/self/mountinfo")?),
        };
        Ok(Self {
            hierarchies,
            kubepods: None,
            rules: options.rules,
            infos: HashMap::new(),
            node: node_netns(&options.node_netns)?,
            known: BTreeMap::new(),
            crowded: BTreeSet::new(),
            watch: Watch::new(reconcile)?,
        })
    }

    /// The kubelet's cgroup: all pods are below it.
    ///
    /// # Errors
    /// There is none, or several that can't be told apart.
    pub fn kubepods(&mut self) -> Result<PathBuf> {
        let kubepods = match self.kubepods.take().filter(|path| path.exists()) {
            Some(kubepods) => kubepods,
            None => kubepods::find(&self.hierarchies, std::process::id())?,
        };
        self.kubepods = Some(kubepods.clone());
        Ok(kubepods)
    }

    /// What the API server says of this node's pods now, by [`cgroup_uid`](super::decide::cgroup_uid).
    pub fn set_pods(&mut self, infos: HashMap<String, PodInfo>) {
        for (uid, info) in &infos {
            if let Some(value) = info.unknown_redirect()
                && self.infos.get(uid).and_then(PodInfo::unknown_redirect) != Some(value)
            {
                let (namespace, pod) = (&info.namespace, &info.name);
                tracing::warn!(
                    namespace,
                    pod,
                    value,
                    "nodetls.io/redirect: neither `enabled` nor `disabled`: ignored"
                );
            }
        }
        self.infos = infos;
    }

    /// Resolves when it is time for a look: a container has started or ended, or the last look was long ago. Cancelling
    /// it loses nothing.
    pub async fn changed(&mut self) {
        self.watch.changed().await;
    }

    /// The netns of all pods that have a process now, named `UID/INODE`, and the node's own.
    ///
    /// # Errors
    /// The cgroups can't be found or read. A pod that can't be looked at is told in the listing.
    pub fn list(&mut self) -> Result<Listing> {
        // Even if it fails: the next one must wait.
        self.watch.looked();
        let mut failed = BTreeMap::new();
        let mut claims: BTreeMap<u64, Vec<Claim>> = BTreeMap::new();
        let mut crowded = BTreeSet::new();
        for pod in self.pods()? {
            let (found, more) = self.look(&pod).unwrap_or_else(|error| {
                failed.insert(pod.uid.clone(), error);
                (self.remembered(&pod.uid), 0)
            });
            if more > 0 {
                self.tell_crowded(&pod.uid);
                crowded.insert(pod.uid.clone());
            }
            for (inode, claim) in found {
                claims.entry(inode).or_default().push(claim);
            }
        }
        self.crowded = crowded;
        let before = std::mem::take(&mut self.known);
        for (inode, claims) in claims {
            if let Some(owner) = owner(claims, before.get(&inode)) {
                self.known.insert(inode, owner);
            }
        }
        let netns = self.netns(&before);
        Ok(Listing { netns, failed })
    }

    fn pods(&mut self) -> Result<Vec<PodDir>> {
        let kubepods = self.kubepods()?;
        kubepods::pods(&kubepods, |dir| self.watch.add(dir))
    }

    fn tell_crowded(&self, pod: &str) {
        if !self.crowded.contains(pod) {
            tracing::warn!(
                pod = self.label(pod),
                "has more than {NETNS_PER_POD} network namespaces: from the others connects to targets are refused"
            );
        }
    }

    /// The netns of a pod's processes, the node's excepted; and how many processes are in others, as there are too many.
    fn look(&self, pod: &PodDir) -> Result<(BTreeMap<u64, Claim>, usize)> {
        let mut visit = |dir: &_| self.watch.add(dir);
        let pids = kubepods::processes(&pod.path, &mut visit)?;
        let mut inside = Vec::new();
        for &pid in &pids {
            if let Some(inode) = netns(pid)?.filter(|inode| !self.node.contains_key(inode)) {
                inside.push((pid, inode));
            }
        }
        let own = self.in_order(&pod.uid, &mut inside);
        let mut claims: BTreeMap<u64, Claim> = BTreeMap::new();
        let (mut opened, mut more) = (HashMap::new(), 0);
        for (pid, inode) in inside {
            if let Some(claim) = claims.get_mut(&inode) {
                claim.pids.push(pid);
                continue;
            }
            if claims.len() == NETNS_PER_POD {
                more += 1;
                continue;
            }
            let file = match self.known.get(&inode) {
                Some(known) => Arc::clone(&known.file),
                None => match open_netns(pid)? {
                    Some((same, file)) if same == inode => file,
                    _ => continue,
                },
            };
            if !self.known.contains_key(&inode) {
                opened.insert(inode, pid);
            }
            let mut claim = Claim::new(pod, file, pid);
            claim.nested = own.is_some_and(|own| own != inode);
            claims.insert(inode, claim);
        }
        if !opened.is_empty() {
            // A process may have ended before we opened its netns, and its pid may be another's now.
            let still = kubepods::processes(&pod.path, &mut visit)?;
            claims.retain(|inode, _| opened.get(inode).is_none_or(|pid| still.contains(pid)));
        }
        for (inode, claim) in &mut claims {
            if self.known.get(inode).is_none_or(|known| known.shared) {
                claim.shared = is_shared_with_parent(*inode, &claim.pids, &pids)?;
            }
        }
        Ok((claims, more))
    }

    /// If a pod has processes in several netns: puts those in netns that are known as its first, then the oldest; and which
    /// netns is its own, that of its oldest process. (Pids are given anew, so they don't tell.)
    fn in_order(&self, uid: &str, inside: &mut [(u32, u64)]) -> Option<u64> {
        let (_, first) = *inside.first()?;
        if inside.iter().all(|(_, inode)| *inode == first) {
            return None;
        }
        // Of one that has ended meanwhile it does not matter; within a tick of 10 ms pids do tell.
        inside.sort_by_cached_key(|(pid, _)| (started(*pid).unwrap_or(u64::MAX), *pid));
        let (_, own) = inside[0];
        let known = |inode| self.known.get(&inode).is_some_and(|known| known.uid == uid);
        inside.sort_by_key(|(_, inode)| !known(*inode));
        Some(own)
    }

    /// What the last look found of a pod.
    fn remembered(&self, uid: &str) -> BTreeMap<u64, Claim> {
        let known = self.known.iter().filter(|(_, known)| known.uid == uid);
        known
            .map(|(inode, known)| {
                let claim = Claim {
                    uid: uid.to_owned(),
                    file: Arc::clone(&known.file),
                    pids: Vec::new(),
                    shared: known.shared,
                    nested: known.nested,
                };
                (*inode, claim)
            })
            .collect()
    }

    fn label(&self, uid: &str) -> String {
        match self.infos.get(uid) {
            Some(info) => format!("{}/{}", info.namespace, info.name),
            None => uid.to_owned(),
        }
    }

    fn netns(&self, before: &BTreeMap<u64, Known>) -> BTreeMap<String, Netns> {
        let mut all = BTreeMap::new();
        for (&inode, file) in &self.node {
            let netns = Netns {
                label: "(the node's own)".to_owned(),
                namespace: None,
                file: Arc::clone(file),
                inode,
                decision: Decision::Bypass(Bypass::HostNetwork),
                pod_uid: None,
                nested: false,
            };
            all.insert(format!("node/{inode}"), netns);
        }
        for (&inode, known) in &self.known {
            let uid = &known.uid;
            let mut decision = decide(self.infos.get(uid), &self.rules);
            if known.shared && decision == Decision::Enrol {
                // Neither may the node's netns be enrolled, nor a pod's be bypassed.
                decision = Decision::Deny;
                if before.get(&inode).is_none_or(|before| !before.shared) {
                    tracing::warn!(
                        pod = uid,
                        inode,
                        "a process outside the pod started one in the same netns: if it is the node's, name it"
                    );
                }
            }
            let netns = Netns {
                label: self.label(uid),
                namespace: self.infos.get(uid).map(|info| info.namespace.clone()),
                file: Arc::clone(&known.file),
                inode,
                decision,
                pod_uid: Some(uid.clone()),
                nested: known.nested,
            };
            all.insert(format!("{uid}/{inode}"), netns);
        }
        all
    }
}

impl Claim {
    fn new(pod: &PodDir, file: Arc<File>, pid: u32) -> Self {
        Self {
            uid: pod.uid.clone(),
            file,
            pids: vec![pid],
            shared: false,
            nested: false,
        }
    }
}

/// Whose netns it is when several pods have processes in it (a privileged one may enter another's): its owner before,
/// else the one with the most processes.
fn owner(claims: Vec<Claim>, before: Option<&Known>) -> Option<Known> {
    let rank = |claim: &Claim| {
        let was = before.is_some_and(|before| before.uid == claim.uid);
        (was, claim.pids.len())
    };
    let claim = claims.into_iter().max_by_key(rank)?;
    Some(Known {
        uid: claim.uid,
        file: claim.file,
        shared: claim.shared,
        nested: claim.nested,
    })
}
