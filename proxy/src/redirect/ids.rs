//! Target ids: the pinned map IDS is the allocator of record, so an id means the same to every agent on this node.

use std::collections::HashMap;

use anyhow::{Result, bail};
use nodetls_ebpf::{Address, IdEntry, IdRange};
use rustix::time::{ClockId, clock_gettime};

use super::Maps;

/// How long a freed id rests before it may stand for another address.
const REST_SECONDS: u32 = 24 * 3600;

/// The allocator.
pub struct TargetIds {
    by_address: HashMap<Address, u32>,
    resting: HashMap<u32, u32>,
    next: u32,
    last: u32,
}

impl TargetIds {
    /// Reads the ids that earlier agents gave out of `range`.
    pub fn read(maps: &Maps, range: IdRange) -> Self {
        let mut ids = Self {
            by_address: HashMap::new(),
            resting: HashMap::new(),
            next: 1,
            last: range.mask,
        };
        for (id, entry) in maps.ids.iter().flatten() {
            ids.by_address.insert(entry.address, id);
            if entry.freed_at != 0 {
                ids.resting.insert(id, entry.freed_at);
            }
            ids.next = ids.next.max(id + 1);
        }
        ids
    }

    /// The id that stands for `address`: the one it has or last had, or a new one. `in_use` tells of connections that
    /// still go by a freed id.
    ///
    /// # Errors
    /// When every id is in use or rests.
    pub fn allocate(
        &mut self,
        maps: &mut Maps,
        address: Address,
        in_use: impl Fn(u32) -> bool,
    ) -> Result<u32> {
        if let Some(&id) = self.by_address.get(&address) {
            if self.resting.contains_key(&id) {
                self.write(maps, id, address, 0)?;
                self.resting.remove(&id);
            }
            return Ok(id);
        }
        let id = if self.next <= self.last {
            self.next
        } else {
            self.rested(in_use)?
        };
        self.write(maps, id, address, 0)?;
        if self.resting.remove(&id).is_some() {
            self.by_address.retain(|_, other| *other != id);
        }
        self.by_address.insert(address, id);
        self.next = self.next.max(id + 1);
        Ok(id)
    }

    /// Lets the id of `address` rest.
    pub fn free(&mut self, maps: &mut Maps, address: Address) -> Result<()> {
        if let Some(&id) = self.by_address.get(&address) {
            let freed_at = now();
            self.write(maps, id, address, freed_at)?;
            self.resting.insert(id, freed_at);
        }
        Ok(())
    }

    fn rested(&self, in_use: impl Fn(u32) -> bool) -> Result<u32> {
        let latest = now().saturating_sub(REST_SECONDS);
        match self
            .resting
            .iter()
            .find(|(id, freed_at)| **freed_at < latest && !in_use(**id))
        {
            Some((id, _)) => Ok(*id),
            None => bail!(
                "all {} target ids are in use or rest for a day after use",
                self.last
            ),
        }
    }

    fn write(&self, maps: &mut Maps, id: u32, address: Address, freed_at: u32) -> Result<()> {
        Ok(maps.ids.insert(id, IdEntry { address, freed_at }, 0)?)
    }
}

/// Seconds since boot: as long as pins live, and never set back.
fn now() -> u32 {
    u32::try_from(clock_gettime(ClockId::Boottime).tv_sec).map_or(u32::MAX, |now| now.max(1))
}
