//! What the agent tells of policies: a log line for each condition that changed, and metrics.

use crate::metrics::PolicyCondition;
use crate::policy::PolicyStatus;

pub(crate) fn log_status(status: &PolicyStatus) {
    let policy = &status.policy;
    for problem in &status.problems {
        tracing::error!(%policy, "{problem}");
    }
    for ancestor in &status.ancestors {
        let conditions = [Some(&ancestor.accepted), ancestor.resolved_refs.as_ref()];
        for condition in conditions.into_iter().flatten() {
            let (reason, message) = (condition.reason.as_str(), &condition.message);
            if condition.status {
                tracing::info!(%policy, service = ancestor.service, reason, "{message}");
            } else {
                tracing::error!(%policy, service = ancestor.service, reason, "{message}");
            }
        }
    }
}

pub(super) fn conditions(status: &PolicyStatus) -> impl Iterator<Item = PolicyCondition> {
    let condition = |condition: &'static str, reason: &'static str| PolicyCondition {
        namespace: status.policy.namespace.clone(),
        policy: status.policy.name.clone(),
        condition,
        reason,
    };
    status.ancestors.iter().flat_map(move |ancestor| {
        let resolved = ancestor.resolved_refs.as_ref();
        [Some(condition(
            "Accepted",
            ancestor.accepted.reason.as_str(),
        ))]
        .into_iter()
        .chain([resolved.map(|resolved| condition("ResolvedRefs", resolved.reason.as_str()))])
        .flatten()
    })
}
