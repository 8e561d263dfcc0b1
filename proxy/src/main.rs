//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory as _, Parser, Subcommand};
use nodetls::agent::{self, Options};
use nodetls::{
    cert, check, completion, connections, controller, diagnose, exec, explain, guard, kubectl,
    redirect, status, uninstall,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Makes BackendTLSPolicy true for every pod of a node.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Agent(Box<Options>),
    Controller(controller::Options),
    Exec(exec::Options),
    Check(check::Options),
    Status(status::Options),
    Explain(explain::Options),
    Connections(connections::Options),
    Cert(cert::Options),
    Diagnose(diagnose::Options),
    Guard(guard::Options),
    Uninstall(uninstall::Options),
    Completion(completion::Options),
    /// Proves that the eBPF programs see connects from a cgroup; started by the agent.
    #[command(hide = true)]
    Canary {
        cgroup: PathBuf,
        addresses: Vec<SocketAddr>,
    },
}

fn main() -> ExitCode {
    let result = match kubectl::is_called() {
        true => kubectl::main(),
        false => carry_out(Cli::parse().command),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn carry_out(command: Command) -> Result<ExitCode> {
    match command {
        Command::Agent(options) => agent::run(*options).map(|()| ExitCode::SUCCESS),
        Command::Controller(options) => controller::start(&options).map(|()| ExitCode::SUCCESS),
        Command::Canary { cgroup, addresses } => {
            redirect::run_canary_child(&cgroup, &addresses).map(|()| ExitCode::SUCCESS)
        }
        Command::Exec(options) => Ok(exec::run(&options)),
        Command::Check(options) => check::run(&options),
        Command::Status(options) => status::run(&options),
        Command::Explain(options) => explain::run(&options),
        Command::Connections(options) => connections::run(&options),
        Command::Cert(options) => cert::run(&options),
        Command::Diagnose(options) => diagnose::run(&options),
        Command::Completion(options) => completion::run(&options, Cli::command()),
        Command::Guard(options) => guard::run(&options).map(|()| ExitCode::SUCCESS),
        Command::Uninstall(options) => uninstall::run(&options).map(|()| ExitCode::SUCCESS),
    }
}
