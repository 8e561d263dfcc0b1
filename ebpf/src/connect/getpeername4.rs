//! cgroup/getpeername4: gives an IPv4 client the address back that it dialled.

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;

use crate::decide::{ids, original};

#[cgroup_sock_addr(getpeername4)]
fn getpeername4(ctx: SockAddrContext) -> i32 {
    let address = ctx.sock_addr;
    // SAFETY: fields of the context; the verifier checks them.
    let (ip, port) = unsafe { (u32::from_be((*address).user_ip4), (*address).user_port) };
    if let Some(id) = ids().id(ip)
        && let Some(original) = original(&ctx, id, port)
        && original.is_v4()
    {
        // SAFETY: as above; user_ip4 may be written by this hook.
        unsafe { (*address).user_ip4 = original.ip[3] };
    }
    1
}
