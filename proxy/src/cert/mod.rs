//! `nodetls cert`: connects to a target now, as the agent would for a client, and shows what the server presents.

mod present;
mod text;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use serde::{Deserialize, Serialize};

pub(crate) use present::page;

use crate::ask::Query;
use crate::cli::{Admin, Output};
use crate::connections::Tls;
use crate::tls::certificate::Certificate;

/// For the whole answer; the admin address gives no more.
const PATIENCE: Duration = Duration::from_secs(30);

/// Connects to a target now, and shows the certificates that its servers present, and what verification says of each.
///
/// The agent connects, to each endpoint, with the names, CA certificates and options of the policy, without a client
/// certificate and without a resumed session.
///
/// Exit code: 0 when every server is accepted, 1 when one is not or can't be reached, 2 for wrong usage.
///
/// Examples:
///   nodetls cert shop/tls-backend:443
///   nodetls cert shop/tls-backend:https --from shop/web-7d4b9 --output json
#[derive(Args, Clone, Debug)]
#[command(verbatim_doc_comment)]
pub struct Options {
    /// The target: [NAMESPACE/]NAME:PORT, NAME.NAMESPACE:PORT or ADDRESS:PORT; the port by number or name
    #[arg(value_name = "SERVICE:PORT")]
    pub service: String,
    /// Connect from the network namespace of this enrolled pod, so that its routes and NetworkPolicies hold [default: the
    /// agent's own]
    #[arg(long, value_name = "POD|NETNS")]
    pub from: Option<String>,
    #[command(flatten)]
    #[expect(missing_docs, reason = "the type says it")]
    pub admin: Admin,
    /// How the result looks
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// What a target's servers present: what `/cert` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Presented {
    /// `namespace/name:port`.
    pub service: String,
    /// `namespace/name` of the policy.
    pub policy: String,
    /// Whose network namespace was connected from.
    pub from: String,
    /// The SNI.
    pub sni: String,
    /// Any one of these names authenticates the server.
    pub names: Vec<String>,
    /// The CA certificates that the policy trusts.
    pub ca: Vec<Certificate>,
    /// Each server that was tried.
    pub servers: Vec<Server>,
    /// How many more there are.
    pub not_tried: usize,
}

/// A server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Server {
    /// Its address; of an external host its name.
    pub address: String,
    /// Whether it is accepted.
    pub accepted: bool,
    /// What was negotiated, if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Why it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Error>,
    /// The chain that it presents, its own certificate first; empty if it came to none.
    pub chain: Vec<Certificate>,
}

/// Why a server is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Error {
    /// In a word (docs/errors.md).
    pub reason: String,
    /// The particulars.
    pub detail: String,
    /// What to do about it.
    pub cure: String,
}

impl Presented {
    fn accepted(&self) -> bool {
        self.servers.iter().all(|server| server.accepted)
    }
}

/// Prints what the servers present, and gives the exit code.
///
/// # Errors
/// Nobody answers, the port is no target or its policy is refused; standard output can't be written.
pub fn run(options: &Options) -> Result<ExitCode> {
    let query = Query::new("/cert")
        .with("service", Some(&options.service))
        .with("from", options.from.as_deref())
        .within(PATIENCE);
    let presented: Presented = options.admin.ask(&query)?;
    options.output.print(&presented, text::render)?;
    Ok(match presented.accepted() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}
