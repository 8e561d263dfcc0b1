//! A cluster, watched: BackendTLSPolicies, Services, the EndpointSlices of headless ones, Namespaces, one node's pods,
//! and the CA certificates that the controller mirrors.
//!
//! Rules: nothing is published before every watch has listed once; what can't be watched for a while stays as it was;
//! a policy's removal is believed only after a look at its CRD; what was last complete is kept on disk for a start
//! without API server.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use kube::Client;
use tokio::sync::{mpsc, watch as latest};
use tokio_util::task::AbortOnDropHandle;

use super::Update;
use crate::pods::decide::PodInfo;

pub(crate) mod by_name;
mod cache;
mod crd;
mod debounce;
mod driver;
mod mirror;
pub(crate) mod once;
mod publish;
mod reduce;
mod report;
mod state;
mod store;
#[cfg(test)]
mod tests;
mod watch;

pub(crate) use cache::{forget, kept, path as kept_path};
pub use crd::Crd;
pub(crate) use crd::{VERSIONS, policies};
pub use mirror::{
    MIRROR_LABEL, SOURCE_KEYS, SOURCE_KIND, SOURCE_NAME, SOURCE_NAMESPACE, mirror_name,
};
pub(crate) use mirror::{mirror_source, mirrored_object};
pub use reduce::Namespace;
pub(crate) use report::follow;
pub(crate) use state::{FORBIDDEN, UNAUTHORIZED, chain};
pub use state::{Resource, State, Synced, WatchFailure};

/// What the source needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// Nodetls' own namespace, where the controller mirrors CA certificates.
    pub namespace: String,
    /// A directory on the node, in which the last objects are kept; `None` keeps none.
    pub cache: Option<PathBuf>,
    /// The node whose pods are wanted; `None` asks for none.
    pub node: Option<String>,
    /// Whether a change of nothing but a policy's status is one to tell: for who writes it.
    pub statuses: bool,
}

/// Every Namespace, by name.
pub type Namespaces = BTreeMap<String, Namespace>;

/// The pods of the node, by [`cgroup_uid`](crate::pods::decide::cgroup_uid).
pub type Pods = HashMap<String, PodInfo>;

/// Follows a cluster. Dropping it ends the watches.
#[derive(Debug)]
pub struct Kube {
    updates: mpsc::Receiver<Update>,
    state: latest::Receiver<State>,
    namespaces: latest::Receiver<Arc<Namespaces>>,
    pods: latest::Receiver<Arc<Pods>>,
    _task: AbortOnDropHandle<()>,
}

impl Kube {
    /// Starts to watch. To be called within a tokio runtime.
    pub fn start(client: Client, options: Options) -> Self {
        // One place: an update is made when there is room for it, so it is never older than the one before.
        let (updates_to, updates) = mpsc::channel(1);
        let (state_to, state) = latest::channel(State::default());
        let (namespaces_to, namespaces) = latest::channel(Arc::default());
        let (pods_to, pods) = latest::channel(Arc::default());
        let outputs = driver::Outputs {
            updates: updates_to,
            state: state_to,
            namespaces: namespaces_to,
            pods: pods_to,
        };
        let task = tokio::spawn(driver::run(client, options, outputs));
        Self {
            updates,
            state,
            namespaces,
            pods,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// Waits until the objects are others than before; the first time, until they are complete. Its `errors` are empty:
    /// see [`Kube::state`]. Cancelling it loses nothing.
    pub async fn next(&mut self) -> Update {
        match self.updates.recv().await {
            Some(update) => update,
            // The task ends only with us.
            None => std::future::pending().await,
        }
    }

    /// How well the objects are in step with the API server.
    pub fn state(&self) -> latest::Receiver<State> {
        self.state.clone()
    }

    /// The Namespaces; complete before the first [`Update`], empty until then.
    pub fn namespaces(&self) -> latest::Receiver<Arc<Namespaces>> {
        self.namespaces.clone()
    }

    /// The node's pods, each with its Namespace's labels; complete before the first [`Update`], empty until then.
    pub fn pods(&self) -> latest::Receiver<Arc<Pods>> {
        self.pods.clone()
    }
}

/// A client of the API server, and nodetls' own namespace there: `namespace`, or else that of the pod or kubeconfig.
///
/// # Errors
/// There is neither a pod's ServiceAccount nor a kubeconfig.
pub(crate) async fn connect(namespace: Option<&str>) -> Result<(Client, String)> {
    let client = Client::try_default().await.context(
        "the API server's address and credentials: run as a pod with a ServiceAccount, or set KUBECONFIG",
    )?;
    let namespace = namespace.unwrap_or(client.default_namespace()).to_owned();
    Ok((client, namespace))
}
