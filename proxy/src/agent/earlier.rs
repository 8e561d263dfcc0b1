//! Connections to targets that nobody has turned: older than the enrolment of their pod, or than the target. They go on as
//! they are, in plaintext as a rule. They are told of, and reset if the node's owner says so.

use std::collections::HashSet;
use std::io;
use std::mem::take;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aya::maps::{MapData, MapType};
use socket2::Socket;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::Instant;

use super::Agent;
use crate::exec;
use crate::policy::{Snapshot, Target};
use crate::sock_diag::{connected, destroy};
use crate::status::EarlierConnection;

/// How often to look at all pods without a change: for the sockets of processes outside our cgroup. Each look has the kernel
/// go through all sockets of the machine, some milliseconds.
const ALL: Duration = Duration::from_secs(60);

/// The look for such connections, and what it has found.
pub(super) struct Earlier {
    cut: bool,
    /// The maps in which agents have marked their sockets, of whatever layout: the pins of others go, their sockets may stay.
    marks: Vec<Arc<OwnedFd>>,
    /// The netns that were looked at since their enrolment and since the last change of targets, by cookie.
    looked_at: HashSet<u64>,
    all_at: Instant,
    looking: Option<JoinHandle<Found>>,
    left: HashSet<EarlierConnection>,
}

/// What a look has found.
#[derive(Default)]
pub(super) struct Found {
    left: HashSet<EarlierConnection>,
    cut: Vec<EarlierConnection>,
}

impl Earlier {
    /// Of agents whose pins are in `layouts`.
    pub(super) fn new<'a>(cut: bool, layouts: impl Iterator<Item = &'a Path>) -> Self {
        Self {
            cut,
            marks: layouts.filter_map(marks).collect(),
            looked_at: HashSet::new(),
            all_at: Instant::now(),
            looking: None,
            left: HashSet::new(),
        }
    }

    /// The targets are others: all netns are to be looked at.
    pub(super) fn start_again(&mut self) {
        self.looked_at.clear();
        self.all_at = Instant::now();
    }

    /// Resolves when a look has ended; never without one.
    pub(super) async fn found(&mut self) -> Found {
        let Some(looking) = &mut self.looking else {
            return std::future::pending().await;
        };
        let found = looking.await.unwrap_or_else(|error| {
            tracing::error!(%error, "the look for connections from before has failed");
            Found::default()
        });
        self.looking = None;
        found
    }
}

/// The map OWN_SOCKETS of the instance that is pinned there.
fn marks(pins: &Path) -> Option<Arc<OwnedFd>> {
    let map = MapData::from_pin(pins.join("maps/OWN_SOCKETS")).ok()?;
    // In another layout it may be anything.
    let holds_marks = map.info().ok()?.map_type().ok()? == MapType::SkStorage;
    holds_marks.then(|| map.fd().as_fd().try_clone_to_owned().ok().map(Arc::new))?
}

impl Agent {
    /// To be called now and then: in a netns of our cgroup no such connection comes without a change.
    pub(super) async fn look_for_earlier(&mut self) {
        let in_force = self.published && self.publish_again.is_none() && self.in_charge();
        if !in_force || self.audit.is_some() {
            return self.tell_of_earlier(Found::default());
        }
        if self.earlier.looking.is_some() {
            return;
        }
        if self.earlier.all_at.elapsed() > ALL {
            self.earlier.start_again();
        }
        let looked_at = take(&mut self.earlier.looked_at);
        let earlier = &self.earlier;
        let left = |netns: &str| earlier.left.iter().any(|one| one.netns == netns);
        let diags = self
            .pods
            .diags(|cookie, netns| !looked_at.contains(&cookie) || left(netns));
        let diags = diags.await;
        self.earlier.looked_at = self.pods.cookies().collect();
        if diags.is_empty() {
            return self.tell_of_earlier(Found::default());
        }
        let execs = exec::instances(&self.base).into_iter();
        let mut all: Vec<_> = execs.filter_map(|(pins, _)| marks(&pins)).collect();
        all.extend(self.earlier.marks.iter().cloned());
        let (snapshot, cut) = (self.snapshot.clone(), self.earlier.cut);
        // Some nodes have many thousands of sockets.
        let look = move || look(diags, &all, &snapshot, cut);
        self.earlier.looking = Some(spawn_blocking(look));
    }

    /// Also that there is none.
    pub(super) fn tell_of_earlier(&mut self, found: Found) {
        let Found { left, cut } = found;
        for one in &cut {
            tracing::warn!(
                netns = one.netns, local = %one.local, remote = %one.remote, service = one.service,
                "a connection from before is cut"
            );
        }
        self.metrics
            .earlier_connections_cut
            .inc_by(cut.len() as u64);
        if left == self.earlier.left {
            return;
        }
        self.metrics.earlier_connections.set(left.len() as i64);
        if !left.is_subset(&self.earlier.left) {
            tracing::warn!(
                count = left.len(),
                "connections from before go on as they are (see `nodetls status`): restart their clients, or start the \
                 agent with --cut-earlier-connections"
            );
        }
        let mut rows: Vec<_> = left.iter().cloned().collect();
        rows.sort();
        self.live.update(|facts| facts.earlier = rows.into());
        self.earlier.left = left;
    }
}

/// Those to a target that no agent has made.
fn look(
    diags: Vec<(String, Socket)>,
    marks: &[Arc<OwnedFd>],
    snapshot: &Snapshot,
    cut: bool,
) -> Found {
    let mut found = Found::default();
    for (netns, mut diag) in diags {
        let sockets = connected(&mut diag, marks, |remote| {
            snapshot.targets.contains_key(&remote)
        });
        let sockets = sockets.unwrap_or_else(|error| {
            tracing::warn!(netns, %error, "connections from before can't be found");
            Vec::new()
        });
        for socket in sockets {
            let Some(target) = snapshot.targets.get(&socket.remote) else {
                continue;
            };
            let Target { service, port, .. } = &**target;
            let connection = EarlierConnection {
                netns: netns.clone(),
                local: socket.local,
                remote: socket.remote,
                service: format!("{service}:{port}"),
            };
            match cut.then(|| destroy(&mut diag, &socket)) {
                Some(Ok(())) => found.cut.push(connection),
                Some(Err(error)) if error.kind() == io::ErrorKind::NotFound => {} // gone by itself
                Some(Err(error)) => {
                    tracing::warn!(netns, remote = %socket.remote, %error, "a connection from before can't be cut");
                    found.left.insert(connection);
                }
                None => _ = found.left.insert(connection),
            }
        }
    }
    found
}
