//! Which pods run here, and their enrolment: listeners in the pod's netns, its sk_lookup program, its entry in PODS.

pub mod cgroups;
pub mod decide;
mod kubepods;
mod listeners;
pub mod lister;
pub mod local_route;
pub mod named;
pub mod netns;
mod process;
mod retry;
mod watch;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::net::TcpListener;
use std::sync::Arc;

use anyhow::Result;
use nodetls_ebpf::{IdRange, LISTENER_V4, LISTENER_V6, Mode};
use socket2::Socket;
use tokio::sync::SetOnce;
use tokio_util::sync::CancellationToken;

use self::decide::{Bypass, Decision, PodInfo};
pub(crate) use self::listeners::address_v6;
use self::listeners::mode;
pub use self::listeners::{Ready, open, own_listeners};
use self::lister::{Lister, Netns};
use self::netns::{NetnsThread, current_cookie};
use self::retry::Retry;
use crate::redirect::{Effect, Lookup, PodModes, Redirect};
use crate::sock_diag;

/// A pod's network namespace.
#[derive(Debug)]
pub struct Pod {
    /// The name of its netns.
    pub name: String,
    /// Its Kubernetes namespace, once the API server has told of it.
    pub namespace: SetOnce<String>,
    /// What its netns have in common, if it can have several.
    pub uid: Option<String>,
    /// For making sockets in it.
    pub netns: Arc<File>,
    /// Fires when the pod is released: its connections end at once.
    pub released: CancellationToken,
}

impl Pod {
    /// A pod for connections from `netns`.
    pub fn new(name: &str, namespace: Option<&str>, netns: Arc<File>) -> Self {
        Self {
            name: name.to_owned(),
            namespace: SetOnce::new_with(namespace.map(str::to_owned)),
            uid: None,
            netns,
            released: CancellationToken::new(),
        }
    }
}

/// Starts serving an enrolled pod's listeners.
pub trait Serve {
    /// Called once for each pod, before any connect of it is redirected.
    fn serve(&self, pod: &Arc<Pod>, listeners: Vec<TcpListener>);
}

/// A pod whose connects can be turned to us. Dropping it changes nothing in the kernel.
pub struct Enrolled {
    pod: Arc<Pod>,
    lookup: Lookup,
    ready: Ready,
}

impl Enrolled {
    /// Attaches the sk_lookup program of `pod`'s netns, whose listeners are to get its connections.
    pub fn new(redirect: &Redirect, pod: Pod, ready: Ready) -> Result<Self> {
        let lookup = Lookup::attach(redirect, ready.cookie, &pod.netns)?;
        Ok(Self {
            pod: Arc::new(pod),
            lookup,
            ready,
        })
    }

    /// From here on the pod's connects to targets are turned to the listeners.
    pub fn redirect(&self, modes: &mut PodModes) -> Result<()> {
        modes.set(self.ready.cookie, self.ready.mode)
    }

    /// From here on new connections come to our listeners, and wait there.
    pub fn listen(&mut self) -> Result<()> {
        for (slot, listener) in [LISTENER_V4, LISTENER_V6]
            .into_iter()
            .zip(&self.ready.listeners)
        {
            self.lookup.set_listener(slot, listener)?;
        }
        Ok(())
    }

    /// Has them served. The listeners stay open until both this and the server's are dropped.
    pub fn serve(&self, server: &impl Serve) -> Result<()> {
        let listeners = self.ready.listeners.iter().map(TcpListener::try_clone);
        server.serve(&self.pod, listeners.collect::<Result<_, _>>()?);
        Ok(())
    }
}

/// The enrolled pods of this machine.
pub struct Pods {
    lister: Lister,
    thread: NetnsThread,
    epoch: u64,
    /// Our own netns, which nobody's name or pattern may enrol or release.
    own: u64,
    effect: Effect,
    listening: bool,
    /// By name, with the inode of the netns.
    enrolled: BTreeMap<String, (u64, Enrolled)>,
    /// By the inode of the netns.
    bypassed: BTreeMap<u64, Bypassed>,
    /// Those that could not be enrolled, as one whose loopback device is not up yet.
    failing: Retry,
    /// Names of the nested ones that could not.
    nested: BTreeSet<String>,
}

/// A netns that is left alone.
struct Bypassed {
    label: String,
    cookie: u64,
    reason: Bypass,
}

impl Pods {
    /// None is enrolled yet. `epoch` keeps our listeners apart from those of the agent before us.
    pub fn new(lister: Lister, thread: NetnsThread, epoch: u64, own: u64, effect: Effect) -> Self {
        Self {
            effect,
            lister,
            thread,
            epoch,
            own,
            listening: false,
            enrolled: BTreeMap::new(),
            bypassed: BTreeMap::new(),
            failing: Retry::new(),
            nested: BTreeSet::new(),
        }
    }

    /// How many are enrolled.
    pub fn len(&self) -> usize {
        self.enrolled.len()
    }

    /// The names of the netns that are enrolled or bypassed, by cookie.
    pub fn names(&self) -> BTreeMap<u64, String> {
        let enrolled = self.enrolled.values();
        let enrolled = enrolled.map(|(_, pod)| (pod.ready.cookie, &pod.pod.name));
        let bypassed = self.bypassed.values();
        let bypassed = bypassed.map(|netns| (netns.cookie, &netns.label));
        let mut names: BTreeMap<_, _> = bypassed
            .chain(enrolled)
            .map(|(cookie, name)| (cookie, name.clone()))
            .collect();
        names.insert(self.own, "(the agent's own)".to_owned());
        names
    }

    /// Those that are enrolled.
    pub fn enrolled(&self) -> Arc<[Arc<Pod>]> {
        let pods = self.enrolled.values();
        pods.map(|(_, enrolled)| Arc::clone(&enrolled.pod))
            .collect()
    }

    /// Whether none is enrolled.
    pub fn is_empty(&self) -> bool {
        self.enrolled.is_empty()
    }

    /// How many netns are left alone, by the reason.
    pub fn bypassed(&self) -> BTreeMap<Bypass, usize> {
        let mut counts = BTreeMap::new();
        for bypassed in self.bypassed.values() {
            *counts.entry(bypassed.reason).or_default() += 1;
        }
        counts
    }

    /// Resolves when pods should be reconciled. Cancelling it loses nothing.
    pub async fn changed(&mut self) {
        tokio::select! {
            () = self.lister.changed() => {}
            () = self.failing.due() => {}
        }
    }

    /// What the API server says of this node's pods now; in force with the next [`Pods::reconcile`].
    pub fn set_pods(&mut self, infos: HashMap<String, PodInfo>) {
        self.lister.set_pods(infos);
    }

    /// Enrols what is new, and releases what is gone. Returns what failed, by name; it is tried again at the next call,
    /// and until then connects from there to targets are refused. Of those that are nested in a pod the log alone tells:
    /// else any pod could have the agent not ready.
    pub async fn reconcile(
        &mut self,
        redirect: &Redirect,
        modes: &mut PodModes,
        server: &impl Serve,
    ) -> Result<BTreeMap<String, anyhow::Error>> {
        let list = self.lister.list()?;
        self.release_gone(modes, &list.netns);
        let (mut failed, mut nested) = (list.failed, BTreeMap::new());
        for (name, netns) in list.netns {
            let is_nested = netns.nested;
            let result = match netns.decision {
                Decision::Enrol if self.effect == Effect::Audit => Ok(()),
                Decision::Enrol => self.enrol(redirect, modes, server, &name, netns).await,
                Decision::Bypass(reason) => self.bypass(modes, netns, reason).await,
                // What has no entry in PODS is refused, and in audit mode let through and counted.
                Decision::Deny => Ok(()),
            };
            if let Err(error) = result {
                let of_its_kind = if is_nested { &mut nested } else { &mut failed };
                of_its_kind.insert(name, error);
            }
        }
        self.tell_nested(nested);
        self.failing.set(failed.keys().cloned().collect());
        Ok(failed)
    }

    /// Logs which nested ones could not be enrolled, each once.
    fn tell_nested(&mut self, failed: BTreeMap<String, anyhow::Error>) {
        for (netns, error) in &failed {
            if !self.nested.contains(netns) {
                let error = format!("{error:#}");
                tracing::warn!(
                    netns,
                    error,
                    "nested in a pod and not enrolled: connects to targets from there are refused"
                );
            }
        }
        self.nested = failed.into_keys().collect();
    }

    /// Sees that each pod still has its IPv6 route, which goes with its loopback device: without, connects over IPv6
    /// are refused. To be called now and then.
    pub async fn keep_routes(&mut self, modes: &mut PodModes) {
        for (_, pod) in self.enrolled.values_mut() {
            let has_v6_listener = pod.ready.listeners.len() > 1;
            let work = move || Ok(mode(has_v6_listener, IdRange::AGENT));
            let now = self.thread.run(&pod.pod.netns, work).await;
            let now = now.unwrap_or(Mode::RedirectV4);
            if now == pod.ready.mode {
                continue;
            }
            let netns = &pod.pod.name;
            match modes.set(pod.ready.cookie, now) {
                Ok(()) => {
                    tracing::info!(netns, ipv6 = now == Mode::Redirect, "loopback changed");
                    pod.ready.mode = now;
                }
                Err(error) => tracing::error!(netns, error = format!("{error:#}"), "not in PODS"),
            }
        }
    }

    /// The cookies of those that are enrolled.
    pub(crate) fn cookies(&self) -> impl Iterator<Item = u64> {
        self.enrolled.values().map(|(_, pod)| pod.ready.cookie)
    }

    /// For asking about the sockets of enrolled pods, by their names: of those that are wanted, by cookie and name, and can
    /// still be entered.
    pub(crate) async fn diags(&self, wanted: impl Fn(u64, &str) -> bool) -> Vec<(String, Socket)> {
        let mut diags = Vec::new();
        let enrolled = self.enrolled.values();
        let enrolled = enrolled.filter(|(_, one)| wanted(one.ready.cookie, &one.pod.name));
        for (_, Enrolled { pod, .. }) in enrolled {
            match self.thread.run(&pod.netns, sock_diag::open).await {
                Ok(diag) => diags.push((pod.name.clone(), diag)),
                Err(error) => tracing::warn!(netns = pod.name, %error, "its sockets can't be told"),
            }
        }
        diags
    }

    /// Takes the enrolled pods back from an agent that took them over and died.
    pub fn take_back(&mut self, redirect: &Redirect, modes: &mut PodModes) -> Result<()> {
        self.listening = false;
        // First, since a netns may have a name of either kind: then it is redirected.
        for bypassed in self.bypassed.values() {
            modes.set(bypassed.cookie, Mode::Bypass)?;
        }
        for (_, pod) in self.enrolled.values_mut() {
            pod.lookup = Lookup::attach(redirect, pod.ready.cookie, &pod.pod.netns)?;
            pod.redirect(modes)?;
        }
        Ok(())
    }

    /// The pins are at another place now.
    pub fn follow(&mut self, redirect: &Redirect) {
        for (_, pod) in self.enrolled.values_mut() {
            pod.lookup.follow(redirect);
        }
    }

    /// From here on new connections of all pods come to our listeners, of those enrolled later too. Until then they go
    /// to the agent before us, or are refused when there is none.
    pub fn listen(&mut self) -> Result<()> {
        self.listening = true;
        let mut pods = self.enrolled.values_mut();
        pods.try_for_each(|(_, pod)| pod.listen())
    }

    /// Whether new connections come to us.
    pub fn listening(&self) -> bool {
        self.listening
    }

    /// Removes what earlier agents left for netns that are neither enrolled nor bypassed now.
    pub fn remove_stale(&self, redirect: &Redirect, modes: &mut PodModes) {
        let enrolled = self.enrolled.values();
        let enrolled: HashSet<u64> = enrolled.map(|(_, pod)| pod.ready.cookie).collect();
        for cookie in modes.cookies() {
            let bypassed = self.bypassed.values().any(|other| other.cookie == cookie);
            if cookie != self.own && !bypassed && !enrolled.contains(&cookie) {
                modes.remove(cookie);
            }
        }
        crate::redirect::remove_stale(redirect.pins(), |cookie| enrolled.contains(&cookie));
    }

    async fn enrol(
        &mut self,
        redirect: &Redirect,
        modes: &mut PodModes,
        server: &impl Serve,
        name: &str,
        found: Netns,
    ) -> Result<()> {
        if let Some((_, enrolled)) = self.enrolled.get(name) {
            if let Some(namespace) = found.namespace {
                // A pod stays in its namespace: what is known already is the same.
                let _ = enrolled.pod.namespace.set(namespace);
            }
            return Ok(());
        }
        let (netns, label) = (found.file, found.label);
        let ready = open(&self.thread, &netns, self.epoch).await?;
        let cookie = ready.cookie;
        if self
            .enrolled
            .values()
            .any(|(_, other)| other.ready.cookie == cookie)
        {
            // A second name of the same netns.
            return Ok(());
        }
        if cookie == self.own {
            tracing::debug!(netns = label, "our own netns is not enrolled");
            return Ok(());
        }
        let mut pod = Pod::new(&label, found.namespace.as_deref(), netns);
        pod.uid = found.pod_uid;
        let mut enrolled = Enrolled::new(redirect, pod, ready)?;
        if self.listening {
            enrolled.listen()?;
        }
        enrolled.redirect(modes)?;
        // Last: what was served would have to be taken back if something failed.
        enrolled.serve(server)?;
        tracing::info!(netns = label, "enrolled");
        self.enrolled
            .insert(name.to_owned(), (found.inode, enrolled));
        Ok(())
    }

    /// What is not ours to touch needs an entry in PODS too: unknown netns are denied.
    async fn bypass(&mut self, modes: &mut PodModes, found: Netns, reason: Bypass) -> Result<()> {
        if let Some(before) = self.bypassed.get_mut(&found.inode) {
            (before.reason, before.label) = (reason, found.label);
            return Ok(());
        }
        let cookie = self.thread.run(&found.file, current_cookie).await?;
        // Enrolled under another name.
        let mut enrolled = self.enrolled.values();
        if !enrolled.any(|(_, pod)| pod.ready.cookie == cookie) {
            modes.set(cookie, Mode::Bypass)?;
        }
        let bypassed = Bypassed {
            label: found.label,
            cookie,
            reason,
        };
        self.bypassed.insert(found.inode, bypassed);
        Ok(())
    }

    /// Releases what is gone, and what is to be treated in another way than before.
    fn release_gone(&mut self, modes: &mut PodModes, list: &BTreeMap<String, Netns>) {
        let stays = |name: &String, inode: u64| {
            list.get(name)
                .is_some_and(|netns| netns.inode == inode && netns.decision == Decision::Enrol)
        };
        let gone: Vec<String> = self
            .enrolled
            .iter()
            .filter(|(name, (inode, _))| !stays(name, *inode))
            .map(|(name, _)| name.clone())
            .collect();
        for name in gone {
            if let Some((_, enrolled)) = self.enrolled.remove(&name) {
                modes.remove(enrolled.ready.cookie);
                enrolled.pod.released.cancel();
                enrolled.lookup.remove();
                // Under another name it may be one to bypass: that is to be said again.
                let cookie = enrolled.ready.cookie;
                self.bypassed.retain(|_, other| other.cookie != cookie);
                tracing::info!(netns = enrolled.pod.name, "released");
            }
        }
        let (own, enrolled) = (self.own, &self.enrolled);
        self.bypassed.retain(|inode, bypassed| {
            let stays = list.values().any(|netns| {
                netns.inode == *inode && matches!(netns.decision, Decision::Bypass(_))
            });
            let cookie = bypassed.cookie;
            // Enrolled under another name.
            let redirected = enrolled.values().any(|(_, pod)| pod.ready.cookie == cookie);
            if !stays && !redirected && cookie != own {
                modes.remove(cookie);
            }
            stays
        });
    }
}
