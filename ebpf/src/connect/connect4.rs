//! cgroup/connect4: connect(2) of an IPv4 socket.

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use nodetls_ebpf::Address;

use crate::decide::{Verdict, decide};

#[cgroup_sock_addr(connect4)]
fn connect4(ctx: SockAddrContext) -> i32 {
    let address = ctx.sock_addr;
    // SAFETY: fields of the context; the verifier checks them.
    let destination = unsafe { Address::v4((*address).user_ip4, (*address).user_port) };
    match decide(&ctx, &destination) {
        Verdict::Return(value) => value,
        Verdict::Redirect(ip) => {
            // SAFETY: as above; user_ip4 may be written by this hook.
            unsafe { (*address).user_ip4 = ip[3] };
            1
        }
    }
}
