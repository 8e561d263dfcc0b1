//! All checks and tests, in stages; CI runs this.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{demo, ebpf, setup, sh};

type Stage = (&'static str, fn() -> Result<()>);

const STAGES: [Stage; 10] = [
    ("setup", || setup::run(setup::For::Test)),
    ("format", || {
        sh::run(&mut sh::cargo("fmt --all --check"))?;
        sh::run(&mut sh::cargo(
            "fmt --manifest-path fuzz/Cargo.toml --check",
        ))
    }),
    ("eBPF build", || ebpf::build(false)),
    ("clippy", || {
        sh::run(&mut sh::cargo(
            "clippy --locked --workspace --features nodetls-tests/cluster --all-targets -- -D warnings",
        ))?;
        // A workspace of its own; most of what it needs is checked already.
        sh::run(&mut sh::cargo(
            "clippy --locked --manifest-path fuzz/Cargo.toml --target-dir target -- -D warnings",
        ))
    }),
    ("rustdoc", rustdoc),
    ("deny", || {
        sh::run(&mut sh::cargo(
            "deny --locked --log-level error check bans licenses sources",
        ))
    }),
    ("unit tests", || sh::run(&mut sh::cargo("test --locked"))),
    ("privileged tests", privileged_tests),
    ("demo", || demo::run(false)),
    ("demo --exec", demo::exec::run),
];

/// Runs the stages in turn and prints the time of each; the first that fails ends it.
pub(crate) fn run() -> Result<()> {
    let mut times: Vec<(&str, Duration)> = Vec::new();
    let mut result = Ok(());
    for (name, stage) in STAGES {
        println!("\n==== {name} ====");
        let start = Instant::now();
        result = stage().with_context(|| format!("stage `{name}` failed"));
        times.push((name, start.elapsed()));
        if result.is_err() {
            break;
        }
    }
    println!();
    for (name, time) in &times {
        println!("{name:18}{:8.1} s", time.as_secs_f64());
    }
    let total: Duration = times.iter().map(|(_, time)| *time).sum();
    let failed = usize::from(result.is_err());
    println!("{:18}{:8.1} s", "total", total.as_secs_f64());
    println!("stages: {} passed, {failed} failed", times.len() - failed);
    result
}

fn rustdoc() -> Result<()> {
    let mut cargo = sh::cargo("doc --locked --workspace --no-deps");
    sh::run(cargo.env("RUSTDOCFLAGS", "-D warnings"))
}

/// What the privileged tests run; cargo does not build it with them.
pub(crate) fn build_programs() -> Result<()> {
    sh::run(&mut sh::cargo(
        "build --locked --package nodetls --package nodetls-tests --bins",
    ))
}

/// Tests that make network namespaces and load eBPF programs; without the privilege they fail.
fn privileged_tests() -> Result<()> {
    if !setup::is_root() {
        bail!(
            "the privileged tests need root: they make network namespaces and load eBPF programs"
        );
    }
    if !setup::bpffs_mounted() {
        bail!("no BPF file system at /sys/fs/bpf: `mount -t bpf bpf /sys/fs/bpf`");
    }
    let probe = format!("nodetls-probe-{}", std::process::id());
    sh::output(ip_netns("add").arg(&probe)).context("this root may not make network namespaces")?;
    sh::output(ip_netns("del").arg(&probe))?;
    build_programs()?;
    sh::run(&mut sh::cargo("test --locked --package nodetls-tests"))
}

fn ip_netns(verb: &str) -> Command {
    sh::command("ip", &format!("netns {verb}"))
}
