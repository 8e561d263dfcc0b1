//! Which pods run here, and their enrolment: listeners in the pod's netns, its sk_lookup program, its entry in PODS.

pub mod named;
pub mod netns;

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use nodetls_ebpf::{ID_PREFIX_V6, LISTENER_V4, LISTENER_V6, Mode};
use tokio_util::sync::CancellationToken;

use self::named::{Named, NamedNetns};
use self::netns::{NetnsThread, current_cookie, tcp_socket};
use crate::redirect::{Lookup, PodModes, Redirect};

/// A port that no application listens on, so that no wildcard bind of the pod's collides (tcpmux, RFC 1078).
const LISTENER_PORT: u16 = 1;
const BACKLOG: i32 = 4096;

/// A pod's network namespace.
#[derive(Debug)]
pub struct Pod {
    /// The name of its netns.
    pub name: String,
    /// For making sockets in it.
    pub netns: Arc<File>,
    /// Fires when the pod is released: its connections end at once.
    pub released: CancellationToken,
}

/// Starts serving an enrolled pod's listeners.
pub trait Serve {
    /// Called once for each pod, before any connect of it is redirected.
    fn serve(&self, pod: &Arc<Pod>, listeners: Vec<TcpListener>);
}

/// A pod whose connects can be turned to us. Dropping it changes nothing in the kernel.
pub struct Enrolled {
    pod: Arc<Pod>,
    cookie: u64,
    lookup: Lookup,
    /// Duplicates of those served, for the sockmap.
    listeners: Vec<TcpListener>,
}

impl Enrolled {
    /// Attaches the sk_lookup program of `netns`, and has its listeners (from [`open`]) served.
    pub fn new(
        redirect: &Redirect,
        name: &str,
        netns: Arc<File>,
        cookie: u64,
        listeners: Vec<TcpListener>,
        server: &impl Serve,
    ) -> Result<Self> {
        let lookup = Lookup::attach(redirect, cookie, &netns)?;
        let pod = Arc::new(Pod {
            name: name.to_owned(),
            netns,
            released: CancellationToken::new(),
        });
        let duplicates = listeners.iter().map(TcpListener::try_clone);
        let duplicates = duplicates.collect::<Result<_, _>>()?;
        server.serve(&pod, listeners);
        Ok(Self {
            pod,
            cookie,
            lookup,
            listeners: duplicates,
        })
    }

    /// From here on new connections come to our listeners.
    pub fn listen(&mut self) -> Result<()> {
        for (slot, listener) in [LISTENER_V4, LISTENER_V6].into_iter().zip(&self.listeners) {
            self.lookup.set_listener(slot, listener)?;
        }
        Ok(())
    }
}

/// The cookie of `netns`, and listeners in it that no other agent's collide with.
pub async fn open(
    thread: &NetnsThread,
    netns: &Arc<File>,
    epoch: u64,
) -> Result<(u64, Vec<TcpListener>)> {
    thread
        .run(netns, move || Ok((current_cookie()?, listen(epoch)?)))
        .await
        .context("its listeners can't be opened")
}

/// The enrolled pods of this machine.
pub struct Pods {
    named: NamedNetns,
    thread: NetnsThread,
    epoch: u64,
    /// Our own netns, which nobody's name or pattern may enrol or release.
    own: u64,
    listening: bool,
    /// By name, with the inode of the netns.
    enrolled: BTreeMap<String, (u64, Enrolled)>,
    bypassed: BTreeMap<u64, u64>,
}

impl Pods {
    /// None is enrolled yet. `epoch` keeps our listeners apart from those of the agent before us.
    pub fn new(named: NamedNetns, thread: NetnsThread, epoch: u64, own: u64) -> Self {
        Self {
            named,
            thread,
            epoch,
            own,
            listening: false,
            enrolled: BTreeMap::new(),
            bypassed: BTreeMap::new(),
        }
    }

    /// How many are enrolled.
    pub fn len(&self) -> usize {
        self.enrolled.len()
    }

    /// Whether none is enrolled.
    pub fn is_empty(&self) -> bool {
        self.enrolled.is_empty()
    }

    /// Enrols the matching netns that are new, and releases those that are gone. Returns what failed, by name; it is
    /// tried again at the next call, and until then connects from there to targets are refused.
    pub async fn reconcile(
        &mut self,
        redirect: &Redirect,
        modes: &mut PodModes,
        server: &impl Serve,
    ) -> Result<BTreeMap<String, anyhow::Error>> {
        let list = self.named.list()?;
        self.release_gone(modes, &list);
        let mut failed = BTreeMap::new();
        for (name, named) in list {
            let result = if named.matches {
                self.enrol(redirect, modes, server, &name, named).await
            } else {
                self.bypass(modes, named).await
            };
            if let Err(error) = result {
                failed.insert(name, error);
            }
        }
        Ok(failed)
    }

    /// Takes the enrolled pods back from an agent that took them over and died.
    pub fn take_back(&mut self, redirect: &Redirect, modes: &mut PodModes) -> Result<()> {
        self.listening = false;
        for (_, pod) in self.enrolled.values_mut() {
            pod.lookup = Lookup::attach(redirect, pod.cookie, &pod.pod.netns)?;
            modes.set(pod.cookie, Mode::Redirect)?;
        }
        for cookie in self.bypassed.values() {
            modes.set(*cookie, Mode::Bypass)?;
        }
        Ok(())
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

    /// Removes what earlier agents left for netns that are neither enrolled nor bypassed now, `own` excepted.
    pub fn remove_stale(&self, redirect: &Redirect, modes: &mut PodModes) {
        let enrolled: HashSet<u64> = self.enrolled.values().map(|(_, pod)| pod.cookie).collect();
        for cookie in modes.cookies() {
            let bypassed = self.bypassed.values().any(|other| *other == cookie);
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
        named: Named,
    ) -> Result<()> {
        if self.enrolled.contains_key(name) {
            return Ok(());
        }
        let netns = Arc::new(named.file);
        let (cookie, listeners) = open(&self.thread, &netns, self.epoch).await?;
        if self
            .enrolled
            .values()
            .any(|(_, other)| other.cookie == cookie)
        {
            // A second name of the same netns.
            return Ok(());
        }
        if cookie == self.own {
            tracing::debug!(netns = name, "our own netns is not enrolled");
            return Ok(());
        }
        let mut enrolled = Enrolled::new(redirect, name, netns, cookie, listeners, server)?;
        if self.listening {
            enrolled.listen()?;
        }
        modes.set(cookie, Mode::Redirect)?;
        tracing::info!(netns = name, "enrolled");
        self.enrolled
            .insert(name.to_owned(), (named.inode, enrolled));
        Ok(())
    }

    /// Named netns that match no pattern are not ours to touch; unknown ones are denied.
    async fn bypass(&mut self, modes: &mut PodModes, named: Named) -> Result<()> {
        if self.bypassed.contains_key(&named.inode) {
            return Ok(());
        }
        let netns = Arc::new(named.file);
        let cookie = self.thread.run(&netns, current_cookie).await?;
        // Enrolled under another name.
        if !self.enrolled.values().any(|(_, pod)| pod.cookie == cookie) {
            modes.set(cookie, Mode::Bypass)?;
        }
        self.bypassed.insert(named.inode, cookie);
        Ok(())
    }

    fn release_gone(&mut self, modes: &mut PodModes, list: &BTreeMap<String, Named>) {
        let gone: Vec<String> = self
            .enrolled
            .iter()
            .filter(|(name, (inode, _))| list.get(*name).is_none_or(|named| named.inode != *inode))
            .map(|(name, _)| name.clone())
            .collect();
        for name in gone {
            if let Some((_, enrolled)) = self.enrolled.remove(&name) {
                modes.remove(enrolled.cookie);
                enrolled.pod.released.cancel();
                enrolled.lookup.remove();
                tracing::info!(netns = name, "released");
            }
        }
        let own = self.own;
        self.bypassed.retain(|inode, cookie| {
            let exists = list.values().any(|named| named.inode == *inode);
            if !exists && *cookie != own {
                modes.remove(*cookie);
            }
            exists
        });
    }
}

/// The listeners of one netns: sk_lookup hands them their connections, so their own addresses only have to be odd.
fn listen(epoch: u64) -> io::Result<Vec<TcpListener>> {
    let [high, low] = (epoch as u16).to_be_bytes();
    let prefix = ID_PREFIX_V6.map(|word| [(word >> 16) as u16, word as u16]);
    let [[a, b], [c, d], _] = prefix;
    let mut listeners = vec![listen_at(Ipv4Addr::new(127, 77, high, low).into())?];
    // A netns without IPv6 has no IPv6 clients either.
    if let Ok(listener) = listen_at(Ipv6Addr::new(a, b, c, d, 1, 0, 0, epoch as u16).into()) {
        listeners.push(listener);
    }
    Ok(listeners)
}

fn listen_at(ip: IpAddr) -> io::Result<TcpListener> {
    let bind = |port| -> io::Result<TcpListener> {
        let address = SocketAddr::from((ip, port));
        let socket = tcp_socket(address)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
            socket.set_freebind_v6(true)?;
        }
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    match bind(LISTENER_PORT) {
        // A process of the pod sits there, or an agent of another layout: any other port will do.
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => bind(0),
        result => result,
    }
}
