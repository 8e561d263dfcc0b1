//! sk_lookup, one instance for each pod's netns: hands what arrives for a target id to the proxy's listener there.
//!
//! An object of its own, so that enrolling a pod loads this one program and nothing else.
#![no_std]
#![no_main]
#![allow(unsafe_code, missing_docs)] // SAFETY: the verifier proves every access of a program.

use aya_ebpf::macros::{map, sk_lookup};
use aya_ebpf::maps::{PerCpuArray, SockMap};
use aya_ebpf::programs::SkLookupContext;
use nodetls_ebpf::{Event, ID_PREFIX_V6, IFINDEX_LO, IdRange, LISTENER_V4, LISTENER_V6};

const PASS: u32 = 1;
const DROP: u32 = 0;
const AF_INET: u32 = 2;
const IPPROTO_TCP: u32 = 6;

/// Set by the loader: the addresses of the instance that this program belongs to, [`IdRange`]'s fields.
#[unsafe(no_mangle)]
static ID_PREFIX: u32 = IdRange::AGENT.prefix;
#[unsafe(no_mangle)]
static ID_MASK: u32 = IdRange::AGENT.mask;

/// The proxy's listeners in this netns; a closed one leaves its slot by itself.
#[map]
static LISTENERS: SockMap = SockMap::with_max_entries(2, 0);

/// The same map as the connect programs'.
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Event::ALL.len() as u32, 0);

#[sk_lookup]
fn lookup(ctx: SkLookupContext) -> u32 {
    let packet = ctx.lookup;
    // SAFETY: fields of the context; the verifier checks them.
    let (protocol, family, device) = unsafe {
        (
            (*packet).protocol,
            (*packet).family,
            (*packet).ingress_ifindex,
        )
    };
    // From outside the netns nobody may come: a neighbour could use the pod's identity. (A local route takes packets of
    // any device.)
    if protocol != IPPROTO_TCP || device != IFINDEX_LO {
        return PASS;
    }
    if family == AF_INET {
        // SAFETY: as above.
        let ip = u32::from_be(unsafe { (*packet).local_ip4 });
        return assign(&ctx, ip, LISTENER_V4);
    }
    // SAFETY: as above, word by word.
    let words = unsafe {
        let ip = &raw const (*packet).local_ip6;
        [
            core::ptr::read_volatile(&raw const (*ip)[0]),
            core::ptr::read_volatile(&raw const (*ip)[1]),
            core::ptr::read_volatile(&raw const (*ip)[2]),
            core::ptr::read_volatile(&raw const (*ip)[3]),
        ]
    };
    let [a, b, c, last] = words.map(u32::from_be);
    if [a, b, c] != ID_PREFIX_V6 {
        return PASS;
    }
    assign(&ctx, last, LISTENER_V6)
}

/// Gives a SYN for one of our ids to the listener; without one it is answered with RST, whoever else listens here.
#[inline(always)]
fn assign(ctx: &SkLookupContext, ip: u32, slot: u32) -> u32 {
    // SAFETY: statics of ours; volatile because the loader, not the compiler, sets their values.
    let ids = unsafe {
        IdRange {
            prefix: core::ptr::read_volatile(&raw const ID_PREFIX),
            mask: core::ptr::read_volatile(&raw const ID_MASK),
        }
    };
    if ids.id(ip).is_none() {
        return PASS;
    }
    let (verdict, event) = match LISTENERS.redirect_sk_lookup(ctx, slot, 0) {
        Ok(()) => (PASS, Event::Assigned),
        Err(_) => (DROP, Event::NoListener),
    };
    if let Some(counter) = COUNTERS.get_ptr_mut(event as u32) {
        // SAFETY: the slot is this CPU's own.
        unsafe { *counter += 1 };
    }
    verdict
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 4] = *b"GPL\0";
