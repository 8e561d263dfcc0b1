//! Events (events.k8s.io/v1) on a policy, for what its author must act on.
//!
//! An Event's name follows from what it says, so the API server itself refuses the second one, whoever wrote the first:
//! kube's Recorder forgets at each change of the leader, and repeats the old text when only the text has changed.

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{ApiResource, PostParams};
use kube::{Api, Client};

use super::error::{TIMEOUT, describe, is_conflict, is_terminating, within};
use super::status::{CONTROLLER_NAME, target};
use super::text::truncated;
use crate::digest::{hex, sha256};
use crate::policy::{ObjectName, PolicyStatus};

/// Bytes of an Event's note that the API allows.
const MAX_NOTE: usize = 1024;
/// Bytes of an object's name that leave room for the hash in the Event's.
const MAX_NAME: usize = 230;
/// Bytes of `reportingInstance` that the API allows.
const MAX_INSTANCE: usize = 128;

/// What to tell.
#[derive(Debug, PartialEq)]
pub(crate) struct Notice {
    action: &'static str,
    reason: String,
    note: String,
}

impl Notice {
    /// `action` is what was done or tried, `reason` what came of it, both in CamelCase; `note` names cause and cure.
    pub(crate) fn new(action: &'static str, reason: impl Into<String>, note: &str) -> Self {
        Self {
            action,
            reason: reason.into(),
            note: truncated(note, MAX_NOTE).into_owned(),
        }
    }
}

/// What the author of a policy must act on. `left_out` are the targets for which its status has no room.
pub(super) fn notices(compiled: &PolicyStatus, left_out: &[String]) -> Vec<Notice> {
    let mut found: Vec<(&str, String, Vec<String>)> = Vec::new();
    let mut tell = |reason, message: String, about: String| {
        let same = |(other, text, _): &&mut (&str, String, _)| *other == reason && *text == message;
        match found.iter_mut().find(same) {
            Some((_, _, targets)) => targets.push(about),
            None => found.push((reason, message, vec![about])),
        }
    };
    for ancestor in &compiled.ancestors {
        let (accepted, resolved) = (&ancestor.accepted, &ancestor.resolved_refs);
        if !accepted.status {
            tell(
                accepted.reason.as_str(),
                accepted.message.clone(),
                target(ancestor),
            );
            continue;
        }
        if let Some(resolved) = resolved
            && !resolved.status
        {
            tell(
                resolved.reason.as_str(),
                resolved.message.clone(),
                target(ancestor),
            );
        }
        if !ancestor.refused_addresses.is_empty() {
            tell(
                "Refused",
                ancestor.refused_addresses.join("; "),
                target(ancestor),
            );
        }
    }
    if compiled.ancestors.is_empty() && !compiled.problems.is_empty() {
        tell("Invalid", compiled.problems.join("; "), "spec".to_owned());
    }
    for target in left_out {
        let message = "status.ancestors has the 16 entries that the API allows: TLS is ensured, but the status can't say \
                       so; name fewer targets in a policy, or remove entries of controllers that are gone";
        tell("StatusFull", message.to_owned(), target.clone());
    }
    let notice = |(reason, message, about): (&str, String, Vec<String>)| {
        Notice::new(
            "Compile",
            reason,
            &format!("{}: {message}", about.join("; ")),
        )
    };
    found.into_iter().map(notice).collect()
}

/// Writes Events.
pub(crate) struct Events {
    client: Client,
    /// The pod, or the node, that writes them.
    instance: String,
}

impl Events {
    /// `instance` tells who writes them.
    pub(crate) fn new(client: Client, instance: &str) -> Self {
        let instance = truncated(instance, MAX_INSTANCE).into_owned();
        Self { client, instance }
    }

    /// Writes what has not been said yet. The API server keeps an Event for an hour; then it may be said again.
    ///
    /// # Errors
    /// Why an Event could not be written.
    pub(crate) async fn tell(
        &self,
        resource: &ApiResource,
        name: &ObjectName,
        uid: Option<&str>,
        notices: Vec<Notice>,
    ) -> Result<(), String> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), &name.namespace);
        for notice in notices {
            let event = self.event(resource, name, uid, notice);
            match within(TIMEOUT, api.create(&PostParams::default(), &event)).await {
                Err(error) if !is_conflict(&error) && !is_terminating(&error) => {
                    return Err(describe(&error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn event(
        &self,
        resource: &ApiResource,
        name: &ObjectName,
        uid: Option<&str>,
        notice: Notice,
    ) -> Event {
        let Notice {
            action,
            reason,
            note,
        } = notice;
        let said = format!("{} {reason} {note}", uid.unwrap_or_default());
        let hash = hex(&sha256(said.as_bytes())[..8]);
        let head = &name.name[..name.name.floor_char_boundary(MAX_NAME)];
        Event {
            metadata: ObjectMeta {
                namespace: Some(name.namespace.to_string()),
                name: Some(format!("{head}.{hash}")),
                ..ObjectMeta::default()
            },
            regarding: Some(ObjectReference {
                api_version: Some(resource.api_version.clone()),
                kind: Some(resource.kind.clone()),
                namespace: Some(name.namespace.to_string()),
                name: Some(name.name.to_string()),
                uid: uid.map(str::to_owned),
                ..ObjectReference::default()
            }),
            type_: Some("Warning".to_owned()),
            action: Some(action.to_owned()),
            reason: Some(reason),
            note: Some(note),
            event_time: Some(MicroTime(Timestamp::now())),
            reporting_controller: Some(CONTROLLER_NAME.to_owned()),
            reporting_instance: Some(self.instance.clone()),
            ..Event::default()
        }
    }
}

#[cfg(test)]
mod tests;
