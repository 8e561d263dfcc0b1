//! What to do with a connect, once its destination is known: shared by both families.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::{bpf_get_netns_cookie, bpf_set_retval};
use aya_ebpf::programs::SockAddrContext;
use nodetls_ebpf::{Address, CANARY_ID, Event, IFINDEX_LO, IdRange, Mode};

use crate::maps::{DIALLED, IDS, NOTING, OWN_SOCKETS, PODS, TARGETS, count, count_audited};

const PASS: i32 = 1;
const DENY: i32 = 0;
const ECONNREFUSED: i32 = 111;
const IPPROTO_TCP: u32 = 6;
const IPPROTO_UDP: u32 = 17;
const IPPROTO_MPTCP: u32 = 262;

/// Set by the loader: whether `bpf_set_retval` exists (kernel 5.18); without it a denied connect sees EPERM.
#[unsafe(no_mangle)]
static HAS_SET_RETVAL: u8 = 0;

/// Set by the loader: audit mode, in which nothing is redirected or denied.
#[unsafe(no_mangle)]
static AUDIT: u8 = 0;

/// Set by the loader: the addresses of the instance that these programs belong to, [`IdRange`]'s fields.
#[unsafe(no_mangle)]
static ID_PREFIX: u32 = IdRange::AGENT.prefix;
#[unsafe(no_mangle)]
static ID_MASK: u32 = IdRange::AGENT.mask;

#[inline(always)]
pub(crate) fn ids() -> IdRange {
    // SAFETY: statics of ours; volatile because the loader, not the compiler, sets their values.
    unsafe {
        IdRange {
            prefix: core::ptr::read_volatile(&raw const ID_PREFIX),
            mask: core::ptr::read_volatile(&raw const ID_MASK),
        }
    }
}

/// What a connect program has to do.
pub(crate) enum Verdict {
    /// Return this to the kernel.
    Return(i32),
    /// Replace the destination's IP address by this one (network byte order), then let it pass.
    Redirect([u32; 4]),
}

#[inline(always)]
pub(crate) fn decide(ctx: &SockAddrContext, destination: &Address) -> Verdict {
    let dialled = dialled(ctx);
    // SAFETY: the map's values are never deleted while a program holds them (RCU).
    let (id, changed) = match (unsafe { TARGETS.get(destination) }, dialled) {
        (Some(&id), _) => (id, false),
        (None, Some(id)) => (id, true),
        (None, None) => return Verdict::Return(PASS),
    };
    #[cfg(feature = "log")]
    aya_log_ebpf::debug!(ctx, "connect to the address of target id {}", id);
    // SAFETY: a field of the context; the verifier checks it.
    match unsafe { (*ctx.sock_addr).protocol } {
        IPPROTO_TCP | IPPROTO_MPTCP => {}
        IPPROTO_UDP => {
            count(Event::Udp);
            return Verdict::Return(PASS);
        }
        _ => return Verdict::Return(PASS),
    }
    if id == CANARY_ID {
        return deny(Event::Canary);
    }
    // SAFETY: the helper checks the socket; a null result is handled.
    if !unsafe { OWN_SOCKETS.get_ptr_mut(ctx) }.is_null() {
        count(Event::OwnSocket);
        return Verdict::Return(PASS);
    }
    // SAFETY: the context is a valid one; RCU as above.
    let mode = unsafe { PODS.get(bpf_get_netns_cookie(ctx.as_ptr())) };
    // SAFETY: a static of ours; volatile because the loader, not the compiler, sets its value.
    let audit = unsafe { core::ptr::read_volatile(&raw const AUDIT) } != 0;
    match mode {
        Some(&mode) if mode == Mode::Bypass as u32 => {
            count(Event::BypassedNetns);
            Verdict::Return(PASS)
        }
        _ if audit => {
            count_audited(id);
            Verdict::Return(PASS)
        }
        _ if changed => deny(Event::DeniedChanged),
        Some(&mode) if mode == Mode::Redirect as u32 => redirect(ctx, destination, id),
        Some(&mode) if mode == Mode::RedirectV4 as u32 => {
            if destination.is_v4() {
                redirect(ctx, destination, id)
            } else {
                deny(Event::DeniedIpv6)
            }
        }
        Some(_) => deny(Event::DeniedNetns),
        None => deny(Event::DeniedUnknownNetns),
    }
}

/// The id of the target that this connect was to, before another's program has changed its address: `dialled.rs`.
#[inline(always)]
fn dialled(ctx: &SockAddrContext) -> Option<u32> {
    // First, as a socket's storage takes longer to look up: some 25 ns.
    NOTING.get(0).filter(|noting| **noting != 0)?;
    // SAFETY: the helper checks the socket; a null result is handled.
    let note = unsafe { DIALLED.get_ptr_mut(ctx).as_mut() }?;
    // The next connect of this socket may be to anything.
    core::mem::take(note).checked_sub(1)
}

#[inline(always)]
fn redirect(ctx: &SockAddrContext, destination: &Address, id: u32) -> Verdict {
    // SAFETY: fields of the context; the verifier insists on the null check.
    let device = unsafe {
        let sk = (*ctx.sock_addr).__bindgen_anon_1.sk;
        if sk.is_null() { 0 } else { (*sk).bound_dev_if }
    };
    // Over IPv6 an answer to the pod's own address comes in by that address' device, not by lo.
    let reachable = device == 0 || device == IFINDEX_LO && destination.is_v4();
    if !reachable {
        return deny(Event::DeniedBoundDevice);
    }
    count(Event::Redirected);
    Verdict::Redirect(destination.turned_to(ids().address(id).to_be()))
}

#[inline(always)]
fn deny(event: Event) -> Verdict {
    count(event);
    // SAFETY: a static of ours; volatile because the loader, not the compiler, sets its value.
    if unsafe { core::ptr::read_volatile(&raw const HAS_SET_RETVAL) } != 0 {
        // SAFETY: allowed in cgroup programs since 5.18; elsewhere the verifier never gets here.
        unsafe { bpf_set_retval(-ECONNREFUSED) };
    }
    Verdict::Return(DENY)
}

/// The address that `id` at `port` stands for, when both match and the netns is one we redirect.
#[inline(always)]
pub(crate) fn original(ctx: &SockAddrContext, id: u32, port: u32) -> Option<&'static Address> {
    // SAFETY: RCU, as above.
    let entry = unsafe { IDS.get(id) }?;
    if entry.address.port != port {
        return None;
    }
    // SAFETY: as above.
    let mode = unsafe { PODS.get(bpf_get_netns_cookie(ctx.as_ptr())) }?;
    if *mode != Mode::Redirect as u32 && *mode != Mode::RedirectV4 as u32 {
        return None;
    }
    count(Event::PeerNamed);
    // SAFETY: map memory, valid until the program returns.
    Some(unsafe { &*(&raw const entry.address) })
}
