//! The proxy's listeners in a pod's netns, and who else is there.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};

use nodetls_ebpf::Event;
use nodetls_tests::{ADDRESS, POD_IP};

use crate::rig::{Outcome, Rig};
use crate::{Group, Row};

pub(crate) const LISTENERS: Group = Group {
    title: "Listeners",
    rows: &[
        Row {
            name: "listeners::closed",
            asserted: "Without the proxy's listeners a redirected connect gets ECONNREFUSED, whoever else listens on that port.",
            test: closed,
        },
        Row {
            name: "listeners::wildcard",
            asserted: "An application of the pod may listen on all addresses at the target's port, and gets no redirected connection.",
            test: wildcard,
        },
        Row {
            name: "listeners::own_port",
            asserted: "Only an IPv4 wildcard listener at the proxy's own port (1) conflicts (EADDRINUSE); one at the pod's address does not.",
            test: own_port,
        },
        Row {
            name: "listeners::not_exposed",
            asserted: "The proxy's listener is not reached by the pod's address.",
            test: not_exposed,
        },
        Row {
            name: "listeners::any_id",
            asserted: "A connect to any address of 127.128.0.0/15 comes to the proxy, to judge by its id; one to another loopback address does not.",
            test: any_id,
        },
    ],
};

fn closed() -> Outcome {
    let (rig, pod) = Rig::enrolled()?;
    let application = rig.in_pod(|| TcpListener::bind("0.0.0.0:443").unwrap());
    drop(pod);
    let error = rig.connect(ADDRESS, |_| {}).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    assert_eq!(rig.maps.count(Event::NoListener), 1);
    application.set_nonblocking(true).unwrap();
    let nobody = application.accept().unwrap_err();
    assert_eq!(nobody.kind(), ErrorKind::WouldBlock);
    Ok("")
}

fn wildcard() -> Outcome {
    let (rig, pod) = Rig::enrolled()?;
    let application = rig.in_pod(|| TcpListener::bind("0.0.0.0:443").unwrap());
    let _client = rig.connect(ADDRESS, |_| {}).unwrap();
    pod.accept();
    application.set_nonblocking(true).unwrap();
    let nobody = application.accept().unwrap_err();
    assert_eq!(nobody.kind(), ErrorKind::WouldBlock);
    // Its own connections it gets.
    let _client = rig.connect("127.0.0.1:443", |_| {}).unwrap();
    application.set_nonblocking(false).unwrap();
    application.accept().unwrap();
    Ok("")
}

fn own_port() -> Outcome {
    let (rig, pod) = Rig::enrolled()?;
    assert_eq!(pod.listeners[0].local_addr().unwrap().port(), 1);
    rig.in_pod(|| {
        TcpListener::bind((POD_IP, 1)).unwrap();
        let error = TcpListener::bind("0.0.0.0:1").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
    });
    Ok("")
}

fn not_exposed() -> Outcome {
    let (rig, _pod) = Rig::enrolled()?;
    let error = rig.connect(&format!("{POD_IP}:1"), |_| {}).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    Ok("")
}

fn any_id() -> Outcome {
    let (rig, pod) = Rig::enrolled()?;
    for address in ["127.128.0.9:443", "127.129.255.255:5432"] {
        let client = rig.connect(address, |_| {}).unwrap();
        let (_, local) = pod.accept();
        assert_eq!(local, address.parse::<SocketAddr>().unwrap());
        // No target: nothing is made up.
        assert_eq!(client.peer_addr().unwrap(), local);
    }
    for address in ["127.130.0.0:443", "127.127.255.255:443", "127.0.0.53:53"] {
        let error = rig.connect(address, |_| {}).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    }
    assert_eq!(rig.maps.count(Event::Assigned), 2);
    Ok("")
}
