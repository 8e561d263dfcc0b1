//! One machine: pins, cgroups of commands, the kept objects.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::exec;
use crate::guard;
use crate::redirect::{has_living_agent, layouts, remove_pins};
use crate::source::kube::forget;

/// Removes what is pinned below `base`, the objects kept in `cache`, and the boot guard: its unit from `units`, if that is
/// named.
///
/// # Errors
/// When an agent or a command is running, or something stays.
pub(crate) fn remove(base: &Path, cache: &Path, units: Option<&Path>) -> Result<()> {
    let exists = base
        .try_exists()
        .with_context(|| format!("{} can't be looked at: this needs root", base.display()))?;
    if !exists {
        println!("nothing to remove: {} does not exist", base.display());
        return forget_all(cache, units);
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
    forget_all(cache, units)
}

/// What is on the disk, and would be refused after the next boot.
fn forget_all(cache: &Path, units: Option<&Path>) -> Result<()> {
    guard::remove(units, cache).context("the boot guard")?;
    forget(cache)
        .with_context(|| format!("the objects kept in {} can't be removed", cache.display()))
}
