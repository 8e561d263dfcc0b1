//! What a target id means to the proxy: the compiled target with what is needed to serve it. Looked up once per
//! connection, which then keeps it to its end.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use nodetls_ebpf::IdRange;

use super::limit::Throttle;
use super::names::Names;
use crate::addr::{OriginalDst, UpstreamAddr};
use crate::failure::{Failure, Reason};
use crate::metrics::TargetMetrics;
use crate::policy::{AccessLog, ObjectName, Options, Target, Upstream};
use crate::tls::{ServerStream, Session, TlsClient};

/// A published target.
pub struct Route {
    /// Its id in the eBPF maps.
    pub id: u32,
    /// The address that clients dial.
    pub original_dst: OriginalDst,
    /// What the policy compiler made of it.
    pub target: Arc<Target>,
    /// Originates its TLS, without a client certificate; or why there is none.
    pub tls: Result<Arc<TlsClient>, Failure>,
    /// Its metrics.
    pub metrics: Arc<TargetMetrics>,
    /// Its lines in the log of connections that failed.
    pub(super) failures_logged: Throttle,
    succeeded: AtomicU32,
    next_endpoint: AtomicUsize,
    lately: Mutex<Lately>,
}

/// What came of a route's connections so far.
#[derive(Clone, Debug, Default)]
pub struct Lately {
    /// Why the last handshake failed, if it did.
    pub failing: Option<Failure>,
    /// When a handshake last succeeded, and what it negotiated.
    pub handshake: Option<(SystemTime, Session)>,
    /// When a connection last failed by no fault of the client's or ours, and why.
    pub failure: Option<(SystemTime, Failure)>,
}

/// A port of a Service with which the last TLS handshake failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failing {
    /// The Service.
    pub service: ObjectName,
    /// The Service's port number.
    pub port: u16,
    /// Its policy.
    pub policy: ObjectName,
    /// The policy's `metadata.uid`.
    pub policy_uid: Option<String>,
    /// The failure.
    pub failure: Failure,
}

impl Failing {
    /// `namespace/service:port`.
    pub fn port(&self) -> String {
        format!("{}:{}", self.service, self.port)
    }
}

impl Route {
    /// A route that picks its endpoints in turn.
    pub fn new(
        id: u32,
        original_dst: OriginalDst,
        target: Arc<Target>,
        tls: Result<Arc<TlsClient>, Failure>,
        metrics: Arc<TargetMetrics>,
    ) -> Self {
        Self {
            id,
            original_dst,
            target,
            tls,
            metrics,
            failures_logged: Throttle::default(),
            succeeded: AtomicU32::new(0),
            next_endpoint: AtomicUsize::new(0),
            lately: Mutex::default(),
        }
    }

    /// What its policy's options ask for; of a refused one nothing.
    pub fn options(&self) -> &Options {
        static NONE: LazyLock<Options> = LazyLock::new(Options::default);
        match &self.target.plan {
            Ok(origination) => &origination.options,
            Err(_) => &NONE,
        }
    }

    /// Whether a connection that has ended well leaves a line in the log. To be asked once for each.
    pub(super) fn wants_line(&self) -> bool {
        match self.options().access_log {
            AccessLog::On => true,
            AccessLog::Off => false,
            AccessLog::OneIn(number) => {
                let before = self.succeeded.fetch_add(1, Ordering::Relaxed);
                before.is_multiple_of(number.get())
            }
        }
    }

    /// Where to dial, in the order to try; empty if no endpoint is ready. An external host is looked up within `limit`.
    ///
    /// # Errors
    /// As [`Names::addresses`].
    pub(super) async fn upstream_addresses(
        &self,
        names: &Names,
        limit: Duration,
    ) -> Result<Vec<UpstreamAddr>, Failure> {
        let addresses = match &self.target.upstream {
            Upstream::ServiceAddress => vec![self.original_dst.0],
            Upstream::Endpoints(endpoints) => self.in_turn(endpoints.clone()),
            Upstream::Host { name, port } => {
                let found = names.addresses(name, limit).await?.into_iter();
                let found = found.map(|ip| SocketAddr::new(ip, *port)).collect();
                let mut addresses = self.in_turn(found);
                // Most pods have IPv4, not all have IPv6.
                addresses.sort_by_key(SocketAddr::is_ipv6);
                addresses
            }
        };
        Ok(addresses.into_iter().map(UpstreamAddr).collect())
    }

    /// Each connection begins with another one.
    fn in_turn(&self, mut addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let turn = self.next_endpoint.fetch_add(1, Ordering::Relaxed);
        let first = turn % addresses.len().max(1);
        addresses.rotate_left(first);
        addresses
    }

    /// Counts a connection that failed, and remembers why.
    pub fn record_failure(&self, failure: &Failure) {
        self.metrics.failed(failure.reason.as_str());
        self.show_failure(failure);
    }

    /// Remembers a failure; if it was the TLS handshake, as one that goes on.
    pub(super) fn show_failure(&self, failure: &Failure) {
        let mut lately = self.lock();
        if !matches!(failure.reason, Reason::ClientGone | Reason::ShutDown) {
            lately.failure = Some((SystemTime::now(), failure.clone()));
        }
        if failure.reason.is_of_handshake() {
            lately.failing = Some(failure.clone());
        }
    }

    /// What came of its connections so far.
    pub fn lately(&self) -> Lately {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Lately> {
        self.lately.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failing(&self) -> Option<Failing> {
        let failure = self.lock().failing.clone()?;
        Some(Failing {
            service: self.target.service.clone(),
            port: self.target.port,
            policy: self.target.policy.clone(),
            policy_uid: self.target.policy_uid.clone(),
            failure,
        })
    }

    /// Counts a TLS handshake; `stream` is there when it succeeded.
    pub fn record_handshake(&self, duration: Duration, stream: Option<&ServerStream>) {
        match stream.map(ServerStream::session) {
            Some(session) => {
                self.metrics.handshake_ok(session, duration);
                let mut lately = self.lock();
                lately.failing = None;
                lately.handshake = Some((SystemTime::now(), session));
            }
            None => self.metrics.handshake_failed(duration),
        }
    }
}

/// The published targets by id.
pub struct Routes {
    /// Which addresses stand for ids.
    pub ids: IdRange,
    /// Id → route.
    pub by_id: HashMap<u32, Arc<Route>>,
}

impl Routes {
    /// The target that a redirected connection's local address claims; both id and port must match.
    pub fn claimed(&self, local: SocketAddr) -> Option<&Arc<Route>> {
        let last_word = match local {
            SocketAddr::V4(v4) => v4.ip().to_bits(),
            SocketAddr::V6(v6) => v6.ip().to_bits() as u32,
        };
        self.by_id
            .get(&self.ids.id(last_word)?)
            .filter(|route| route.original_dst.0.port() == local.port())
    }

    /// The ports whose last handshake failed, in order.
    pub fn failing(&self) -> Vec<Failing> {
        let mut failing: Vec<_> = self
            .by_id
            .values()
            .filter_map(|route| route.failing())
            .collect();
        failing.sort_by_cached_key(|one| (one.service.clone(), one.port));
        failing.dedup_by(|one, other| (&one.service, one.port) == (&other.service, other.port));
        failing
    }
}
