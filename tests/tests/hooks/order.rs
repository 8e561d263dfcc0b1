//! Programs of others that see the same connects. A second instance of ours stands for them: it rewrites the same
//! ClusterIP, to a range of its own.

use std::fs;

use nodetls::redirect::{Effect, Maps, Redirect, others_first};
use nodetls_ebpf::IdRange;
use nodetls_tests::{ADDRESS, ALLOW_MULTI, EXCLUSIVE, Foreign, PREORDER, World};

use crate::deny::denied;
use crate::rig::{Enrolment, NotHere, Outcome, Rig, enrol, kernel, pods, target};
use crate::{Group, Row};

pub(crate) const ORDER: Group = Group {
    title: "Others at the hooks",
    rows: &[
        Row {
            name: "order::child_first",
            asserted: "A program that rewrites the ClusterIP, attached before ours at the cgroup above, sees the connect after ours: the proxy gets it.",
            test: child_first,
        },
        Row {
            name: "order::child_denies",
            asserted: "What ours refuse stays refused, although that program lets it pass.",
            test: child_denies,
        },
        Row {
            name: "order::preorder",
            asserted: "A program attached above with BPF_F_PREORDER turns the connect before ours see it: we name it.",
            test: preorder,
        },
        Row {
            name: "order::exclusive",
            asserted: "A program attached above as the only one keeps ours out: we say so.",
            test: exclusive,
        },
    ],
};

/// Another's program at the cgroup above, there before ours.
struct Another {
    _redirect: Redirect,
    enrolment: Enrolment,
}

fn rig_below_another() -> Result<(Rig, Another), NotHere> {
    rig_below(|world, redirect, maps| redirect.attach(&world.cgroup, maps).unwrap())
}

fn rig_below(
    attach: impl FnOnce(&World, &mut Redirect, &mut Maps),
) -> Result<(Rig, Another), NotHere> {
    let mut foreign = None;
    let rig = Rig::below(|world| {
        let pins = world.pins.join("foreign");
        let (mut redirect, mut maps) =
            Redirect::load_at(pins, IdRange::exec(0), Effect::Enforce).unwrap();
        attach(world, &mut redirect, &mut maps);
        target(&redirect, &mut maps, ADDRESS);
        foreign = Some(enrol(world, &redirect).map(|enrolment| {
            enrolment.enrolled.redirect(&mut maps.pods).unwrap();
            Another {
                _redirect: redirect,
                enrolment,
            }
        }));
    });
    Ok((rig, foreign.unwrap()?))
}

fn child_first() -> Outcome {
    let (mut rig, foreign) = rig_below_another()?;
    // Only one listener of a netns may have an address: ours comes without one.
    drop(foreign.enrolment);
    let pod = rig.enrol()?;
    let client = rig.connect(ADDRESS, |_| {}).unwrap();
    let (_, local) = pod.accept();
    assert_eq!(local.to_string(), "127.128.0.1:443");
    assert_eq!(client.peer_addr().unwrap(), ADDRESS.parse().unwrap());
    assert_eq!(first_of_others(&rig), None);
    Ok("")
}

/// What we say of programs that come before ours.
fn first_of_others(rig: &Rig) -> Option<String> {
    let ours = [rig.redirect.pins()].into_iter();
    others_first(&pods(&rig.world), ours).unwrap()
}

fn child_denies() -> Outcome {
    let (rig, foreign) = rig_below_another()?;
    let outcome = denied(rig.connect(ADDRESS, |_| {}));
    // It would have got it.
    crate::rig::join(&rig.world.cgroup);
    let _client = rig.connect(ADDRESS, |_| {}).unwrap();
    let (_, local) = foreign.enrolment.accept();
    assert_eq!(local.to_string(), "127.192.0.1:443");
    outcome
}

fn preorder() -> Outcome {
    if kernel() < (6, 15) {
        return Err(NotHere::Absent("BPF_F_PREORDER (Linux 6.15)"));
    }
    let mut attached = None;
    let preorder = |world: &World, _: &mut Redirect, _: &mut Maps| {
        attached = Some(Foreign::attach(&world.cgroup, ALLOW_MULTI | PREORDER));
    };
    let (rig, foreign) = rig_below(preorder)?;
    let _client = rig.connect(ADDRESS, |_| {}).unwrap();
    let (_, local) = foreign.enrolment.accept();
    assert_eq!(local.to_string(), "127.192.0.1:443");
    let said = first_of_others(&rig).unwrap();
    let named = said.contains("before nodetls by program connect4 (id ");
    assert!(named && said.contains(") at connect4: "), "{said}");
    Ok("")
}

fn exclusive() -> Outcome {
    let world = World::new();
    let cgroup = pods(&world);
    fs::create_dir(&cgroup).unwrap();
    let (mut redirect, mut maps) = Redirect::load(&world.pins, Effect::Enforce).unwrap();
    let _exclusive = Foreign::attach(&world.cgroup, EXCLUSIVE);
    let error = redirect.attach(&cgroup, &mut maps).unwrap_err();
    let said = format!("{error:#}");
    assert!(said.contains("as the only one"), "{said}");
    let _ = fs::remove_dir_all(&world.pins);
    fs::remove_dir(cgroup).unwrap();
    Ok("")
}
