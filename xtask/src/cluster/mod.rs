//! A real Kubernetes of two nodes on this machine, from packages alone; tests/cluster/README.md tells how it is made.

mod cgroups;
mod config;
mod containerd;
mod daemons;
mod down;
mod images;
mod install;
mod monitoring;
mod node;
mod programs;
mod traefik;
mod up;

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Subcommand, ValueEnum};

use self::node::NODES;
pub(crate) use self::programs::cache;
use crate::image::Profile;
use crate::{interrupt, setup, sh};

/// All that the running cluster keeps; the same for every checkout, as a machine has room for one cluster.
const STATE: &str = "/var/lib/nodetls-cluster";
const LOGS: &str = "/var/lib/nodetls-cluster/logs";

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Build the programs that it is made of, if they are missing: 15 minutes at low priority, beside other work
    Build,
    /// Start it and wait until it is ready; builds what it needs (the first time: 20 minutes)
    Up {
        /// The families of IP that nodes, pods and Services have
        #[arg(long, value_enum, default_value_t)]
        families: Families,
    },
    /// End it and remove all that it made, except what was built
    Down,
    /// Build nodetls' image and install it there as `manifests/` says, in place of what is installed
    Install {
        /// How the binary is compiled: `release` for measurements
        #[arg(long, value_enum, default_value_t = Profile::Dev)]
        profile: Profile,
    },
    /// How fast it follows changes, and what an idle agent costs; nodetls is installed there first (10 minutes)
    Figures,
    /// Nodes, pods, and where the logs are
    Status,
}

/// Families of IP.
#[derive(Clone, Copy, Default, ValueEnum)]
pub(crate) enum Families {
    /// IPv4 first, and IPv6
    #[default]
    Dual,
    /// IPv6 alone
    Ipv6,
}

impl Families {
    /// Of the values for IPv4 and for IPv6 those that are wanted.
    fn of<'a>(self, values: &'a [&'static str; 2]) -> &'a [&'static str] {
        match self {
            Self::Dual => values,
            Self::Ipv6 => &values[1..],
        }
    }

    /// The first address, as a URL has it.
    fn host(self, addresses: &[&'static str; 2]) -> String {
        match self {
            Self::Dual => addresses[0].to_owned(),
            Self::Ipv6 => format!("[{}]", addresses[1]),
        }
    }
}

/// Says what has been done, and when.
struct Progress(Instant);

impl Progress {
    fn start() -> Self {
        Self(Instant::now())
    }

    fn say(&self, what: &str) {
        println!("{:6.1} s  {what}", self.0.elapsed().as_secs_f64());
    }
}

/// Carries out `cargo xtask cluster VERB`.
pub(crate) fn run(verb: &Verb) -> Result<()> {
    if !setup::is_root() {
        bail!("the cluster needs root: it makes namespaces, mounts and cgroups");
    }
    match verb {
        Verb::Build => {
            setup::run(setup::For::Cluster)?;
            let _lock = lock()?;
            up::programs().map(drop)
        }
        Verb::Up { families } => {
            setup::run(setup::For::Cluster)?;
            let _lock = lock()?;
            up::run(*families)
        }
        Verb::Down => {
            let _lock = lock()?;
            down::run()
        }
        Verb::Install { profile } => {
            let _lock = lock()?;
            install::run(*profile)
        }
        Verb::Figures => {
            run(&Verb::Install {
                profile: Profile::Release,
            })?;
            sh::run(&mut sh::cargo(
                "run --quiet --locked --package nodetls-e2e --bin figures",
            ))
        }
        Verb::Status => status(),
    }
}

/// Becomes kubectl, with these arguments.
pub(crate) fn kubectl(arguments: &[String]) -> Result<()> {
    let error = Command::new(kubectl_script()?).args(arguments).exec();
    Err(error).context("kubectl")
}

/// Runs the tests that need a real API server, which they start themselves, and the end-to-end tests against the
/// cluster, which must be up; nodetls is installed there first.
pub(crate) fn e2e(arguments: &[String]) -> Result<()> {
    if !ready()? {
        bail!("the cluster is not up: `cargo xtask cluster up`");
    }
    run(&Verb::Install {
        profile: Profile::Dev,
    })?;
    for test in ["kube_source", "controller"] {
        let mut cargo = sh::cargo("test --locked --package nodetls-tests --features cluster");
        cargo.args(["--test", test, "--"]).args(arguments);
        sh::run(
            cargo
                .arg("--test-threads=2")
                .env("NODETLS_CLUSTER", programs::directory()?),
        )?;
    }
    let mut test = sh::cargo("test --locked --package nodetls-e2e --");
    sh::run(test.args(arguments))
}

fn status() -> Result<()> {
    let kubectl = kubectl_script()?;
    for what in ["nodes", "pods --all-namespaces"] {
        let get = format!("get {what} --output wide");
        sh::run(&mut sh::command(&kubectl, &get))?;
        println!();
    }
    println!("logs of the nodes' programs: {LOGS}");
    for node in &NODES {
        let enter = node.directory().join("enter");
        println!("a command on {}: {} COMMAND…", node.name, enter.display());
    }
    Ok(())
}

/// kubectl, ready to use; `up` writes it when the API server answers.
fn kubectl_script() -> Result<PathBuf> {
    let script = Path::new(STATE).join("kubectl");
    if !script.exists() || !cgroups::populated()? {
        bail!("the cluster is not up: `cargo xtask cluster up`");
    }
    Ok(script)
}

/// What `kubectl ARGS` prints.
fn ask(args: &str) -> Result<String> {
    sh::output(&mut sh::command(kubectl_script()?, args))
}

/// Whether `up` came to its end and all nodes are Ready.
fn ready() -> Result<bool> {
    Ok(Path::new(STATE).join("up").exists() && cgroups::populated()? && nodes_ready())
}

fn nodes_ready() -> bool {
    let ready = r#"get nodes -o jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}"#;
    ask(ready).is_ok_and(|said| said == ["True"; NODES.len()].join(" "))
}

/// Waits until no other `cargo xtask cluster` is at work; released when the file is dropped.
fn lock() -> Result<File> {
    let path = "/run/lock/nodetls-cluster";
    let file = File::create(path).context(path)?;
    if file.try_lock().is_err() {
        println!("another `cargo xtask cluster` is at work: waiting for it");
        let free = interrupt::poll(Duration::from_secs(1800), || Ok(file.try_lock().ok()))?;
        free.context("it is still at work after 30 minutes")?;
    }
    Ok(file)
}

/// The Go module and all else that the cluster is made of.
fn sources() -> PathBuf {
    sh::top().join("tests/cluster")
}
