//! The Secrets of a cluster, watched: those that policies name, in the namespaces of this node's enrolled pods.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::TlsSecret;
use super::store::{self, Read, Store};
use crate::controller::error::describe;
use crate::pods::decide::{Decision, Rules, decide};
use crate::policy::ObjectName;
use crate::source::kube::{Pods, by_name};

type Secrets = by_name::Watches<ObjectName, Read>;

/// Dropping it ends the watches.
pub(super) struct Cluster {
    names: watch::Sender<BTreeSet<String>>,
    _task: AbortOnDropHandle<()>,
}

impl Cluster {
    pub(super) fn start(
        client: Client,
        pods: watch::Receiver<Arc<Pods>>,
        rules: Rules,
        store: Store,
    ) -> Self {
        let (names, wanted) = watch::channel(BTreeSet::new());
        let task = tokio::spawn(run(client, pods, rules, wanted, store));
        Self {
            names,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// Policies give these names.
    pub(super) fn want(&self, names: BTreeSet<String>) {
        self.names.send_if_modified(|before| {
            let changed = *before != names;
            *before = names;
            changed
        });
    }
}

async fn run(
    client: Client,
    mut pods: watch::Receiver<Arc<Pods>>,
    rules: Rules,
    mut names: watch::Receiver<BTreeSet<String>>,
    store: Store,
) {
    let mut secrets = Secrets::new(client);
    loop {
        let wanted = wanted(
            &pods.borrow_and_update(),
            &rules,
            &names.borrow_and_update(),
        );
        secrets.follow(&wanted, Clone::clone, |client, name, changes| {
            let of = name.clone();
            let read = move |secret: Secret| store::read(&of, Some(&TlsSecret::from(secret)));
            let api: Api<Secret> = Api::namespaced(client, &name.namespace);
            Box::pin(async move {
                let object = name.name.clone();
                by_name::watch(api, name, &object, read, unreadable, changes).await;
            })
        });
        store.set(known(&secrets));
        // Neither sender goes before this task does.
        let gone = tokio::select! {
            changed = pods.changed() => changed.is_err(),
            changed = names.changed() => changed.is_err(),
            () = secrets.changed() => false,
        };
        if gone {
            return;
        }
    }
}

/// Only where they can be asked for: what is not enrolled connects as it likes.
fn wanted(pods: &Pods, rules: &Rules, names: &BTreeSet<String>) -> BTreeSet<ObjectName> {
    let enrolled = pods
        .values()
        .filter(|pod| decide(Some(pod), rules) == Decision::Enrol);
    let namespaces: BTreeSet<_> = enrolled.map(|pod| &pod.namespace).collect();
    let of = |namespace| {
        names
            .iter()
            .map(move |name| ObjectName::new(namespace, name))
    };
    namespaces.into_iter().flat_map(of).collect()
}

/// What was read, and why the rest could not be. What can't be read again stays as it was.
fn known(secrets: &Secrets) -> BTreeMap<ObjectName, Read> {
    let failures = secrets
        .failures()
        .iter()
        .map(|(name, error)| (name.clone(), Err(error.clone())));
    let known = secrets
        .known()
        .iter()
        .map(|(name, found)| (name.clone(), found.clone().unwrap_or(Ok(None))));
    failures.chain(known).collect()
}

fn unreadable(name: &ObjectName, error: &kube::Error) -> String {
    format!("Secret {name} can't be read: {}", describe(error))
}
