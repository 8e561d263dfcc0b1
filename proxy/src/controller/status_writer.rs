//! Writes our entries of the policies' statuses, where they are not what they should be.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::error::DiscoveryError;
use kube::{Client, discovery};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::FIELD_MANAGER;
use super::error::{TIMEOUT, describe, is_conflict, is_not_found, within};
use super::status::desired;
use crate::policy::{BackendTlsPolicy, ObjectName, PolicyStatus};
use crate::source::kube::VERSIONS;

const GROUP: &str = "gateway.networking.k8s.io";
const KIND: &str = "BackendTLSPolicy";

/// Policies that are worked on at a time.
const PARALLEL: usize = 8;
/// Attempts at one policy before the others' turn.
const ATTEMPTS: usize = 4;
/// When to look again at what was right, and may have been edited since.
const RECHECK: Duration = Duration::from_secs(600);

/// Writes statuses, and remembers which are right.
pub(super) struct StatusWriter {
    client: Client,
    resource: Option<ApiResource>,
    settled: HashMap<ObjectName, Settled>,
}

/// A policy whose status was right. As long as all of this stays, it need not be read again.
struct Settled {
    compiled: PolicyStatus,
    resource_version: Option<String>,
    at: Instant,
}

/// A policy, and what is to be told of it.
pub(super) struct Wanted<'a> {
    pub(super) policy: &'a BackendTlsPolicy,
    pub(super) compiled: &'a PolicyStatus,
}

/// What was done about one policy.
pub(super) enum Outcome {
    /// Its status is right in this version of it. Targets for which it has no room.
    Right {
        left_out: Vec<String>,
        resource_version: Option<String>,
    },
    /// It is not the policy that was compiled; what it is now is on its way to us.
    Outdated,
    /// Why it could not be written.
    Failed(String),
}

impl StatusWriter {
    pub(super) fn new(client: Client) -> Self {
        Self {
            client,
            resource: None,
            settled: HashMap::new(),
        }
    }

    /// Brings statuses up to date. An outcome for each policy that had to be looked at, and how policies are named.
    ///
    /// # Errors
    /// When the API server can't be asked, or does not serve policies.
    pub(super) async fn write<'a>(
        &mut self,
        wanted: Vec<Wanted<'a>>,
    ) -> Result<(ApiResource, Vec<(Wanted<'a>, Outcome)>), String> {
        let resource = self.resource().await?;
        let due: Vec<Wanted> = wanted
            .into_iter()
            .filter(|wanted| !self.is_settled(wanted))
            .collect();
        let work = due.into_iter().map(|wanted| {
            let namespace = &wanted.compiled.policy.namespace;
            let api = Api::namespaced_with(self.client.clone(), namespace, &resource);
            async move {
                let written = within(TIMEOUT, read_and_write(&api, &wanted)).await;
                let failed = |error| Outcome::Failed(describe(&error));
                (wanted, written.unwrap_or_else(failed))
            }
        });
        // Collected, as a stream that maps while it runs would not be Send.
        let work: Vec<_> = work.collect();
        let outcomes: Vec<_> = stream::iter(work)
            .buffer_unordered(PARALLEL)
            .collect()
            .await;
        for (wanted, outcome) in &outcomes {
            let name = wanted.compiled.policy.clone();
            if let Outcome::Right {
                resource_version, ..
            } = outcome
            {
                let settled = Settled {
                    compiled: wanted.compiled.clone(),
                    resource_version: resource_version.clone(),
                    at: Instant::now(),
                };
                self.settled.insert(name, settled);
            } else {
                // Perhaps the version is no longer served.
                self.resource = None;
                self.settled.remove(&name);
            }
        }
        Ok((resource, outcomes))
    }

    /// Forgets all policies but these.
    pub(super) fn retain(&mut self, exists: impl Fn(&ObjectName) -> bool) {
        self.settled.retain(|name, _| exists(name));
    }

    /// Looks at this policy again: not all was told of it.
    pub(super) fn forget(&mut self, name: &ObjectName) {
        self.settled.remove(name);
    }

    fn is_settled(&self, wanted: &Wanted) -> bool {
        let settled = self.settled.get(&wanted.compiled.policy);
        settled.is_some_and(|settled| {
            settled.compiled == *wanted.compiled
                && settled.resource_version == wanted.policy.metadata.resource_version
                && settled.at.elapsed() < RECHECK
        })
    }

    async fn resource(&mut self) -> Result<ApiResource, String> {
        self.served().await?.ok_or_else(|| {
            let versions = VERSIONS.join(" or ");
            format!(
                "{KIND} ({GROUP}) is not served as {versions}: install the CRDs of Gateway API 1.4 or newer"
            )
        })
    }

    /// How policies are named in the best version that is served; `None` when there is none.
    pub(super) async fn served(&mut self) -> Result<Option<ApiResource>, String> {
        if let Some(resource) = &self.resource {
            return Ok(Some(resource.clone()));
        }
        for version in VERSIONS {
            let kind = GroupVersionKind::gvk(GROUP, version, KIND);
            match within(TIMEOUT, discovery::pinned_kind(&self.client, &kind)).await {
                Ok((resource, _)) => return Ok(Some(self.resource.insert(resource).clone())),
                Err(kube::Error::Discovery(DiscoveryError::MissingKind(_))) => {}
                Err(error) if is_not_found(&error) => {}
                Err(error) => return Err(describe(&error)),
            }
        }
        Ok(None)
    }
}

/// Reads, and writes only what was read (resourceVersion): another controller may write at the same time.
async fn read_and_write(
    api: &Api<DynamicObject>,
    wanted: &Wanted<'_>,
) -> Result<Outcome, kube::Error> {
    let name = &wanted.compiled.policy.name;
    for _ in 0..ATTEMPTS {
        let Some(now) = api.get_opt(name).await? else {
            return Ok(Outcome::Outdated);
        };
        let (compiled, generation) = (&wanted.policy.metadata, now.metadata.generation);
        let Some(generation) = generation.filter(|_| generation == compiled.generation) else {
            return Ok(Outcome::Outdated);
        };
        // Created anew, both are of generation 1.
        if compiled.uid != now.metadata.uid {
            return Ok(Outcome::Outdated);
        }
        let existing = match &now.data["status"]["ancestors"] {
            Value::Array(ancestors) => ancestors.as_slice(),
            _ => &[],
        };
        let desired = desired(existing, wanted.compiled, generation, Timestamp::now());
        let Some(ancestors) = desired.ancestors else {
            return Ok(Outcome::Right {
                left_out: desired.left_out,
                resource_version: now.metadata.resource_version,
            });
        };
        let patch = Patch::Merge(json!({
            "metadata": {"resourceVersion": now.metadata.resource_version},
            "status": {"ancestors": ancestors},
        }));
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        match api.patch_status(name, &params, &patch).await {
            Ok(written) => {
                return Ok(Outcome::Right {
                    left_out: desired.left_out,
                    resource_version: written.metadata.resource_version,
                });
            }
            Err(error) if is_conflict(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Outcome::Failed(format!(
        "others changed it during each of {ATTEMPTS} attempts; tried again"
    )))
}
