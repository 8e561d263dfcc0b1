//! cgroup/getpeername6: the same for IPv6 sockets, also those that dialled an IPv4-mapped address.

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use nodetls_ebpf::Address;

use crate::decide::{ids, original};
use crate::ip6;

#[cgroup_sock_addr(getpeername6)]
fn getpeername6(ctx: SockAddrContext) -> i32 {
    let peer = Address {
        ip: ip6::read(ctx.sock_addr),
        // SAFETY: a field of the context; the verifier checks it.
        port: unsafe { (*ctx.sock_addr).user_port },
    };
    if (peer.is_v4() || peer.is_v6_id())
        && let Some(id) = ids().id(u32::from_be(peer.ip[3]))
        && let Some(original) = original(&ctx, id, peer.port)
        && original.is_v4() == peer.is_v4()
    {
        ip6::write(ctx.sock_addr, &original.ip);
    }
    1
}
