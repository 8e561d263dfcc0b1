//! The identities that are known, and those that ask for one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use super::{Identity, TlsSecret};
use crate::failure::{Failure, Reason};
use crate::pods::Pod;
use crate::policy::ObjectName;

/// How long a connection waits for what was never looked at: a new pod's namespace, a Secret that a policy names now.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a Secret holds, `None` if it does not exist; or why that can't be used, in a sentence that names it.
pub(super) type Read = Result<Option<Arc<Identity>>, String>;

type Known = Arc<BTreeMap<ObjectName, Read>>;

/// What [`Keeper`](super::Keeper) knows.
#[derive(Clone, Debug)]
pub struct Identities(Option<watch::Receiver<Known>>);

impl Identities {
    pub(super) fn forbidden() -> Self {
        Self(None)
    }

    /// The identity that Secret `name` of the pod's own namespace holds, for one new connection.
    ///
    /// # Errors
    /// `ClientCertificateUnusable`: there is none.
    pub async fn of(&self, pod: &Pod, name: &str) -> Result<Arc<Identity>, Failure> {
        self.find(pod, name)
            .await
            .map_err(|found| Failure::new(Reason::ClientCertificateUnusable, found))
    }

    async fn find(&self, pod: &Pod, name: &str) -> Result<Arc<Identity>, String> {
        let Some(known) = &self.0 else {
            return Err(format!(
                "Secret {name} is not looked at: this installation allows no client certificates (nodetls agent \
                 --client-certificates)"
            ));
        };
        let namespace = timeout(PATIENCE, pod.namespace.wait()).await;
        let namespace = namespace.map_err(|_| {
            let pod = &pod.name;
            format!("the API server has not told in which namespace pod {pod} looks for its Secret {name}")
        })?;
        let name = ObjectName::new(namespace, name);
        let mut known = known.clone();
        let looked_at = timeout(PATIENCE, known.wait_for(|known| known.contains_key(&name))).await;
        let found = looked_at.ok().and_then(Result::ok);
        match found.and_then(|known| known.get(&name).cloned()) {
            Some(Ok(Some(identity))) => Ok(identity),
            Some(Ok(None)) => Err(format!("Secret {name} does not exist")),
            Some(Err(wrong)) => Err(wrong),
            None => Err(format!("Secret {name} has not been read yet")),
        }
    }
}

/// Where identities are put.
pub(super) struct Store(watch::Sender<Known>);

impl Store {
    pub(super) fn new() -> (Self, Identities) {
        let (to, known) = watch::channel(Known::default());
        (Self(to), Identities(Some(known)))
    }

    /// From here on these are all. One that is what it was keeps its TLS sessions.
    pub(super) fn set(&self, mut all: BTreeMap<ObjectName, Read>) {
        self.0.send_if_modified(|known| {
            let mut changed = known.len() != all.len();
            for (name, new) in &mut all {
                match known.get(name) {
                    Some(old) if same(old, new) => new.clone_from(old),
                    _ => {
                        changed = true;
                        tell(new);
                    }
                }
            }
            if changed {
                *known = Arc::new(all);
            }
            changed
        });
    }
}

fn same(old: &Read, new: &Read) -> bool {
    match (old, new) {
        (Ok(Some(old)), Ok(Some(new))) => old.same(new),
        (Ok(None), Ok(None)) => true,
        (Err(old), Err(new)) => old == new,
        _ => false,
    }
}

/// Of those that don't exist a connection tells: most namespaces need none.
fn tell(new: &Read) {
    match new {
        Err(wrong) => tracing::warn!("client certificate: {wrong}"),
        Ok(None) => {}
        Ok(Some(identity)) => match identity.certificate.out_of_date() {
            Some(why) => tracing::warn!("client certificate {} {why}", identity.certificate),
            None => tracing::info!("client certificate {}", identity.certificate),
        },
    }
}

/// Reads the Secret of this name.
pub(super) fn read(name: &ObjectName, secret: Option<&TlsSecret>) -> Read {
    let identity = secret.map(|secret| Identity::read(name, secret).map(Arc::new));
    identity.transpose()
}
