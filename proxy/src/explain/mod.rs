//! `nodetls explain`: what becomes of a client's connections to a port of a Service, and why. The agent judges
//! (`/explain`), since only it knows; the command asks and shows.

mod client;
mod judge;
mod report;
mod service;
#[cfg(test)]
mod tests;
mod text;
mod untargeted;

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

pub(crate) use judge::page;
pub use report::{Explanation, Handshake, LastError, Outcome, Policy, Target};
pub(crate) use service::{Named, port_text};
pub(crate) use text::certificate;

use crate::ask::Query;
use crate::cli::{Admin, Output};

/// Explains what becomes of a client's connections to a Service: which policy applies and why, or why none does.
///
/// Shows the names, CA certificates and options in force, the last TLS handshake, and the last error with its cause and
/// cure. Asks the agent of the client's node. A client that speaks TLS itself is passed through wherever it is
/// redirected.
///
/// Exit code: 0 when TLS is originated and the last handshake did not fail, 1 when connections fail, are refused, or are
/// left as they are, 2 for wrong usage.
///
/// Examples:
///   nodetls explain shop/web-7d4b9 tls-backend:443
///   nodetls explain web-7d4b9 shop/tls-backend:https --output json
///   nodetls explain pod-1 10.96.0.10:443
#[derive(Args, Clone, Debug)]
#[command(verbatim_doc_comment)]
pub struct Options {
    /// The client: a pod of this node, as NAMESPACE/NAME (the namespace where several have the name), or a named network
    /// namespace
    #[arg(value_name = "POD|NETNS")]
    pub client: String,
    /// What it connects to: [NAMESPACE/]NAME:PORT, NAME.NAMESPACE:PORT or ADDRESS:PORT; the port by number or name. The
    /// namespace is the pod's if it is left out
    #[arg(value_name = "SERVICE:PORT")]
    pub service: String,
    #[command(flatten)]
    #[expect(missing_docs, reason = "the type says it")]
    pub admin: Admin,
    /// How the result looks
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// Prints the explanation, and gives the exit code.
///
/// # Errors
/// Nobody answers, there is no such client or the Service's name can't be read; standard output can't be written.
pub fn run(options: &Options) -> Result<ExitCode> {
    let query = Query::new("/explain")
        .with("client", Some(&options.client))
        .with("service", Some(&options.service));
    let explanation: Explanation = options.admin.ask(&query)?;
    options.output.print(&explanation, text::render)?;
    Ok(match explanation.outcome {
        Outcome::Secured => ExitCode::SUCCESS,
        Outcome::Failing | Outcome::Refused | Outcome::Untouched => ExitCode::FAILURE,
    })
}
