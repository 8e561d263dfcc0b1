//! Programs of others that see the same connects. A second instance of ours stands for them: it rewrites the same
//! ClusterIP, to a range of its own.

use nodetls::redirect::{Effect, Redirect};
use nodetls_ebpf::IdRange;
use nodetls_tests::ADDRESS;

use crate::deny::denied;
use crate::rig::{Enrolment, NotHere, Outcome, Rig, enrol, target};
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
    ],
};

/// Another's program at the cgroup above, there before ours.
struct Foreign {
    _redirect: Redirect,
    enrolment: Enrolment,
}

fn rig_below_another() -> Result<(Rig, Foreign), NotHere> {
    let mut foreign = None;
    let rig = Rig::below(|world| {
        let pins = world.pins.join("foreign");
        let (mut redirect, mut maps) =
            Redirect::load_at(pins, IdRange::exec(0), Effect::Enforce).unwrap();
        redirect.attach(&world.cgroup, &mut maps).unwrap();
        target(&redirect, &mut maps, ADDRESS);
        foreign = Some(enrol(world, &redirect).map(|enrolment| {
            enrolment.enrolled.redirect(&mut maps.pods).unwrap();
            Foreign {
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
    Ok("")
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
