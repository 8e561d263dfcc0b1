//! nodetls, as `cargo xtask cluster install` installed it.

use crate::kubectl;

/// Its namespace.
pub const NAMESPACE: &str = "nodetls-system";

/// The agent's pod on `node`.
pub fn agent(node: &str) -> String {
    let on = format!("--field-selector=spec.nodeName={node},status.phase=Running");
    let pods = [
        "--namespace",
        NAMESPACE,
        "get",
        "pods",
        "--selector=app.kubernetes.io/component=agent",
        &on,
        "--output=jsonpath={.items[-1:].metadata.name}",
    ];
    kubectl(&pods)
}

/// What `nodetls status` says on `node`, whether all is well or not.
pub fn status(node: &str) -> String {
    let agent = agent(node);
    crate::text(&crate::exec(NAMESPACE, &agent, &["/nodetls", "status"]))
}
