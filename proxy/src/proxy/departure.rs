//! Has a client gone for good? A half-closed client, which still wants its answer, looks the same from our end: both
//! have sent FIN. But the client's socket is on this machine, so the kernel knows whether anybody holds it.

use std::io::{self, Read as _};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::failure::{Failure, Reason};
use crate::pods::Pod;
use crate::pods::netns::NetnsThread;

/// How soon to ask after a FIN; doubled each time, since a half-closed client may go later.
const FIRST_LOOK: Duration = Duration::from_millis(5);
/// `TCP_FIN_WAIT1`, `TCP_FIN_WAIT2` (include/net/tcp_states.h): closed by its owner, or by half.
const CLOSING: [u8; 2] = [4, 5];

/// Watches a client while nothing can be relayed yet.
pub(super) struct Departure<'a> {
    client: &'a TcpStream,
    pod: &'a Pod,
    netns: &'a NetnsThread,
    /// The client may have closed because it has said all and wants no answer: only a reset is a departure then.
    pub(super) may_have_said_all: bool,
}

impl<'a> Departure<'a> {
    /// For a client that waits for an answer.
    pub(super) fn new(client: &'a TcpStream, pod: &'a Pod, netns: &'a NetnsThread) -> Self {
        Self {
            client,
            pod,
            netns,
            may_have_said_all: false,
        }
    }

    /// What `work` comes to, unless the client departs before: then `work` is dropped, and with it its connections.
    pub(super) async fn or<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::select! {
            biased;
            result = work => result,
            () = self.departed() => Err(Failure::new(
                Reason::ClientGone,
                "the client closed its connection before the server was reached",
            )),
        }
    }

    /// Returns when the client has reset its connection, or closed its socket, and so can't be answered any more.
    async fn departed(&self) {
        // The interest that waits for the end of the input, but not for input.
        let ended = self.client.ready(Interest::PRIORITY).await;
        if !ended.is_ok_and(|ready| ready.is_read_closed()) {
            // Urgent data: nothing more is to be learned by waiting.
            return std::future::pending().await;
        }
        let mut pause = FIRST_LOOK;
        // A connection that was reset has no peer.
        while let (Ok(peer), Ok(local)) = (self.client.peer_addr(), self.client.local_addr()) {
            sleep(pause).await;
            pause *= 2;
            if self.may_have_said_all {
                continue;
            }
            let look = self
                .netns
                .run(&self.pod.netns, move || is_orphan(peer, local));
            // Not known means still there; other limits end the connection.
            if look.await.unwrap_or(false) {
                return;
            }
        }
    }
}

/// Whether the TCP socket of the current netns at `local`, connected to `remote`, is closing and belongs to no file any
/// more. Errors if there is none, or the kernel can't tell (`CONFIG_INET_DIAG`).
fn is_orphan(local: SocketAddr, remote: SocketAddr) -> io::Result<bool> {
    let kind = Type::DGRAM.cloexec().nonblocking();
    let netlink = Domain::from(libc::AF_NETLINK);
    let mut socket = Socket::new(netlink, kind, Some(Protocol::from(libc::NETLINK_SOCK_DIAG)))?;
    socket.send(&request(local, remote))?;
    let mut answer = [0; 1024];
    let length = socket.read(&mut answer)?;
    parse(&answer[..length])
}

const HEADER: usize = size_of::<libc::nlmsghdr>();
/// `SOCK_DIAG_BY_FAMILY` (include/uapi/linux/sock_diag.h).
const BY_FAMILY: u16 = 20;

/// `nlmsghdr` and `inet_diag_req_v2` (include/uapi/linux/inet_diag.h), for one socket.
fn request(local: SocketAddr, remote: SocketAddr) -> Vec<u8> {
    let family = if local.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    let mut body = vec![family as u8, libc::IPPROTO_TCP as u8, 0, 0];
    body.extend(u32::MAX.to_ne_bytes()); // any state
    body.extend(local.port().to_be_bytes());
    body.extend(remote.port().to_be_bytes());
    body.extend(address(local.ip()));
    body.extend(address(remote.ip()));
    body.extend([0; 4]); // any device
    body.extend([0xff; 8]); // no cookie
    let mut message = Vec::with_capacity(HEADER + body.len());
    message.extend(((HEADER + body.len()) as u32).to_ne_bytes());
    message.extend(BY_FAMILY.to_ne_bytes());
    message.extend((libc::NLM_F_REQUEST as u16).to_ne_bytes());
    message.extend([0; 8]); // sequence, sender
    message.extend(body);
    message
}

fn address(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V6(v6) => v6.octets(),
        IpAddr::V4(v4) => {
            let mut octets = [0; 16];
            octets[..4].copy_from_slice(&v4.octets());
            octets
        }
    }
}

/// `nlmsghdr`, then `inet_diag_msg`, whose second byte is the state and whose last word the inode.
fn parse(message: &[u8]) -> io::Result<bool> {
    let kind = message.get(4..6);
    let inode = message.get(HEADER + 68..HEADER + 72);
    match (kind, message.get(HEADER + 1), inode) {
        (Some(kind), Some(state), Some(inode)) if kind == BY_FAMILY.to_ne_bytes() => {
            Ok(CLOSING.contains(state) && inode == [0; 4])
        }
        _ => Err(io::ErrorKind::NotFound.into()),
    }
}
