//! The listeners that a pod's redirected connections come to.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use nodetls_ebpf::ID_PREFIX_V6;

use super::netns::{NetnsThread, current_cookie, tcp_socket};

/// A port that no application listens on, so that no wildcard bind of the pod's collides (tcpmux, RFC 1078).
const LISTENER_PORT: u16 = 1;
const BACKLOG: i32 = 4096;

/// The cookie of `netns`, and listeners in it that no other agent's collide with.
pub async fn open(
    thread: &NetnsThread,
    netns: &Arc<File>,
    epoch: u64,
) -> Result<(u64, Vec<TcpListener>)> {
    thread
        .run(netns, move || Ok((current_cookie()?, listen(epoch)?)))
        .await
        .context("its listeners can't be opened")
}

/// The listeners of one netns: sk_lookup hands them their connections, so their own addresses only have to be odd.
fn listen(epoch: u64) -> io::Result<Vec<TcpListener>> {
    let [high, low] = (epoch as u16).to_be_bytes();
    let prefix = ID_PREFIX_V6.map(|word| [(word >> 16) as u16, word as u16]);
    let [[a, b], [c, d], _] = prefix;
    let mut listeners = vec![listen_at(Ipv4Addr::new(127, 77, high, low).into())?];
    // A netns without IPv6 has no IPv6 clients either.
    if let Ok(listener) = listen_at(Ipv6Addr::new(a, b, c, d, 1, 0, 0, epoch as u16).into()) {
        listeners.push(listener);
    }
    Ok(listeners)
}

fn listen_at(ip: IpAddr) -> io::Result<TcpListener> {
    let bind = |port| -> io::Result<TcpListener> {
        let address = SocketAddr::from((ip, port));
        let socket = tcp_socket(address)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
            socket.set_freebind_v6(true)?;
        }
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    match bind(LISTENER_PORT) {
        // A process of the pod sits there, or an agent of another layout: any other port will do.
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => bind(0),
        result => result,
    }
}
