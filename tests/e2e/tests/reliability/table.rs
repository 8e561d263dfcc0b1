//! `docs/reliability.md`: what a run of all rows has shown.

use nodetls_e2e::document;

use crate::Row;
use crate::load::Outcome;

const INTRODUCTION: &str = "\
# Reliability

What a fault does to clients. Eight pods of node1 ask a targeted Service again and again, each time on a new connection,
and mark each request; its server is on node2, where all that comes over the wire is captured. \"Refused\" are connects that
the kernel refuses (or the proxy resets, or answers with 502 or 503); \"failed\" is what ends in any other way, such as a
name that does not resolve or a Service without endpoints. \"In plaintext\" counts the packets on the wire that show a mark.

Each row is a test in [tests/e2e/tests/reliability/](../tests/e2e/tests/reliability/), which fails if one request is in
plaintext, or ends in a way that the row does not allow. There are two exceptions. A new ClusterIP: before the API server
has told of it, nobody can know it, and kube-proxy may be told a moment before nodetls; not one request in fifty may be in
plaintext then. And a boot without the boot guard: in plaintext is what pods ask until the agent is back, and the test
fails if nothing is. (A boot is: the node's pods are stopped, the agent ends, its pins are removed, the guard's unit is
executed if there is one, and the pods go on.) Where the policy is deleted, plaintext is in order until it is created again
and in force; what is asked meanwhile fails, since the server wants TLS, and is not counted as in plaintext. The other
image is the same program under another name.

`cargo xtask e2e` runs them. The figures are those of the run that wrote this file, on two shared cores:
`NODETLS_BLESS=1 cargo test --package nodetls-e2e --test reliability`.

| Fault | Tried | Refused | Failed | In plaintext | Longest without an answer |
|---|---|---|---|---|---|
";

/// Compares the document, its figures aside, with what this run has shown, or writes it.
///
/// # Errors
/// As [`document::check`].
pub(crate) fn check(outcomes: &[(&Row, Outcome)]) -> Result<(), String> {
    let table = generated(outcomes);
    document::check("reliability.md", "reliability", &table, without_figures)
}

fn generated(outcomes: &[(&Row, Outcome)]) -> String {
    let row = |(row, outcome): &(&Row, Outcome)| {
        format!(
            "| {} | {} | {} | {} | {} | {:.1} s |\n",
            row.fault,
            outcome.tried,
            outcome.refused,
            outcome.failed.len(),
            outcome.plaintext,
            outcome.outage.as_secs_f64()
        )
    };
    INTRODUCTION.to_owned() + &outcomes.iter().map(row).collect::<String>()
}

/// They differ from run to run.
fn without_figures(table: String) -> Vec<String> {
    let head = |line: &str| match line.strip_prefix("| ").and_then(|rest| rest.find(" | ")) {
        Some(end) => line[..end].to_owned(),
        None => line.to_owned(),
    };
    table.lines().map(head).collect()
}
