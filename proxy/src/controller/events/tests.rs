#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use crate::policy::{AncestorStatus, Condition, Reason};

fn condition(status: bool, reason: Reason, message: &str) -> Condition {
    let message = message.to_owned();
    Condition {
        status,
        reason,
        message,
    }
}

fn ancestor(service: &str, accepted: Condition, resolved: Condition) -> AncestorStatus {
    AncestorStatus {
        service: service.to_owned(),
        section_name: None,
        accepted,
        resolved_refs: Some(resolved),
        refused_addresses: Vec::new(),
        warnings: vec!["never told".to_owned()],
    }
}

fn compiled(ancestors: Vec<AncestorStatus>) -> PolicyStatus {
    PolicyStatus {
        policy: ObjectName::new("default", "p"),
        generation: Some(1),
        ancestors,
        problems: Vec::new(),
        opted_out: false,
        warnings: Vec::new(),
    }
}

fn told(compiled: &PolicyStatus, left_out: &[String]) -> Vec<(String, String)> {
    let notices = notices(compiled, left_out).into_iter();
    notices.map(|notice| (notice.reason, notice.note)).collect()
}

fn pair(reason: &str, note: &str) -> (String, String) {
    (reason.to_owned(), note.to_owned())
}

#[test]
fn tells_what_is_refused_once_for_all_targets_and_nothing_else() {
    let good = || condition(true, Reason::Accepted, "fine");
    let resolved = || condition(true, Reason::ResolvedRefs, "fine");
    let bad = || condition(false, Reason::NoValidCaCertificate, "no CA");
    let unresolved = || condition(false, Reason::InvalidCaCertificateRef, "no CA");
    assert_eq!(
        told(&compiled(vec![ancestor("a", good(), resolved())]), &[]),
        []
    );

    let same = vec![
        ancestor("a", bad(), unresolved()),
        ancestor("b", bad(), unresolved()),
    ];
    assert_eq!(
        told(&compiled(same), &[]),
        [pair("NoValidCACertificate", "Service a; Service b: no CA")]
    );

    let mut half = ancestor("a", good(), unresolved());
    half.refused_addresses = vec!["10.0.0.1:443 is refused".to_owned()];
    assert_eq!(
        told(&compiled(vec![half]), &[]),
        [
            pair("InvalidCACertificateRef", "Service a: no CA"),
            pair("Refused", "Service a: 10.0.0.1:443 is refused"),
        ]
    );
}

#[test]
fn tells_what_no_status_can() {
    let mut unreadable = compiled(Vec::new());
    unreadable.problems = vec!["spec.targetRefs: required".to_owned()];
    assert_eq!(
        told(&unreadable, &[]),
        [pair("Invalid", "spec: spec.targetRefs: required")]
    );
    let full = told(&compiled(Vec::new()), &["Service a".to_owned()]);
    assert_eq!(full[0].0, "StatusFull");
    assert!(
        full[0]
            .1
            .starts_with("Service a: status.ancestors has the 16 entries")
    );
}

#[test]
fn a_note_fits_the_api() {
    let long = condition(false, Reason::Invalid, &"ä".repeat(1000));
    let resolved = condition(true, Reason::ResolvedRefs, "");
    let notes = told(&compiled(vec![ancestor("a", long, resolved)]), &[]);
    assert!((1020..=1024).contains(&notes[0].1.len()));
}
