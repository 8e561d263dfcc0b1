//! What docs/agent.md says of flags is what `--help` says.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::process::Command;

/// Name and default of each of the agent's options, from `--help`.
fn options() -> Vec<(String, Option<String>)> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nodetls"));
    let output = command.args(["agent", "--help"]).output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let (_, options) = help.split_once("Options:").unwrap();
    let mut found: Vec<(String, Option<String>)> = Vec::new();
    for line in options.lines() {
        let words = line.split_whitespace();
        if let Some(flag) = words.clone().find(|word| word.starts_with("--"))
            && line.trim_start().starts_with('-')
        {
            found.push((flag.to_owned(), None));
        }
        if let (Some((_, rest)), Some(last)) = (line.split_once("[default: "), found.last_mut()) {
            last.1 = rest.split_once(']').map(|(default, _)| default.to_owned());
        }
    }
    found.retain(|(flag, _)| flag != "--help");
    found
}

#[test]
fn the_table_has_every_flag_of_the_agent_with_its_default() {
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/agent.md");
    let document = fs::read_to_string(document).unwrap();
    let rows: Vec<_> = document
        .lines()
        .filter(|line| line.starts_with("| `--"))
        .collect();
    let options = options();
    assert!(options.len() > 10, "{options:?}");
    for (flag, default) in &options {
        let has = |row: &&&str| {
            let cell = row.split(" | ").next().unwrap();
            [" ", "`"]
                .iter()
                .any(|end| cell.contains(&format!("`{flag}{end}")))
        };
        let row = rows.iter().find(has);
        let row = row.unwrap_or_else(|| panic!("docs/agent.md has no row for {flag}"));
        let default = default.as_deref().unwrap_or_default();
        assert!(
            row.contains(default),
            "{flag}: default {default} is not in {row}"
        );
    }
    for row in rows {
        for flag in row.split('`').filter(|part| part.starts_with("--")) {
            let flag = flag.split(' ').next().unwrap();
            assert!(
                options.iter().any(|(name, _)| name == flag),
                "there is no {flag}"
            );
        }
    }
}
