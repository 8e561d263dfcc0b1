//! The compiler's second result: what to tell the author of each policy (GEP-713 conditions).

use std::fmt;

use super::ObjectName;

/// What became of one policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyStatus {
    /// The policy.
    pub policy: ObjectName,
    /// Its `metadata.generation`, for `observedGeneration`; a file has none.
    pub generation: Option<i64>,
    /// One entry for each targetRef that names a Service; other kinds belong to other controllers.
    pub ancestors: Vec<AncestorStatus>,
    /// What is wrong with the spec itself, a sentence each with its JSON path; empty for a valid spec. The ancestors
    /// repeat it, but a policy whose targetRefs can't be read has none.
    pub problems: Vec<String>,
    /// Its author left it to other implementations: it has no ancestors, and is not in force here.
    pub opted_out: bool,
    /// What the author should know of the spec, although it is no mistake: a sentence each with its JSON path.
    pub warnings: Vec<String>,
}

/// What became of one targetRef.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AncestorStatus {
    /// Name of the Service, in the policy's namespace.
    pub service: String,
    /// The targetRef's `sectionName`.
    pub section_name: Option<String>,
    /// Condition `Accepted`.
    pub accepted: Condition,
    /// Condition `ResolvedRefs`; none when the spec doesn't say which CA it means.
    pub resolved_refs: Option<Condition>,
    /// Of an accepted policy, why it is refused all the same on some addresses: a sentence each.
    pub refused_addresses: Vec<String>,
    /// What is not covered, or looks like a mistake: a sentence each. Empty for the loser of a conflict.
    pub warnings: Vec<String>,
}

/// A condition, whose type its place tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// True or False; there is no Unknown here.
    pub status: bool,
    /// The reason.
    pub reason: Reason,
    /// For humans: the object, the cause and the cure.
    pub message: String,
}

impl Condition {
    /// A condition whose status follows from its reason.
    pub(super) fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            status: matches!(reason, Reason::Accepted | Reason::ResolvedRefs),
            reason,
            message: message.into(),
        }
    }
}

/// A condition reason of the BackendTLSPolicy API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The policy is valid, its target exists, and no other policy took precedence.
    Accepted,
    /// Another policy with the same target took precedence.
    Conflicted,
    /// The spec breaks a rule of the API, or asks for what we can't do.
    Invalid,
    /// No such Service, or no such port.
    TargetNotFound,
    /// Not one of the CA references is usable.
    NoValidCaCertificate,
    /// All CA references are usable.
    ResolvedRefs,
    /// A CA reference names something that is missing or malformed.
    InvalidCaCertificateRef,
    /// A CA reference names a kind that is not supported.
    InvalidKind,
}

impl Reason {
    /// As the API spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::Conflicted => "Conflicted",
            Self::Invalid => "Invalid",
            Self::TargetNotFound => "TargetNotFound",
            Self::NoValidCaCertificate => "NoValidCACertificate",
            Self::ResolvedRefs => "ResolvedRefs",
            Self::InvalidCaCertificateRef => "InvalidCACertificateRef",
            Self::InvalidKind => "InvalidKind",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Joins with commas; of a long list only the head, since a condition's message ends at 32 KiB.
pub(super) fn listed<T: fmt::Display>(items: impl ExactSizeIterator<Item = T>) -> String {
    const SHOWN: usize = 8;
    if items.len() == 0 {
        return "none".to_owned();
    }
    let hidden = items.len().saturating_sub(SHOWN);
    let mut text = items
        .take(SHOWN)
        .map(|item| item.to_string())
        .collect::<Vec<_>>()
        .join(", ");
    if hidden > 0 {
        text.push_str(&format!(" and {hidden} more"));
    }
    text
}

/// Quotes what a user wrote; of a long text only the head.
pub(super) fn quoted(text: &str) -> String {
    const SHOWN: usize = 80;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}
