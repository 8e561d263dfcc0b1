//! `nodetls status`: this node at a glance, from the agent, or from the pins alone when none answers.

mod gather;
mod live;
mod node_pods;
mod problems;
mod report;
#[cfg(test)]
mod tests;
mod text;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;

pub(crate) use gather::{kernel, netns_names};
pub use live::Live;
pub(crate) use live::{Facts, Parts, alt_name, page};
pub(crate) use node_pods::{Found, NodePods};
pub use report::{
    Agent, AgentState, Answer, Ca, Connections, Connects, EarlierConnection, Exec, ExecState,
    Netns, NetnsState, Problem, Program, Status, Target, TargetState,
};

use crate::ask::{Query, ask};
use crate::cli::{Admin, Output};

/// Shows this node: programs, agents, network namespaces, targets, connections, and what is wrong, with the cure.
///
/// Asks the running agent. If none answers, it shows what the pins tell, which needs root.
///
/// Exit code: 0 when all is well, 1 when there is a problem, 2 for wrong usage. Failed connections of clients are
/// counted and shown, but are no problem of the node.
///
/// Examples:
///   nodetls status
///   nodetls status --admin 127.0.0.1:15021 --output json
#[derive(Args, Clone, Debug)]
#[command(verbatim_doc_comment)]
pub struct Options {
    /// Where the agent answers
    #[command(flatten)]
    pub admin: Admin,
    /// Directory of pins, which is looked at when no agent answers; one that does tells of its own
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/nodetls")]
    pub pins: PathBuf,
    /// How the result looks
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// Prints the state to standard output, and gives the exit code: 1 if there is a problem.
///
/// # Errors
/// When no agent answers and the pins can't be read, or standard output can't be written.
pub fn run(options: &Options) -> Result<ExitCode> {
    let status = report(options.admin.address, &options.pins)?;
    options.output.print(&status, text::render)?;
    Ok(if status.healthy {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What the agent tells, or without one the pins.
///
/// # Errors
/// No agent answers and the pins can't be read.
pub(crate) fn report(admin: SocketAddr, pins: &Path) -> Result<Status> {
    match ask(admin, &Query::new("/status")) {
        Ok(status) => Ok(status),
        Err(error) => from_pins(pins, admin, &error),
    }
}

/// What can be told without the agent, which did not answer because of `error`.
fn from_pins(pins: &Path, admin: SocketAddr, error: &anyhow::Error) -> Result<Status> {
    let (mut status, view) = gather::kernel(pins).with_context(|| {
        let pins = pins.display();
        format!(
            "no agent answers at {admin} ({error:#}), and --pins {pins} can't be read (needs root, and a bpffs)"
        )
    })?;
    let lives = status
        .agents
        .iter()
        .any(|agent| agent.state != AgentState::Dead);
    let target = |address: SocketAddr| Target {
        service: None,
        port: address.port(),
        addresses: vec![address],
        policy: None,
        state: if lives {
            TargetState::Unknown
        } else {
            TargetState::Refused
        },
        reason: (!lives).then(|| "NoAgent".to_owned()),
        message: None,
        hostname: None,
        subject_alt_names: Vec::new(),
        ca: None,
        endpoints: None,
        external_host: None,
        open: 0,
    };
    let addresses = view.map(|view| view.targets()).unwrap_or_default();
    status.targets = addresses.into_iter().map(target).collect();
    let without = problems::without_answer(&status, &admin.to_string(), &format!("{error:#}"));
    status.problems.splice(0..0, without);
    status.problems.extend(problems::of_kernel(&status));
    status.healthy = status.problems.is_empty();
    Ok(status)
}
