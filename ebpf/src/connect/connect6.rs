//! cgroup/connect6: connect(2) of an IPv6 socket, also to IPv4-mapped addresses.

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use nodetls_ebpf::Address;

use crate::decide::{Verdict, decide};

#[cgroup_sock_addr(connect6)]
fn connect6(ctx: SockAddrContext) -> i32 {
    let address = ctx.sock_addr;
    // SAFETY: fields of the context, read word by word because older verifiers take no wider loads.
    let destination = unsafe {
        let ip = &raw const (*address).user_ip6;
        Address {
            ip: [
                core::ptr::read_volatile(&raw const (*ip)[0]),
                core::ptr::read_volatile(&raw const (*ip)[1]),
                core::ptr::read_volatile(&raw const (*ip)[2]),
                core::ptr::read_volatile(&raw const (*ip)[3]),
            ],
            port: (*address).user_port,
        }
    };
    match decide(&ctx, &destination) {
        Verdict::Return(value) => value,
        Verdict::Redirect(ip) => {
            // SAFETY: as above; user_ip6 may be written by this hook.
            unsafe {
                let words = &raw mut (*address).user_ip6;
                core::ptr::write_volatile(&raw mut (*words)[0], ip[0]);
                core::ptr::write_volatile(&raw mut (*words)[1], ip[1]);
                core::ptr::write_volatile(&raw mut (*words)[2], ip[2]);
                core::ptr::write_volatile(&raw mut (*words)[3], ip[3]);
            }
            1
        }
    }
}
