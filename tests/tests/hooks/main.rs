//! What the programs rely on the kernel for, and what they do with it: each row is a test. `cargo test` runs them on this
//! machine's kernel, `cargo xtask vm-test` on others, and makes `docs/compatibility.md` of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A test's way to fail.

mod agent;
mod deny;
mod ipv6;
mod listeners;
mod load;
mod order;
mod pins;
mod redirect;
mod rig;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

use rig::Outcome;

/// Rows of one subject.
struct Group {
    title: &'static str,
    rows: &'static [Row],
}

/// One test, and one line of the table.
struct Row {
    name: &'static str,
    /// What must hold, in short.
    asserted: &'static str,
    test: fn() -> Outcome,
}

/// In the order of the table.
const GROUPS: [&Group; 8] = [
    &load::LOAD,
    &redirect::REDIRECT,
    &deny::DENY,
    &ipv6::IPV6,
    &listeners::LISTENERS,
    &order::ORDER,
    &pins::PINS,
    &agent::AGENT,
];

fn main() -> ExitCode {
    // For `cargo xtask vm-test`: the rows, and what is asserted.
    if std::env::args().nth(1).as_deref() == Some("--rows") {
        for group in GROUPS {
            for row in group.rows {
                println!("{}\t{}\t{}", group.title, row.name, row.asserted);
            }
        }
        return ExitCode::SUCCESS;
    }
    let mut arguments = Arguments::from_args();
    // Each joins a cgroup, and that is the whole process'.
    arguments.test_threads = Some(1);
    let rows = GROUPS.iter().flat_map(|group| group.rows);
    let trial = |row: &'static Row| {
        Trial::test(row.name, move || {
            let said = match (row.test)() {
                Ok(note) => format!("passed {note}"),
                Err(refused) => refused.to_string(),
            };
            println!("\noutcome {} {}", row.name, said.trim_end());
            Ok(())
        })
    };
    libtest_mimic::run(&arguments, rows.map(trial).collect()).exit_code()
}
