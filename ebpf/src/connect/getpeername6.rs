//! cgroup/getpeername6: the same for IPv6 sockets, also those that dialled an IPv4-mapped address.

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use nodetls_ebpf::Address;

use crate::decide::{ids, original};

#[cgroup_sock_addr(getpeername6)]
fn getpeername6(ctx: SockAddrContext) -> i32 {
    let address = ctx.sock_addr;
    // SAFETY: fields of the context, read word by word because older verifiers take no wider loads.
    let (words, port) = unsafe {
        let ip = &raw const (*address).user_ip6;
        let words = [
            core::ptr::read_volatile(&raw const (*ip)[0]),
            core::ptr::read_volatile(&raw const (*ip)[1]),
            core::ptr::read_volatile(&raw const (*ip)[2]),
            core::ptr::read_volatile(&raw const (*ip)[3]),
        ];
        (words, (*address).user_port)
    };
    let peer = Address { ip: words, port };
    if (peer.is_v4() || peer.is_v6_id())
        && let Some(id) = ids().id(u32::from_be(words[3]))
        && let Some(original) = original(&ctx, id, port)
        && original.is_v4() == peer.is_v4()
    {
        // SAFETY: as above; user_ip6 may be written by this hook.
        unsafe {
            let words = &raw mut (*address).user_ip6;
            core::ptr::write_volatile(&raw mut (*words)[0], original.ip[0]);
            core::ptr::write_volatile(&raw mut (*words)[1], original.ip[1]);
            core::ptr::write_volatile(&raw mut (*words)[2], original.ip[2]);
            core::ptr::write_volatile(&raw mut (*words)[3], original.ip[3]);
        }
    }
    1
}
