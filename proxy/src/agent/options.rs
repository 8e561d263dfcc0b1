//! The agent's command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::access_log::LogFormat;
use crate::redirect::Effect;

/// Redirects, and originates TLS: the data plane of one machine.
///
/// As a node of a cluster it follows the API server and secures the node's pods; with --manifests it needs no
/// Kubernetes, and secures named network namespaces.
///
/// Examples:
///   nodetls agent --node node1
///   nodetls agent --manifests /etc/nodetls --netns 'pod-*'
///   nodetls agent --manifests . --netns client --admin 127.0.0.1:15020 --log-format json
#[derive(Args, Clone, Debug)]
#[command(verbatim_doc_comment)]
pub struct Options {
    /// Directory of Kubernetes manifests (Service, EndpointSlice, ConfigMap, Secret, BackendTLSPolicy); followed live
    #[arg(long, value_name = "DIR", requires = "netns")]
    pub manifests: Option<PathBuf>,
    /// Named network namespaces to enrol, as shell patterns; also those that appear later
    #[arg(long, value_name = "PATTERN", requires = "manifests", num_args = 1..)]
    pub netns: Vec<String>,
    /// This node's name
    #[arg(
        long,
        value_name = "NAME",
        env = "NODE_NAME",
        conflicts_with = "manifests"
    )]
    pub node: Option<String>,
    /// Namespace of nodetls itself, with the CA certificates that the controller mirrors [default: the one of the pod or
    /// kubeconfig]
    #[arg(long, value_name = "NAME")]
    pub namespace: Option<String>,
    /// What is done with pods' connects to targeted Services
    #[arg(long, value_enum, default_value_t)]
    pub mode: Effect,
    /// Enrol only pods that say `nodetls.io/redirect: enabled`, or whose namespaces do
    #[arg(long)]
    pub opt_in: bool,
    /// Namespaces whose pods are left alone unless they say `nodetls.io/redirect: enabled`
    #[arg(long, value_name = "NAME", num_args = 0.., default_value = "kube-system")]
    pub exclude_namespace: Vec<String>,
    /// Let policies name Secrets with client certificates, which are read in the namespaces of the node's pods; those of
    /// manifests always are
    #[arg(long, requires = "node")]
    pub client_certificates: bool,
    /// Let policies ask for less than full verification of the server (option nodetls.io/validation-mode)
    #[arg(long)]
    pub allow_insecure_validation: bool,
    /// The node's CA certificates, for wellKnownCACertificates: System [default: those of the system that the agent sees]
    #[arg(long, value_name = "FILE")]
    pub system_roots: Option<PathBuf>,
    /// Remove the taint nodetls.io/agent-not-ready from the node when the agent is ready
    #[arg(long, requires = "node")]
    pub remove_taint: bool,
    /// The host's directory of systemd units: keep the boot guard installed there, which refuses connects to targets from
    /// the next boot on until the agent has started
    #[arg(long, value_name = "DIR", requires = "node")]
    pub boot_guard: Option<PathBuf>,
    /// Directory for the last objects, with which an agent goes on that starts while the API server is away
    #[arg(long, value_name = "DIR", default_value = "/var/lib/nodetls")]
    pub cache: PathBuf,
    /// Address of /metrics and /healthz; `[::]` is every address, of IPv4 too
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:15020")]
    pub admin: SocketAddr,
    /// Cgroup (v2) whose processes' connects are looked at [default: kubelet's `kubepods`; with --manifests the root]
    #[arg(long, value_name = "DIR")]
    pub cgroup: Option<PathBuf>,
    /// Directory of the host's cgroups below which kubelet's `kubepods` is [default: every mounted hierarchy]
    #[arg(long, value_name = "DIR")]
    pub cgroup_root: Option<PathBuf>,
    /// The node's own network namespace, which is left alone [default: that of the process that started this one]
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub node_netns: Vec<PathBuf>,
    /// Directory on a bpffs that holds what outlives the agent
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/nodetls")]
    pub pins: PathBuf,
    /// Directory of named network namespaces
    #[arg(long, value_name = "DIR", default_value = "/run/netns")]
    pub netns_dir: PathBuf,
    /// Seconds to wait for a TCP connection to a Service
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub connect_timeout: Duration,
    /// Seconds to wait for a TLS handshake with a Service
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub handshake_timeout: Duration,
    /// Reset connections to targets that are older than the enrolment of their pod, or than the target: nobody has turned
    /// them, and their clients connect again
    #[arg(long)]
    pub cut_earlier_connections: bool,
    /// Connections that each network namespace, or all those of one pod, may have open at a time (two file descriptors
    /// each); more are reset
    #[arg(long, value_name = "N", default_value = "10000")]
    pub connections_per_netns: usize,
    /// Bytes of memory that the agent may use; half of it is for connections, 256 KiB each, and more are reset [default: no
    /// limit]
    #[arg(long, value_name = "BYTES")]
    pub memory_limit: Option<u64>,
    /// Seconds that open connections may go on after SIGTERM; a second SIGTERM ends them at once
    #[arg(long, value_name = "SECONDS", default_value = "25", value_parser = seconds)]
    pub drain_timeout: Duration,
    /// How log lines look
    #[arg(long, value_enum, default_value_t)]
    pub log_format: LogFormat,
    /// What is logged, as a list of target=level
    #[arg(long, value_name = "FILTER", default_value = "info")]
    pub log: String,
}

pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}
