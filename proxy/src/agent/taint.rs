//! The startup taint: a node that joins with it takes no pod before its agent is ready.

use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::time::sleep;

use crate::source::kube::chain;

/// The taint's key.
const KEY: &str = "nodetls.io/agent-not-ready";
/// Between two attempts.
const RETRY: Duration = Duration::from_secs(5);

/// Removes the taint from the node; tries until it is done. To be called when the agent is ready.
pub(super) async fn remove(client: Client, node: String) {
    let nodes: Api<Node> = Api::all(client);
    loop {
        match try_remove(&nodes, &node).await {
            Ok(()) => return,
            Err(error) => {
                let error = chain(error.as_ref());
                tracing::error!(
                    node,
                    error,
                    "the taint {KEY} can't be removed: apply the component startup-taint again"
                );
            }
        }
        sleep(RETRY).await;
    }
}

async fn try_remove(nodes: &Api<Node>, name: &str) -> Result<()> {
    let node = nodes.get(name).await.context("the Node can't be read")?;
    let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
    let (ours, others): (Vec<_>, Vec<_>) = taints.into_iter().partition(|taint| taint.key == KEY);
    if ours.is_empty() {
        return Ok(());
    }
    // Refused if another has changed the node's taints meanwhile.
    let patch = Patch::Merge(json!({
        "metadata": {"resourceVersion": node.metadata.resource_version},
        "spec": {"taints": others},
    }));
    nodes
        .patch(name, &PatchParams::default(), &patch)
        .await
        .context("the Node can't be changed")?;
    tracing::info!(node = name, "the taint {KEY} is removed");
    Ok(())
}
