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

/// A redirected connection's destination: a prefix within 127.128.0.0/9, and a target id in the bits of the mask.
///
/// Every instance (the node's agent, each `nodetls exec`) has a range of its own, so that they don't meet in one netns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRange {
    /// The address of id 0, in host byte order.
    pub prefix: u32,
    /// The bits that are the id.
    pub mask: u32,
}

impl IdRange {
    /// 127.128.0.0/15, of the node's agent.
    pub const AGENT: Self = Self {
        prefix: 0x7f80_0000,
        mask: MAX_IDS - 1,
    };
    /// How many ranges there are for `nodetls exec`.
    pub const EXEC_RANGES: u32 = 4096;

    /// A /22 within 127.192.0.0/10, of one `nodetls exec`; `number` is below [`Self::EXEC_RANGES`].
    #[must_use]
    pub const fn exec(number: u32) -> Self {
        Self {
            prefix: 0x7fc0_0000 | (number << 10),
            mask: 0x3ff,
        }
    }

    /// The address that stands for `id`, in host byte order.
    #[inline(always)]
    #[must_use]
    pub const fn address(&self, id: u32) -> u32 {
        self.prefix | id
    }

    /// The id that `address` (host byte order) stands for.
    #[inline(always)]
    #[must_use]
    pub const fn id(&self, address: u32) -> Option<u32> {
        if address & !self.mask == self.prefix {
            Some(address & self.mask)
        } else {
            None
        }
    }
}

/// fd6e:6f64:6574:6c73::/96: the same for IPv6, where the last word is as the IPv4 address (RFC 4193 unique local). In
/// host byte order.
pub const ID_PREFIX_V6: [u32; 3] = [0xfd6e_6f64, 0x6574_6c73, 0];
/// lo is the first interface of every netns.
pub const IFINDEX_LO: u32 = 1;
/// The id that no target has: its address is the canary's.
pub const CANARY_ID: u32 = 0;
/// The EPOCH slot of the newest agent's epoch: this agent alone writes the maps.
pub const EPOCH_NEWEST: u32 = 0;
/// The EPOCH slot of the newest epoch whose agent has been ready: earlier ones are to drain.
pub const EPOCH_READY: u32 = 1;
/// How many slots EPOCH has.
pub const EPOCH_SLOTS: u32 = 2;
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

    /// Whether this is in [`ID_PREFIX_V6`].
    #[inline(always)]
    #[must_use]
    pub const fn is_v6_id(&self) -> bool {
        let [a, b, c] = ID_PREFIX_V6;
        self.ip[0] == a.to_be() && self.ip[1] == b.to_be() && self.ip[2] == c.to_be()
    }

    /// The IP address that a connect to this one is turned to: of the same family, and ending in `last` (network byte
    /// order).
    #[inline(always)]
    #[must_use]
    pub const fn turned_to(&self, last: u32) -> [u32; 4] {
        let [a, b, c] = ID_PREFIX_V6;
        if self.is_v4() {
            [0, 0, Self::MAPPED, last]
        } else {
            [a.to_be(), b.to_be(), c.to_be(), last]
        }
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
    /// Turned to the proxy, except that IPv6 is refused: the netns has no route to it.
    RedirectV4 = 4,
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
    /// An IPv6 destination, from a netns without IPv6 on its loopback device.
    DeniedIpv6 = "denied", "ipv6";
    /// The client bound its socket to a device, from which loopback can't be reached.
    DeniedBoundDevice = "denied", "bound_device";
    /// The agent's canary passed: the programs are attached where they should be.
    Canary = "canary", "canary";
    /// getpeername got its original destination back.
    PeerNamed = "translated", "getpeername";
    /// A SYN was handed to the proxy's listener.
    Assigned = "assigned", "listener";
    /// A SYN was refused because no proxy listens.
    NoListener = "refused", "no_listener";
    /// Audit mode: a pod's connect that would have been redirected or denied, let through.
    Audited = "audited", "pod";
    /// The client dialled a target, and another's program has changed that address before ours.
    DeniedChanged = "denied", "changed_address";
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
    fn ranges_do_not_meet() {
        let agent = IdRange::AGENT;
        assert_eq!(agent.id(agent.address(MAX_IDS - 1)), Some(MAX_IDS - 1));
        let [first, second] = [0, 1].map(IdRange::exec);
        let last = IdRange::exec(IdRange::EXEC_RANGES - 1);
        assert_eq!(last.address(last.mask), 0x7fff_ffff);
        for (one, other) in [(agent, first), (first, second), (second, last)] {
            assert_eq!(other.id(one.address(one.mask)), None);
            assert_eq!(one.id(other.address(0)), None);
        }
    }

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
