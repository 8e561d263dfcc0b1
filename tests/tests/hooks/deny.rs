//! Connects that are refused: ECONNREFUSED where the kernel has `bpf_set_retval`, EPERM before.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nodetls_ebpf::{Event, Mode};
use nodetls_tests::ADDRESS;
use socket2::{Domain, Socket, Type};

use crate::rig::{NotHere, Outcome, Rig, join, kernel, soon};
use crate::{Group, Row};

const EPERM: i32 = 1;
const ECONNREFUSED: i32 = 111;

pub(crate) const DENY: Group = Group {
    title: "Refusing",
    rows: &[
        Row {
            name: "deny::unknown_netns",
            asserted: "A connect to a target from a netns that nobody enrolled is refused at once.",
            test: unknown_netns,
        },
        Row {
            name: "deny::mapped",
            asserted: "So is one to `::ffff:CLUSTERIP`.",
            test: mapped,
        },
        Row {
            name: "deny::non_blocking",
            asserted: "So is a non-blocking connect, by the call itself.",
            test: non_blocking,
        },
        Row {
            name: "deny::mode",
            asserted: "So is one from a netns whose mode is deny.",
            test: mode,
        },
        Row {
            name: "deny::bound_device",
            asserted: "So is one of a socket bound to a device (SO_BINDTODEVICE) in an enrolled netns; one bound to lo is redirected.",
            test: bound_device,
        },
        Row {
            name: "deny::bypass",
            asserted: "One from a netns whose mode is bypass passes.",
            test: bypass,
        },
        Row {
            name: "deny::net_cls",
            asserted: "A connect of a process with a class of the v1 controller net_cls is refused like others.",
            test: net_cls,
        },
    ],
};

/// That a connect was denied, and how.
#[track_caller]
pub(crate) fn denied<T>(result: io::Result<T>) -> Outcome {
    let Err(error) = result else {
        panic!("plaintext: it connected");
    };
    let (number, name) = if kernel() < (5, 18) {
        (EPERM, "(EPERM)")
    } else {
        (ECONNREFUSED, "")
    };
    assert_eq!(error.raw_os_error(), Some(number), "{error}");
    Ok(name)
}

fn unknown_netns() -> Outcome {
    let rig = Rig::new();
    let start = Instant::now();
    let outcome = denied(rig.connect(ADDRESS, |_| {}));
    assert!(start.elapsed() < Duration::from_secs(1));
    assert_eq!(rig.maps.count(Event::DeniedUnknownNetns), 1);
    outcome
}

fn mapped() -> Outcome {
    let rig = Rig::new();
    denied(rig.connect("[::ffff:10.96.0.10]:443", |_| {}))
}

fn non_blocking() -> Outcome {
    let rig = Rig::new();
    let address: SocketAddr = ADDRESS.parse().unwrap();
    let kind = Type::STREAM.nonblocking();
    let socket = rig.in_pod(|| Socket::new(Domain::IPV4, kind, None).unwrap());
    denied(socket.connect(&address.into()))
}

fn mode() -> Outcome {
    let (mut rig, pod) = Rig::enrolled()?;
    rig.maps.pods.set(pod.cookie, Mode::Deny).unwrap();
    let outcome = denied(rig.connect(ADDRESS, |_| {}));
    assert_eq!(rig.maps.count(Event::DeniedNetns), 1);
    outcome
}

fn bound_device() -> Outcome {
    let (rig, pod) = Rig::enrolled()?;
    let bind =
        |device: &'static [u8]| move |socket: &Socket| socket.bind_device(Some(device)).unwrap();
    let _client = rig.connect(ADDRESS, bind(b"lo")).unwrap();
    pod.accept();
    let outcome = denied(rig.connect(ADDRESS, bind(b"eth0")));
    assert_eq!(rig.maps.count(Event::DeniedBoundDevice), 1);
    outcome
}

fn bypass() -> Outcome {
    let (mut rig, pod) = Rig::enrolled()?;
    rig.maps.pods.set(pod.cookie, Mode::Bypass).unwrap();
    let client: TcpStream = rig.connect(ADDRESS, |_| {}).unwrap();
    let (_, peer) = rig.server.accept().unwrap();
    assert_eq!(peer.port(), client.local_addr().unwrap().port());
    Ok("")
}

/// Before 5.15 such a process' sockets were in no cgroup of v2, and its connects passed.
fn net_cls() -> Outcome {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let is_net_cls = |line: &&str| line.starts_with("cgroup ") || line.contains(" cgroup ");
    let mut hierarchies = mounts.lines().filter(is_net_cls);
    let Some(line) = hierarchies.find(|line| line.contains("net_cls")) else {
        return Err(NotHere::Absent("no net_cls is mounted"));
    };
    let group = PathBuf::from(line.split(' ').nth(1).unwrap()).join("nodetls-hooks");
    let _ = fs::create_dir(&group);
    let rig = Rig::new();
    fs::write(group.join("net_cls.classid"), "0x100001").unwrap();
    join(&group);
    let outcome = rig.connect(ADDRESS, |_| {});
    join(group.parent().unwrap());
    // A thread that has just ended may still be in it.
    soon("the group is empty", || fs::remove_dir(&group).is_ok());
    if kernel() < (5, 17) && outcome.is_ok() {
        // nodetls does not start there: `load::netns_cookie`.
        return Err(NotHere::Refused("Linux 5.17"));
    }
    denied(outcome)
}
