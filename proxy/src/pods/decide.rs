//! Whether a pod is enrolled, from what the API server says of it. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// The label (Pod, Namespace) or annotation (Pod, BackendTLSPolicy) that turns redirection off or on; the Pod's word beats
/// the Namespace's.
pub const REDIRECT: &str = "nodetls.io/redirect";
pub(crate) const DISABLED: &str = "disabled";
pub(crate) const ENABLED: &str = "enabled";

/// The kubelet gives a static pod no uid but this hash of its file; its mirror pod has both.
const CONFIG_HASH: &str = "kubernetes.io/config.mirror";

/// Set by istio-cni on a pod whose traffic ztunnel has captured.
const ZTUNNEL: (&str, &str) = ("ambient.istio.io/redirection", "enabled");
/// Asks for that; `none` on a Pod takes it out of an ambient Namespace.
const DATAPLANE_MODE: (&str, &str) = ("istio.io/dataplane-mode", "ambient");
const MESH_CONTAINERS: [&str; 2] = ["istio-proxy", "linkerd-proxy"];

/// How the usual names of RuntimeClasses begin whose sockets are not the host kernel's.
const SANDBOXED: [&str; 3] = ["gvisor", "runsc", "kata"];

/// The annotations of a Pod that count. Others may hold anything, and are not kept.
pub(crate) const ANNOTATIONS: [&str; 3] = [REDIRECT, CONFIG_HASH, ZTUNNEL.0];

/// What happens to a pod's connects to targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// They come to us.
    Enrol,
    /// They go on as they are.
    Bypass(Bypass),
    /// They are refused.
    Deny,
}

/// Why a netns is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bypass {
    /// The node's own, which hostNetwork pods share; also the agent's.
    HostNetwork,
    /// A pod of nodetls itself.
    Own,
    /// `nodetls.io/redirect: disabled`.
    OptedOut,
    /// Opt-in mode, and no `nodetls.io/redirect: enabled`.
    NotOptedIn,
    /// Its namespace is left out, as kube-system is.
    ExcludedNamespace,
    /// A mesh's proxy does it.
    Mesh,
    /// gVisor, Kata: its sockets are not the host kernel's.
    Runtime,
    /// A named netns that matches no pattern.
    NotNamed,
}

impl Bypass {
    /// For logs and as a metric's label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HostNetwork => "host_network",
            Self::Own => "own_pod",
            Self::OptedOut => "opted_out",
            Self::NotOptedIn => "not_opted_in",
            Self::ExcludedNamespace => "excluded_namespace",
            Self::Mesh => "mesh",
            Self::Runtime => "runtime",
            Self::NotNamed => "not_named",
        }
    }
}

/// What matters of a Pod object and its Namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodInfo {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// The Namespace's labels.
    pub namespace_labels: BTreeMap<String, String>,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `metadata.annotations`.
    pub annotations: BTreeMap<String, String>,
    /// `spec.hostNetwork`.
    pub host_network: bool,
    /// Names of `spec.containers` and `spec.initContainers` (a sidecar may be among these).
    pub containers: Vec<String>,
    /// `spec.runtimeClassName`.
    pub runtime_class: Option<String>,
}

impl PodInfo {
    /// `nodetls.io/redirect` of the Pod (as label, else as annotation), else of its Namespace.
    fn redirect(&self) -> Option<&str> {
        [&self.labels, &self.annotations, &self.namespace_labels]
            .iter()
            .find_map(|map| map.get(REDIRECT))
            .map(String::as_str)
    }

    /// A value of `nodetls.io/redirect` that means nothing: it neither turns on nor off.
    pub fn unknown_redirect(&self) -> Option<&str> {
        self.redirect()
            .filter(|value| ![ENABLED, DISABLED].contains(value))
    }

    fn is_meshed(&self) -> bool {
        let (key, value) = DATAPLANE_MODE;
        let mode = self
            .labels
            .get(key)
            .or_else(|| self.namespace_labels.get(key));
        let mut containers = self.containers.iter().map(String::as_str);
        self.annotations.get(ZTUNNEL.0).map(String::as_str) == Some(ZTUNNEL.1)
            || mode.map(String::as_str) == Some(value)
            || containers.any(|name| MESH_CONTAINERS.contains(&name))
    }

    fn is_sandboxed(&self) -> bool {
        let class = self.runtime_class.as_deref().unwrap_or_default();
        SANDBOXED.iter().any(|prefix| class.starts_with(prefix))
    }
}

/// Which uid a Pod has in cgroup names: its own, or the hash of a static pod's file. Anybody can annotate a pod so: one that
/// has the form of another pod's uid (UUID) is not believed, else it could pass for that one, and have its identity.
pub fn cgroup_uid<'a>(uid: &'a str, annotations: &'a BTreeMap<String, String>) -> &'a str {
    let hash = annotations
        .get(CONFIG_HASH)
        .filter(|hash| !hash.contains('-'));
    hash.map_or(uid, String::as_str)
}

/// What holds for all pods of the node.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Only what says `nodetls.io/redirect: enabled` is enrolled.
    pub opt_in: bool,
    /// Namespaces that are left alone unless they or their pods say `enabled`.
    pub excluded_namespaces: BTreeSet<String>,
    /// The namespace of nodetls itself, which has no other pods than ours.
    pub own_namespace: Option<String>,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            opt_in: false,
            excluded_namespaces: ["kube-system".to_owned()].into(),
            own_namespace: None,
        }
    }
}

/// What happens to a pod; `None` is one that the API server has not told us of yet. First what it is, then what it asks
/// for, then what holds for all.
pub fn decide(info: Option<&PodInfo>, rules: &Rules) -> Decision {
    let Some(info) = info else {
        // Normally the watch is first (a pod is bound before its sandbox starts). Without it (API server away) enrolling
        // keeps both promises: no plaintext, no outage. In opt-in mode a pod that asked for nothing is not entered.
        return if rules.opt_in {
            Decision::Deny
        } else {
            Decision::Enrol
        };
    };
    let excluded = rules.excluded_namespaces.contains(&info.namespace);
    if info.host_network {
        Decision::Bypass(Bypass::HostNetwork)
    } else if rules.own_namespace.as_ref() == Some(&info.namespace) {
        Decision::Bypass(Bypass::Own)
    } else if info.is_sandboxed() {
        Decision::Bypass(Bypass::Runtime)
    } else if info.is_meshed() {
        Decision::Bypass(Bypass::Mesh)
    } else {
        match info.redirect() {
            Some(ENABLED) => Decision::Enrol,
            Some(DISABLED) => Decision::Bypass(Bypass::OptedOut),
            _ if excluded => Decision::Bypass(Bypass::ExcludedNamespace),
            _ if rules.opt_in => Decision::Bypass(Bypass::NotOptedIn),
            _ => Decision::Enrol,
        }
    }
}

#[cfg(test)]
mod tests;
