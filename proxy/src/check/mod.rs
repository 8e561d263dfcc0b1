//! `nodetls check`: judges manifests, or the objects of a cluster, by the same compiler that the agent uses.

mod certificates;
mod judge;
mod report;
#[cfg(test)]
mod tests;
mod text;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use jiff::Timestamp;

pub use judge::judge;
pub use report::{
    Ancestor, AncestorRef, ConditionReport, PolicyReport, Report, Unreadable, Verdict,
};

use crate::cli::print;
use crate::source::kube::once;
use crate::source::{Update, read_once};

/// Judges manifests offline, or a cluster: what becomes of each BackendTLSPolicy, and what will break it. Needs no root.
///
/// A cluster is read with the rights of the kubeconfig's user: BackendTLSPolicies, Services, EndpointSlices, and the
/// ConfigMaps, Secrets (nothing but their ca.crt is kept) and ClusterTrustBundles that policies name.
///
/// Exit code: 0 when nothing is refused (there may be warnings), 1 when a policy is refused or a manifest can't be
/// read, 2 for wrong usage.
///
/// Examples:
///   nodetls check --manifests examples/envoy-gateway
///   kustomize build . | nodetls check --manifests - --output json
///   nodetls check --cluster
///   nodetls check --cluster --context staging --namespace shop
#[derive(Args, Clone, Debug)]
#[command(verbatim_doc_comment)]
pub struct Options {
    /// Directory of Kubernetes manifests (not what is below it), one file, or - for standard input
    #[arg(long, value_name = "PATH", required_unless_present = "cluster")]
    pub manifests: Option<PathBuf>,
    /// The objects of a cluster instead
    #[arg(long, conflicts_with = "manifests")]
    pub cluster: bool,
    /// With --cluster: only objects of this namespace [default: all namespaces]
    #[arg(
        short,
        long,
        value_name = "NAME",
        requires = "cluster",
        conflicts_with = "manifests"
    )]
    pub namespace: Option<String>,
    /// With --cluster: a context of the kubeconfig [default: its current one]
    #[arg(
        long,
        value_name = "NAME",
        requires = "cluster",
        conflicts_with = "manifests"
    )]
    pub context: Option<String>,
    /// With --cluster: the kubeconfig [default: $KUBECONFIG, ~/.kube/config, or the pod's ServiceAccount]
    #[arg(
        long,
        value_name = "FILE",
        requires = "cluster",
        conflicts_with = "manifests"
    )]
    pub kubeconfig: Option<PathBuf>,
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
    let update = read(options)?;
    let mut report = judge(&update, Timestamp::now(), options.expiry_days);
    if options.cluster && report.policies.is_empty() {
        report.warnings = vec!["there is no BackendTLSPolicy: nodetls does nothing".to_owned()];
    }
    let text = match options.output {
        Output::Text => text::render(&report),
        Output::Json => serde_json::to_string_pretty(&report)? + "\n",
        Output::Yaml => serde_saphyr::to_string(&report)?,
    };
    print(&text)?;
    Ok(match report.verdict {
        Verdict::Accepted => ExitCode::SUCCESS,
        Verdict::Refused => ExitCode::FAILURE,
    })
}

fn read(options: &Options) -> Result<Update> {
    let Some(path) = &options.manifests else {
        let access = once::Access {
            kubeconfig: options.kubeconfig.as_deref(),
            context: options.context.as_deref(),
            namespace: options.namespace.as_deref(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        return runtime.block_on(once::read(&access));
    };
    read_once(path).with_context(|| {
        let path = path.display();
        format!("--manifests {path} can't be read: name a directory or file that exists, or -")
    })
}
