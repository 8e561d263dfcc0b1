//! Leader election by a Lease (coordination.k8s.io/v1), with the durations of Kubernetes' own controllers.
//!
//! Clocks are not compared: a candidate takes a lease over when it has seen it unchanged for its whole duration, and a
//! leader that could not renew for a while counts itself out before any candidate can count it out.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease as LeaseObject, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, PostParams};
use tokio::time::{Instant, sleep};

use super::error::{describe, is_conflict, within};

/// After so long without a renewal others may take the lease.
const DURATION: Duration = Duration::from_secs(15);
/// After so long without a renewal the leader stops.
const DEADLINE: Duration = Duration::from_secs(10);
/// Between two attempts to acquire or to renew; also the limit of one request.
const RETRY: Duration = Duration::from_secs(2);

/// A candidate for one Lease.
pub(super) struct Lease {
    api: Api<LeaseObject>,
    name: String,
    /// Who we are: unique to this process.
    identity: String,
    /// The resourceVersion that another holder gave the Lease, and when we first saw it.
    seen: Option<(Option<String>, Instant)>,
    /// The Lease as we wrote it, and when we began to: we are its holder.
    held: Option<(LeaseObject, Instant)>,
}

impl Lease {
    pub(super) fn new(api: Api<LeaseObject>, name: String, identity: String) -> Self {
        Self {
            api,
            name,
            identity,
            seen: None,
            held: None,
        }
    }

    /// Ends when the lease is ours. `looked` is called once it is known who holds it.
    pub(super) async fn acquire(&mut self, mut looked: impl FnMut()) {
        let mut failing = false;
        loop {
            match within(RETRY, self.try_acquire()).await {
                Ok(acquired) => {
                    failing = false;
                    looked();
                    if acquired {
                        tracing::info!(lease = self.name, identity = self.identity, "leader");
                        return;
                    }
                }
                Err(error) if !failing => {
                    failing = true;
                    let (lease, error) = (&self.name, describe(&error));
                    tracing::error!(lease, "can't be acquired: {error}");
                }
                Err(_) => {}
            }
            sleep(RETRY).await;
        }
    }

    async fn try_acquire(&mut self) -> Result<bool, kube::Error> {
        let start = Instant::now();
        let Some(lease) = self.api.get_opt(&self.name).await? else {
            let lease = self.ours(LeaseObject::default());
            let created = self.api.create(&PostParams::default(), &lease).await;
            return self.took(created, start);
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.unwrap_or_default();
        if !holder.is_empty() && holder != self.identity {
            let version = &lease.metadata.resource_version;
            let seen = self.seen.take().filter(|(seen, _)| seen == version);
            let (_, since) = self.seen.insert(seen.unwrap_or((version.clone(), start)));
            let seconds = u64::try_from(spec.lease_duration_seconds.unwrap_or_default());
            if since.elapsed() < seconds.map_or(DURATION, Duration::from_secs) {
                tracing::debug!(lease = self.name, holder, "standing by");
                return Ok(false);
            }
        }
        self.replace(self.ours(lease), start).await
    }

    /// Ends when the lease is lost; that it is ours until then is renewed all the time. Poll it before whatever writes.
    pub(super) async fn hold(&mut self) {
        loop {
            let Some((lease, since)) = self.held.clone() else {
                return;
            };
            let left = DEADLINE.saturating_sub(since.elapsed());
            if left.is_zero() {
                tracing::error!(lease = self.name, "lost: not renewed in time");
                self.held = None;
                return;
            }
            sleep(RETRY.min(left)).await;
            match within(RETRY.min(left), self.renew(lease)).await {
                Ok(true) => {}
                Ok(false) => {
                    tracing::error!(lease = self.name, "lost: another holder took it");
                    self.held = None;
                    return;
                }
                Err(error) => {
                    tracing::warn!(lease = self.name, "not renewed: {}", describe(&error));
                }
            }
        }
    }

    /// Whether it is still ours. Of a conflict, the cause may be an edit of the Lease, or a renewal whose answer got lost.
    async fn renew(&mut self, lease: LeaseObject) -> Result<bool, kube::Error> {
        let start = Instant::now();
        if self.replace(self.ours(lease), start).await? {
            return Ok(true);
        }
        let lease = self.api.get(&self.name).await?;
        let spec = lease.spec.clone().unwrap_or_default();
        if spec.holder_identity.as_deref() != Some(self.identity.as_str()) {
            return Ok(false);
        }
        self.replace(self.ours(lease), start).await
    }

    /// Gives the lease up, so that another candidate need not wait for its end.
    pub(super) async fn release(&mut self) {
        let Some((mut lease, _)) = self.held.take() else {
            return;
        };
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = None;
        spec.lease_duration_seconds = Some(1);
        spec.renew_time = Some(MicroTime(Timestamp::now()));
        let params = PostParams::default();
        match within(RETRY, self.api.replace(&self.name, &params, &lease)).await {
            Ok(_) => tracing::info!(lease = self.name, "released"),
            Err(error) => tracing::warn!(lease = self.name, "not released: {}", describe(&error)),
        }
    }

    /// The Lease with us as its holder, renewed now.
    fn ours(&self, mut lease: LeaseObject) -> LeaseObject {
        let now = MicroTime(Timestamp::now());
        lease.metadata.name = Some(self.name.clone());
        let before = lease.spec.unwrap_or_default();
        let again = before.holder_identity.as_ref() == Some(&self.identity);
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: if again {
                before.acquire_time
            } else {
                Some(now.clone())
            },
            renew_time: Some(now),
            lease_transitions: Some(before.lease_transitions.unwrap_or(-1) + i32::from(!again)),
            ..before
        });
        lease
    }

    /// Writes it if nobody else did meanwhile (resourceVersion), and says whether it is ours.
    async fn replace(&mut self, lease: LeaseObject, start: Instant) -> Result<bool, kube::Error> {
        let params = PostParams::default();
        let written = self.api.replace(&self.name, &params, &lease).await;
        self.took(written, start)
    }

    fn took(
        &mut self,
        written: Result<LeaseObject, kube::Error>,
        start: Instant,
    ) -> Result<bool, kube::Error> {
        match written {
            Ok(lease) => {
                self.held = Some((lease, start));
                Ok(true)
            }
            Err(error) if is_conflict(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
