//! `nodetls guard`: from the boot until the agent has started, connects to targets are refused.
//!
//! A boot empties the bpffs, and the kubelet starts the pods that are bound to the node at once, whatever its taints. So
//! the guard runs before the kubelet, and pins what an agent would that knows no network namespace yet: the programs and
//! the targets that the last agent kept on disk. The agent takes over from it as from an earlier agent.

mod install;

use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use nodetls_ebpf::Mode;

use crate::access_log::{LogFormat, LogTo, init_logging};
use crate::pods::netns::current_cookie;
use crate::policy::{Compiler, Installation, Snapshot};
use crate::publisher::CAPACITY;
use crate::redirect::{
    Effect, Epoch, Maps, Redirect, TargetIds, address_key, default_cgroup, has_living_agent,
    is_in_force, layouts,
};
use crate::room::left_out;
use crate::source::kube::{kept, kept_path};

pub(crate) use install::{disarm, install, remove};

/// What fails at a boot may go well a moment later, and without us there is no kubelet.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_secs(2);

/// Refuses connects to targeted Services after a boot, until the agent has started. Needs root.
///
/// To be run before the kubelet, in the node's own network namespace (which is left alone), by the systemd unit that the
/// component boot-guard has the agent install. The targets are those that the last agent kept on disk. Where there are
/// none, or where the programs of an agent are in force, it changes nothing and says so.
///
/// Examples:
///   nodetls guard
///   nodetls guard --cache /var/lib/nodetls --pins /sys/fs/bpf/nodetls
#[derive(Args, Clone, Debug)]
#[command(verbatim_doc_comment)]
pub struct Options {
    /// Directory of the last objects, kept by an agent in a cluster
    #[arg(long, value_name = "DIR", default_value = "/var/lib/nodetls")]
    pub cache: PathBuf,
    /// Directory of the agent's pins
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/nodetls")]
    pub pins: PathBuf,
    /// Cgroup (v2) whose processes' connects are looked at [default: the root, as there is no kubelet's yet]
    #[arg(long, value_name = "DIR")]
    pub cgroup: Option<PathBuf>,
}

/// Puts the guard into force, unless there is nothing to guard.
///
/// # Errors
/// What was kept can't be read, or the programs can't be put into force: then nothing is guarded.
pub fn run(options: &Options) -> Result<()> {
    init_logging(LogFormat::Text, "warn", LogTo::Stderr)?;
    let in_force = |layout: &PathBuf| has_living_agent(layout) || is_in_force(layout);
    if let Some(layout) = layouts(&options.pins)
        .iter()
        .find(|layout| in_force(layout))
    {
        println!(
            "nothing to do: the programs pinned in {} are in force",
            layout.display()
        );
        return Ok(());
    }
    let file = kept_path(&options.cache);
    let kept = kept(&options.cache).with_context(|| {
        let file = file.display();
        format!("{file}: the targets are not known, so none is guarded (without that file there are none)")
    })?;
    let Some(objects) = kept else {
        println!(
            "nothing to guard: {} does not exist, so no agent has run here",
            file.display()
        );
        return Ok(());
    };
    let snapshot = Compiler::default()
        .compile(&objects, &Installation::default())
        .snapshot;
    if snapshot.targets.is_empty() {
        println!("nothing to guard: no address is targeted");
        return Ok(());
    }
    for _ in 1..ATTEMPTS {
        match protect(options, &snapshot) {
            Ok(()) => return Ok(()),
            Err(error) => tracing::warn!(error = format!("{error:#}"), "trying again"),
        }
        sleep(PAUSE);
    }
    protect(options, &snapshot)
}

/// Puts programs and targets into force.
fn protect(options: &Options, snapshot: &Snapshot) -> Result<()> {
    let cgroup = options.cgroup.clone().map_or_else(default_cgroup, Ok)?;
    let (mut redirect, mut maps) = Redirect::load(&options.pins, Effect::Enforce)?;
    let epoch = Epoch::take(redirect.pins(), &mut maps)?;
    // An agent that starts now waits.
    let _charge = epoch.hold(&maps)?;
    maps.pods.set(current_cookie()?, Mode::Bypass)?;
    let count = publish(&mut maps, &redirect, snapshot)?;
    redirect.attach(&cgroup, &mut maps)?;
    println!(
        "connects to {count} targeted addresses are refused below {} until the agent has started",
        cgroup.display()
    );
    Ok(())
}

/// With ids that the agent takes over, as many as fit; how many.
fn publish(maps: &mut Maps, redirect: &Redirect, snapshot: &Snapshot) -> Result<usize> {
    let mut ids = TargetIds::read(maps, redirect.ids());
    let left_out = left_out(&snapshot.targets, CAPACITY, |_| false);
    let addresses = snapshot.targets.keys();
    for address in addresses.filter(|address| !left_out.contains(address)) {
        let key = address_key(*address);
        let (id, _) = ids.allocate(maps, key, |_| false)?;
        let written = maps.targets.insert(key, id, 0);
        written.with_context(|| format!("{address} can't be written to the map TARGETS"))?;
    }
    Ok(snapshot.targets.len() - left_out.len())
}
