//! The state of a node: what `/status` answers, and what `--output json` prints.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::explain::LastError;

/// Everything at a glance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Whether there is no problem.
    pub healthy: bool,
    /// The directory of pins.
    pub pins: PathBuf,
    /// The agent that answered; without one, the rest is what the pins alone tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<Answer>,
    /// The agents that live, the oldest first; and the newest, though it is dead.
    pub agents: Vec<Agent>,
    /// The programs at the cgroup. Empty when nothing is pinned.
    pub programs: Vec<Program>,
    /// The network namespaces that the programs know; connects of others to targets are refused.
    pub netns: Vec<Netns>,
    /// What is redirected.
    pub targets: Vec<Target>,
    /// What the programs did, since the pins were made.
    pub connects: Vec<Connects>,
    /// What the agent that answered did, since its start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<Connections>,
    /// How connections to targets failed last, one of each port of a Service, the newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<TargetError>,
    /// Connections to targets that are older than the enrolment of their pod, or than the target: they go on as they are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<EarlierConnection>,
    /// What audit mode found, in which nothing is redirected; none when the agent enforces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit: Option<Vec<Audit>>,
    /// Instances of `nodetls exec`.
    pub exec: Vec<Exec>,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

/// How a connection to a port of a Service failed last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetError {
    /// `namespace/name`.
    pub service: String,
    /// The Service's port number.
    pub port: u16,
    /// When, why, and what to do about it.
    #[serde(flatten)]
    pub error: LastError,
}

/// The agent that answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// Its version.
    pub version: String,
    /// Its epoch.
    pub epoch: u64,
    /// Whether it is ready now.
    pub ready: bool,
}

/// An agent on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Agent {
    /// Grows with every agent.
    pub epoch: u64,
    /// What it does.
    pub state: AgentState,
}

/// What an agent does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AgentState {
    /// The newest, and has been ready.
    InCharge,
    /// The newest, and has not been ready yet.
    Starting,
    /// Serves until the newest is ready.
    Serving,
    /// Takes no new connections any more.
    Draining,
    /// The newest, and it lives no more.
    Dead,
}

/// A program at the cgroup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Program {
    /// Its name, and its link's in the directory of pins.
    pub name: String,
    /// The id of its link; none when it is not pinned, and so not attached.
    pub link: Option<u64>,
    /// The id of the program.
    pub program: Option<u64>,
    /// The id of the cgroup that it is attached to; none when it is not.
    pub cgroup_id: Option<u64>,
    /// That cgroup, if it is found below the mount.
    pub cgroup: Option<PathBuf>,
}

/// A network namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Netns {
    /// Its name, as far as known.
    pub name: Option<String>,
    /// Its cookie, which is never used again.
    pub cookie: u64,
    /// What happens to its connects to targets.
    pub state: NetnsState,
    /// The id of the link of its sk_lookup program.
    pub link: Option<u64>,
}

/// What happens to a netns' connects to targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NetnsState {
    /// Redirected.
    Enrolled,
    /// Let through untouched.
    Bypassed,
    /// Refused.
    Denied,
    /// Turned, but to nobody: its sk_lookup program is not attached.
    Detached,
}

/// A port of a Service; from the pins alone, an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// `namespace/name` of the Service.
    pub service: Option<String>,
    /// Its port.
    pub port: u16,
    /// What clients dial.
    pub addresses: Vec<SocketAddr>,
    /// `namespace/name` of the BackendTLSPolicy.
    pub policy: Option<String>,
    /// What happens to plaintext connections.
    pub state: TargetState,
    /// Why they are refused: a condition reason of the API, or `NoAgent`.
    pub reason: Option<String>,
    /// The same for humans, with the cure.
    pub message: Option<String>,
    /// The SNI, and the name that the server's certificate must have unless there are `subject_alt_names`.
    pub hostname: Option<String>,
    /// The names of which the certificate must have one instead.
    pub subject_alt_names: Vec<String>,
    /// Whom the policy trusts.
    pub ca: Option<Ca>,
    /// Where connections go; none when that is left to the Service's own address, or to an external host's.
    pub endpoints: Option<Vec<SocketAddr>>,
    /// The external host that connections go to, with its port.
    pub external_host: Option<String>,
    /// Connections open now.
    pub open: u64,
}

/// What happens to plaintext connections to a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TargetState {
    /// TLS is originated.
    Accepted,
    /// They are refused.
    Refused,
    /// Only the agent knows, and it did not answer.
    Unknown,
}

/// A CA bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ca {
    /// How many certificates it has.
    pub count: usize,
    /// The subjects of the first of them, quoted.
    pub subjects: Vec<String>,
}

/// Connects with one outcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Connects {
    /// Such as `redirected`: the label of `nodetls_ebpf_connects_total`.
    pub outcome: String,
    /// Why.
    pub reason: String,
    /// How many.
    pub count: u64,
}

/// What became of redirected connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Connections {
    /// Open now.
    pub open: u64,
    /// Accepted from clients.
    pub opened: u64,
    /// Passed through, because the client speaks TLS itself.
    pub passed_through: u64,
    /// TLS handshakes with servers that succeeded.
    pub handshakes_ok: u64,
    /// And that failed.
    pub handshakes_failed: u64,
    /// Failed connections by reason (docs/errors.md).
    pub failures: BTreeMap<String, u64>,
}

/// A connection to a target that nobody has turned.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EarlierConnection {
    /// The name of its netns.
    pub netns: String,
    /// The client's end.
    pub local: SocketAddr,
    /// The address that it dialled.
    pub remote: SocketAddr,
    /// `namespace/name:port` of the Service.
    pub service: String,
}

/// What audit mode found of a port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Audit {
    /// `namespace/name` of the Service.
    pub service: String,
    /// Its port.
    pub port: u16,
    /// Connects that enforcement would redirect or refuse.
    pub connects: u64,
    /// `ok`, or why a TLS handshake fails (docs/errors.md); none before it was tried.
    pub probe: Option<String>,
}

/// A `nodetls exec`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Exec {
    /// The name of its directory of pins.
    pub number: String,
    /// What it does.
    pub state: ExecState,
    /// The process that has been longest in its cgroup.
    pub pid: Option<u32>,
    /// That process's name.
    pub command: Option<String>,
    /// Its cgroup.
    pub cgroup: Option<PathBuf>,
}

/// What a `nodetls exec` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ExecState {
    /// Command and proxy run, or one of them is about to.
    Running,
    /// The command runs, the proxy does not.
    Orphaned,
    /// Neither runs: the next `nodetls exec`, agent or `nodetls uninstall` removes what is left.
    Ended,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// What was found, and what it means for clients.
    pub what: String,
    /// What to do about it.
    pub cure: String,
}

impl Problem {
    pub(super) fn new(what: impl Into<String>, cure: impl Into<String>) -> Self {
        let (what, cure) = (what.into(), cure.into());
        Self { what, cure }
    }
}
