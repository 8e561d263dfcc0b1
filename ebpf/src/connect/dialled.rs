//! cgroup/connect4 and connect6 once more, before all others: notes which target a client dials, before anybody can change
//! the address. Attached only while programs of others come before ours.

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use nodetls_ebpf::Address;

use crate::maps::{DIALLED, TARGETS};
use crate::{connect4, connect6};

#[cgroup_sock_addr(connect4)]
fn dialled4(ctx: SockAddrContext) -> i32 {
    note(&ctx, &connect4::destination(&ctx))
}

#[cgroup_sock_addr(connect6)]
fn dialled6(ctx: SockAddrContext) -> i32 {
    note(&ctx, &connect6::destination(&ctx))
}

#[inline(always)]
fn note(ctx: &SockAddrContext, dialled: &Address) -> i32 {
    // SAFETY: the map's values are never deleted while a program holds them (RCU); the helper checks the socket, and a null
    // result is handled.
    unsafe {
        let (number, note) = match TARGETS.get(dialled) {
            Some(&id) => (id + 1, DIALLED.get_or_insert_ptr_mut(ctx, None)),
            None => (0, DIALLED.get_ptr_mut(ctx)),
        };
        if let Some(note) = note.as_mut() {
            *note = number;
        }
    }
    1
}
