//! Map layouts and constants shared by the eBPF programs and user space.
//!
//! Every type is `repr(C)` without padding, made of 32-bit words, and part of pinned state: a change of any of them
//! needs a new [`LAYOUT`].
#![cfg_attr(not(test), no_std)]

/// The bpffs directory, below the one the agent is given, that holds pins of this layout.
pub const LAYOUT: &str = "v1";

/// TARGETS, IDS: how many addresses may be targeted at once.
pub const MAX_TARGETS: u32 = 65_536;
/// IDS keeps freed ids while they rest, hence twice the targets.
pub const MAX_IDS: u32 = 2 * MAX_TARGETS;
/// PODS: how many network namespaces one node may have.
pub const MAX_PODS: u32 = 4_096;

/// 127.128.0.0/9: a redirected connection's destination is this prefix and a 23-bit target id.
pub const ID_PREFIX_V4: u32 = 0x7f80_0000;
/// The bits of an IPv4 address that are the target id.
pub const ID_MASK: u32 = 0x007f_ffff;
/// fd6e:6f64:6574:6c73::/96: the same for IPv6, with the id in the last 32 bits (RFC 4193 unique local addresses).
pub const ID_PREFIX_V6: [u32; 3] = [0xfd6e_6f64, 0x6574_6c73, 0];
/// The id that no target has: its address is the canary's.
pub const CANARY_ID: u32 = 0;
/// The LISTENERS slot of the IPv4 listener.
pub const LISTENER_V4: u32 = 0;
/// The LISTENERS slot of the IPv6 listener.
pub const LISTENER_V6: u32 = 1;

/// An address that a client dials: key of TARGETS.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// The IPv6 address, or the IPv4-mapped one (`::ffff:a.b.c.d`), as words in network byte order.
    pub ip: [u32; 4],
    /// The port in network byte order, in the low 16 bits: as `bpf_sock_addr.user_port` has it.
    pub port: u32,
}

impl Address {
    /// The second word before last of every IPv4-mapped address, in network byte order (RFC 4291 section 2.5.5.2).
    pub const MAPPED: u32 = 0x0000_ffff_u32.to_be();

    /// From an IPv4 address and a port, both in network byte order.
    #[inline(always)]
    #[must_use]
    pub const fn v4(ip: u32, port: u32) -> Self {
        Self {
            ip: [0, 0, Self::MAPPED, ip],
            port,
        }
    }

    /// Whether this is an IPv4-mapped address.
    #[inline(always)]
    #[must_use]
    pub const fn is_v4(&self) -> bool {
        self.ip[0] == 0 && self.ip[1] == 0 && self.ip[2] == Self::MAPPED
    }
}

/// The value of IDS: what a target id stands for.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdEntry {
    /// The address that was dialled.
    pub address: Address,
    /// When the id was freed, in seconds of `CLOCK_BOOTTIME`; 0 while it is in use.
    pub freed_at: u32,
}

/// The value of PODS: what happens to connects of a network namespace to targeted addresses.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Turned to the proxy.
    Redirect = 1,
    /// Refused.
    Deny = 2,
    /// Let through untouched: the node's own netns, and those opted out.
    Bypass = 3,
}

macro_rules! events {
    ($($(#[$doc:meta])* $name:ident = $outcome:literal, $reason:literal;)*) => {
        /// What a program did with one call; the index of its counter in COUNTERS.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Event { $($(#[$doc])* $name,)* }

        impl Event {
            /// Every event, in the order of the counters.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The metric's `outcome` and `reason` labels.
            #[must_use]
            pub const fn labels(self) -> (&'static str, &'static str) {
                match self { $(Self::$name => ($outcome, $reason),)* }
            }
        }
    };
}

events! {
    /// A pod's connect was turned to the proxy.
    Redirected = "redirected", "pod";
    /// A socket of the agent's own.
    OwnSocket = "bypassed", "own_socket";
    /// The netns is the node's own, or opted out.
    BypassedNetns = "bypassed", "netns";
    /// A connected UDP socket: not covered.
    Udp = "bypassed", "udp";
    /// The netns is to be denied.
    DeniedNetns = "denied", "netns";
    /// The netns is not known (yet).
    DeniedUnknownNetns = "denied", "unknown_netns";
    /// A native IPv6 destination, which is not redirected yet.
    DeniedIpv6 = "denied", "ipv6";
    /// The client bound its socket to a device, from which loopback can't be reached.
    DeniedBoundDevice = "denied", "bound_device";
    /// The agent's canary passed: the programs are attached where they should be.
    Canary = "denied", "canary";
    /// getpeername got its original destination back.
    PeerNamed = "translated", "getpeername";
    /// A SYN was handed to the proxy's listener.
    Assigned = "assigned", "listener";
    /// A SYN was refused because no proxy listens.
    NoListener = "refused", "no_listener";
}

#[cfg(feature = "user")]
mod user {
    #![allow(unsafe_code)]
    // SAFETY: repr(C), made of u32 only, no padding; every bit pattern is a value.
    unsafe impl aya::Pod for super::Address {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::IdEntry {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_have_no_padding() {
        assert_eq!(size_of::<Address>(), 20);
        assert_eq!(size_of::<IdEntry>(), 24);
        assert_eq!(align_of::<IdEntry>(), 4);
    }

    #[test]
    fn events_are_numbered_in_order() {
        for (index, event) in Event::ALL.iter().enumerate() {
            assert_eq!(*event as usize, index);
        }
    }
}
