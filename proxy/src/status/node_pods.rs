//! The node's pods, by name.

use std::sync::Arc;

use tokio::sync::watch;

use crate::ask::Unanswerable;
use crate::pods::decide::{PodInfo, Rules};
use crate::source::kube::Pods;

/// The pods of the node as the API server tells of them, and what is decided of each.
pub(crate) struct NodePods {
    pub(crate) node: String,
    pub(crate) infos: watch::Receiver<Arc<Pods>>,
    pub(crate) rules: Rules,
}

/// A pod of the node, as the API server tells of it.
pub(crate) struct Found {
    pub(crate) uid: String,
    /// `NAMESPACE/NAME`.
    pub(crate) name: String,
    pub(crate) info: PodInfo,
}

impl NodePods {
    /// The pod that is meant by `[NAMESPACE/]NAME`.
    ///
    /// # Errors
    /// There is none of that name, or several.
    pub(crate) fn find(&self, name: &str) -> Result<Found, Unanswerable> {
        let infos = self.infos.borrow();
        let full = |info: &PodInfo| format!("{}/{}", info.namespace, info.name);
        let mut found: Vec<_> = infos
            .iter()
            .filter(|(_, info)| full(info) == name || info.name == name)
            .map(|(uid, info)| Found {
                uid: uid.clone(),
                name: full(info),
                info: info.clone(),
            })
            .collect();
        if found.len() > 1 {
            let mut names: Vec<_> = found.into_iter().map(|found| found.name).collect();
            names.sort();
            return Err(Unanswerable(format!(
                "several pods of this node are called {name}: name one of {}",
                names.join(", ")
            )));
        }
        found.pop().ok_or_else(|| {
            let node = &self.node;
            Unanswerable(format!(
                "there is no pod {name} on node {node}: ask the agent of the pod's node, as `kubectl nodetls` does"
            ))
        })
    }
}
