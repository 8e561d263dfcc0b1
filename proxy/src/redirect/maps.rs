//! Typed access to the pinned maps.

use std::net::{Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};
use aya::Ebpf;
use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray, PerCpuHashMap, SkStorage};
use nodetls_ebpf::{
    Address, EPOCH_SLOTS, Event, IdEntry, LAYOUT, MAX_IDS, MAX_PODS, MAX_TARGETS, Mode,
};

use super::pins::layouts;

pub(super) const NAMES: [&str; 9] = [
    "TARGETS",
    "IDS",
    "PODS",
    "OWN_SOCKETS",
    "NOTING",
    "DIALLED",
    "EPOCH",
    "COUNTERS",
    "AUDITED",
];

/// (name, key size, value size, maximum entries) of the pinned maps that hold state.
const LAYOUTS: [(&str, usize, usize, u32); 7] = [
    ("TARGETS", size_of::<Address>(), 4, MAX_TARGETS),
    ("IDS", 4, size_of::<IdEntry>(), MAX_IDS),
    ("PODS", 8, 4, MAX_PODS),
    ("NOTING", 4, 4, 1),
    ("EPOCH", 4, 8, EPOCH_SLOTS),
    ("COUNTERS", 4, 8, Event::ALL.len() as u32),
    ("AUDITED", 4, 8, MAX_IDS),
];

/// The maps that one agent, the one of the newest epoch, writes.
pub struct Maps {
    /// Targeted address → target id.
    pub targets: HashMap<MapData, Address, u32>,
    /// Target id → address.
    pub ids: HashMap<MapData, u32, IdEntry>,
    /// Netns cookie → mode.
    pub pods: PodModes,
    /// One counter for each `Event`, per CPU.
    pub counters: PerCpuArray<MapData, u64>,
    /// Target id → connects that audit mode let through.
    pub audited: PerCpuHashMap<MapData, u32, u64>,
    /// Marks the agent's own sockets.
    pub own_sockets: Arc<OwnSockets>,
    epoch: Array<MapData, u64>,
}

/// PODS.
pub struct PodModes(HashMap<MapData, u64, u32>);

/// OWN_SOCKETS.
pub struct OwnSockets(Mutex<SkStorage<MapData, u32>>);

impl Maps {
    /// Takes the maps out of the loaded object.
    pub(super) fn take(programs: &mut Ebpf) -> Result<Self> {
        let mut take = |name: &str| {
            programs
                .take_map(name)
                .with_context(|| format!("the eBPF object lacks the map {name}"))
        };
        Ok(Self {
            targets: take("TARGETS")?.try_into()?,
            ids: take("IDS")?.try_into()?,
            pods: PodModes(take("PODS")?.try_into()?),
            counters: take("COUNTERS")?.try_into()?,
            audited: take("AUDITED")?.try_into()?,
            own_sockets: Arc::new(OwnSockets(Mutex::new(take("OWN_SOCKETS")?.try_into()?))),
            epoch: take("EPOCH")?.try_into()?,
        })
    }

    /// A slot of EPOCH.
    pub(super) fn epoch(&self, slot: u32) -> Result<u64> {
        Ok(self.epoch.get(&slot, 0)?)
    }

    pub(super) fn set_epoch(&mut self, slot: u32, number: u64) -> Result<()> {
        Ok(self.epoch.set(slot, number, 0)?)
    }

    /// How often `event` happened, on all CPUs.
    pub fn count(&self, event: Event) -> u64 {
        let index = event as u32;
        self.counters
            .get(&index, 0)
            .map_or(0, |values| values.iter().sum())
    }
}

impl PodModes {
    /// Sets what happens to connects of the netns with this cookie.
    pub fn set(&mut self, cookie: u64, mode: Mode) -> Result<()> {
        self.0.insert(cookie, mode as u32, 0).with_context(|| {
            format!("the map PODS can't be written; it has room for {MAX_PODS} network namespaces")
        })
    }

    /// Forgets a netns: its connects to targets are refused from here on.
    pub fn remove(&mut self, cookie: u64) {
        // Gone already is fine.
        let _ = self.0.remove(&cookie);
    }

    /// The netns that have an entry.
    pub fn cookies(&self) -> Vec<u64> {
        self.0.keys().flatten().collect()
    }
}

impl OwnSockets {
    /// Marks a socket as the agent's own, so that its connect is not turned back to the agent.
    pub fn mark(&self, socket: &impl AsRawFd) -> Result<()> {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(map.insert(socket, 1, 0)?)
    }
}

/// Lets the netns with this cookie connect as it likes, whatever is pinned below `base`: for our own, before we connect
/// to anything.
pub fn bypass_pinned(base: &Path, cookie: u64) -> Result<()> {
    for layout in layouts(base) {
        let pin = layout.join("maps/PODS");
        if !pin.exists() {
            continue;
        }
        let map = MapData::from_pin(&pin).with_context(|| {
            let pin = pin.display();
            format!("{pin} can't be opened (needs CAP_SYS_ADMIN or CAP_BPF)")
        })?;
        // In another layout it may be anything; then its programs refuse what they refuse.
        if let Ok(pods) = HashMap::try_from(Map::HashMap(map)) {
            PodModes(pods).set(cookie, Mode::Bypass)?;
        }
    }
    Ok(())
}

/// The key under which a dialled address is found in TARGETS.
pub fn address_key(address: SocketAddr) -> Address {
    let octets = match address {
        SocketAddr::V4(v4) => v4.ip().to_ipv6_mapped().octets(),
        SocketAddr::V6(v6) => v6.ip().octets(),
    };
    let word =
        |i: usize| u32::from_ne_bytes([octets[i], octets[i + 1], octets[i + 2], octets[i + 3]]);
    Address {
        ip: [word(0), word(4), word(8), word(12)],
        port: u32::from(address.port().to_be()),
    }
}

/// The address that a key of TARGETS stands for.
pub fn address_of(key: Address) -> SocketAddr {
    let mut octets = [0; 16];
    for (place, word) in octets.chunks_exact_mut(4).zip(key.ip) {
        place.copy_from_slice(&word.to_ne_bytes());
    }
    let ip = Ipv6Addr::from(octets).to_canonical();
    SocketAddr::new(ip, u16::from_be(key.port as u16))
}

/// Refuses maps of another shape in a directory of pins: misread state would be worse than none.
pub(super) fn check_layout(pins: &Path) -> Result<()> {
    for (name, key, value, entries) in LAYOUTS {
        let pin = pins.join("maps").join(name);
        if !pin.exists() {
            continue;
        }
        let info = MapData::from_pin(&pin)
            .and_then(|map| map.info())
            .with_context(|| format!("{} is no map", pin.display()))?;
        ensure!(
            (info.key_size(), info.value_size(), info.max_entries())
                == (key as u32, value as u32, entries),
            "{} has another layout than {LAYOUT}",
            pin.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn both_families_share_one_key() {
        let v4 = address_key("10.96.0.10:443".parse().unwrap());
        let ip = u32::from_ne_bytes([10, 96, 0, 10]);
        assert_eq!(v4, Address::v4(ip, u32::from(443_u16.to_be())));
        assert_eq!(v4, address_key("[::ffff:10.96.0.10]:443".parse().unwrap()));
        assert!(!address_key("[fd00::1]:443".parse().unwrap()).is_v4());
    }

    #[test]
    fn a_key_stands_for_the_address_it_was_made_of() {
        for address in ["10.96.0.10:443", "[fd00::1]:8443"] {
            let address = address.parse().unwrap();
            assert_eq!(address_of(address_key(address)), address);
        }
    }
}
