//! `kubectl nodetls`: the commands of a node, on every node of a cluster, from wherever kubectl works. It is the same
//! binary, called `kubectl-nodetls`, and asks kubectl itself to reach the agents: so every way to log in to a cluster that
//! kubectl knows works here too.

mod agents;
mod bundle;
mod nodes;

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, CommandFactory as _, Parser, Subcommand};

use self::nodes::{Cluster, Said};
use crate::cli::Output;
use crate::{check, completion, diagnose};

/// The name by which kubectl finds a plugin.
const NAME: &str = "kubectl-nodetls";
/// The name of what kubectl runs to complete its command line (since 1.26).
const COMPLETE: &str = "kubectl_complete-nodetls";

/// Asks the agents of nodetls on all nodes of a cluster, by kubectl.
///
/// It needs the right to get pods and to create pods/exec in nodetls' namespace. With --output json the answers of all
/// nodes are one document.
///
/// Exit code: 0 when all is well, 1 when it is not on a node, or one can't be asked, 2 for wrong usage.
///
/// Examples:
///   kubectl nodetls status
///   kubectl nodetls explain web-7d4b9 tls-backend:443 -n shop
///   kubectl nodetls connections --node node1
///   kubectl nodetls cert tls-backend:443 -n shop --output json
///   kubectl nodetls check --context staging
///   kubectl nodetls diagnose report
#[derive(Parser)]
#[command(name = NAME, bin_name = "kubectl nodetls", version, verbatim_doc_comment)]
struct Cli {
    #[command(flatten)]
    flags: Flags,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Args)]
struct Flags {
    /// A context of the kubeconfig [default: its current one]
    #[arg(long, value_name = "NAME", global = true)]
    context: Option<String>,
    /// The kubeconfig [default: as kubectl finds it]
    #[arg(long, value_name = "FILE", global = true)]
    kubeconfig: Option<PathBuf>,
    /// Namespace of the pod and of the Service, where they name none [default: the context's; for `check` all]
    #[arg(short, long, value_name = "NAME", global = true)]
    namespace: Option<String>,
    /// Namespace of nodetls itself
    #[arg(
        long,
        value_name = "NAME",
        global = true,
        default_value = "nodetls-system"
    )]
    nodetls_namespace: String,
    /// How the result looks
    #[arg(short, long, value_enum, default_value_t, global = true)]
    output: Output,
}

#[derive(Args)]
struct Nodes {
    /// Only these nodes [default: all with an agent]
    #[arg(long = "node", value_name = "NODE", id = "node")]
    names: Vec<String>,
}

#[derive(Subcommand)]
enum Verb {
    /// Shows each node: programs, agents, network namespaces, targets, and what is wrong, with the cure
    Status(Nodes),
    /// Explains what becomes of a pod's connections to a Service, and why
    Explain {
        /// The client's pod: [NAMESPACE/]NAME
        #[arg(value_name = "POD")]
        pod: String,
        /// What it connects to: [NAMESPACE/]NAME:PORT, NAME.NAMESPACE:PORT or ADDRESS:PORT
        #[arg(value_name = "SERVICE:PORT")]
        service: String,
    },
    /// Lists the connections that are open now
    Connections(Nodes),
    /// Connects to a target from each node now, and shows the certificates that its servers present
    Cert {
        /// The target: [NAMESPACE/]NAME:PORT, NAME.NAMESPACE:PORT or ADDRESS:PORT
        #[arg(value_name = "SERVICE:PORT")]
        service: String,
        /// Connect from the network namespace of this pod, on its node: [NAMESPACE/]NAME
        #[arg(long, value_name = "POD", conflicts_with = "node")]
        from: Option<String>,
        #[command(flatten)]
        nodes: Nodes,
    },
    /// Judges every BackendTLSPolicy of the cluster, or of --namespace, as `nodetls check --cluster` does
    Check {
        /// Warn of CA certificates that expire within so many days
        #[arg(long, value_name = "DAYS", default_value = "30")]
        expiry_days: u16,
    },
    /// Collects what a bug report needs, of each node and of the cluster, without secrets
    Diagnose {
        /// Directory to make [default: nodetls-diagnose-TIME]
        #[arg(value_name = "DIR")]
        dir: Option<PathBuf>,
        #[command(flatten)]
        nodes: Nodes,
    },
    /// Prints a script with which a shell completes verbs and flags
    Completion(completion::Options),
}

/// Whether this process was started as kubectl's plugin, or to complete its command line.
pub fn is_called() -> bool {
    is_called_as(NAME) || is_called_as(COMPLETE)
}

fn is_called_as(name: &str) -> bool {
    let program = env::args_os().next();
    program.is_some_and(|program| Path::new(&program).file_name() == Some(name.as_ref()))
}

/// Carries out what the command line asks for.
///
/// # Errors
/// kubectl fails, or there is no agent to ask; with the cure.
pub fn main() -> Result<ExitCode> {
    if is_called_as(COMPLETE) {
        return completion::candidates(Cli::command());
    }
    let Cli { flags, verb } = Cli::parse();
    let cluster = Cluster::new(&flags);
    let output = flags.output;
    let said = match verb {
        Verb::Status(nodes) => cluster.ask(cluster.agents(&nodes.names)?, &["status"], output),
        Verb::Connections(nodes) => {
            cluster.ask(cluster.agents(&nodes.names)?, &["connections"], output)
        }
        Verb::Explain { pod, service } => {
            let (agent, pod) = cluster.agent_of(&pod)?;
            cluster.ask(vec![agent], &["explain", &pod, &service], output)
        }
        Verb::Cert {
            service,
            from,
            nodes,
        } => {
            let service = cluster.with_namespace(&service)?;
            match from {
                None => cluster.ask(cluster.agents(&nodes.names)?, &["cert", &service], output),
                Some(pod) => {
                    let (agent, pod) = cluster.agent_of(&pod)?;
                    cluster.ask(vec![agent], &["cert", &service, "--from", &pod], output)
                }
            }
        }
        Verb::Check { expiry_days } => return check(flags, expiry_days),
        Verb::Diagnose { dir, nodes } => {
            let bundle = bundle::collect(&cluster, &nodes.names)?;
            match output {
                Output::Text => diagnose::write(dir.as_deref(), &bundle)?,
                Output::Json => output.print(&bundle, |_| String::new())?,
            }
            return Ok(ExitCode::SUCCESS);
        }
        Verb::Completion(options) => return completion::run(&options, Cli::command()),
    };
    output.print(&said, |said| nodes::render(said))?;
    let well = said.iter().all(Said::is_well);
    Ok(if well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn check(flags: Flags, expiry_days: u16) -> Result<ExitCode> {
    check::run(&check::Options {
        manifests: None,
        cluster: true,
        namespace: flags.namespace,
        context: flags.context,
        kubeconfig: flags.kubeconfig,
        output: match flags.output {
            Output::Text => check::Output::Text,
            Output::Json => check::Output::Json,
        },
        expiry_days,
    })
}

impl Flags {
    /// Those that kubectl has too.
    fn of_kubectl(&self) -> Vec<OsString> {
        let mut flags: Vec<OsString> = Vec::new();
        if let Some(context) = &self.context {
            flags.extend(["--context".into(), context.into()]);
        }
        if let Some(kubeconfig) = &self.kubeconfig {
            flags.extend(["--kubeconfig".into(), kubeconfig.into()]);
        }
        flags
    }
}
