//! Native IPv6: what clients of every kind get.

use std::net::SocketAddr;

use nodetls_ebpf::{Event, ID_PREFIX_V6};
use socket2::Socket;

use crate::deny::denied;
use crate::rig::{CLUSTER_IP6, Outcome, POD_IP6, Rig, ip};
use crate::{Group, Row};

pub(crate) const IPV6: Group = Group {
    title: "Native IPv6",
    rows: &[
        Row {
            name: "ipv6::cluster_ip",
            asserted: "A connect to a targeted IPv6 ClusterIP is refused at once: of a plain socket, of one that is IPV6_V6ONLY, of one bound to the pod's address.",
            test: cluster_ip,
        },
        Row {
            name: "ipv6::listener",
            asserted: "What the same sockets dial in nodetls' IPv6 prefix, where a route leads it to lo, comes to the proxy's listener.",
            test: listener,
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
    let (mut rig, _pod) = Rig::enrolled()?;
    let address = format!("[{CLUSTER_IP6}]:443");
    let passes = rig.connect(&address, |_| {});
    assert!(passes.is_ok(), "it is no target yet: {passes:?}");
    rig.target(&address);
    let mut outcome = Ok("");
    for client in CLIENTS {
        outcome = denied(rig.connect(&address, client));
    }
    assert_eq!(rig.maps.count(Event::DeniedIpv6), 3);
    outcome
}

fn listener() -> Outcome {
    let (rig, pod) = Rig::enrolled()?;
    let [a, b, c] = ID_PREFIX_V6.map(u128::from);
    let prefix = a << 96 | b << 64 | c << 32;
    let id_1 = std::net::Ipv6Addr::from_bits(prefix | u128::from(rig.redirect.ids().address(1)));
    let netns = &rig.world.pod;
    ip(&format!(
        "-n {netns} -6 route add local {}/96 dev lo",
        std::net::Ipv6Addr::from_bits(prefix)
    ));
    for client in CLIENTS {
        let client = rig.connect(&format!("[{id_1}]:443"), client).unwrap();
        let (proxy, local) = pod.accept();
        assert_eq!(local, SocketAddr::from((id_1, 443)));
        assert_eq!(proxy.peer_addr().unwrap(), client.local_addr().unwrap());
    }
    Ok("")
}
