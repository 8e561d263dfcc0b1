//! What the programs counted and what their maps hold, for a scrape and for `nodetls status`; reads the pins, and changes nothing.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;
use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray};
use nodetls_ebpf::{
    Address, CANARY_ID, EPOCH_NEWEST, EPOCH_READY, Event, IdEntry, MAX_IDS, MAX_PODS, MAX_TARGETS,
};

use super::address_of;
use crate::metrics::{Connects, EbpfStats, MapUse};

/// Read access to the pinned maps.
pub struct EbpfView {
    counters: PerCpuArray<MapData, u64>,
    targets: HashMap<MapData, Address, u32>,
    ids: HashMap<MapData, u32, IdEntry>,
    pods: HashMap<MapData, u64, u32>,
    epoch: Array<MapData, u64>,
}

impl EbpfView {
    /// Opens the maps pinned below `pins`.
    pub fn open(pins: &Path) -> Result<Self> {
        let open = |name: &str| MapData::from_pin(pins.join("maps").join(name));
        Ok(Self {
            counters: Map::PerCpuArray(open("COUNTERS")?).try_into()?,
            targets: Map::HashMap(open("TARGETS")?).try_into()?,
            ids: Map::HashMap(open("IDS")?).try_into()?,
            pods: Map::HashMap(open("PODS")?).try_into()?,
            epoch: Map::Array(open("EPOCH")?).try_into()?,
        })
    }

    /// The epochs of the newest agent, and of the newest that has been ready.
    pub fn epochs(&self) -> Result<(u64, u64)> {
        Ok((
            self.epoch.get(&EPOCH_NEWEST, 0)?,
            self.epoch.get(&EPOCH_READY, 0)?,
        ))
    }

    /// The targeted addresses, in order.
    pub fn targets(&self) -> Vec<SocketAddr> {
        let entries = self.targets.iter().flatten();
        let targets = entries.filter(|(_, id)| *id != CANARY_ID);
        let mut addresses: Vec<_> = targets.map(|(key, _)| address_of(key)).collect();
        addresses.sort();
        addresses
    }

    /// Netns cookie → mode.
    pub fn pods(&self) -> BTreeMap<u64, u32> {
        self.pods.iter().flatten().collect()
    }

    /// Everything, now.
    pub fn stats(&self) -> EbpfStats {
        let connects = Event::ALL.iter().map(|event| {
            let (outcome, reason) = event.labels();
            let values = self.counters.get(&(*event as u32), 0);
            let count = values.map_or(0, |values| values.iter().sum());
            Connects {
                outcome,
                reason,
                count,
            }
        });
        let map = |map, entries: usize, max_entries: u32| MapUse {
            map,
            entries: entries as u64,
            max_entries: max_entries.into(),
        };
        EbpfStats {
            connects: connects.collect(),
            maps: vec![
                map("targets", self.targets.keys().count(), MAX_TARGETS),
                map("ids", self.ids.keys().count(), MAX_IDS),
                map("pods", self.pods.keys().count(), MAX_PODS),
            ],
        }
    }
}
