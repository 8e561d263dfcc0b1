//! What the agent tells of policies: a log line for each condition that changed, and metrics.

use std::path::{Display, PathBuf};

use tracing::field::{DisplayValue, display};

use crate::metrics::PolicyCondition;
use crate::policy::{Condition, ObjectName, PolicyStatus, Reason};

/// `file` is where the policy was read.
pub(crate) fn log_status(status: &PolicyStatus, file: Option<&PathBuf>) {
    let policy = &status.policy;
    let file = file.map(|file| display(file.display()));
    for problem in &status.problems {
        tracing::error!(%policy, file, "{problem}");
    }
    for warning in &status.warnings {
        tracing::warn!(%policy, file, "{warning}");
    }
    for ancestor in &status.ancestors {
        let service = &ancestor.service;
        let accepted = &ancestor.accepted;
        log_condition(policy, file.as_ref(), service, accepted);
        // Mostly one cause for both.
        let resolved = ancestor.resolved_refs.as_ref();
        if let Some(resolved) = resolved.filter(|other| other.message != accepted.message) {
            log_condition(policy, file.as_ref(), service, resolved);
        }
        for refused in &ancestor.refused_addresses {
            tracing::error!(%policy, file, service, "{refused}");
        }
        for warning in &ancestor.warnings {
            tracing::warn!(%policy, file, service, "{warning}");
        }
    }
}

fn log_condition(
    policy: &ObjectName,
    file: Option<&DisplayValue<Display<'_>>>,
    service: &str,
    condition: &Condition,
) {
    let (reason, message) = (condition.reason.as_str(), &condition.message);
    if condition.status {
        tracing::info!(%policy, file, service, reason, "{message}");
    } else {
        tracing::error!(%policy, file, service, reason, "{message}");
    }
}

pub(super) fn conditions(status: &PolicyStatus) -> Vec<PolicyCondition> {
    let condition = |condition: &'static str, reason: &'static str| PolicyCondition {
        namespace: status.policy.namespace.to_string(),
        policy: status.policy.name.to_string(),
        condition,
        reason,
    };
    let rows = status.ancestors.iter().flat_map(|ancestor| {
        let accepted = condition("Accepted", ancestor.accepted.reason.as_str());
        let resolved = ancestor.resolved_refs.as_ref();
        let resolved = resolved.map(|resolved| condition("ResolvedRefs", resolved.reason.as_str()));
        [Some(accepted), resolved].into_iter().flatten()
    });
    let mut rows: Vec<_> = rows.collect();
    // One whose targetRefs can't be read has no ancestor, and is not to go unseen.
    if status.opted_out {
        rows.push(condition("Accepted", "OptedOut"));
    }
    if rows.is_empty() && !status.problems.is_empty() {
        rows.push(condition("Accepted", Reason::Invalid.as_str()));
    }
    rows
}
