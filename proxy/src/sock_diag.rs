//! What the kernel knows of the TCP sockets of a netns, whoever holds them: sock_diag(7). By hand: three messages of fixed
//! size, for which a library would be a hundred times the code.

use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::Arc;

use socket2::{Domain, Protocol, Socket, Type};

/// `TCP_ESTABLISHED` to `TCP_CLOSE_WAIT` (include/net/tcp_states.h).
const ESTABLISHED: u8 = 1;
const SYN_SENT: u8 = 2;
const FIN_WAIT1: u8 = 4;
const FIN_WAIT2: u8 = 5;
const CLOSE_WAIT: u8 = 8;

const HEADER: usize = size_of::<libc::nlmsghdr>();
/// Of `inet_diag_msg`, up to its attributes.
const MESSAGE: usize = 72;
/// `SOCK_DIAG_BY_FAMILY`, `SOCK_DESTROY` (include/uapi/linux/sock_diag.h).
const BY_FAMILY: u16 = 20;
const DESTROY: u16 = 21;
/// `INET_DIAG_REQ_SK_BPF_STORAGES`, with `SK_DIAG_BPF_STORAGE_REQ_MAP_FD` in it (kernel 5.6).
const REQUEST_STORAGES: u16 = 2;
const REQUEST_MAP: u16 = 1;
/// `INET_DIAG_SK_BPF_STORAGES`, with `SK_DIAG_BPF_STORAGE` in it for each map that has an entry.
const STORAGES: u16 = 20;
const STORAGE: u16 = 1;

/// A connected TCP socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TcpSocket {
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    family: u8,
    /// `inet_diag_sockid`, which no other socket has.
    id: [u8; 48],
}

/// Whether the TCP socket of the current netns at `local`, connected to `remote`, is closing and belongs to no file any
/// more.
///
/// # Errors
/// There is none, or the kernel can't tell (`CONFIG_INET_DIAG`).
pub(crate) fn is_orphan(local: SocketAddr, remote: SocketAddr) -> io::Result<bool> {
    let mut id = [0; 48];
    id[..2].copy_from_slice(&local.port().to_be_bytes());
    id[2..4].copy_from_slice(&remote.port().to_be_bytes());
    id[4..20].copy_from_slice(&octets(local.ip()));
    id[20..36].copy_from_slice(&octets(remote.ip()));
    // Any device, no cookie.
    id[40..].fill(0xff);
    let family = family(local.is_ipv4());
    let mut socket = open()?;
    socket.send(&request(BY_FAMILY, 0, family, u32::MAX, &id, &[]))?;
    let mut answer = [0; 1024];
    let length = socket.read(&mut answer)?;
    let message = answer[..length].get(HEADER..);
    match (kind(&answer), message) {
        (Some(BY_FAMILY), Some(message)) if message.len() >= MESSAGE => {
            Ok([FIN_WAIT1, FIN_WAIT2].contains(&message[1]) && message[68..72] == [0; 4])
        }
        _ => Err(io::ErrorKind::NotFound.into()),
    }
}

/// The connected TCP sockets of the netns in which `diag` was opened, with such remote addresses and without an entry in
/// any of `maps`, which are of the kind `SK_STORAGE`.
///
/// # Errors
/// The kernel can't tell (`CONFIG_INET_DIAG`), or a capability is missing.
pub(crate) fn connected(
    diag: &mut Socket,
    maps: &[Arc<OwnedFd>],
    remotes: impl Fn(SocketAddr) -> bool,
) -> io::Result<Vec<TcpSocket>> {
    let states = [ESTABLISHED, SYN_SENT, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT];
    let states = states.iter().fold(0, |all, state| all | 1 << state);
    let map = |map: &Arc<OwnedFd>| attribute(REQUEST_MAP, &map.as_raw_fd().to_ne_bytes());
    let maps: Vec<u8> = maps.iter().flat_map(map).collect();
    let storages = attribute(REQUEST_STORAGES, &maps);
    let mut found = Vec::new();
    let mut answer = vec![0; 64 * 1024];
    for is_v4 in [true, false] {
        let dump = libc::NLM_F_DUMP as u16;
        let request = request(BY_FAMILY, dump, family(is_v4), states, &[0; 48], &storages);
        diag.send(&request)?;
        while read_messages(diag, &mut answer, |message| {
            let socket = TcpSocket::read(message);
            found.extend(socket.filter(|socket| remotes(socket.remote)));
        })? {}
    }
    Ok(found)
}

/// Resets a connection of the netns in which `diag` was opened (`CONFIG_INET_DIAG_DESTROY`).
///
/// # Errors
/// It has gone, the kernel can't do it, or CAP_NET_ADMIN is missing.
pub(crate) fn destroy(diag: &mut Socket, connection: &TcpSocket) -> io::Result<()> {
    let (family, id) = (connection.family, &connection.id);
    let acknowledge = libc::NLM_F_ACK as u16;
    diag.send(&request(DESTROY, acknowledge, family, u32::MAX, id, &[]))?;
    let mut answer = [0; 1024];
    let length = diag.read(&mut answer)?;
    error_of(&answer[..length])
}

/// A socket that asks about the current netns, wherever it is used.
///
/// # Errors
/// The kernel can't tell (`CONFIG_INET_DIAG`).
pub(crate) fn open() -> io::Result<Socket> {
    let kind = Type::DGRAM.cloexec().nonblocking();
    let netlink = Domain::from(libc::AF_NETLINK);
    Socket::new(netlink, kind, Some(Protocol::from(libc::NETLINK_SOCK_DIAG)))
}

/// `nlmsghdr` and `inet_diag_req_v2` (include/uapi/linux/inet_diag.h).
fn request(
    kind: u16,
    flags: u16,
    family: u8,
    states: u32,
    id: &[u8; 48],
    attributes: &[u8],
) -> Vec<u8> {
    let mut body = vec![family, libc::IPPROTO_TCP as u8, 0, 0];
    body.extend(states.to_ne_bytes());
    body.extend(id);
    body.extend(attributes);
    let mut message = Vec::with_capacity(HEADER + body.len());
    message.extend(((HEADER + body.len()) as u32).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend((libc::NLM_F_REQUEST as u16 | flags).to_ne_bytes());
    message.extend([0; 8]); // sequence, sender
    message.extend(body);
    message
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut attribute = Vec::with_capacity(4 + value.len());
    attribute.extend((4 + value.len() as u16).to_ne_bytes());
    attribute.extend(kind.to_ne_bytes());
    attribute.extend(value);
    attribute
}

/// One read of a dump; whether there is more to come.
fn read_messages(
    socket: &mut Socket,
    buffer: &mut [u8],
    mut each: impl FnMut(&[u8]),
) -> io::Result<bool> {
    let length = socket.read(buffer)?;
    let mut rest = &buffer[..length];
    while let Some(length) = rest.first_chunk().map(|length| u32::from_ne_bytes(*length)) {
        let (message, after) = split_aligned(rest, length as usize).ok_or(malformed())?;
        match kind(message) {
            Some(BY_FAMILY) => each(message.get(HEADER..).unwrap_or_default()),
            Some(done) if i32::from(done) == libc::NLMSG_DONE => {
                // A dump that failed says so at its end.
                error_of(message)?;
                return Ok(false);
            }
            _ => error_of(message)?,
        }
        rest = after;
    }
    Ok(length > 0)
}

impl TcpSocket {
    /// `inet_diag_msg` and its attributes; none for a socket that is marked, or belongs to nobody any more.
    fn read(message: &[u8]) -> Option<Self> {
        let storages = find(message.get(MESSAGE..)?, STORAGES);
        let marked = storages.is_some_and(|storages| find(storages, STORAGE).is_some());
        if marked || message.get(68..72)? == [0; 4] {
            return None;
        }
        let family = *message.first()?;
        let id: [u8; 48] = message.get(4..52)?.try_into().ok()?;
        let port = |at: usize| u16::from_be_bytes([id[at], id[at + 1]]);
        let is_v4 = i32::from(family) == libc::AF_INET;
        Some(Self {
            local: SocketAddr::new(ip(is_v4, id.get(4..20)?)?, port(0)),
            remote: SocketAddr::new(ip(is_v4, id.get(20..36)?)?, port(2)),
            family,
            id,
        })
    }
}

/// The value of the first attribute of a kind.
fn find(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let length = u16::from_ne_bytes(*attributes.first_chunk()?);
        let (attribute, after) = split_aligned(attributes, length.into())?;
        // The upper two bits are flags.
        let its = u16::from_ne_bytes([*attribute.get(2)?, *attribute.get(3)?]) & 0x3fff;
        if its == kind {
            return attribute.get(4..);
        }
        attributes = after;
    }
}

/// The first `length` bytes, and what comes after them at the next multiple of 4.
fn split_aligned(bytes: &[u8], length: usize) -> Option<(&[u8], &[u8])> {
    if length < 4 {
        return None;
    }
    let after = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((bytes.get(..length)?, after))
}

fn kind(message: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes([*message.get(4)?, *message.get(5)?]))
}

/// Of an `nlmsgerr`; its number is 0 for an acknowledgement.
fn error_of(message: &[u8]) -> io::Result<()> {
    let number = message.get(HEADER..HEADER + 4);
    let number = number.and_then(|number| number.try_into().ok());
    match number.map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(number) => Err(io::Error::from_raw_os_error(-number)),
        None => Err(malformed()),
    }
}

fn malformed() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "a sock_diag message of another shape",
    )
}

fn family(is_v4: bool) -> u8 {
    let family = if is_v4 { libc::AF_INET } else { libc::AF_INET6 };
    family as u8
}

fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V6(v6) => v6.octets(),
        IpAddr::V4(v4) => {
            let mut octets = [0; 16];
            octets[..4].copy_from_slice(&v4.octets());
            octets
        }
    }
}

/// A socket of IPv6 that is connected over IPv4 has v4-mapped addresses.
fn ip(is_v4: bool, octets: &[u8]) -> Option<IpAddr> {
    if is_v4 {
        return Some(Ipv4Addr::from(*octets.first_chunk::<4>()?).into());
    }
    let v6 = Ipv6Addr::from(*octets.first_chunk::<16>()?);
    Some(IpAddr::from(v6).to_canonical())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn attributes_are_found_and_broken_ones_end_the_search() {
        let both = [attribute(7, b"abc"), vec![0], attribute(9 | 1 << 15, b"")].concat();
        assert_eq!(find(&both, 7), Some(&b"abc"[..]));
        assert_eq!(find(&both, 9), Some(&b""[..]));
        assert_eq!(find(&both, 8), None);
        for broken in [&[][..], &[1], &[3, 0, 7, 0], &[9, 0, 7, 0, 1]] {
            assert_eq!(find(broken, 7), None, "{broken:?}");
        }
    }

    #[test]
    fn a_socket_without_owner_is_an_orphan() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (local, remote) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
        let _server = listener.accept().unwrap();
        assert!(!is_orphan(local, remote).unwrap());
        drop(client);
        assert!(is_orphan(local, remote).unwrap());
        let nobody = "127.0.0.1:1".parse().unwrap();
        assert!(is_orphan(nobody, remote).is_err());
    }
}
