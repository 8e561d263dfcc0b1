//! Others' programs that see a pod's connect before ours do: who changes its address there hides a target from us.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use aya::maps::Array;
use aya::programs::{CgroupSockAddr, loaded_programs};

use super::Redirect;
use super::pins::{layouts, link_field, pinned_link};
use super::programs::{is_cgroup2, program};
use crate::sys;

/// A hook where a connect's address can be changed.
struct Hook {
    /// Our program there.
    connect: &'static str,
    /// The one that notes which target a client dials.
    dialled: &'static str,
    /// As linux/bpf.h numbers it.
    attach_type: u32,
}

const HOOKS: [Hook; 2] = [
    Hook {
        connect: "connect4",
        dialled: "dialled4",
        attach_type: 10,
    },
    Hook {
        connect: "connect6",
        dialled: "dialled6",
        attach_type: 11,
    },
];

/// Before the programs of the cgroups below (`BPF_F_PREORDER`, Linux 6.15), and of its own cgroup (`BPF_F_BEFORE`, 6.17).
const FIRST: u32 = PREORDER | 1 << 3;
const PREORDER: u32 = 1 << 6;

impl Redirect {
    /// Looks whether others' programs come before ours at `cgroup`. As long as some do, what is dialled is noted before
    /// they see it, and ours refuse what was a target and is none any more. A sentence that names them, and what to do.
    ///
    /// A cgroup's programs run before those above it, except that what is attached with `BPF_F_PREORDER` comes before all.
    ///
    /// # Errors
    /// The cgroup can't be opened or asked, or ours are not attached there.
    pub fn keep_order(&mut self, cgroup: &Path) -> Result<Option<String>> {
        let mut others = Vec::new();
        let mut unseen = None;
        for hook in HOOKS {
            let before = before_ours(cgroup, &self.pins, &hook)?;
            let noting = linked(&self.pins, hook.dialled);
            let named = before.iter().filter(|id| Some(**id) != noting);
            let named = named.map(|id| format!("{} (id {id}) at {}", name(*id), hook.connect));
            let named: Vec<_> = named.collect();
            if named.is_empty() {
                self.stop_noting(&hook);
            } else if noting.is_none() || before.first().copied() != noting {
                unseen = self.note_dialled(cgroup, &hook).err().or(unseen);
            }
            others.extend(named);
        }
        self.set_noting(!others.is_empty())?;
        if others.is_empty() {
            return Ok(None);
        }
        let follows = match unseen {
            None => "a target that they turn to another address is refused".to_owned(),
            Some(error) => format!(
                "a target that they turn to another address is reached in plaintext, as nodetls can't come first \
                 ({error:#})"
            ),
        };
        Ok(Some(format!(
            "pods' connects are seen before nodetls by {}: {follows}; have them attached above {} and without \
             BPF_F_PREORDER (see `bpftool cgroup tree`)",
            others.join(" and "),
            cgroup.display()
        )))
    }

    /// Attaches the program that notes what is dialled, as far up as it takes to come before all others, and pins it: it
    /// is to outlive us.
    fn note_dialled(&mut self, cgroup: &Path, hook: &Hook) -> Result<()> {
        let pin = link(&self.pins, hook.dialled);
        let program = self.load_dialled(hook)?.fd()?.try_clone()?;
        let mut refused = None;
        for above in cgroup.ancestors() {
            if !is_cgroup2(above).unwrap_or(false) {
                break;
            }
            let directory = File::open(above)?;
            for flags in [FIRST, PREORDER] {
                let created = sys::bpf_link_create(&program, &directory, hook.attach_type, flags);
                let link = match created {
                    Ok(link) => link,
                    Err(error) => {
                        refused = Some(error);
                        continue;
                    }
                };
                let id = link_field(&link, "prog_id")?;
                let before = before_ours(cgroup, &self.pins, hook)?;
                if before.first().map(|id| u64::from(*id)) == id {
                    end_link(&pin)?;
                    sys::bpf_obj_pin(&link, &pin)?;
                    return Ok(());
                }
            }
        }
        match refused {
            Some(error) => {
                Err(error).context("this needs Linux 6.15, and 6.17 if they are at the root")
            }
            None => bail!("they are above all cgroups that are seen here"),
        }
    }

    /// Whether our programs look at what is noted.
    fn set_noting(&mut self, noting: bool) -> Result<()> {
        let map = self.programs.map_mut("NOTING");
        let map = map.context("the eBPF object lacks the map NOTING")?;
        Ok(Array::try_from(map)?.set(0, u32::from(noting), 0)?)
    }

    /// Also what an agent before us has begun.
    fn stop_noting(&mut self, hook: &Hook) {
        if let Err(error) = end_link(&link(&self.pins, hook.dialled)) {
            tracing::warn!(program = hook.dialled, %error, "it can't be detached");
        }
    }

    /// Puts our programs on the links that an agent before us has left, to note what is dialled.
    pub(super) fn take_over_noting(&mut self) -> Result<()> {
        for hook in HOOKS {
            let pin = link(&self.pins, hook.dialled);
            if let Ok(link) = sys::bpf_obj_get(&pin) {
                let program = self.load_dialled(&hook)?;
                // The cgroup is gone: it is to be attached anew.
                if sys::bpf_link_update(&link, program.fd()?).is_err() {
                    end_link(&pin)?;
                }
            }
        }
        Ok(())
    }

    fn load_dialled(&mut self, hook: &Hook) -> Result<&CgroupSockAddr> {
        let program = program(&mut self.programs, hook.dialled)?;
        if program.fd().is_err() {
            program.load()?;
        }
        Ok(program)
    }
}

/// The ids of the programs that see connects below `cgroup` before ours, or an earlier layout's, in their order.
fn before_ours(cgroup: &Path, pins: &Path, hook: &Hook) -> Result<Vec<u32>> {
    let directory = File::open(cgroup)
        .with_context(|| format!("cgroup {} can't be opened", cgroup.display()))?;
    let programs = sys::bpf_prog_query(&directory, hook.attach_type)
        .with_context(|| format!("the programs of cgroup {} can't be told", cgroup.display()))?;
    let beside = pins.parent().map(layouts).unwrap_or_default();
    let all_pins = [pins.to_owned()].into_iter().chain(beside);
    let ours: Vec<_> = all_pins
        .filter_map(|pins| linked(&pins, hook.connect))
        .collect();
    let first = programs.iter().position(|id| ours.contains(id));
    let first = first.with_context(|| {
        let (hook, cgroup) = (hook.connect, cgroup.display());
        format!(
            "nodetls' program is not attached at {hook} of cgroup {cgroup}: (re)start the agent"
        )
    })?;
    Ok(programs[..first].to_vec())
}

/// The id of the program on the link of this name.
fn linked(pins: &Path, name: &str) -> Option<u32> {
    let link = pinned_link(&link(pins, name), "cgroup_id").ok()?;
    link?.program.try_into().ok()
}

fn link(pins: &Path, name: &str) -> PathBuf {
    pins.join("links").join(name)
}

/// Detaches the link that is pinned there, and removes the pin; none is fine. Were it only not pinned any more, it would be
/// attached for a moment yet, and pass for the next one: they have the same program.
fn end_link(pin: &Path) -> io::Result<()> {
    if let Ok(link) = sys::bpf_obj_get(pin) {
        sys::bpf_link_detach(&link)?;
    }
    match fs::remove_file(pin) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn name(id: u32) -> String {
    let mut programs = loaded_programs().flatten();
    let program = programs.find(|program| program.id() == id);
    let name = program
        .as_ref()
        .and_then(|program| program.name_as_str())
        .filter(|name| !name.is_empty());
    format!("program {}", name.unwrap_or("without name"))
}
