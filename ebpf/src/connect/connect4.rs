//! cgroup/connect4: connect(2) of an IPv4 socket.

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use nodetls_ebpf::Address;

use crate::decide::{Verdict, decide};

#[cgroup_sock_addr(connect4)]
fn connect4(ctx: SockAddrContext) -> i32 {
    match decide(&ctx, &destination(&ctx)) {
        Verdict::Return(value) => value,
        Verdict::Redirect(ip) => {
            // SAFETY: a field of the context; the verifier checks it, and this hook may write it.
            unsafe { (*ctx.sock_addr).user_ip4 = ip[3] };
            1
        }
    }
}

/// What is connected to.
#[inline(always)]
pub(crate) fn destination(ctx: &SockAddrContext) -> Address {
    let address = ctx.sock_addr;
    // SAFETY: fields of the context; the verifier checks them.
    unsafe { Address::v4((*address).user_ip4, (*address).user_port) }
}
