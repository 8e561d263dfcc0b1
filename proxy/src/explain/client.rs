//! Who connects, and whether its connects come to us.

use crate::ask::Unanswerable;
use crate::pods::decide::{Bypass, Decision, REDIRECT, decide};
use crate::status::{Facts, Found, Netns, NetnsState, NodePods, netns_names};

/// A client of this node.
pub(super) struct Client {
    /// `namespace/name`, or the name of its netns.
    pub(super) name: String,
    /// Its Kubernetes namespace.
    pub(super) namespace: Option<String>,
    pub(super) fate: Fate,
}

/// What happens to a client's connects to targets.
pub(super) enum Fate {
    Turned,
    Untouched { why: String, cure: String },
    Refused { why: String, cure: String },
}

/// What is known of this node's netns.
pub(super) struct Node<'a> {
    pub(super) facts: &'a Facts,
    pub(super) cluster: Option<&'a NodePods>,
    /// As the programs know them.
    pub(super) netns: Vec<Netns>,
}

impl Node<'_> {
    /// # Errors
    /// There is none of that name, or several.
    pub(super) fn client(&self, name: &str) -> Result<Client, Unanswerable> {
        match self.cluster {
            Some(cluster) => self.pod(cluster, name),
            None => self.named(name),
        }
    }

    fn named(&self, name: &str) -> Result<Client, Unanswerable> {
        // In audit mode none is enrolled.
        let exists =
            || self.facts.audited.is_some() && netns_names().values().any(|one| one == name);
        if !self.facts.netns.values().any(|known| known == name) && !exists() {
            return Err(Unanswerable(format!(
                "the agent knows no network namespace {name}: `ip netns` lists those that there are, and `nodetls \
                 status` those that the agent knows"
            )));
        }
        Ok(Client {
            name: name.to_owned(),
            namespace: None,
            fate: self.by_netns(&[name]),
        })
    }

    fn pod(&self, cluster: &NodePods, name: &str) -> Result<Client, Unanswerable> {
        let Found { uid, name, info } = cluster.find(name)?;
        let fate = match decide(Some(&info), &cluster.rules) {
            Decision::Bypass(reason) => bypassed(reason, &info.namespace),
            Decision::Enrol | Decision::Deny => self.by_netns(&[&name, &uid]),
        };
        Ok(Client {
            fate,
            name,
            namespace: Some(info.namespace),
        })
    }

    /// The fate of the netns that has one of these names.
    fn by_netns(&self, names: &[&str]) -> Fate {
        let is_meant = |netns: &&Netns| {
            let name = self.facts.netns.get(&netns.cookie).or(netns.name.as_ref());
            name.is_some_and(|name| names.contains(&name.as_str()))
        };
        let state = self.netns.iter().find(is_meant).map(|netns| netns.state);
        match state {
            Some(NetnsState::Bypassed) if names.iter().any(|name| name.starts_with('(')) => {
                bypassed(Bypass::HostNetwork, "")
            }
            Some(NetnsState::Bypassed) => bypassed(Bypass::NotNamed, ""),
            _ if self.facts.audited.is_some() => Fate::Untouched {
                why: "the agent runs in audit mode: nothing is redirected or refused".to_owned(),
                cure: "start the agent without --mode audit (in a cluster: apply without the component audit); the rest \
                       of this tells what will be then"
                    .to_owned(),
            },
            Some(NetnsState::Enrolled) => Fate::Turned,
            Some(NetnsState::Detached) => Fate::Refused {
                why: "the sk_lookup program of its network namespace is not attached".to_owned(),
                cure: "restart the agent: it enrols each anew".to_owned(),
            },
            Some(NetnsState::Denied) | None => Fate::Refused {
                why: format!(
                    "its network namespace is not enrolled{}",
                    self.why_not_enrolled(names)
                ),
                cure: "wait: a pod is enrolled when its first process runs, and what failed is tried again every 10 s; if \
                       that doesn't help, `nodetls status` and the agent's log tell what is wrong"
                    .to_owned(),
            },
        }
    }

    /// `: CAUSE`, if one is known. Pods go by `UID/INODE` there.
    fn why_not_enrolled(&self, names: &[&str]) -> String {
        let is_meant = |name: &str| {
            let uid = name.split('/').next().unwrap_or(name);
            names.iter().any(|meant| *meant == name || *meant == uid)
        };
        let mut failed = self.facts.not_enrolled.iter();
        let found = failed.find(|(name, _)| is_meant(name));
        found.map_or_else(String::new, |(_, cause)| format!(": {cause}"))
    }
}

fn bypassed(reason: Bypass, namespace: &str) -> Fate {
    let (why, cure) = match reason {
        Bypass::HostNetwork => (
            "it uses the node's own network namespace (hostNetwork), which is left alone"
                .to_owned(),
            "run it without hostNetwork, or have it speak TLS itself".to_owned(),
        ),
        Bypass::Own => (
            "it is in nodetls' own namespace, whose pods are left alone".to_owned(),
            "run it in another namespace".to_owned(),
        ),
        Bypass::OptedOut => (
            format!("the pod or its Namespace says {REDIRECT}: disabled"),
            "remove that label or annotation, or write enabled".to_owned(),
        ),
        Bypass::NotOptedIn => (
            format!(
                "the agent runs with --opt-in, and neither the pod nor its Namespace says {REDIRECT}: enabled"
            ),
            format!("label the pod or its Namespace {REDIRECT}: enabled"),
        ),
        Bypass::ExcludedNamespace => (
            format!("its namespace {namespace} is one of the agent's --exclude-namespace"),
            format!(
                "label the pod or its Namespace {REDIRECT}: enabled, or take the namespace out of --exclude-namespace"
            ),
        ),
        Bypass::Mesh => (
            "a mesh's proxy (Istio's or Linkerd's) has its traffic".to_owned(),
            "let the mesh originate TLS, or take the pod out of the mesh".to_owned(),
        ),
        Bypass::Runtime => (
            "its RuntimeClass is a sandbox (gVisor, Kata) whose sockets are not the host kernel's"
                .to_owned(),
            "use another RuntimeClass, or have it speak TLS itself".to_owned(),
        ),
        Bypass::NotNamed => (
            "its name matches no pattern of the agent's --netns".to_owned(),
            "add a pattern to --netns, and restart the agent".to_owned(),
        ),
    };
    Fate::Untouched { why, cure }
}
