//! Programs of others that see the same connects. A second instance of ours stands for them: it rewrites the same
//! ClusterIP, to a range of its own.

use std::fs;
use std::net::SocketAddr;

use nodetls::redirect::{Effect, Maps, PROGRAMS, Redirect};
use nodetls_ebpf::{Event, IdRange, Mode};
use nodetls_tests::{
    ADDRESS, ALLOW_MULTI, BACKEND_IP, EXCLUSIVE, Foreign, PREORDER, World, target,
};
use rustix::net::{SendFlags, sendto};
use socket2::{Domain, Protocol, Socket, Type};

use crate::deny::denied;
use crate::rig::{Enrolment, NotHere, Outcome, Rig, enrol, kernel, pods};
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
            asserted: "A program attached above with BPF_F_PREORDER turns connects before ours see them: we name it, and they are refused (IPv4-mapped, IPv6, MSG_FASTOPEN, multipath TCP too); what is no target passes.",
            test: preorder,
        },
        Row {
            name: "order::preorder_ends",
            asserted: "They are also when nothing is left of us but pins, and while a new process takes over; when that program goes, connects are redirected again.",
            test: preorder_ends,
        },
        Row {
            name: "order::exclusive",
            asserted: "A program attached above as the only one keeps ours out: we say so.",
            test: exclusive,
        },
    ],
};

/// The Service's, of IPv6.
const ADDRESS_V6: &str = "[fd00:96::10]:443";

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
        for address in [ADDRESS, ADDRESS_V6] {
            target(&redirect, &mut maps, address);
        }
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
    assert_eq!(first_of_others(&mut rig), None);
    Ok("")
}

/// What we say of programs that come before ours.
fn first_of_others(rig: &mut Rig) -> Option<String> {
    rig.redirect.keep_order(&pods(&rig.world)).unwrap()
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

/// One that sees the pod's connects before ours: it turns them, and has the pod's listeners.
fn rig_after_another() -> Result<(Rig, Another, Foreign), NotHere> {
    if kernel() < (6, 15) {
        return Err(NotHere::Absent("BPF_F_PREORDER (Linux 6.15)"));
    }
    let mut attached = None;
    let (mut rig, foreign) = rig_below(|world, _, _| {
        attached = Some(Foreign::attach(&world.cgroup, ALLOW_MULTI | PREORDER));
    })?;
    let cookie = foreign.enrolment.cookie;
    rig.maps.pods.set(cookie, Mode::Redirect).unwrap();
    Ok((rig, foreign, attached.unwrap()))
}

fn preorder() -> Outcome {
    let (mut rig, foreign, _attached) = rig_after_another()?;
    let said = first_of_others(&mut rig).unwrap();
    let named = said.contains("before nodetls by program connect4 (id ");
    assert!(named && said.contains(") at connect6: "), "{said}");
    assert!(said.contains(" is refused"), "{said}");

    rig.target(ADDRESS_V6);
    for address in [ADDRESS, "[::ffff:10.96.0.10]:443", ADDRESS_V6] {
        denied(rig.connect(address, |_| {}))?;
    }
    let socket = |protocol| rig.in_pod(|| Socket::new(Domain::IPV4, Type::STREAM, protocol));
    let address: SocketAddr = ADDRESS.parse().unwrap();
    let multipath = socket(Some(Protocol::MPTCP));
    if let Ok(socket) = &multipath {
        denied(socket.connect(&address.into()))?;
    }
    let flags = SendFlags::from_bits_retain(0x2000_0000); // MSG_FASTOPEN
    let socket = socket(None).unwrap();
    denied(sendto(&socket, b"hello", flags, &address).map_err(Into::into))?;
    let refused = 4 + u64::from(multipath.is_ok());
    assert_eq!(rig.maps.count(Event::DeniedChanged), refused);

    // What is no target is nobody's matter, also of that socket.
    let elsewhere: SocketAddr = format!("{BACKEND_IP}:443").parse().unwrap();
    socket.connect(&elsewhere.into()).unwrap();
    // And ours go where that program turns them.
    let mark = |socket: &Socket| rig.maps.own_sockets.mark(socket).unwrap();
    let _own = rig.connect(ADDRESS, mark).unwrap();
    let (_, local) = foreign.enrolment.accept();
    assert_eq!(local.to_string(), "127.192.0.1:443");
    Ok("")
}

fn preorder_ends() -> Outcome {
    let (mut rig, foreign, attached) = rig_after_another()?;
    let (redirect, maps) = Redirect::load(&rig.world.pins, Effect::Enforce).unwrap();
    (rig.redirect, rig.maps) = (redirect, maps);
    denied(rig.connect(ADDRESS, |_| {}))?;
    rig.redirect
        .attach(&pods(&rig.world), &mut rig.maps)
        .unwrap();
    denied(rig.connect(ADDRESS, |_| {}))?;
    assert_eq!(rig.maps.count(Event::DeniedChanged), 2);

    let links = rig.redirect.pins().join("links");
    let links = || fs::read_dir(&links).unwrap().count();
    attached.detach();
    assert_eq!(first_of_others(&mut rig), None);
    assert_eq!(links(), PROGRAMS.len());
    // And again.
    attached.attach_again();
    assert!(first_of_others(&mut rig).unwrap().contains(" is refused"));
    assert_eq!(links(), PROGRAMS.len() + 2);
    denied(rig.connect(ADDRESS, |_| {}))?;
    attached.detach();
    assert_eq!(first_of_others(&mut rig), None);
    // Only one listener of a netns may have an address.
    drop(foreign.enrolment);
    let pod = rig.enrol()?;
    let _client = rig.connect(ADDRESS, |_| {}).unwrap();
    let (_, local) = pod.accept();
    assert_eq!(local.to_string(), "127.128.0.1:443");
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
