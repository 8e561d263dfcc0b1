//! `nodetls uninstall`: takes everything of ours out of the kernel.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use clap::Args;

use crate::access_log::{LogFormat, LogTo, init_logging};
use crate::exec;
use crate::redirect::{has_living_agent, layouts, remove_pins};

/// Removes the programs, links and maps pinned by an agent, and says what it removed. Needs root.
///
/// From then on connections to targeted Services are what they were before: plaintext, if the clients speak plaintext.
/// An agent must not be running, nor a command of `nodetls exec`.
///
/// Examples:
///   nodetls uninstall
#[derive(Args, Clone, Debug)]
#[command(verbatim_doc_comment)]
pub struct Options {
    /// Directory of the agent's pins
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/nodetls")]
    pub pins: PathBuf,
}

/// Removes what agents and ended commands have pinned below the directory, and the cgroups of those commands.
///
/// # Errors
/// When an agent or a command is running, or something stays.
pub fn run(options: &Options) -> Result<()> {
    let base = &options.pins;
    init_logging(LogFormat::Text, "warn", LogTo::Stderr)?;
    let exists = base
        .try_exists()
        .with_context(|| format!("{} can't be looked at: this needs root", base.display()))?;
    if !exists {
        println!("nothing to remove: {} does not exist", base.display());
        return Ok(());
    }
    let _no_new_commands = exec::collect_stale(base).context("what `nodetls exec` left")?;
    let layouts = layouts(base);
    for layout in &layouts {
        ensure!(
            !has_living_agent(layout),
            "an agent is running with these pins ({}): stop it first",
            layout.display()
        );
    }
    let living = exec::instances(base);
    ensure!(
        living.is_empty(),
        "{} commands of `nodetls exec` are running (see cgroups nodetls-exec-*): end them first",
        living.len()
    );
    let removed: Vec<_> = layouts
        .iter()
        .flat_map(|layout| remove_pins(layout))
        .collect();
    for path in &removed {
        println!("removed {}", path.display());
    }
    for layout in layouts {
        ensure!(
            !layout.exists(),
            "{} could not be removed completely",
            layout.display()
        );
    }
    // Whatever else is there is not ours.
    let _ = fs::remove_dir(base.join(exec::EXEC));
    let _ = fs::remove_dir(base);
    println!("{} pins removed", removed.len());
    Ok(())
}
