//! The explanation: what `/explain` answers, and what `--output json` prints.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::proxy::Lately;
use crate::tls::certificate::Certificate;

/// What becomes of a client's connections to a port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The client: `namespace/name` of the pod, or the name of the netns.
    pub client: String,
    /// `namespace/name:port`; or the address that was asked for, if it is no target's.
    pub service: String,
    /// What becomes of them.
    pub outcome: Outcome,
    /// Why: a sentence.
    pub why: String,
    /// What to do about it, where something can be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cure: Option<String>,
    /// What is in force: one for the Service's port, or where its addresses don't share one fate one for each fate.
    pub targets: Vec<Target>,
    /// Every policy that names the Service.
    pub policies: Vec<Policy>,
    /// What else matters: a sentence each.
    pub notes: Vec<String>,
}

/// What becomes of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// TLS is originated.
    Secured,
    /// TLS would be, but the last handshake failed, or nothing is there to connect to.
    Failing,
    /// Plaintext ones are refused.
    Refused,
    /// They go out as the client makes them.
    Untouched,
}

/// What is in force on some addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// What clients dial.
    pub addresses: Vec<SocketAddr>,
    /// `namespace/name` of the policy.
    pub policy: String,
    /// Why plaintext is refused: a condition reason of the API.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The same for people, with the cure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The SNI, and the name that the server's certificate must have unless there are `subject_alt_names`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The names of which the certificate must have one instead.
    pub subject_alt_names: Vec<String>,
    /// The CA certificates.
    pub ca: Vec<Certificate>,
    /// The policy's options of nodetls, as written.
    pub options: BTreeMap<String, String>,
    /// Where connections go; none when that is left to the Service's own address, or to an external host's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<Vec<SocketAddr>>,
    /// The external host that connections go to, with its port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_host: Option<String>,
    /// The last TLS handshake that succeeded, of whatever client of this node, since the target is as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_handshake: Option<Handshake>,
    /// The last connection that failed by no fault of the client's, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<LastError>,
}

/// A TLS handshake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Handshake {
    /// When it was, as RFC 3339.
    pub time: String,
    /// Such as `TLSv1.3`.
    pub version: String,
    /// Such as `TLS_AES_256_GCM_SHA384`.
    pub cipher: String,
    /// The key-exchange group, such as `X25519MLKEM768`.
    pub group: String,
    /// Whether a session was resumed.
    pub resumed: bool,
}

/// A connection that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastError {
    /// When it was, as RFC 3339.
    pub time: String,
    /// Why, in a word (docs/errors.md).
    pub reason: String,
    /// The particulars.
    pub detail: String,
    /// What to do about it.
    pub cure: String,
    /// Whether no handshake has succeeded since.
    pub failing: bool,
}

impl LastError {
    /// None where no connection has failed.
    pub(crate) fn of(lately: Lately) -> Option<Self> {
        let (time, failure) = lately.failure?;
        Some(Self {
            time: rfc3339(time),
            reason: failure.reason.as_str().to_owned(),
            cure: failure.reason.cure().to_owned(),
            failing: lately.failing.is_some(),
            detail: failure.detail,
        })
    }
}

pub(super) fn rfc3339(time: SystemTime) -> String {
    let whole = jiff::Timestamp::try_from(time);
    let whole = whole.and_then(|time| time.round(jiff::Unit::Second));
    whole.map_or_else(|_| "unknown".to_owned(), |time| time.to_string())
}

/// A policy that names the Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    /// `namespace/name`.
    pub policy: String,
    /// The port that it names, if it names one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
    /// Its condition Accepted.
    pub accepted: bool,
    /// That condition's reason, or `OptedOut`.
    pub reason: String,
    /// For people, with the cure.
    pub message: String,
    /// What its author should know although it is no mistake: a sentence each.
    pub warnings: Vec<String>,
}
