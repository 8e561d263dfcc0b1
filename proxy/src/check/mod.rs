//! `nodetls check`: judges manifests offline, by the same compiler that the agent uses.

mod certificates;
mod judge;
mod report;
#[cfg(test)]
mod tests;
mod text;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use jiff::Timestamp;

pub use judge::judge;
pub use report::{
    Ancestor, AncestorRef, ConditionReport, PolicyReport, Report, Unreadable, Verdict,
};

use crate::source::read_once;

/// Judges manifests offline: what becomes of each BackendTLSPolicy, and what will break it. Needs no root.
///
/// Exit code: 0 when nothing is refused (there may be warnings), 1 when a policy is refused or a manifest can't be
/// read, 2 for wrong usage.
///
/// Examples:
///   nodetls check --manifests examples/envoy-gateway
///   kustomize build . | nodetls check --manifests - --output json
#[derive(Args, Clone, Debug)]
#[command(verbatim_doc_comment)]
pub struct Options {
    /// Directory of Kubernetes manifests (not what is below it), one file, or - for standard input
    #[arg(long, value_name = "PATH")]
    pub manifests: PathBuf,
    /// How the result looks
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
    /// Warn of CA certificates that expire within so many days
    #[arg(long, value_name = "DAYS", default_value = "30")]
    pub expiry_days: u16,
}

/// How the result looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// A table, with what is wrong below each policy
    #[default]
    Text,
    /// One JSON document
    Json,
    /// The same as YAML
    Yaml,
}

/// Prints the judgement to standard output, and gives the exit code: 1 if anything is refused.
///
/// # Errors
/// When the manifests' path can't be read, or standard output can't be written.
pub fn run(options: &Options) -> Result<ExitCode> {
    let update = read_once(&options.manifests).with_context(|| {
        let path = options.manifests.display();
        format!("--manifests {path} can't be read: name a directory or file that exists, or -")
    })?;
    let report = judge(&update, Timestamp::now(), options.expiry_days);
    let text = match options.output {
        Output::Text => text::render(&report),
        Output::Json => serde_json::to_string_pretty(&report)? + "\n",
        Output::Yaml => serde_saphyr::to_string(&report)?,
    };
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .context("standard output")?;
    Ok(match report.verdict {
        Verdict::Accepted => ExitCode::SUCCESS,
        Verdict::Refused => ExitCode::FAILURE,
    })
}
