//! The node's bpffs, unmounted and mounted anew while an agent has its pins there.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nodetls::redirect::{Effect, Epoch, OnNode, Redirect, agents, look};
use nodetls_tests::World;

/// A bpffs at a directory.
struct Bpffs(PathBuf);

impl Bpffs {
    fn mount(at: &Path) -> Self {
        let mut mount = Command::new("mount");
        let mount = mount.args(["-t", "bpf", "-o", "mode=700", "bpf"]).arg(at);
        assert!(mount.status().unwrap().success());
        Self(at.to_owned())
    }
}

impl Drop for Bpffs {
    /// Who has something open there keeps it.
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn pins_follow_the_node_to_another_bpffs() {
    let world = World::new();
    let mount = world.dir.path().join("bpf");
    fs::create_dir(&mount).unwrap();
    let (base, first) = (mount.join("nodetls"), Bpffs::mount(&mount));
    let (mut redirect, mut maps) = Redirect::load(&base, Effect::Enforce).unwrap();
    let mut epoch = Epoch::take(redirect.pins(), &mut maps).unwrap();
    epoch.set_serving(true).unwrap();
    assert_eq!(look(&base, &epoch).unwrap(), OnNode::AsEver);

    drop(first);
    assert_eq!(look(&base, &epoch).unwrap(), OnNode::NoBpffs);
    let second = Bpffs::mount(&mount);
    assert_eq!(look(&base, &epoch).unwrap(), OnNode::Another);
    redirect.follow(&base, &mut epoch).unwrap();
    assert_eq!(look(&base, &epoch).unwrap(), OnNode::AsEver);
    assert_eq!(agents(&base.join("v1")), [epoch.number()]);
    assert!(base.join("v1/maps/TARGETS").exists());

    // Another agent was quicker than we.
    drop(second);
    let _third = Bpffs::mount(&mount);
    let (other, mut other_maps) = Redirect::load(&base, Effect::Enforce).unwrap();
    let other_epoch = Epoch::take(other.pins(), &mut other_maps).unwrap();
    assert!(!other_epoch.has_serving_elders());
    assert_eq!(look(&base, &epoch).unwrap(), OnNode::Taken);
    drop((other_epoch, other, other_maps));
    assert_eq!(look(&base, &epoch).unwrap(), OnNode::Another);
    redirect.follow(&base, &mut epoch).unwrap();
    assert_eq!(look(&base, &epoch).unwrap(), OnNode::AsEver);

    // Whoever comes next finds all of it.
    let (next, mut next_maps) = Redirect::load(&base, Effect::Enforce).unwrap();
    let next_epoch = Epoch::take(next.pins(), &mut next_maps).unwrap();
    assert_eq!(next_epoch.number(), epoch.number() + 1);
    assert!(next_epoch.has_serving_elders());
    epoch.set_serving(false).unwrap();
    assert!(!next_epoch.has_serving_elders());
}
