//! Others' programs that see a pod's connect before ours do: who changes its address there hides a target from us.

use std::fs::File;
use std::path::Path;

use anyhow::{Context as _, Result};
use aya::programs::loaded_programs;

use super::pins::pinned_link;
use crate::sys;

/// The hooks where a connect's address can be changed, as linux/bpf.h numbers them.
const CONNECT: [(&str, u32); 2] = [("connect4", 10), ("connect6", 11)];

/// A sentence that names them, and what to do; none if ours are the first at `cgroup`. `layouts` are the directories in
/// which agents have pinned theirs.
///
/// A cgroup's programs run before those above it, except that what is attached with `BPF_F_PREORDER` (Linux 6.15) comes
/// before all.
///
/// # Errors
/// The cgroup can't be opened or asked, or ours are not attached there.
pub fn others_first<'a>(
    cgroup: &Path,
    layouts: impl Iterator<Item = &'a Path> + Clone,
) -> Result<Option<String>> {
    let directory = File::open(cgroup)
        .with_context(|| format!("cgroup {} can't be opened", cgroup.display()))?;
    let mut others = Vec::new();
    for (hook, attach_type) in CONNECT {
        let programs = sys::bpf_prog_query(&directory, attach_type).with_context(|| {
            format!("the programs of cgroup {} can't be told", cgroup.display())
        })?;
        let ours = ours(layouts.clone(), hook);
        let first = programs.iter().position(|id| ours.contains(id));
        let first = first.with_context(|| {
            let cgroup = cgroup.display();
            format!(
                "nodetls' program is not attached at {hook} of cgroup {cgroup}: (re)start the agent"
            )
        })?;
        let first = programs[..first].iter();
        others.extend(first.map(|id| format!("{} (id {id}) at {hook}", name(*id))));
    }
    if others.is_empty() {
        return Ok(None);
    }
    Ok(Some(format!(
        "pods' connects are seen before nodetls by {}: what that turns to another address goes on in plaintext; have it \
         attached above {} and without BPF_F_PREORDER (see `bpftool cgroup tree`)",
        others.join(" and "),
        cgroup.display()
    )))
}

fn ours<'a>(layouts: impl Iterator<Item = &'a Path>, hook: &str) -> Vec<u32> {
    let links = layouts
        .filter_map(|layout| pinned_link(&layout.join("links").join(hook), "cgroup_id").ok()?);
    links
        .filter_map(|link| link.program.try_into().ok())
        .collect()
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
