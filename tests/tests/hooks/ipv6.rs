//! Native IPv6: what clients of every kind get.

use std::fs;
use std::net::{Ipv6Addr, SocketAddr};

use nodetls_ebpf::{Event, ID_PREFIX_V6};
use nodetls_tests::{CLUSTER_IP6, POD_IP6};
use socket2::Socket;

use crate::deny::denied;
use crate::rig::{Outcome, Rig};
use crate::{Group, Row};

pub(crate) const IPV6: Group = Group {
    title: "Native IPv6",
    rows: &[
        Row {
            name: "ipv6::cluster_ip",
            asserted: "A connect to a targeted IPv6 ClusterIP comes to the proxy, and getpeername tells the ClusterIP: of a plain socket, of one that is IPV6_V6ONLY, of one bound to the pod's address.",
            test: cluster_ip,
        },
        Row {
            name: "ipv6::bound_device",
            asserted: "One of a socket bound to a device, lo too, is refused at once.",
            test: bound_device,
        },
        Row {
            name: "ipv6::without_route",
            asserted: "So is one from a netns whose lo has no IPv6.",
            test: without_route,
        },
    ],
};

/// The ways in which a client makes an IPv6 socket.
const CLIENTS: [fn(&Socket); 3] = [
    |_| {},
    |socket| socket.set_only_v6(true).unwrap(),
    |socket| {
        let local: SocketAddr = format!("[{POD_IP6}]:0").parse().unwrap();
        socket.bind(&local.into()).unwrap();
    },
];

fn cluster_ip() -> Outcome {
    let (mut rig, pod) = Rig::enrolled()?;
    let address = format!("[{CLUSTER_IP6}]:443");
    let passes = rig.connect(&address, |_| {});
    assert!(passes.is_ok(), "it is no target yet: {passes:?}");
    let id = rig.target(&address);
    let [a, b, c] = ID_PREFIX_V6.map(u128::from);
    let last = u128::from(rig.redirect.ids().address(id));
    let turned = Ipv6Addr::from_bits(a << 96 | b << 64 | c << 32 | last);
    for client in CLIENTS {
        let client = rig.connect(&address, client).unwrap();
        let (proxy, local) = pod.accept();
        assert_eq!(local, SocketAddr::from((turned, 443)));
        assert_eq!(proxy.peer_addr().unwrap(), client.local_addr().unwrap());
        let named = rig.in_pod(|| client.peer_addr().unwrap());
        assert_eq!(named, address.parse().unwrap());
    }
    Ok("")
}

fn bound_device() -> Outcome {
    let (mut rig, _pod) = Rig::enrolled()?;
    let address = format!("[{CLUSTER_IP6}]:443");
    rig.target(&address);
    let mut outcome = Ok("");
    for device in ["lo", "eth0"] {
        let bind = |socket: &Socket| socket.bind_device(Some(device.as_bytes())).unwrap();
        outcome = denied(rig.connect(&address, bind));
    }
    assert_eq!(rig.maps.count(Event::DeniedBoundDevice), 2);
    outcome
}

/// It is as if IPv6 were not there; the listener's address needs none.
fn without_route() -> Outcome {
    let mut rig = Rig::new();
    let disable = || fs::write("/proc/sys/net/ipv6/conf/lo/disable_ipv6", "1");
    rig.in_pod(disable).unwrap();
    let _pod = rig.enrol()?;
    let address = format!("[{CLUSTER_IP6}]:443");
    rig.target(&address);
    let outcome = denied(rig.connect(&address, |_| {}));
    assert_eq!(rig.maps.count(Event::DeniedIpv6), 1);
    outcome
}
