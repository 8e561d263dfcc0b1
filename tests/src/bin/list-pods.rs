//! Lists once what `nodetls` finds below a mounted cgroup directory: name, decision.
#![allow(clippy::unwrap_used)] // A broken rig is a failed test.

use std::time::Duration;

use nodetls::pods::cgroups::{CgroupOptions, CgroupPods};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let options = CgroupOptions {
        root: std::env::args_os().nth(1).map(Into::into),
        ..CgroupOptions::default()
    };
    let mut pods = CgroupPods::new(options, Duration::from_secs(10)).unwrap();
    let listing = pods.list().unwrap();
    for (name, netns) in listing.netns {
        println!("{name} {:?}", netns.decision);
    }
    for (uid, error) in listing.failed {
        println!("{uid} failed: {error:#}");
    }
}
