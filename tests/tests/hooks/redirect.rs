//! Connects that are turned to the proxy, and those that must not be.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use nodetls_ebpf::Event;
use nodetls_tests::{ADDRESS, BACKEND_IP, POD_IP, inside};
use rustix::net::{SendFlags, connect_unspec, sendto};
use socket2::{Domain, Protocol, Socket, Type};

use crate::rig::{Enrolment, NotHere, Outcome, Rig};
use crate::{Group, Row};

pub(crate) const REDIRECT: Group = Group {
    title: "Redirecting",
    rows: &[
        Row {
            name: "redirect::cluster_ip",
            asserted: "A connect to a targeted ClusterIP comes to the proxy's listener; its local address there is the target's id and the port that was dialled.",
            test: cluster_ip,
        },
        Row {
            name: "redirect::peer_name",
            asserted: "`getpeername` gives the ClusterIP back, also as an IPv4-mapped address.",
            test: peer_name,
        },
        Row {
            name: "redirect::mapped",
            asserted: "An IPv6 socket that dials `::ffff:CLUSTERIP` is redirected.",
            test: mapped,
        },
        Row {
            name: "redirect::non_blocking",
            asserted: "So is a non-blocking connect.",
            test: non_blocking,
        },
        Row {
            name: "redirect::bound",
            asserted: "So are sockets bound to the pod's address, and to a port.",
            test: bound,
        },
        Row {
            name: "redirect::connected_again",
            asserted: "So is a socket that was connected elsewhere, and dissolved (AF_UNSPEC).",
            test: connected_again,
        },
        Row {
            name: "redirect::fast_open",
            asserted: "So is `sendto` with MSG_FASTOPEN, and its data arrives.",
            test: fast_open,
        },
        Row {
            name: "redirect::multipath",
            asserted: "So is a multipath TCP socket.",
            test: multipath,
        },
        Row {
            name: "redirect::own_socket",
            asserted: "A socket that the proxy marked (sk_storage) is not.",
            test: own_socket,
        },
        Row {
            name: "redirect::others",
            asserted: "Another port of the ClusterIP and other addresses are not.",
            test: others,
        },
        Row {
            name: "redirect::connected_before",
            asserted: "A connection from before its address was a target goes on as it was.",
            test: connected_before,
        },
        Row {
            name: "redirect::udp",
            asserted: "Connected UDP to a target passes, and is counted.",
            test: udp,
        },
    ],
};

fn cluster_ip() -> Outcome {
    let (mut rig, pod) = Rig::enrolled()?;
    rig.target("10.96.0.10:8443");
    for address in [ADDRESS, "10.96.0.10:8443"] {
        is_redirected(&mut rig, &pod, address, |_| {});
    }
    Ok("")
}

/// The client's and the proxy's end of a redirected connect.
#[track_caller]
fn is_redirected(
    rig: &mut Rig,
    pod: &Enrolment,
    address: &str,
    prepare: impl FnOnce(&Socket) + Send,
) -> (TcpStream, TcpStream) {
    let id = rig.target(&address.replace("[::ffff:10.96.0.10]", "10.96.0.10"));
    let client = rig.connect(address, prepare).unwrap();
    let (proxy, local) = pod.accept();
    let port = address.parse::<SocketAddr>().unwrap().port();
    let turned = std::net::Ipv4Addr::from_bits(rig.redirect.ids().address(id));
    assert_eq!(local, SocketAddr::from((turned, port)));
    assert_eq!(
        proxy.peer_addr().unwrap().port(),
        client.local_addr().unwrap().port()
    );
    (client, proxy)
}

fn peer_name() -> Outcome {
    let (mut rig, pod) = Rig::enrolled()?;
    for address in [ADDRESS, "[::ffff:10.96.0.10]:443"] {
        let (client, proxy) = is_redirected(&mut rig, &pod, address, |_| {});
        // The hook is that of the asker's cgroup.
        let named = client.peer_addr().unwrap();
        assert_eq!(named, address.parse().unwrap());
        assert_eq!(proxy.local_addr().unwrap().ip().to_string(), "127.128.0.1");
    }
    Ok("")
}

fn mapped() -> Outcome {
    let (mut rig, pod) = Rig::enrolled()?;
    is_redirected(&mut rig, &pod, "[::ffff:10.96.0.10]:443", |_| {});
    Ok("")
}

fn non_blocking() -> Outcome {
    let (mut rig, pod) = Rig::enrolled()?;
    let id = rig.target(ADDRESS);
    let address: SocketAddr = ADDRESS.parse().unwrap();
    let socket = rig.in_pod(|| Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None));
    let socket = socket.unwrap();
    let error = socket.connect(&address.into()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(115), "EINPROGRESS: {error}");
    let (_, local) = pod.accept();
    assert_eq!(local.ip().to_string(), format!("127.128.0.{id}"));
    assert!(socket.take_error().unwrap().is_none());
    Ok("")
}

fn bound() -> Outcome {
    let (mut rig, pod) = Rig::enrolled()?;
    for local in [format!("{POD_IP}:0"), "0.0.0.0:43210".to_owned()] {
        let local: SocketAddr = local.parse().unwrap();
        let bind = |socket: &Socket| socket.bind(&local.into()).unwrap();
        let (client, proxy) = is_redirected(&mut rig, &pod, ADDRESS, bind);
        if local.port() == 0 {
            assert_eq!(proxy.peer_addr().unwrap().ip(), local.ip());
        } else {
            assert_eq!(client.local_addr().unwrap().port(), local.port());
        }
    }
    Ok("")
}

fn connected_again() -> Outcome {
    let (mut rig, pod) = Rig::enrolled()?;
    let elsewhere = backend(&rig, 8080);
    let first = SocketAddr::from((BACKEND_IP.parse::<std::net::Ipv4Addr>().unwrap(), 8080));
    is_redirected(&mut rig, &pod, ADDRESS, |socket| {
        socket.connect(&first.into()).unwrap();
        connect_unspec(socket).unwrap();
    });
    elsewhere.accept().unwrap();
    Ok("")
}

fn fast_open() -> Outcome {
    let (rig, pod) = Rig::enrolled()?;
    let flags = SendFlags::from_bits_retain(0x2000_0000); // MSG_FASTOPEN
    let address: SocketAddr = ADDRESS.parse().unwrap();
    let socket = rig.in_pod(|| Socket::new(Domain::IPV4, Type::STREAM, None).unwrap());
    assert_eq!(sendto(&socket, b"hello", flags, &address).unwrap(), 5);
    let (mut proxy, local) = pod.accept();
    assert_eq!(local.to_string(), "127.128.0.1:443");
    let mut said = [0; 5];
    proxy.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"hello");
    Ok("")
}

fn multipath() -> Outcome {
    let (rig, pod) = Rig::enrolled()?;
    let address: SocketAddr = ADDRESS.parse().unwrap();
    let protocol = Some(Protocol::MPTCP);
    let socket = rig.in_pod(|| Socket::new(Domain::IPV4, Type::STREAM, protocol));
    let socket = match socket {
        Err(error) if error.kind() == ErrorKind::Other => {
            return Err(NotHere::Absent("no multipath TCP"));
        }
        socket => socket.unwrap(),
    };
    socket
        .set_write_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    socket.connect(&address.into()).unwrap();
    let (_, local) = pod.accept();
    assert_eq!(local.to_string(), "127.128.0.1:443");
    Ok("")
}

fn own_socket() -> Outcome {
    let (rig, _pod) = Rig::enrolled()?;
    let mark = |socket: &Socket| rig.maps.own_sockets.mark(socket).unwrap();
    let client = rig.connect(ADDRESS, mark).unwrap();
    let (_, peer) = rig.server.accept().unwrap();
    assert_eq!(peer.port(), client.local_addr().unwrap().port());
    assert_eq!(rig.maps.count(Event::OwnSocket), 1);
    Ok("")
}

fn others() -> Outcome {
    let (rig, _pod) = Rig::enrolled()?;
    let elsewhere = backend(&rig, 8080);
    for address in ["10.96.0.10:8080", "10.99.0.2:8080"] {
        let client = rig.connect(address, |_| {}).unwrap();
        let (_, peer) = elsewhere.accept().unwrap();
        assert_eq!(peer.port(), client.local_addr().unwrap().port());
        assert_eq!(client.peer_addr().unwrap(), address.parse().unwrap());
    }
    assert_eq!(rig.maps.count(Event::Redirected), 0);
    Ok("")
}

/// A server of plaintext in the backend's netns.
fn backend(rig: &Rig, port: u16) -> TcpListener {
    inside(&rig.world.backend, || {
        TcpListener::bind(("::", port)).unwrap()
    })
}

fn connected_before() -> Outcome {
    let (mut rig, _pod) = Rig::enrolled()?;
    let elsewhere = backend(&rig, 8080);
    let mut client = rig.connect("10.96.0.10:8080", |_| {}).unwrap();
    let (mut server, _) = elsewhere.accept().unwrap();
    rig.target("10.96.0.10:8080");
    client.write_all(b"after").unwrap();
    let mut said = [0; 5];
    server.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"after");
    Ok("")
}

fn udp() -> Outcome {
    let rig = Rig::new();
    let server = inside(&rig.world.backend, || {
        UdpSocket::bind("10.96.0.10:443").unwrap()
    });
    server
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let client = rig.in_pod(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    client.connect(ADDRESS).unwrap();
    client.send(b"datagram").unwrap();
    let mut said = [0; 16];
    assert_eq!(server.recv(&mut said).unwrap(), 8);
    assert_eq!(rig.maps.count(Event::Udp), 1);
    Ok("")
}
