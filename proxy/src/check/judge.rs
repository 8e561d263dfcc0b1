//! The judgement: pure, the clock is an argument.

use std::sync::Arc;

use jiff::Timestamp;

use super::certificates::{self, Finding};
use super::report::{
    Ancestor, AncestorRef, ConditionReport, PolicyReport, Report, Unreadable, Verdict,
};
use crate::policy::{
    self, ALLOW_SECRETS, AncestorStatus, BackendTlsPolicy, CLIENT_CERTIFICATE, CaBundle, CaKind,
    CaName, Condition, Installation, PolicyStatus,
};
use crate::source::{FileError, Update};

/// Judges what was read of some manifests, as of `now`. CA certificates that expire within `expiry_days` are warned of.
pub fn judge(update: &Update, now: Timestamp, expiry_days: u16) -> Report {
    let objects = &update.objects;
    // Whether a node has a trust store can't be seen from here: assume it, as of any node that is set up.
    // What an installation may allow is allowed, and told of.
    let system = CaBundle {
        certificates: Vec::new(),
    };
    let installation = Installation {
        system_roots: Some(Arc::new(system)),
        insecure_validation: true,
    };
    let mut bundles = policy::ca_bundles(objects);
    let named = policy::ca_names(objects);
    let judge = |status: Arc<PolicyStatus>| {
        let bundles = bundles.remove(&status.policy).unwrap_or_default();
        let mut report = judge_policy(&status, &bundles, now, expiry_days);
        let named = named.get(&status.policy).into_iter().flatten();
        report.warnings.extend(named.filter_map(needs_permission));
        let policy = objects.policies.get(&status.policy);
        report
            .warnings
            .extend(policy.and_then(|policy| needs_identities(policy)));
        report.file = update.policy_files.get(&status.policy).cloned();
        report
    };
    let statuses = policy::compile(objects, &installation).statuses;
    let policies: Vec<_> = statuses.into_iter().map(judge).collect();
    let unreadable: Vec<_> = update.errors.iter().map(unreadable).collect();
    let refused = |policy: &PolicyReport| policy.verdict == Verdict::Refused;
    let mut warnings = Vec::new();
    if policies.is_empty() {
        warnings.push(
            "no BackendTLSPolicy: of a directory, only *.yaml, *.yml and *.json directly in it are read".to_owned(),
        );
    }
    Report {
        verdict: Verdict::refused_if(!unreadable.is_empty() || policies.iter().any(refused)),
        policies,
        unreadable,
        warnings,
    }
}

fn judge_policy(
    status: &PolicyStatus,
    bundles: &[(CaName, Arc<CaBundle>)],
    now: Timestamp,
    expiry_days: u16,
) -> PolicyReport {
    let mut errors = Sentences::default();
    let mut warnings = Sentences::default();
    errors.extend(&status.problems);
    warnings.extend(&status.warnings);
    if status.ancestors.is_empty() && status.problems.is_empty() && !status.opted_out {
        warnings.add("spec.targetRefs names no Service: nodetls does nothing for this policy");
    }
    for ancestor in &status.ancestors {
        for (_, condition) in conditions(ancestor) {
            // An invalid spec's condition has all its problems in one sentence.
            if !condition.status && condition.message != status.problems.join("; ") {
                errors.add(&condition.message);
            }
        }
        errors.extend(&ancestor.refused_addresses);
        warnings.extend(&ancestor.warnings);
    }
    for finding in certificates::judge(bundles, now, expiry_days) {
        match finding {
            Finding::Error(text) => errors.add(&text),
            Finding::Warning(text) => warnings.add(&text),
        }
    }
    PolicyReport {
        namespace: status.policy.namespace.clone(),
        name: status.policy.name.clone(),
        file: None,
        verdict: Verdict::refused_if(!errors.0.is_empty()),
        ancestors: status.ancestors.iter().map(ancestor).collect(),
        errors: errors.0,
        warnings: warnings.0,
    }
}

/// What an installation in a cluster may refuse, although it is right.
fn needs_permission(ca: &CaName) -> Option<String> {
    (ca.kind == CaKind::Secret).then(|| {
        format!(
            "{ca}: in a cluster, CA certificates are taken from Secrets only where the installation allows it \
             ({ALLOW_SECRETS}): a ConfigMap works everywhere"
        )
    })
}

/// The same for client certificates.
fn needs_identities(policy: &BackendTlsPolicy) -> Option<String> {
    let name = policy.spec["options"][CLIENT_CERTIFICATE].as_str()?;
    Some(format!(
        "spec.options: {CLIENT_CERTIFICATE}: in a cluster, Secret {name} is looked up in the namespace of each client's pod, \
         and only where the installation allows it (nodetls agent --client-certificates, component \
         manifests/components/client-certificates)"
    ))
}

/// What is to be told, each once: a missing CA is told by every target's conditions.
#[derive(Default)]
struct Sentences(Vec<String>);

impl Sentences {
    fn add(&mut self, text: &str) {
        if !self.0.iter().any(|known| known == text) {
            self.0.push(text.to_owned());
        }
    }

    fn extend(&mut self, texts: &[String]) {
        texts.iter().for_each(|text| self.add(text));
    }
}

fn conditions(ancestor: &AncestorStatus) -> impl Iterator<Item = (&'static str, &Condition)> {
    let resolved_refs = ancestor.resolved_refs.as_ref();
    let accepted = [("Accepted", &ancestor.accepted)].into_iter();
    accepted.chain(resolved_refs.map(|condition| ("ResolvedRefs", condition)))
}

fn ancestor(ancestor: &AncestorStatus) -> Ancestor {
    let condition = |(type_, condition): (_, &Condition)| ConditionReport {
        type_,
        status: if condition.status { "True" } else { "False" },
        reason: condition.reason.as_str(),
        message: condition.message.clone(),
    };
    Ancestor {
        ancestor_ref: AncestorRef {
            group: "",
            kind: "Service",
            name: ancestor.service.clone(),
            section_name: ancestor.section_name.clone(),
        },
        conditions: conditions(ancestor).map(condition).collect(),
    }
}

fn unreadable(error: &FileError) -> Unreadable {
    // Parsers speak in several lines.
    let words: Vec<&str> = error.cause.split_whitespace().collect();
    Unreadable {
        file: error.file.clone(),
        document: error.document,
        object: error.object.clone(),
        cause: words.join(" "),
    }
}
