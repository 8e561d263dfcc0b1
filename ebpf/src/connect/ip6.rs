//! The IPv6 address of the context, word by word, because older verifiers take no wider accesses. In network byte order.

use aya_ebpf::bindings::bpf_sock_addr;

#[inline(always)]
pub(crate) fn read(address: *mut bpf_sock_addr) -> [u32; 4] {
    // SAFETY: fields of the context; the verifier checks them.
    unsafe {
        let words = &raw const (*address).user_ip6;
        [
            core::ptr::read_volatile(&raw const (*words)[0]),
            core::ptr::read_volatile(&raw const (*words)[1]),
            core::ptr::read_volatile(&raw const (*words)[2]),
            core::ptr::read_volatile(&raw const (*words)[3]),
        ]
    }
}

/// For hooks that may write `user_ip6`.
#[inline(always)]
pub(crate) fn write(address: *mut bpf_sock_addr, ip: &[u32; 4]) {
    // SAFETY: as above.
    unsafe {
        let words = &raw mut (*address).user_ip6;
        core::ptr::write_volatile(&raw mut (*words)[0], ip[0]);
        core::ptr::write_volatile(&raw mut (*words)[1], ip[1]);
        core::ptr::write_volatile(&raw mut (*words)[2], ip[2]);
        core::ptr::write_volatile(&raw mut (*words)[3], ip[3]);
    }
}
