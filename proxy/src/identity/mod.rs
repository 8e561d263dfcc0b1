//! Client certificates (mutual TLS). A policy names a Secret (`nodetls.io/client-certificate`), which is looked up in the
//! namespace of the pod that connects, never in the policy's: nobody can lend an identity to others.
//!
//! Keys are here and in the TLS clients only: not in [`Objects`](crate::policy::Objects), nor in the cache on disk.

mod cluster;
mod secret;
mod store;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use kube::Client;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use tokio::sync::watch;

use self::cluster::Cluster;
pub use self::secret::TlsSecret;
pub use self::store::Identities;
use self::store::{Read, Store};
use crate::pods::decide::Rules;
use crate::policy::{ObjectName, Snapshot};
use crate::source::kube::Pods;
use crate::tls::{ClientCertificate, TlsClient};

/// The Kubernetes namespace that a pod without Kubernetes counts as: that of a manifest which names none.
pub const DEFAULT_NAMESPACE: &str = "default";

/// Who a pod's connections say they are: the content of one Secret. Its TLS clients, and with them their sessions, end
/// with it.
#[derive(Debug)]
pub struct Identity {
    certificate: Arc<ClientCertificate>,
    /// By the client without identity that each is made of.
    clients: Mutex<Vec<(Weak<TlsClient>, Arc<TlsClient>)>>,
}

impl Identity {
    /// Of what the Secret `name` holds.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(name: &ObjectName, secret: &TlsSecret) -> Result<Self, String> {
        let origin = format!("Secret {name}");
        let value = |key, value: &Option<Arc<[u8]>>| {
            let missing = || format!("{origin} has no key \"{key}\"");
            value.clone().ok_or_else(missing)
        };
        let chain = value("tls.crt", &secret.certificate)?;
        let key = value("tls.key", &secret.key)?;
        let certificate = ClientCertificate::read(&origin, &chain, &key)
            .map_err(|wrong| format!("{origin}: {wrong}"))?;
        Ok(Self {
            certificate: Arc::new(certificate),
            clients: Mutex::default(),
        })
    }

    /// The TLS client that is as `anonymous`, but shows this identity. One for each, so that sessions are resumed.
    pub fn client(&self, anonymous: &Arc<TlsClient>) -> Arc<TlsClient> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let of = Arc::as_ptr(anonymous);
        // As long as there is a `Weak` the address is not another's.
        if let Some((_, client)) = clients.iter().find(|(weak, _)| weak.as_ptr() == of) {
            return Arc::clone(client);
        }
        clients.retain(|(weak, _)| weak.strong_count() > 0);
        let client = Arc::new(anonymous.showing(&self.certificate));
        clients.push((Arc::downgrade(anonymous), Arc::clone(&client)));
        client
    }

    fn same(&self, other: &Self) -> bool {
        self.certificate.same(&other.certificate)
    }
}

/// Sees to it that the identities are there which policies ask for. Dropping it ends that.
pub struct Keeper(Kind);

enum Kind {
    Manifests(Store),
    Cluster(Cluster),
    Forbidden,
}

impl Keeper {
    /// Takes them from the Secrets of manifests, for pods that all count as of [`DEFAULT_NAMESPACE`].
    pub fn manifests() -> (Self, Identities) {
        keep_out_of_core_dumps();
        let (store, identities) = Store::new();
        (Self(Kind::Manifests(store)), identities)
    }

    /// Watches Secrets of the namespaces whose `pods` are enrolled by `rules`. To be called within a tokio runtime.
    pub fn cluster(
        client: Client,
        pods: watch::Receiver<Arc<Pods>>,
        rules: Rules,
    ) -> (Self, Identities) {
        keep_out_of_core_dumps();
        let (store, identities) = Store::new();
        let cluster = Cluster::start(client, pods, rules, store);
        (Self(Kind::Cluster(cluster)), identities)
    }

    /// No Secret is read: this installation does not allow it.
    pub fn forbidden() -> (Self, Identities) {
        (Self(Kind::Forbidden), Identities::forbidden())
    }

    /// To be called before `snapshot` is published; `secrets` are those of the manifests.
    pub fn follow(&self, snapshot: &Snapshot, secrets: &BTreeMap<ObjectName, TlsSecret>) {
        match &self.0 {
            Kind::Manifests(store) => {
                let names = wanted(snapshot).into_iter();
                let names = names.map(|name| ObjectName::new(DEFAULT_NAMESPACE, name));
                let read = |name: ObjectName| {
                    let read = store::read(&name, secrets.get(&name));
                    (name, read)
                };
                store.set(names.map(read).collect::<BTreeMap<ObjectName, Read>>());
            }
            Kind::Cluster(cluster) => cluster.want(wanted(snapshot)),
            Kind::Forbidden => {}
        }
    }
}

/// The names of Secrets that policies give.
fn wanted(snapshot: &Snapshot) -> BTreeSet<String> {
    let plans = snapshot
        .distinct()
        .filter_map(|target| target.plan.as_ref().ok());
    let names = plans.filter_map(|plan| plan.options.client_certificate.clone());
    names.collect()
}

/// The kernel writes none of a process that says so.
fn keep_out_of_core_dumps() {
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "a core dump of this process would hold private keys");
    }
}
