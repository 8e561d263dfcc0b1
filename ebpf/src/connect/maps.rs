//! The maps, and the one way to count.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::{Array, HashMap, PerCpuArray, PerCpuHashMap};
use nodetls_ebpf::{Address, EPOCH_SLOTS, Event, IdEntry, MAX_IDS, MAX_PODS, MAX_TARGETS};

/// Targeted address → target id.
#[map]
pub(crate) static TARGETS: HashMap<Address, u32> =
    HashMap::with_max_entries(MAX_TARGETS, BPF_F_NO_PREALLOC);

/// Target id → the address it stands for; freed ids rest here before they are used again.
#[map]
pub(crate) static IDS: HashMap<u32, IdEntry> =
    HashMap::with_max_entries(MAX_IDS, BPF_F_NO_PREALLOC);

/// Netns cookie → `Mode`.
#[map]
pub(crate) static PODS: HashMap<u64, u32> = HashMap::with_max_entries(MAX_PODS, BPF_F_NO_PREALLOC);

/// Has an entry for every socket that the agent marked as its own.
#[btf_map]
pub(crate) static OWN_SOCKETS: SkStorage<u32> = SkStorage::new();

/// Whether what is dialled is noted (not 0), for others' programs come before ours.
#[map]
pub(crate) static NOTING: Array<u32> = Array::with_max_entries(1, 0);

/// Which target a socket dials in the connect under way: its id plus one, or 0 for none.
#[btf_map]
pub(crate) static DIALLED: SkStorage<u32> = SkStorage::new();

/// Which agent owns these maps. No program reads it.
#[map]
pub(crate) static EPOCH: Array<u64> = Array::with_max_entries(EPOCH_SLOTS, 0);

/// One counter for each `Event`.
#[map]
pub(crate) static COUNTERS: PerCpuArray<u64> =
    PerCpuArray::with_max_entries(Event::ALL.len() as u32, 0);

/// Target id → connects that audit mode let through. User space makes the entries.
#[map]
pub(crate) static AUDITED: PerCpuHashMap<u32, u64> =
    PerCpuHashMap::with_max_entries(MAX_IDS, BPF_F_NO_PREALLOC);

/// Counts a connect that audit mode lets through.
#[inline(always)]
pub(crate) fn count_audited(id: u32) {
    count(Event::Audited);
    if let Some(counter) = AUDITED.get_ptr_mut(id) {
        // SAFETY: the slot is this CPU's own.
        unsafe { *counter += 1 };
    }
}

#[inline(always)]
pub(crate) fn count(event: Event) {
    if let Some(counter) = COUNTERS.get_ptr_mut(event as u32) {
        // SAFETY: the slot is this CPU's own.
        unsafe { *counter += 1 };
    }
}
