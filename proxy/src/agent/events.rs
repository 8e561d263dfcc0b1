//! Events (events.k8s.io/v1) on policies whose handshakes fail on this node: only agents see those.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::Client;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::controller::events::{self as controller, Notice};
use crate::proxy::Failing;
use crate::source::kube::{State, policies};

/// The API server keeps an Event for an hour; then it may be said again.
const AGAIN: Duration = Duration::from_secs(3600);

/// When to look again at what fails.
const RETRY: Duration = Duration::from_secs(60);

/// Writes Events as long as it lives.
pub(super) struct Events {
    failing: watch::Sender<Arc<[Failing]>>,
    _task: AbortOnDropHandle<()>,
}

impl Events {
    /// `state` tells in which version policies are served.
    pub(super) fn start(client: Client, node: &str, state: watch::Receiver<State>) -> Self {
        let (failing, receiver) = watch::channel(Arc::from([]));
        let writer = Writer {
            events: controller::Events::new(client, node),
            state,
            told: HashMap::new(),
        };
        let task = tokio::spawn(writer.follow(receiver));
        Self {
            failing,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// These fail now.
    pub(super) fn tell(&self, failing: Arc<[Failing]>) {
        self.failing.send_if_modified(|before| {
            let changed = *before != failing;
            *before = failing;
            changed
        });
    }
}

struct Writer {
    events: controller::Events,
    state: watch::Receiver<State>,
    /// When each was told.
    told: HashMap<String, Instant>,
}

impl Writer {
    async fn follow(mut self, mut failing: watch::Receiver<Arc<[Failing]>>) {
        // Also without a change: one may have failed to be written, or be due again.
        while !matches!(timeout(RETRY, failing.changed()).await, Ok(Err(_))) {
            let now = Arc::clone(&failing.borrow_and_update());
            self.told.retain(|_, since| since.elapsed() < AGAIN);
            for one in now.iter() {
                let uid = one.policy_uid.as_deref().unwrap_or_default();
                let what = format!("{uid} {} {}", one.port(), one.failure.reason);
                if self.told.contains_key(&what) {
                    continue;
                }
                match self.write(one).await {
                    Ok(()) => drop(self.told.insert(what, Instant::now())),
                    Err(error) => {
                        tracing::warn!(policy = %one.policy, error, "an Event can't be written");
                    }
                }
            }
        }
    }

    async fn write(&self, failing: &Failing) -> Result<(), String> {
        let version = self
            .state
            .borrow()
            .crd
            .as_ref()
            .and_then(|crd| crd.version());
        let (Some(version), policy) = (version, &failing.policy) else {
            return Err("BackendTLSPolicy is not served".to_owned());
        };
        let note = format!(
            "Service {}: TLS handshakes fail ({}): {}",
            failing.port(),
            failing.failure.reason,
            failing.failure
        );
        let notice = Notice::new("Handshake", "HandshakeFailed", &note);
        let uid = failing.policy_uid.as_deref();
        self.events
            .tell(&policies(version), policy, uid, vec![notice])
            .await
    }
}
