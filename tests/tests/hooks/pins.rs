//! What outlives the process that loaded it.

use std::fs;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nodetls::redirect::{Effect, Redirect, cgroup_is_gone, pinned_link};
use nodetls_ebpf::{Event, MAX_PODS, Mode};
use nodetls_tests::{ADDRESS, inside, ip};

use crate::rig::{Outcome, Rig, join, pods, soon};
use crate::{Group, Row};

pub(crate) const PINS: Group = Group {
    title: "Pins",
    rows: &[
        Row {
            name: "pins::outlive_the_loader",
            asserted: "When nothing is left but pins a connect to a target is refused. A new process takes over maps, ids and links from them, and redirects.",
            test: outlive_the_loader,
        },
        Row {
            name: "pins::update_without_a_gap",
            asserted: "While programs are replaced on their links, 20 times, no connect passes or is refused.",
            test: update_without_a_gap,
        },
        Row {
            name: "pins::cgroup_gone",
            asserted: "A pinned link tells that its cgroup was removed; the programs are attached anew.",
            test: cgroup_gone,
        },
        Row {
            name: "pins::netns_gone",
            asserted: "A pinned link keeps no netns alive, and tells that it is gone.",
            test: netns_gone,
        },
        Row {
            name: "pins::full_map",
            asserted: "A full map takes no more (the error names it) and forgets nothing.",
            test: full_map,
        },
    ],
};

fn outlive_the_loader() -> Outcome {
    let (mut rig, pod) = Rig::enrolled()?;
    let link = rig.redirect.pins().join("links/connect4");
    let link = || pinned_link(&link, "cgroup_id").unwrap().unwrap();
    let before = link();
    let _second = rig.target("10.96.0.10:8443");
    drop(pod);
    let (redirect, maps) = Redirect::load(&rig.world.pins, Effect::Enforce).unwrap();
    (rig.redirect, rig.maps) = (redirect, maps);
    // The old descriptors are closed, the new programs attached nowhere yet.
    assert_eq!(link(), before);
    let error = rig.connect(ADDRESS, |_| {}).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    let cgroup = pods(&rig.world);
    rig.redirect.attach(&cgroup, &mut rig.maps).unwrap();
    let after = link();
    assert_eq!(
        (after.link, after.attached_to),
        (before.link, before.attached_to)
    );
    assert_ne!(after.program, before.program);
    let pod = rig.enrol()?;
    let _client = rig.connect("10.96.0.10:8443", |_| {}).unwrap();
    let (_, local) = pod.accept();
    assert_eq!(local.to_string(), "127.128.0.2:8443");
    Ok("")
}

fn update_without_a_gap() -> Outcome {
    let (mut rig, pod) = Rig::enrolled()?;
    let over = AtomicBool::new(false);
    let netns = rig.world.pod.clone();
    let connects = thread::scope(|scope| {
        let clients = scope.spawn(|| {
            inside(&netns, || {
                let mut connects = 0;
                while !over.load(Ordering::Relaxed) {
                    std::net::TcpStream::connect(ADDRESS).unwrap();
                    let (_, local) = pod.accept();
                    assert_eq!(local.to_string(), "127.128.0.1:443");
                    connects += 1;
                }
                connects
            })
        });
        let cgroup = pods(&rig.world);
        for _ in 0..20 {
            let (mut redirect, mut maps) =
                Redirect::load(&rig.world.pins, Effect::Enforce).unwrap();
            redirect.attach(&cgroup, &mut maps).unwrap();
            (rig.redirect, rig.maps) = (redirect, maps);
        }
        over.store(true, Ordering::Relaxed);
        clients.join().unwrap()
    });
    assert!(connects >= 20, "{connects} connects");
    assert_eq!(rig.maps.count(Event::Redirected), connects);
    Ok("")
}

fn cgroup_gone() -> Outcome {
    let mut rig = Rig::new();
    let (cgroup, pins) = (pods(&rig.world), rig.redirect.pins().to_owned());
    assert!(!cgroup_is_gone(&pins));
    join(&rig.world.cgroup);
    fs::remove_dir(&cgroup).unwrap();
    soon("the link tells", || cgroup_is_gone(&pins));
    fs::create_dir(&cgroup).unwrap();
    join(&cgroup);
    rig.redirect.attach(&cgroup, &mut rig.maps).unwrap();
    assert!(!cgroup_is_gone(&pins));
    crate::deny::denied(rig.connect(ADDRESS, |_| {}))
}

fn netns_gone() -> Outcome {
    let (rig, pod) = Rig::enrolled()?;
    let link = format!("netns/{}/link", pod.cookie);
    let link = rig.redirect.pins().join(link);
    let attached = || {
        pinned_link(&link, "netns_ino")
            .unwrap()
            .unwrap()
            .attached_to
    };
    assert_ne!(attached(), 0);
    drop(pod);
    ip(&format!("netns del {}", rig.world.pod));
    soon("the link tells", || attached() == 0);
    Ok("")
}

fn full_map() -> Outcome {
    let (mut rig, pod) = Rig::enrolled()?;
    let mut cookies = 1_u64 << 32..;
    let mut fill = || rig.maps.pods.set(cookies.next().unwrap(), Mode::Deny);
    let error = (0..=MAX_PODS).find_map(|_| fill().err()).unwrap();
    assert!(error.to_string().contains("PODS"), "{error:#}");
    assert_eq!(rig.maps.pods.cookies().len(), MAX_PODS as usize);
    let _client = rig.connect(ADDRESS, |_| {}).unwrap();
    pod.accept();
    Ok("")
}
