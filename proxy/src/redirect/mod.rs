//! The kernel's half: programs that turn connects to the proxy, and the pinned maps they read.
//!
//! Everything is pinned, so that it outlives the agent: without one, a redirected connect is refused.

mod canary;
mod epoch;
mod ids;
mod lookup;
mod maps;
mod order;
mod pins;
mod programs;
mod remount;
mod view;

pub use canary::run_child as run_canary_child;
pub use epoch::{Charge, Epoch, agents, has_living_agent};
pub use ids::TargetIds;
pub use lookup::{Lookup, remove_stale};
pub use maps::{Maps, OwnSockets, PodModes, address_key, address_of, bypass_pinned};
pub use pins::{
    PinnedLink, cgroup_is_gone, foreign, is_bpffs, is_in_force, layouts, pinned_link,
    remove as remove_pins, remove_foreign,
};
pub use programs::{Effect, PROGRAMS, Redirect, default_cgroup, is_cgroup2};
pub use remount::{OnNode, look};
pub use view::EbpfView;

/// The eBPF objects, embedded by build.rs; empty in a build without a BPF toolchain.
mod objects {
    use aya::include_bytes_aligned;

    pub(super) static CONNECT: &[u8] =
        include_bytes_aligned!(concat!(env!("OUT_DIR"), "/connect.o"));
    pub(super) static LOOKUP: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lookup.o"));
}
