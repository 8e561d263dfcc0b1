//! From a whole cluster: first the one that writes, then what it wrote, then every node, and only when each has said
//! that it is clean, what could still clean it.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Container, Namespace, Pod};
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PropagationPolicy,
};
use kube::core::GroupVersionKind;
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::controller::{LEASE, remove_statuses};
use crate::source::kube::{MIRROR_LABEL, connect};

/// How every object of the manifests is labelled.
const OURS: &str = "app.kubernetes.io/part-of=nodetls";
const COMPONENT: &str = "app.kubernetes.io/component";
/// Between two looks.
const POLL: Duration = Duration::from_millis(500);
/// Between two lines that say what is waited for.
const TELL: Duration = Duration::from_secs(10);

/// Removes nodetls from the cluster. `patience` is how long nodes may take. With `keep_objects` those that were installed
/// stay, for what installed them to remove.
///
/// # Errors
/// What could not be done, and the cure; what was done by then stays done, and it can be tried again.
pub(super) async fn run(
    namespace: Option<&str>,
    patience: Duration,
    keep_objects: bool,
) -> Result<()> {
    let (client, namespace) = connect(namespace).await?;
    let cluster = Cluster { client, namespace };
    cluster.end_controller(patience).await?;
    match remove_statuses(cluster.client.clone()).await {
        Ok(count) => println!("{count} policies' statuses have no entry of nodetls now"),
        Err(error) => bail!("the policies' statuses can't be cleaned: {error}"),
    }
    cluster.clean_nodes(patience).await?;
    if keep_objects {
        return cluster.remove_the_controllers_objects().await;
    }
    cluster.remove_objects().await
}

struct Cluster {
    client: Client,
    namespace: String,
}

impl Cluster {
    /// From here on nobody writes statuses and mirrors.
    async fn end_controller(&self, patience: Duration) -> Result<()> {
        let deployments: Api<Deployment> = Api::namespaced(self.client.clone(), &self.namespace);
        let selector = format!("{OURS},{COMPONENT}=controller");
        let list = ListParams::default().labels(&selector);
        for deployment in deployments.list(&list).await.context("Deployments")? {
            let delete = DeleteParams {
                propagation_policy: Some(PropagationPolicy::Background),
                ..DeleteParams::default()
            };
            deployments.delete(&deployment.name_any(), &delete).await?;
            println!("deployment/{} deleted", deployment.name_any());
        }
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        wait("the controller's pods to end", patience, async || {
            let pods = pods.list(&list).await.context("Pods")?;
            Ok(pods.iter().map(|pod| pod.name_any()).collect())
        })
        .await
    }

    /// Has each node's agent replaced by a pod that removes what is pinned there, and waits until all have.
    async fn clean_nodes(&self, patience: Duration) -> Result<()> {
        let sets: Api<DaemonSet> = Api::namespaced(self.client.clone(), &self.namespace);
        let list = ListParams::default().labels(&format!("{OURS},{COMPONENT}=agent"));
        let found = sets.list(&list).await.context("DaemonSets")?.items;
        ensure!(
            !found.is_empty(),
            "namespace {} has no DaemonSet of nodetls, without which no node can be cleaned: apply the manifests again, \
             then uninstall",
            self.namespace
        );
        for set in found {
            let name = set.name_any();
            let patch = Patch::Strategic(cleaning(&set).with_context(|| name.clone())?);
            let set = sets.patch(&name, &PatchParams::default(), &patch).await?;
            println!("daemonset/{name}: cleaning every node");
            let generation = set.metadata.generation;
            wait("every node to say that it is clean", patience, async || {
                self.unclean(&sets.get(&name).await?, generation).await
            })
            .await
            .context("bring these nodes back, or delete their Node objects, and try again")?;
        }
        Ok(())
    }

    /// The nodes that have not said yet that they are clean.
    async fn unclean(&self, set: &DaemonSet, generation: Option<i64>) -> Result<BTreeSet<String>> {
        let status = set.status.clone().unwrap_or_default();
        let wanted = status.desired_number_scheduled;
        let updated = status.updated_number_scheduled.unwrap_or_default();
        ensure!(
            wanted > 0 || status.observed_generation < generation,
            "daemonset/{} has no node: correct its nodeSelector, so that every node is cleaned",
            set.name_any()
        );
        if status.observed_generation >= generation
            && updated == wanted
            && status.number_ready == wanted
        {
            return Ok(BTreeSet::new());
        }
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let list = ListParams::default().labels(&format!("{OURS},{COMPONENT}=agent"));
        let pods = pods.list(&list).await.context("Pods")?;
        let nodes = pods.iter().filter(|pod| !says_clean(pod));
        let mut nodes: BTreeSet<String> = nodes
            .filter_map(|pod| pod.spec.as_ref()?.node_name.clone())
            .collect();
        if nodes.is_empty() {
            nodes.insert("(pods that are not there yet)".to_owned());
        }
        Ok(nodes)
    }

    /// What nobody has installed: the mirrors of CA certificates, and the leader's Lease.
    async fn remove_the_controllers_objects(&self) -> Result<()> {
        let (delete, namespace) = (DeleteParams::default(), &self.namespace);
        let mirrors: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        let list = ListParams::default().labels(&format!("{MIRROR_LABEL}=true"));
        let deleted = mirrors.delete_collection(&delete, &list).await;
        deleted.context("the mirrors of CA certificates can't be deleted")?;
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), namespace);
        match leases.delete(LEASE, &delete).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            deleted => drop(deleted.with_context(|| format!("Lease {LEASE} can't be deleted"))?),
        }
        println!("every node is clean; what was installed can be deleted");
        Ok(())
    }

    /// All objects; our own rights go with the Namespace, which is the last.
    async fn remove_objects(&self) -> Result<()> {
        let admission = "admissionregistration.k8s.io";
        let rbac = "rbac.authorization.k8s.io";
        let others = format!("{OURS},{COMPONENT}!=uninstall");
        for (group, kind) in [
            (admission, "ValidatingAdmissionPolicyBinding"),
            (admission, "ValidatingAdmissionPolicy"),
            (rbac, "ClusterRoleBinding"),
            (rbac, "ClusterRole"),
        ] {
            for (api, name) in self.find(group, kind, &others).await? {
                let deleted = api.delete(&name, &DeleteParams::default()).await;
                deleted.with_context(|| format!("{kind} {name} can't be deleted"))?;
                println!("{}/{name} deleted", kind.to_lowercase());
            }
        }
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let Some(namespace) = namespaces.get_opt(&self.namespace).await? else {
            return Ok(());
        };
        let owner = json!({"metadata": {"ownerReferences": [{
            "apiVersion": "v1", "kind": "Namespace",
            "name": namespace.name_any(), "uid": namespace.metadata.uid,
        }]}});
        let ours = format!("{OURS},{COMPONENT}=uninstall");
        for kind in ["ClusterRoleBinding", "ClusterRole"] {
            for (api, name) in self.find(rbac, kind, &ours).await? {
                let patch = Patch::Merge(&owner);
                let patched = api.patch(&name, &PatchParams::default(), &patch).await;
                patched.with_context(|| format!("{kind} {name} can't be changed"))?;
            }
        }
        let delete = DeleteParams::default();
        namespaces.delete(&self.namespace, &delete).await?;
        println!(
            "namespace/{} deleted; nodetls is uninstalled",
            self.namespace
        );
        Ok(())
    }

    /// Objects of cluster scope with these labels.
    async fn find(
        &self,
        group: &str,
        kind: &str,
        labels: &str,
    ) -> Result<Vec<(Api<DynamicObject>, String)>> {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, "v1", kind));
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &resource);
        let list = ListParams::default().labels(labels);
        let found = api.list_metadata(&list).await.context(resource.plural)?;
        Ok(found
            .iter()
            .map(|object| (api.clone(), object.name_any()))
            .collect())
    }
}

/// Whether the pod is one that cleans, and has done so.
fn says_clean(pod: &Pod) -> bool {
    let spec = pod.spec.as_ref();
    let mut containers = spec.into_iter().flat_map(|spec| &spec.containers);
    let cleans = containers.any(|container| arguments(container).any(|one| one == "uninstall"));
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    let mut conditions = conditions.into_iter().flatten();
    cleans && conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn arguments(container: &Container) -> impl Iterator<Item = &str> {
    container.args.iter().flatten().map(String::as_str)
}

/// The change that makes an agent's pods such as clean their nodes: with the same places, rights and probes.
fn cleaning(set: &DaemonSet) -> Result<serde_json::Value> {
    let template = set
        .spec
        .as_ref()
        .and_then(|spec| spec.template.spec.as_ref());
    let container = template.and_then(|template| template.containers.first());
    let container = container.context("it has no container")?;
    let mut kept = Vec::new();
    let mut all = arguments(container).peekable();
    while let Some(one) = all.next() {
        let name = one.split('=').next().unwrap_or_default();
        if ["--pins", "--cache", "--boot-guard", "--admin"].contains(&name) {
            kept.push(one.replacen("--admin", "--serve", 1));
            if !one.contains('=') {
                kept.extend(all.next().map(str::to_owned));
            }
        }
    }
    ensure!(
        kept.iter().any(|one| one.starts_with("--serve")),
        "its container has no --admin, where it could say that its node is clean"
    );
    let arguments: Vec<_> = [vec!["uninstall".to_owned()], kept].concat();
    Ok(json!({"spec": {
        // The agent must have ended before its pins are removed.
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": "100%"}},
        "template": {"spec": {"containers": [{"name": container.name, "args": arguments}]}},
    }}))
}

/// Polls until nothing is left to wait for, and now and then says what is.
async fn wait(
    what: &str,
    patience: Duration,
    mut left: impl AsyncFnMut() -> Result<BTreeSet<String>>,
) -> Result<()> {
    let start = Instant::now();
    let mut told = start;
    loop {
        let left = left().await?;
        if left.is_empty() {
            return Ok(());
        }
        let names: Vec<_> = left.into_iter().collect();
        let names = names.join(", ");
        if start.elapsed() > patience {
            return Err(anyhow!(
                "waited {} s for {what}: {names}",
                patience.as_secs()
            ));
        }
        if told.elapsed() > TELL {
            println!("waiting for {what}: {names}");
            told = Instant::now();
        }
        sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_agents_pods_become_such_as_clean_with_the_same_places() {
        let set = |args: &[&str]| -> DaemonSet {
            let container = json!({"name": "agent", "args": args});
            let spec = json!({"selector": {}, "template": {"spec": {"containers": [container]}}});
            serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap()
        };
        let patch = cleaning(&set(&[
            "agent",
            "--admin=0.0.0.0:15020",
            "--mode",
            "audit",
            "--pins",
            "/p",
        ]));
        let container = &patch.unwrap()["spec"]["template"]["spec"]["containers"][0];
        let args = json!(["uninstall", "--serve=0.0.0.0:15020", "--pins", "/p"]);
        assert_eq!(container["args"], args);
        assert_eq!(container["name"], "agent");
        assert!(cleaning(&set(&["agent"])).is_err());
    }
}
