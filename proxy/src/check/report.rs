//! The result of a check, as `--output json` and `yaml` give it. Conditions have the form of a policy's
//! `status.ancestors`.

use std::path::PathBuf;

use serde::Serialize;

/// The judgement on a set of manifests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Refused if a policy is, or if something can't be read.
    pub verdict: Verdict,
    /// One for each BackendTLSPolicy, by namespace and name.
    pub policies: Vec<PolicyReport>,
    /// What could not be read, in the order of the files.
    pub unreadable: Vec<Unreadable>,
    /// What concerns no policy in particular.
    pub warnings: Vec<String>,
}

/// Whether something does what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// Nothing is refused; there may be warnings.
    Accepted,
    /// Something is: connections to it, or a reference of it.
    Refused,
}

impl Verdict {
    pub(super) fn refused_if(refused: bool) -> Self {
        if refused {
            Self::Refused
        } else {
            Self::Accepted
        }
    }
}

/// The judgement on one policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyReport {
    /// The policy's namespace.
    pub namespace: String,
    /// The policy's name.
    pub name: String,
    /// Where it was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Refused if there are errors.
    pub verdict: Verdict,
    /// One for each targetRef that names a Service.
    pub ancestors: Vec<Ancestor>,
    /// Why it is refused: a sentence each, with the cure. What the conditions say is among them.
    pub errors: Vec<String>,
    /// What works, but not for long or maybe not as meant: a sentence each, with the cure.
    pub warnings: Vec<String>,
}

/// The conditions that a policy gets for one target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Ancestor {
    /// The target.
    pub ancestor_ref: AncestorRef,
    /// Accepted; and ResolvedRefs, when the policy says which CA it means.
    pub conditions: Vec<ConditionReport>,
}

/// A Service of the policy's namespace, or one port of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AncestorRef {
    /// Empty: the core group.
    pub group: &'static str,
    /// `Service`.
    pub kind: &'static str,
    /// Name of the Service.
    pub name: String,
    /// The targetRef's `sectionName`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
}

/// A condition, as `kubectl get -o yaml` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConditionReport {
    /// `Accepted` or `ResolvedRefs`.
    #[serde(rename = "type")]
    pub type_: &'static str,
    /// `True` or `False`.
    pub status: &'static str,
    /// A reason of the BackendTLSPolicy API.
    pub reason: &'static str,
    /// For humans.
    pub message: String,
}

/// A file, a document or an object that can't be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Unreadable {
    /// The file.
    pub file: PathBuf,
    /// The document in it, from 1; empty documents don't count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub document: Option<usize>,
    /// `Kind namespace/name`, as far as known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// What is wrong, in one line.
    pub cause: String,
}
