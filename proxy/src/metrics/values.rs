//! What others hand to the metrics, and what these say of themselves.

use crate::failure::Failure;
use crate::policy::ObjectName;

/// What the eBPF side counts, read at every scrape.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EbpfStats {
    /// Connects seen by the hooks.
    pub connects: Vec<Connects>,
    /// The maps.
    pub maps: Vec<MapUse>,
}

/// Connects with one outcome, since the programs were loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connects {
    /// Such as `redirected`, `refused`.
    pub outcome: &'static str,
    /// Why.
    pub reason: &'static str,
    /// How many.
    pub count: u64,
}

/// How full a map is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapUse {
    /// The map's name.
    pub map: &'static str,
    /// Entries in it.
    pub entries: u64,
    /// Entries that fit.
    pub max_entries: u64,
}

/// A condition of a policy, as the agent sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyCondition {
    /// The policy's namespace.
    pub namespace: String,
    /// The policy's name.
    pub policy: String,
    /// Such as `Accepted`.
    pub condition: &'static str,
    /// Such as `NoValidCACertificate`.
    pub reason: &'static str,
}

/// What audit mode found of a port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audited {
    /// The Service.
    pub service: ObjectName,
    /// Its port.
    pub port: u16,
    /// Connects that enforcement would redirect or refuse, since the target was published.
    pub connects: u64,
    /// What a TLS handshake came to; `None` before it was tried.
    pub probe: Option<Result<(), Failure>>,
}

impl Audited {
    /// `ok`, or the reason of the failure.
    pub fn result(&self) -> Option<&'static str> {
        let result = self.probe.as_ref()?.as_ref();
        Some(result.map_or_else(|failure| failure.reason.as_str(), |()| "ok"))
    }
}

/// Whose metrics they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `nodetls agent`.
    Agent,
    /// `nodetls controller`.
    Controller,
    /// `nodetls uninstall`, while it waits for its end.
    Uninstall,
}

impl Role {
    /// Every role.
    pub const ALL: &[Self] = &[Self::Agent, Self::Controller, Self::Uninstall];
}

/// A metric, for the documentation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Who has it.
    pub of: &'static [Role],
    /// With prefix and unit.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Label names.
    pub labels: Vec<String>,
    /// What it says.
    pub help: String,
}
