//! nodetls' development tasks, run as `cargo xtask TASK`.

mod bench;
mod cluster;
mod demo;
mod ebpf;
mod fuzz;
mod image;
mod interrupt;
mod oci;
mod sbom;
mod setup;
mod sh;
mod soak;
mod test;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

const EXAMPLES: &str = "\
Examples:
  cargo xtask demo          see it work: plaintext in, verified TLS out (needs root)
  cargo xtask demo --keep   the same, left running to try things
  cargo xtask demo --exec   one command with its TLS ensured, without an agent
  cargo xtask test          everything CI checks (needs root)
  cargo xtask bench         CPU, latency and memory beside Envoy, HAProxy, nginx and stunnel (needs root)
  cargo xtask fuzz          made-up input for what reads other people's bytes, some seconds each
  cargo xtask soak          an hour of mixed load: nothing grows, no connection is lost count of (needs root)
  cargo xtask cluster up    a real Kubernetes of two nodes on this machine (needs root)
  cargo xtask e2e           the end-to-end tests, on that cluster
  cargo xtask vm-test 6.1   nodetls and its eBPF programs on another kernel, in an emulated machine (needs root)
  cargo xtask image         nodetls' image, as an archive that containerd imports
  cargo xtask build-ebpf    after a change in ebpf/; then `cargo build` takes the new objects";

/// nodetls' development tasks.
#[derive(Parser)]
#[command(name = "xtask", bin_name = "cargo xtask", after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what the other tasks need; Debian or Ubuntu as root, elsewhere it prints the commands
    Setup,
    /// Build the eBPF programs into target/bpf/, from where `cargo build` embeds them
    BuildEbpf {
        /// With logging, for `cargo build --features ebpf-log`
        #[arg(long)]
        log: bool,
    },
    /// Show the main path on this machine: a plain curl, a TLS server, the wire between them
    Demo {
        /// Leave it running, and say what to type next
        #[arg(long, conflicts_with = "exec")]
        keep: bool,
        /// Show `nodetls exec` instead: one command, without an agent
        #[arg(long)]
        exec: bool,
    },
    /// Run all checks and tests, the privileged ones too
    Test,
    Bench(bench::Options),
    Fuzz(fuzz::Options),
    Soak(soak::Options),
    VmTest(vm::Options),
    Image(image::Options),
    /// A real Kubernetes of two nodes on this machine, for the end-to-end tests
    Cluster {
        #[command(subcommand)]
        verb: cluster::Verb,
    },
    /// kubectl of that cluster
    #[command(disable_help_flag = true)]
    Kubectl {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run the end-to-end tests on that cluster; ARGUMENTS are the test program's
    E2e {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

fn main() -> ExitCode {
    let task = Cli::parse().task;
    let result = interrupt::catch().and_then(|()| match task {
        Task::Setup => setup::run(setup::For::Test),
        Task::BuildEbpf { log } => ebpf::build(log),
        Task::Demo { exec: true, .. } => demo::exec::run(),
        Task::Demo { keep, .. } => demo::run(keep),
        Task::Test => test::run(),
        Task::Bench(options) => bench::run(&options),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::Soak(options) => soak::run(&options),
        Task::VmTest(options) => vm::run(&options),
        Task::Image(options) => image::run(options),
        Task::Cluster { verb } => cluster::run(&verb),
        Task::Kubectl { arguments } => cluster::kubectl(&arguments),
        Task::E2e { arguments } => cluster::e2e(&arguments),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nxtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn commands_in_the_documents_are_understood() {
        let top = sh::top();
        let mut documents: Vec<_> = ["README.md", "SECURITY.md", "ARCHITECTURE.md"]
            .map(|name| top.join(name))
            .into();
        documents
            .extend(["manifests", "tests/cluster"].map(|name| top.join(name).join("README.md")));
        let docs = std::fs::read_dir(top.join("docs")).unwrap();
        documents.extend(docs.map(|file| file.unwrap().path()));
        documents.retain(|file| file.extension().is_some_and(|extension| extension == "md"));
        let mut shown = 0;
        for document in documents {
            let text = std::fs::read_to_string(document).unwrap();
            for rest in text.split("cargo xtask ").skip(1) {
                let end = rest.find(['`', '\n', '#', '&']).unwrap_or(rest.len());
                let words = rest[..end].split_whitespace();
                let command = std::iter::once("xtask").chain(words);
                let understood = Cli::try_parse_from(command);
                assert!(understood.is_ok(), "cargo xtask {}", &rest[..end]);
                shown += 1;
            }
        }
        assert!(shown > 20, "{shown}");
    }
}
