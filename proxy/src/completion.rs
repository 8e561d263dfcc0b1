//! `nodetls completion`: a script for the shell, so that it completes verbs and flags.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Command};
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
