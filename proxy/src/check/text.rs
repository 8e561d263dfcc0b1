//! The report for people: a table, with what is wrong below each policy.

use std::path::Path;

use super::report::{Ancestor, PolicyReport, Report, Unreadable, Verdict};
use crate::table::{aligned, line, widths};

/// A line of the table.
type Row = [String; 4];

/// Renders a report. Every line ends in a newline.
pub(super) fn render(report: &Report) -> String {
    let header = ["POLICY", "SERVICE", "ACCEPTED", "RESOLVEDREFS"].map(str::to_owned);
    let tables: Vec<Vec<Row>> = report.policies.iter().map(rows).collect();
    let mut all = tables.concat();
    all.push(header.clone());
    let widths = widths(&all);
    let mut text = String::new();
    if !report.policies.is_empty() {
        line(&mut text, &aligned(&header, &widths));
    }
    for (policy, rows) in report.policies.iter().zip(&tables) {
        for row in rows {
            line(&mut text, &aligned(row, &widths));
        }
        let file = policy.file.as_deref().map(Path::display);
        let file = file.map_or_else(String::new, |file| format!("{file}: "));
        for error in &policy.errors {
            line(&mut text, &format!("  error: {file}{error}"));
        }
        for warning in &policy.warnings {
            line(&mut text, &format!("  warning: {file}{warning}"));
        }
    }
    for unreadable in &report.unreadable {
        line(&mut text, &format!("error: {}", place(unreadable)));
    }
    for warning in &report.warnings {
        line(&mut text, &format!("warning: {warning}"));
    }
    line(&mut text, &summary(report));
    text
}

/// A row for each target; one for a policy without.
fn rows(policy: &PolicyReport) -> Vec<Row> {
    let name = format!("{}/{}", policy.namespace, policy.name);
    let none = || "-".to_owned();
    if policy.ancestors.is_empty() {
        return vec![[name, none(), none(), none()]];
    }
    let row = |ancestor: &Ancestor| {
        let target = &ancestor.ancestor_ref;
        let service = match &target.section_name {
            Some(section) => format!("{}:{section}", target.name),
            None => target.name.clone(),
        };
        let condition = |type_| {
            let mut conditions = ancestor.conditions.iter();
            match conditions.find(|condition| condition.type_ == type_) {
                None => none(),
                Some(condition) if condition.status == "True" => condition.status.to_owned(),
                Some(condition) => format!("{} ({})", condition.status, condition.reason),
            }
        };
        let (accepted, resolved_refs) = (condition("Accepted"), condition("ResolvedRefs"));
        [name.clone(), service, accepted, resolved_refs]
    };
    policy.ancestors.iter().map(row).collect()
}

fn place(unreadable: &Unreadable) -> String {
    let mut place = unreadable.file.display().to_string();
    if let Some(document) = unreadable.document {
        place.push_str(&format!(", document {document}"));
    }
    if let Some(object) = &unreadable.object {
        place.push_str(&format!(", {object}"));
    }
    format!("{place}: {}", unreadable.cause)
}

fn summary(report: &Report) -> String {
    let refused = |policy: &&PolicyReport| policy.verdict == Verdict::Refused;
    let refused = report.policies.iter().filter(refused).count();
    let warnings = report.policies.iter().map(|policy| policy.warnings.len());
    let parts = [
        format!("policies: {}", report.policies.len()),
        format!("refused: {refused}"),
        format!("unreadable: {}", report.unreadable.len()),
        format!(
            "warnings: {}",
            warnings.sum::<usize>() + report.warnings.len()
        ),
    ];
    parts.join(", ")
}
