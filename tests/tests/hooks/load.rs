//! The kernel takes the programs.

use std::fs::File;
use std::process::Command;

use nodetls::pods::netns::current_cookie;
use nodetls::redirect::{Lookup, PROGRAMS, pinned_link};
use nodetls_tests::text;

use crate::rig::{NotHere, Outcome, Rig, inside, kernel};
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
    ],
};

fn every_program() -> Outcome {
    let rig = Rig::new();
    let netns = File::open(format!("/run/netns/{}", rig.world.pod)).unwrap();
    // The cookie is a name here.
    Lookup::attach(&rig.redirect, 1, &netns).unwrap();
    let links = PROGRAMS.map(|name| (format!("links/{name}"), "cgroup_id"));
    let lookup = ("netns/1/link".to_owned(), "netns_ino");
    for (link, field) in links.into_iter().chain([lookup]) {
        let link = pinned_link(&rig.redirect.pins().join(&link), field);
        assert_ne!(link.unwrap().unwrap().attached_to, 0);
    }
    Ok("")
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
    Ok("")
}

fn netns_cookie() -> Outcome {
    let rig = Rig::new();
    let netns = [&rig.world.pod, &rig.world.backend];
    let [pod, backend] = netns.map(|netns| inside(netns, current_cookie));
    match pod {
        Err(error) if kernel() < (5, 14) => {
            let said = error.to_string();
            assert!(said.contains("Linux 5.14 or newer"), "{said}");
            Err(NotHere::Refused("Linux 5.14"))
        }
        cookie => {
            assert_ne!(cookie.unwrap(), backend.unwrap());
            Ok("")
        }
    }
}
