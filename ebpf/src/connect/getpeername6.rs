//! cgroup/getpeername6: the same for IPv6 sockets that dialled an IPv4-mapped address.

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
    let ip = u32::from_be(words[3]);
    if (Address { ip: words, port }).is_v4()
        && let Some(id) = ids().id(ip)
        && let Some(original) = original(&ctx, id, port)
        && original.is_v4()
    {
        // SAFETY: as above; user_ip6 may be written by this hook.
        unsafe { core::ptr::write_volatile(&raw mut (*address).user_ip6[3], original.ip[3]) };
    }
    1
}
