//! `nodetls completion`: a script for the shell, so that it completes verbs and flags; and the same for kubectl, which
//! asks its plugins.

use std::env;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Command};
use clap_complete::engine::complete;
use clap_complete::{Shell, generate};

use crate::cli::print;

/// Prints a script with which a shell completes nodetls' verbs and flags.
///
/// Examples:
///   nodetls completion bash > /etc/bash_completion.d/nodetls
///   source <(nodetls completion zsh)
///   nodetls completion fish > ~/.config/fish/completions/nodetls.fish
#[derive(Args, Clone, Debug)]
#[command(verbatim_doc_comment)]
pub struct Options {
    /// Whose
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Prints the script for `command` to standard output.
///
/// # Errors
/// That can't be written.
pub fn run(options: &Options, mut command: Command) -> Result<ExitCode> {
    // One word: shells know no program of two, such as `kubectl nodetls`.
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    generate(options.shell, &mut command, name, &mut script);
    print(&String::from_utf8_lossy(&script))?;
    Ok(ExitCode::SUCCESS)
}

/// Prints what the last word of this process' command line can become, as kubectl takes it from a plugin: a line each, then
/// cobra's directive.
///
/// # Errors
/// That can't be written.
pub fn candidates(mut command: Command) -> Result<ExitCode> {
    /// No names of files where there is no candidate (cobra's ShellCompDirectiveNoFileComp).
    const DIRECTIVE: &str = ":4";
    let words: Vec<OsString> = env::args_os().collect();
    let last = words.len() - 1;
    // An error is that there are none, such as after a verb that does not exist.
    let candidates = complete(&mut command, words, last, None).unwrap_or_default();
    let mut text = String::new();
    for candidate in candidates
        .iter()
        .filter(|candidate| !candidate.is_hide_set())
    {
        let help = candidate
            .get_help()
            .map(ToString::to_string)
            .unwrap_or_default();
        let help = help.lines().next().unwrap_or_default();
        let _ = writeln!(text, "{}\t{help}", candidate.get_value().to_string_lossy());
    }
    print(&format!("{text}{DIRECTIVE}\n"))?;
    Ok(ExitCode::SUCCESS)
}
