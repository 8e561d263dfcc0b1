//! The listeners that a pod's redirected connections come to.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use nodetls_ebpf::{CANARY_ID, ID_PREFIX_V6, IdRange, Mode};

use super::local_route;
use super::netns::{NetnsThread, current_cookie, tcp_socket};

/// A port that no application listens on, so that no wildcard bind of the pod's collides (tcpmux, RFC 1078).
const LISTENER_PORT: u16 = 1;
const BACKLOG: i32 = 4096;

/// A netns made ready for its redirected connections.
pub struct Ready {
    /// Its cookie.
    pub cookie: u64,
    /// For IPv4, and for IPv6 if there is any.
    pub listeners: Vec<TcpListener>,
    /// Whether IPv6 connects can be redirected too.
    pub mode: Mode,
}

impl Ready {
    /// The current netns, with listeners of its own.
    ///
    /// # Errors
    /// As [`current_cookie`].
    pub fn here(listeners: Vec<TcpListener>, ids: IdRange) -> io::Result<Self> {
        Ok(Self {
            cookie: current_cookie()?,
            mode: mode(listeners.len() > 1, ids),
            listeners,
        })
    }
}

/// Opens listeners in `netns` that no other agent's collide with.
pub async fn open(thread: &NetnsThread, netns: &Arc<File>, epoch: u64) -> Result<Ready> {
    thread
        .run(netns, move || {
            Ready::here(listeners(epoch)?, IdRange::AGENT)
        })
        .await
        .context("its listeners can't be opened")
}

/// What can be done with the connects of the current netns. Without the route, those over IPv6 would leave the netns.
pub(super) fn mode(has_v6_listener: bool, ids: IdRange) -> Mode {
    if has_v6_listener && local_route::add(ids).is_ok() {
        Mode::Redirect
    } else {
        Mode::RedirectV4
    }
}

/// The listeners of one netns: sk_lookup hands them their connections, so their own addresses only have to be odd.
fn listeners(epoch: u64) -> io::Result<Vec<TcpListener>> {
    let [high, low] = (epoch as u16).to_be_bytes();
    let v6 = address_v6(1 << 16 | u32::from(epoch as u16));
    listen_at(Ipv4Addr::new(127, 77, high, low), v6, |ip| {
        match bind(ip, LISTENER_PORT) {
            // A process of the pod sits there, or an agent of another layout: any other port will do.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => bind(ip, 0),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(io::Error::other(
                format!("port {LISTENER_PORT} (needs CAP_NET_BIND_SERVICE): {error}"),
            )),
            result => result,
        }
    })
}

/// The listeners of an instance in the current netns, at its own addresses: nobody else's instance can have them too.
pub fn own_listeners(ids: IdRange) -> io::Result<Vec<TcpListener>> {
    let ip = ids.address(CANARY_ID);
    let bind = |ip| bind(ip, LISTENER_PORT);
    listen_at(Ipv4Addr::from_bits(ip), address_v6(ip), bind)
}

fn listen_at(
    v4: Ipv4Addr,
    v6: Ipv6Addr,
    bind: impl Fn(IpAddr) -> io::Result<TcpListener>,
) -> io::Result<Vec<TcpListener>> {
    let mut listeners = vec![bind(v4.into())?];
    // A netns without IPv6 has no IPv6 clients either.
    listeners.extend(bind(v6.into()));
    Ok(listeners)
}

/// The address of `ID_PREFIX_V6` that ends in `last`.
pub(crate) fn address_v6(last: u32) -> Ipv6Addr {
    let [a, b, c] = ID_PREFIX_V6.map(u128::from);
    Ipv6Addr::from_bits(a << 96 | b << 64 | c << 32 | u128::from(last))
}

fn bind(ip: IpAddr, port: u16) -> io::Result<TcpListener> {
    let address = SocketAddr::from((ip, port));
    let socket = tcp_socket(address)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
        socket.set_freebind_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
