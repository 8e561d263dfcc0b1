//! `nodetls exec`: one command, its connections to targeted Services secured, without an agent.
//!
//! The command is not a child of ours but what this process becomes, so its exit code, stdio, signals and job control
//! are its own. Before that, a detached proxy (`serve`) prepares a cgroup for it (`instance`); it ends with the cgroup.

mod instance;
mod serve;

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead as _, BufReader};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, ValueEnum};

use crate::agent::seconds;
use crate::pods::netns::current_cookie;
use crate::sys;

pub(crate) use instance::{CGROUP, EXEC};
pub use instance::{collect_stale, instances};

/// Exit codes as env(1) has them.
const OURS: u8 = 125;
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// Runs one command with its connections to targeted Services secured. Needs root, but no agent.
///
/// Covered are the command and what it starts, in the network namespace it is started in; in another one, connects to
/// targeted Services are refused. Exit code: the command's; 125 if nodetls fails, 126 if the command can't be run, 127
/// if it is not found.
///
/// Examples:
///   nodetls exec --manifests /etc/nodetls -- curl -s http://10.96.0.10:443/get
///   nsenter --net=/run/netns/client nodetls exec --manifests . -- sh
#[derive(Args, Clone, Debug)]
#[command(verbatim_doc_comment)]
pub struct Options {
    /// Directory of Kubernetes manifests (Service, EndpointSlice, ConfigMap, Secret, BackendTLSPolicy); followed live
    #[arg(long, value_name = "DIR")]
    manifests: PathBuf,
    /// Directory on a bpffs for what holds the redirection
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/nodetls")]
    pins: PathBuf,
    /// Seconds to wait for a TCP connection to a Service
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    connect_timeout: Duration,
    /// Seconds to wait for a TLS handshake with a Service
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    handshake_timeout: Duration,
    /// Let policies ask for less than full verification of the server (option nodetls.io/validation-mode)
    #[arg(long)]
    allow_insecure_validation: bool,
    /// What is logged to standard error, as a list of target=level; access=info shows every connection
    #[arg(long, value_name = "FILTER", default_value = "warn")]
    log: String,
    /// What this process is to do; for ourselves
    #[arg(long, value_enum, hide = true, default_value_t)]
    stage: Stage,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Stage {
    /// Becomes the command.
    #[default]
    Command,
    /// Starts the proxy, so that it is nobody's child and in nobody's session.
    Detach,
    /// The proxy.
    Proxy,
}

/// Runs the stage that the options name. For the command itself it comes back only when the command can't be run.
pub fn run(options: &Options) -> ExitCode {
    let result = match options.stage {
        Stage::Command => become_command(options),
        Stage::Detach => detach().map(|()| ExitCode::SUCCESS),
        Stage::Proxy => serve::run(options).map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|error| {
        eprintln!("nodetls exec: {error:#}");
        ExitCode::from(OURS)
    })
}

fn become_command(options: &Options) -> Result<ExitCode> {
    let Some((program, arguments)) = options.command.split_first() else {
        return Ok(ExitCode::from(OURS));
    };
    // On a kernel that is too old, the one error that says so.
    current_cookie()?;
    let mut detached = this_program(Stage::Detach, 2)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    // Held until we are the command: its end tells the proxy that the cgroup has been joined, or never will be.
    let mut proxy = BufReader::new(detached.stdout.take().context("no pipe")?);
    // It ends at once. Without a status (the caller ignores SIGCHLD) the pipe still tells.
    let _ = detached.wait();
    let mut cgroup = Vec::new();
    proxy.read_until(b'\n', &mut cgroup)?;
    if cgroup.pop().is_none() {
        bail!("its proxy did not start; an error of its own is above");
    }
    join(Path::new(&OsString::from_vec(cgroup)))?;
    let error = Command::new(program).args(arguments).exec();
    eprintln!("nodetls exec: {}: {error}", program.display());
    Ok(ExitCode::from(match error.kind() {
        io::ErrorKind::NotFound => NOT_FOUND,
        _ => NOT_EXECUTABLE,
    }))
}

fn join(cgroup: &Path) -> Result<()> {
    fs::write(cgroup.join("cgroup.procs"), "0")
        .with_context(|| format!("can't join the cgroup {}", cgroup.display()))
}

fn detach() -> Result<()> {
    rustix::process::setsid()?;
    // Else a pipe of the caller's would stay open until the proxy ends.
    sys::close_others_on_exec()?;
    this_program(Stage::Proxy, 4).stdin(Stdio::null()).spawn()?;
    Ok(())
}

/// This program at another stage: the same command line from its argument `rest` on.
fn this_program(stage: Stage, rest: usize) -> Command {
    let mut command = Command::new("/proc/self/exe");
    let name = stage.to_possible_value();
    let name = name.as_ref().map_or("", |value| value.get_name());
    command.arg0("nodetls").args(["exec", "--stage", name]);
    command.args(env::args_os().skip(rest));
    command
}

/// The cgroup (v2) that this process is in.
fn own_cgroup() -> Result<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup")?;
    let path = own
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .context("this process is in no cgroup v2")?;
    let cgroup = crate::redirect::default_cgroup()?.join(path);
    ensure!(
        cgroup.join("cgroup.procs").exists(),
        "{} is no cgroup: the hierarchy mounted here is not the one this process is in",
        cgroup.display()
    );
    Ok(cgroup)
}
