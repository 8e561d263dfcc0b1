//! The conformance suite of Gateway API's BackendTLSPolicy, driven from plain pods instead of through a Gateway, and what
//! it does not test. Each row is a test; of a run of all rows `docs/conformance.md` is made.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod addresses;
mod authorities;
mod backend_tls_policy;
mod conflicts;
mod objects;
mod others_entries;
mod precedence;
mod protocols;
mod references;
mod rotation;
mod subject_alt_names;
mod suite;
mod table;
mod targets;

use std::process::ExitCode;
use std::sync::{Arc, LazyLock};

use libtest_mimic::{Arguments, Trial};

use suite::Suite;

/// Rows of one upstream test, or of one subject that upstream does not test.
struct Group {
    title: &'static str,
    /// Upstream's names of the features that the test needs; empty for tests that it does not have.
    features: &'static str,
    /// The client, in the place of upstream's Gateway.
    driven_by: &'static str,
    rows: &'static [Row],
}

/// One test, and one line of the table.
struct Row {
    name: &'static str,
    /// What must hold, in short.
    asserted: &'static str,
    test: fn(&Suite),
}

/// What drives most rows.
const HTTP_CLIENT: &str = "curl, HTTP/1.1 without TLS";

/// In the order of the table.
const GROUPS: [&Group; 14] = [
    &backend_tls_policy::BACKEND_TLS_POLICY,
    &references::INVALID_CA_CERTIFICATE_REF,
    &references::INVALID_KIND,
    &conflicts::CONFLICT_RESOLUTION,
    &backend_tls_policy::OBSERVED_GENERATION_BUMP,
    &subject_alt_names::SAN_VALIDATION,
    &protocols::GRPC_ROUTE,
    &protocols::TLS_ROUTE_TERMINATE,
    &authorities::AUTHORITIES,
    &rotation::ROTATION,
    &targets::TARGETS,
    &precedence::PRECEDENCE,
    &others_entries::OTHERS_ENTRIES,
    &addresses::ADDRESSES,
];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(2);
    // Made by the first test, so that a filter that leaves none needs no cluster.
    let suite = Arc::new(LazyLock::new(Suite::new as fn() -> Suite));
    let rows: Vec<&'static Row> = GROUPS.iter().flat_map(|group| group.rows).collect();
    let trial = |row: &'static Row| {
        let suite = suite.clone();
        Trial::test(row.name, move || {
            (row.test)(&suite);
            Ok(())
        })
    };
    let trials = rows.iter().copied().map(trial).collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    if conclusion.has_failed() {
        return ExitCode::FAILURE;
    }
    // Only a run of all rows tells something of all rows.
    if conclusion.num_passed == rows.len() as u64
        && let Err(error) = table::check()
    {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
