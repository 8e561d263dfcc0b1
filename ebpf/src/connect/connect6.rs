//! cgroup/connect6: connect(2) of an IPv6 socket, also to IPv4-mapped addresses.

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use nodetls_ebpf::Address;

use crate::decide::{Verdict, decide};
use crate::ip6;

#[cgroup_sock_addr(connect6)]
fn connect6(ctx: SockAddrContext) -> i32 {
    match decide(&ctx, &destination(&ctx)) {
        Verdict::Return(value) => value,
        Verdict::Redirect(ip) => {
            ip6::write(ctx.sock_addr, &ip);
            1
        }
    }
}

/// What is connected to.
#[inline(always)]
pub(crate) fn destination(ctx: &SockAddrContext) -> Address {
    Address {
        ip: ip6::read(ctx.sock_addr),
        // SAFETY: a field of the context; the verifier checks it.
        port: unsafe { (*ctx.sock_addr).user_port },
    }
}
