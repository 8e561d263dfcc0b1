//! Several agents on one node: which one is in charge, and how it passes from one to the next without a gap.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nodetls_ebpf::Mode;
use tokio::time::Instant;

use super::{Agent, BPFFS, taint};
use crate::pods::netns::current_cookie;
use crate::redirect::{Charge, Epoch, OnNode, look, remove_foreign};

/// How long an agent may take to be ready while another serves.
const PATIENCE: Duration = Duration::from_secs(60);

impl Agent {
    /// Looks who is in charge, and does what follows. False when we are to drain.
    pub(super) async fn keep_charge(&mut self) -> Result<bool> {
        match self.epoch.charge(&self.maps)? {
            Charge::Ours => {
                self.follow_bpffs();
                if self.publish_again.is_some_and(|at| at <= Instant::now()) {
                    self.publish();
                }
                self.settle()?;
                self.give_up()?;
            }
            Charge::Starting => self.standby(),
            Charge::Vacant => self.take_back().await?,
            Charge::Superseded => {
                tracing::info!("another agent has taken over");
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A newer agent has the maps, and is not ready. We stay ready: a DaemonSet would end an old pod that is not, whatever
    /// the new one is.
    fn standby(&mut self) {
        if !std::mem::replace(&mut self.standing_by, true) {
            tracing::warn!("a newer agent is starting, and until it is ready nothing changes here");
        }
    }

    /// One that can't get ready keeps an agent before us from following changes: better that one alone than neither.
    fn give_up(&self) -> Result<()> {
        let missing = self.readiness.missing();
        ensure!(
            missing.is_empty()
                || self.epoch.has_been_ready(&self.maps)?
                || self.since.elapsed() < PATIENCE
                || !self.epoch.has_serving_elders(),
            "not ready after {} s, while another agent serves, which now goes on: {}",
            PATIENCE.as_secs(),
            missing.join("; ")
        );
        Ok(())
    }

    /// A newer agent died before it was ready: all is as if it had never been.
    async fn take_back(&mut self) -> Result<()> {
        tracing::warn!("another agent died before it was ready: taking over again");
        self.epoch = Epoch::take(self.redirect.pins(), &mut self.maps)?;
        self.standing_by = false;
        self.live.update(|facts| facts.epoch = self.epoch.number());
        self.maps.pods.set(current_cookie()?, Mode::Bypass)?;
        self.attach()?;
        self.pods
            .take_back(&self.redirect, &mut self.maps.pods)
            .context("the network namespaces can't be taken back")?;
        self.reconcile_pods().await;
        self.publisher.read_ids(&self.maps);
        self.published = false;
        self.publish();
        self.settle()
    }

    /// Takes new connections, and lets the agents before us go, as soon as nothing is missing here. With none before us
    /// that serves there is no reason to wait for the last netns.
    pub(super) fn settle(&mut self) -> Result<()> {
        let fine = !self.readiness.has_problems();
        if fine || !self.epoch.has_serving_elders() {
            self.listen()?;
        }
        // Only now: whoever sees us ready may dial.
        self.starting = None;
        if self.readiness.missing().is_empty() && self.epoch.tell_ready(&mut self.maps)? {
            // Not before: an agent before us may serve what we failed to enrol.
            self.pods.remove_stale(&self.redirect, &mut self.maps.pods);
            if let Some(cluster) = &self.cluster {
                tokio::spawn(self.boot_guard.clone().settle(self.readiness.clone()));
                if self.remove_taint {
                    let (client, node) = (cluster.client.clone(), cluster.node.clone());
                    tokio::spawn(taint::remove(client, node));
                }
            }
        }
        Ok(())
    }

    /// Takes new connections from here on, once targets are published.
    pub(super) fn listen(&mut self) -> Result<()> {
        if !self.published || self.pods.listening() {
            return Ok(());
        }
        remove_foreign(&std::mem::take(&mut self.foreign));
        self.pods.listen()?;
        // In audit mode none come.
        Ok(self.epoch.set_serving(self.audit.is_none())?)
    }

    /// Pins what is pinned again if the node has another bpffs now: whoever comes after us looks there. Until it has one we
    /// stay ready: a DaemonSet would end us if we were not, and that would end what is in force.
    fn follow_bpffs(&mut self) {
        if self.cluster.is_none() {
            return;
        }
        let problem = match look(&self.base, &self.epoch) {
            Ok(OnNode::AsEver) => None,
            Ok(OnNode::NoBpffs) => Some(format!(
                "the bpffs of {} is unmounted on the node, and what is in force ends with this agent; mount it there \
                 before the agent ends: `mount -t bpf -o mode=700 bpf /sys/fs/bpf`",
                self.base.display()
            )),
            Ok(OnNode::Another) => match self.redirect.follow(&self.base, &mut self.epoch) {
                Ok(()) => {
                    self.pods.follow(&self.redirect);
                    let moved = self.redirect.pins().join("..");
                    self.live.update(|facts| facts.moved = Some(moved));
                    tracing::warn!("the node has another bpffs: all is pinned there again");
                    None
                }
                Err(error) => Some(format!(
                    "the node has another bpffs, and what is in force ends with this agent: {error:#}; see to that bpffs"
                )),
            },
            Ok(OnNode::Taken) => Some(
                "the node has another bpffs, and there another agent; what is in force ends with this one: end it \
                 (delete its pod) when that one is ready"
                    .to_owned(),
            ),
            Err(error) => {
                // Who started us may be of no mount namespace that we may see.
                tracing::debug!(%error, "the node's bpffs can't be looked at");
                None
            }
        };
        self.tell_of_bpffs(problem);
    }

    fn tell_of_bpffs(&self, problem: Option<String>) {
        match &problem {
            None => self.readiness.clear_note(BPFFS),
            Some(problem) => {
                if self.readiness.set_note(BPFFS, problem) {
                    tracing::error!("{problem}");
                }
            }
        }
        self.live.update(|facts| facts.bpffs = problem);
    }

    pub(super) fn in_charge(&self) -> bool {
        matches!(self.epoch.charge(&self.maps), Ok(Charge::Ours))
    }
}
