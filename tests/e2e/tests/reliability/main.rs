//! What a fault does to clients: counted, with a look at the wire. Each row is a test; of a run of all rows
//! `docs/reliability.md` is made. One at a time, since others' connections fail too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod agent;
mod boot;
mod control_plane;
mod load;
mod memory;
mod node;
mod objects;
mod process;
mod table;
mod wire;

use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use libtest_mimic::{Arguments, Trial};

use load::{Load, Outcome};

/// One fault, and one line of the table.
struct Row {
    name: &'static str,
    /// What happens.
    fault: &'static str,
    /// How requests may end besides with an answer.
    allowed: Allowed,
    /// Brings it about, and ends it.
    test: fn(&Load),
}

#[derive(PartialEq, Eq)]
enum Allowed {
    /// Every one is answered.
    Nothing,
    /// By a refusal.
    Refusal,
    /// Also in other ways, such as a name that does not resolve.
    Failure,
    /// And for moments in plaintext: nobody can know an address before the API server has told of it.
    Moments,
    /// In plaintext, for lack of what prevents it.
    Plaintext,
}

/// In the order of the table.
const ROWS: [&Row; 17] = [
    &agent::KILLED,
    &memory::OUT_OF_MEMORY,
    &agent::ROLLED_OUT,
    &agent::OTHER_IMAGE,
    &agent::FAILED_ROLLOUT,
    &control_plane::API_SERVER_AWAY,
    &control_plane::CONTROLLER_AWAY,
    &control_plane::CRD_DELETED,
    &objects::POLICY_CREATED_AGAIN,
    &objects::SERVICE_CREATED_AGAIN,
    &objects::SERVICE_WITH_A_NEW_CLUSTER_IP,
    &objects::TOO_MANY_TARGETS,
    &node::CONTAINERD_RESTARTED,
    &node::SHORT_PODS,
    &boot::BPFFS_MOUNTED_ANEW,
    &boot::WITHOUT_GUARD,
    &boot::WITH_GUARD,
];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let outcomes = Arc::new(Mutex::new(Vec::new()));
    let trial = |row: &'static Row| {
        let outcomes = Arc::clone(&outcomes);
        Trial::test(row.name, move || {
            let outcome = run(row);
            outcomes.lock().unwrap().push((row, outcome));
            Ok(())
        })
    };
    let conclusion = libtest_mimic::run(&arguments, ROWS.into_iter().map(trial).collect());
    if conclusion.has_failed() {
        return ExitCode::FAILURE;
    }
    let outcomes = outcomes.lock().unwrap();
    // Only a run of all rows tells something of all rows.
    if outcomes.len() == ROWS.len()
        && let Err(error) = table::check(&outcomes)
    {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn run(row: &Row) -> Outcome {
    let load = Load::start(&format!("e2e-{}", row.name.replace('_', "-")));
    let from = load.lines().len();
    (row.test)(&load);
    let outcome = load.end(from);
    println!("{}: {outcome:?}", row.name);
    let allowed = match row.allowed {
        Allowed::Moments => outcome.tried / 50,
        Allowed::Plaintext => outcome.tried,
        _ => 0,
    };
    assert!(outcome.plaintext <= allowed, "plaintext on the wire");
    if matches!(row.allowed, Allowed::Nothing | Allowed::Refusal) {
        assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
    }
    if row.allowed == Allowed::Nothing {
        assert_eq!(outcome.refused, 0);
    }
    if row.allowed == Allowed::Plaintext {
        assert!(
            outcome.plaintext > 0,
            "what is told of it is not true any more"
        );
    }
    outcome
}
