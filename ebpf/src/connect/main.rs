//! The programs at the pods' cgroup: which connects go to the proxy, and what getpeername says afterwards.
//!
//! Nothing is kept per connection: the target's id travels in the destination address.
#![no_std]
#![no_main]
#![allow(unsafe_code, missing_docs)] // SAFETY: the verifier proves every access of a program.

mod connect4;
mod connect6;
mod decide;
mod dialled;
mod getpeername4;
mod getpeername6;
mod ip6;
mod maps;

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 4] = *b"GPL\0";
