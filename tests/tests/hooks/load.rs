//! The kernel takes the programs.

use std::fs::File;
use std::process::Command;
use std::thread;

use nodetls::pods::netns::current_cookie;
use nodetls::redirect::{Effect, Lookup, PROGRAMS, Redirect, pinned_link};
use nodetls_tests::{World, inside, text};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

use crate::rig::{NotHere, Outcome, Rig, join, kernel, own_cgroup};
use crate::{Group, Row};

pub(crate) const LOAD: Group = Group {
    title: "Loading",
    rows: &[
        Row {
            name: "load::every_program",
            asserted: "All programs are loaded, attached to a cgroup and a netns, and pinned; a connect below the cgroup is seen.",
            test: every_program,
        },
        Row {
            name: "load::without_btf",
            asserted: "The same where `/sys/kernel/btf` has nothing.",
            test: without_btf,
        },
        Row {
            name: "load::netns_cookie",
            asserted: "The kernel tells the cookie of a netns, and each has another.",
            test: netns_cookie,
        },
        Row {
            name: "load::capabilities",
            asserted: "CAP_BPF and CAP_NET_ADMIN suffice to load, attach and pin; one of them alone does not.",
            test: capabilities,
        },
        Row {
            name: "load::many_in_a_netns",
            asserted: "A netns takes 64 sk_lookup programs; the error of the next says so.",
            test: many_in_a_netns,
        },
    ],
};

fn every_program() -> Outcome {
    let rig = Rig::new();
    let netns = File::open(format!("/run/netns/{}", rig.world.pod)).unwrap();
    // The cookie is a name here.
    lookup(&rig, &netns)?;
    let links = PROGRAMS.map(|name| (format!("links/{name}"), "cgroup_id"));
    let lookup = ("netns/1/link".to_owned(), "netns_ino");
    for (link, field) in links.into_iter().chain([lookup]) {
        let link = pinned_link(&rig.redirect.pins().join(&link), field);
        assert_ne!(link.unwrap().unwrap().attached_to, 0);
    }
    Ok("")
}

/// The sk_lookup program, which reads a field that older kernels don't have.
fn lookup(rig: &Rig, netns: &File) -> Result<Lookup, NotHere> {
    match Lookup::attach(&rig.redirect, 1, netns) {
        Err(error) if kernel() < (5, 17) => {
            let said = format!("{error:#}");
            assert!(said.contains("Linux 5.17 or newer"), "{said}");
            Err(NotHere::Refused("Linux 5.17"))
        }
        result => Ok(result.unwrap()),
    }
}

fn without_btf() -> Outcome {
    let script = "if [ -d /sys/kernel/btf ]; then mount -t tmpfs none /sys/kernel/btf; fi && \
                  ! [ -e /sys/kernel/btf/vmlinux ] && exec \"$0\" --exact load::every_program";
    let mut hidden = Command::new("unshare");
    hidden.args(["-m", "sh", "-c", script]);
    let output = hidden
        .arg(std::env::current_exe().unwrap())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("1 passed"), "{}", text(&output));
    if kernel() < (5, 17) {
        return Err(NotHere::Refused("Linux 5.17"));
    }
    Ok("")
}

fn netns_cookie() -> Outcome {
    let rig = Rig::new();
    let netns = [&rig.world.pod, &rig.world.backend];
    let [pod, backend] = netns.map(|netns| inside(netns, current_cookie));
    match pod {
        Err(error) if kernel() < (5, 17) => {
            let said = error.to_string();
            assert!(said.contains("Linux 5.17 or newer"), "{said}");
            Err(NotHere::Refused("Linux 5.17"))
        }
        cookie => {
            assert_ne!(cookie.unwrap(), backend.unwrap());
            Ok("")
        }
    }
}

fn capabilities() -> Outcome {
    let both = CapabilitySet::BPF | CapabilitySet::NET_ADMIN;
    let loaded = with_capabilities(both);
    if kernel() < (5, 11) {
        // Maps counted against the limit of locked memory, which only CAP_SYS_RESOURCE lifts.
        let said = format!("{:#}", loaded.unwrap_err());
        assert!(said.contains("Operation not permitted"), "{said}");
        return Err(NotHere::Refused("Linux 5.17"));
    }
    loaded.unwrap();
    for one in [CapabilitySet::BPF, CapabilitySet::NET_ADMIN] {
        let said = format!("{:#}", with_capabilities(one).unwrap_err());
        assert!(said.contains("Operation not permitted"), "{said}");
    }
    Ok("")
}

/// Loads and attaches with these capabilities and no other.
fn with_capabilities(few: CapabilitySet) -> anyhow::Result<()> {
    let world = World::new();
    let home = own_cgroup();
    join(&world.cgroup);
    let load = || {
        let sets = CapabilitySets {
            effective: few,
            permitted: few,
            inheritable: CapabilitySet::empty(),
        };
        // Of this thread alone.
        set_capabilities(None, sets).unwrap();
        let (mut redirect, mut maps) = Redirect::load(&world.pins, Effect::Enforce)?;
        redirect.attach(&world.cgroup, &mut maps)
    };
    let result = thread::scope(|scope| scope.spawn(load).join()).unwrap();
    join(&home);
    result
}

fn many_in_a_netns() -> Outcome {
    let rig = Rig::new();
    let netns = File::open(format!("/run/netns/{}", rig.world.pod)).unwrap();
    lookup(&rig, &netns)?;
    for cookie in 0..64 {
        Lookup::attach(&rig.redirect, cookie, &netns).unwrap();
    }
    let error = Lookup::attach(&rig.redirect, 64, &netns).err().unwrap();
    assert!(error.to_string().contains("64 sk_lookup"), "{error:#}");
    Ok("")
}
