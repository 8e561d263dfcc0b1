//! The one route of ours in a pod's netns: `local PREFIX dev lo`, so that a connect turned to an IPv6 address of our
//! prefix stays in the netns. IPv4 needs none, as all of 127.0.0.0/8 is local.

use std::io;

use nodetls_ebpf::{IFINDEX_LO, IdRange};
use socket2::{Domain, Protocol, Socket, Type};

use super::listeners::address_v6;

/// `struct nlmsghdr` of linux/netlink.h.
const HEADER: usize = 16;

/// Adds the route for these ids to the current netns, where it may be already.
///
/// # Errors
/// The loopback device is down, or has no IPv6; or `CAP_NET_ADMIN` is missing.
pub fn add(ids: IdRange) -> io::Result<()> {
    let create = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    match change(libc::RTM_NEWROUTE, create, ids) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    }
}

/// Removes it from the current netns.
///
/// # Errors
/// It is not there; or `CAP_NET_ADMIN` is missing.
pub fn remove(ids: IdRange) -> io::Result<()> {
    change(libc::RTM_DELROUTE, 0, ids)
}

/// rtnetlink(7). By hand: one message of fixed size, for which a library would be a hundred times the code.
fn change(kind: u16, flags: libc::c_int, ids: IdRange) -> io::Result<()> {
    let protocol = Some(Protocol::from(libc::NETLINK_ROUTE));
    let socket = Socket::new(
        Domain::from(libc::AF_NETLINK),
        Type::RAW.cloexec(),
        protocol,
    )?;
    socket.send(&message(kind, flags, ids))?;
    let mut answer = [0; 256];
    let length = io::Read::read(&mut &socket, &mut answer)?;
    // `struct nlmsgerr`: a negative errno, or 0.
    match answer[..length].get(HEADER..HEADER + 4) {
        Some(&[a, b, c, d]) => match i32::from_ne_bytes([a, b, c, d]) {
            0 => Ok(()),
            errno => Err(io::Error::from_raw_os_error(-errno)),
        },
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn message(kind: u16, flags: libc::c_int, ids: IdRange) -> Vec<u8> {
    let flags = flags | libc::NLM_F_REQUEST | libc::NLM_F_ACK;
    let prefix = address_v6(ids.prefix).octets();
    let prefix_length = 96 + ids.mask.leading_zeros();
    let (family, table) = (libc::AF_INET6 as u8, libc::RT_TABLE_LOCAL);
    // `struct rtmsg` of linux/rtnetlink.h.
    let route = [
        &[family, prefix_length as u8, 0, 0][..],
        &[
            table,
            libc::RTPROT_STATIC,
            libc::RT_SCOPE_UNIVERSE,
            libc::RTN_LOCAL,
        ],
        &0_u32.to_ne_bytes(),
        &attribute(libc::RTA_DST, &prefix),
        &attribute(libc::RTA_OIF, &IFINDEX_LO.to_ne_bytes()),
    ]
    .concat();
    let header = [
        &((HEADER + route.len()) as u32).to_ne_bytes()[..],
        &kind.to_ne_bytes(),
        &(flags as u16).to_ne_bytes(),
        &[0; 8],
    ]
    .concat();
    [header, route].concat()
}

/// `struct rtattr`; what we put in needs no padding.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = 4 + value.len() as u16;
    [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat()
}
