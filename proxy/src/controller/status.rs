//! Our entries of a policy's `status.ancestors`, among those of other controllers (GEP-713, GEP-2648). Pure.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::text::truncated;
use crate::policy::{AncestorStatus, Condition, PolicyStatus};

/// Our `controllerName`: the mark of our entries.
pub(super) const CONTROLLER_NAME: &str = "nodetls.io/controller";

/// Entries that the API lets a policy have, of all controllers together.
const MAX_ANCESTORS: usize = 16;

/// The API allows so many characters of a condition's message, and we as many bytes.
const MAX_MESSAGE: usize = 32_768;

/// What `status.ancestors` should be.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Desired {
    /// The entries to write; `None` when they are what they should be.
    pub(super) ancestors: Option<Vec<Value>>,
    /// Targets whose entries the API has no room for, as `Service web` or `Service web, port https`.
    pub(super) left_out: Vec<String>,
}

/// Brings our entries of `existing` up to `compiled`. Other controllers' entries stay as they are, in their order; ours
/// keep their places, new ones come last. One that finds 16 entries is left out: an implementation must add no more.
///
/// Nothing is written over what a newer view of the policy (a higher observedGeneration) has left.
pub(super) fn desired(
    existing: &[Value],
    compiled: &PolicyStatus,
    generation: i64,
    now: Timestamp,
) -> Desired {
    if existing
        .iter()
        .any(|entry| is_ours(entry) && newer(entry, generation))
    {
        return Desired::default();
    }
    let mut wanted: Vec<(Value, &AncestorStatus)> = Vec::new();
    for ancestor in &compiled.ancestors {
        let key = ancestor_ref(ancestor);
        if wanted.iter().all(|(other, _)| *other != key) {
            wanted.push((key, ancestor));
        }
    }
    let mut ancestors = Vec::with_capacity(existing.len() + wanted.len());
    for entry in existing {
        if !is_ours(entry) {
            ancestors.push(entry.clone());
        } else if let Some(place) = wanted
            .iter()
            .position(|(key, _)| *key == entry["ancestorRef"])
        {
            let (key, ancestor) = wanted.remove(place);
            ancestors.push(our_entry(
                key,
                &entry["conditions"],
                ancestor,
                generation,
                now,
            ));
        }
    }
    let room = MAX_ANCESTORS.saturating_sub(ancestors.len());
    let left_out = wanted.split_off(room.min(wanted.len()));
    for (key, ancestor) in wanted {
        ancestors.push(our_entry(key, &Value::Null, ancestor, generation, now));
    }
    Desired {
        ancestors: (ancestors != existing).then_some(ancestors),
        left_out: left_out
            .iter()
            .map(|(_, ancestor)| target(ancestor))
            .collect(),
    }
}

fn is_ours(entry: &Value) -> bool {
    entry["controllerName"] == CONTROLLER_NAME
}

fn newer(entry: &Value, generation: i64) -> bool {
    let conditions = entry["conditions"].as_array().into_iter().flatten();
    let mut observed = conditions.filter_map(|condition| condition["observedGeneration"].as_i64());
    observed.any(|observed| observed > generation)
}

/// The Service, as the targetRef names it. Without a namespace, which is the policy's own.
fn ancestor_ref(ancestor: &AncestorStatus) -> Value {
    let mut key = json!({"group": "", "kind": "Service", "name": ancestor.service});
    if let Some(section) = &ancestor.section_name {
        key["sectionName"] = section.as_str().into();
    }
    key
}

/// A targetRef, for people.
pub(super) fn target(ancestor: &AncestorStatus) -> String {
    match &ancestor.section_name {
        Some(section) => format!("Service {}, port {section}", ancestor.service),
        None => format!("Service {}", ancestor.service),
    }
}

fn our_entry(
    key: Value,
    existing: &Value,
    ancestor: &AncestorStatus,
    generation: i64,
    now: Timestamp,
) -> Value {
    let mut conditions = existing.as_array().cloned().unwrap_or_default();
    let wanted = [
        ("Accepted", Some(&ancestor.accepted)),
        ("ResolvedRefs", ancestor.resolved_refs.as_ref()),
    ];
    for (kind, condition) in wanted {
        let place = conditions.iter().position(|other| other["type"] == kind);
        match (place, condition) {
            (Some(place), Some(condition)) => {
                let before = Some(&conditions[place]);
                conditions[place] = condition_json(kind, condition, before, generation, now);
            }
            (Some(place), None) => drop(conditions.remove(place)),
            (None, Some(condition)) => {
                conditions.push(condition_json(kind, condition, None, generation, now));
            }
            (None, None) => {}
        }
    }
    json!({"ancestorRef": key, "controllerName": CONTROLLER_NAME, "conditions": conditions})
}

fn condition_json(
    kind: &str,
    condition: &Condition,
    before: Option<&Value>,
    generation: i64,
    now: Timestamp,
) -> Value {
    let status = if condition.status { "True" } else { "False" };
    let since = before
        .filter(|before| before["status"] == status)
        .and_then(|before| before["lastTransitionTime"].as_str());
    let since = since.map_or_else(
        || now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        str::to_owned,
    );
    json!({
        "type": kind,
        "status": status,
        "reason": condition.reason.as_str(),
        "message": truncated(&condition.message, MAX_MESSAGE),
        "observedGeneration": generation,
        "lastTransitionTime": since,
    })
}

#[cfg(test)]
mod tests;
