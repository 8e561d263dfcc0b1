//! Target ids: the pinned map IDS is the allocator of record, so an id means the same to every agent on this node.

use std::collections::{BTreeSet, HashMap};

use anyhow::{Context as _, Result};
use nodetls_ebpf::{Address, IdEntry, IdRange};
use rustix::time::{ClockId, clock_gettime};

use super::Maps;

/// How long a freed id rests at the least before it may stand for another address. It rests longer as long as there are
/// others: in the agent's range at most half of the ids are in use, so for 13 hours with 5,000 new addresses an hour.
const REST_SECONDS: u32 = 3600;

/// The allocator.
pub struct TargetIds {
    by_address: HashMap<Address, u32>,
    /// Freed ids: when, and whose they were.
    resting: HashMap<u32, (u32, Address)>,
    /// The same, the longest rested first.
    queue: BTreeSet<(u32, u32)>,
    next: u32,
    last: u32,
}

impl TargetIds {
    /// Reads the ids that earlier agents gave out of `range`.
    pub fn read(maps: &Maps, range: IdRange) -> Self {
        let mut ids = Self::new(range);
        for (id, entry) in maps.ids.iter().flatten() {
            ids.enter(id, entry);
        }
        ids
    }

    pub(crate) fn new(range: IdRange) -> Self {
        Self {
            by_address: HashMap::new(),
            resting: HashMap::new(),
            queue: BTreeSet::new(),
            next: 1,
            last: range.mask,
        }
    }

    /// The id that stands for `address`, and whether it did not before: the one it last had, or one that no address
    /// ever had, or the one that has rested longest. `in_use` tells of connections that still go by a freed id.
    ///
    /// # Errors
    /// When every id is in use, or rests and was freed just now.
    pub fn allocate(
        &mut self,
        maps: &mut Maps,
        address: Address,
        in_use: impl Fn(u32) -> bool,
    ) -> Result<(u32, bool)> {
        if let Some(id) = self.by_address.get(&address)
            && !self.resting.contains_key(id)
        {
            return Ok((*id, false));
        }
        let id = self.choose(address, now(), in_use)?;
        self.write(maps, id, address, 0)?;
        Ok((id, true))
    }

    /// Lets the id of `address` rest.
    pub fn free(&mut self, maps: &mut Maps, address: Address) -> Result<()> {
        match self.by_address.get(&address) {
            Some(&id) => self.write(maps, id, address, now()),
            None => Ok(()),
        }
    }

    pub(crate) fn choose(
        &self,
        address: Address,
        now: u32,
        in_use: impl Fn(u32) -> bool,
    ) -> Result<u32> {
        if let Some(&id) = self.by_address.get(&address) {
            return Ok(id);
        }
        if self.next <= self.last {
            return Ok(self.next);
        }
        let rested = self
            .queue
            .iter()
            .take_while(|(freed_at, _)| freed_at.saturating_add(REST_SECONDS) <= now);
        let mut rested = rested.map(|(_, id)| *id);
        rested.find(|id| !in_use(*id)).with_context(|| {
            format!(
                "all {} target ids are in use, or were freed less than {} minutes ago: target fewer addresses, or such \
                 that change less often",
                self.last,
                REST_SECONDS / 60
            )
        })
    }

    fn write(&mut self, maps: &mut Maps, id: u32, address: Address, freed_at: u32) -> Result<()> {
        let entry = IdEntry { address, freed_at };
        maps.ids
            .insert(id, entry, 0)
            .context("the map IDS can't be written")?;
        self.enter(id, entry);
        Ok(())
    }

    /// Takes over what IDS says of an id.
    pub(crate) fn enter(&mut self, id: u32, entry: IdEntry) {
        if let Some((freed_at, before)) = self.resting.remove(&id) {
            self.queue.remove(&(freed_at, id));
            self.by_address.remove(&before);
        }
        self.by_address.insert(entry.address, id);
        if entry.freed_at != 0 {
            self.resting.insert(id, (entry.freed_at, entry.address));
            self.queue.insert((entry.freed_at, id));
        }
        self.next = self.next.max(id + 1);
    }
}

/// Seconds since boot: as long as pins live, and never set back.
fn now() -> u32 {
    u32::try_from(clock_gettime(ClockId::Boottime).tv_sec).map_or(u32::MAX, |now| now.max(1))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::HashSet;

    use super::*;

    fn address(number: u32) -> Address {
        Address::v4(number, 443)
    }

    /// [`TargetIds::allocate`] and [`TargetIds::free`] without the map.
    fn take(ids: &mut TargetIds, number: u32, now: u32) -> u32 {
        let id = ids.choose(address(number), now, |_| false).unwrap();
        enter(ids, id, number, 0);
        id
    }

    fn free(ids: &mut TargetIds, number: u32, now: u32) {
        let id = ids.by_address[&address(number)];
        enter(ids, id, number, now);
    }

    fn enter(ids: &mut TargetIds, id: u32, number: u32, freed_at: u32) {
        let address = address(number);
        ids.enter(id, IdEntry { address, freed_at });
    }

    /// Ids 1 to 3 for addresses 1 to 3.
    fn three() -> TargetIds {
        let mut ids = TargetIds::new(IdRange { prefix: 0, mask: 3 });
        for number in 1..=3 {
            assert_eq!(take(&mut ids, number, 1), number);
        }
        ids
    }

    #[test]
    fn an_address_that_comes_back_has_the_id_it_had() {
        let mut ids = three();
        free(&mut ids, 2, 10);
        assert_eq!(take(&mut ids, 2, 11), 2);
        assert!(ids.resting.is_empty() && ids.queue.is_empty());
    }

    #[test]
    fn the_longest_rested_comes_first_and_only_after_its_rest() {
        let mut ids = three();
        free(&mut ids, 3, 10);
        free(&mut ids, 1, 20);
        let error = ids.choose(address(4), 9 + REST_SECONDS, |_| false);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("target fewer addresses"), "{error}");
        assert_eq!(take(&mut ids, 4, 20 + REST_SECONDS), 3);
        assert_eq!(take(&mut ids, 5, 20 + REST_SECONDS), 1);
        assert!(
            ids.choose(address(1), u32::MAX, |_| false).is_err(),
            "{:?}",
            ids.by_address
        );
    }

    #[test]
    fn an_id_that_connections_go_by_rests_on() {
        let mut ids = three();
        free(&mut ids, 1, 10);
        free(&mut ids, 2, 20);
        let chosen = |used: u32| ids.choose(address(4), u32::MAX, |id| id <= used);
        assert_eq!(chosen(1).unwrap(), 2);
        assert!(chosen(2).is_err());
    }

    /// 60,000 endpoints of which 5,000 an hour are replaced, each time at an address never seen before.
    #[test]
    fn churn_without_end_leaves_every_id_long_rests() {
        const ENDPOINTS: u32 = 60_000;
        const REPLACED: u32 = 5_000;
        let mut ids = TargetIds::new(IdRange::AGENT);
        let mut freed_at = HashMap::new();
        let mut in_use = HashSet::new();
        let mut shortest = u32::MAX;
        for number in 0..500_000 {
            let now = 1 + number * 36 / (REPLACED / 100);
            let id = take(&mut ids, number, now);
            assert!(in_use.insert(id) && id != 0 && id <= IdRange::AGENT.mask);
            if let Some(freed_at) = freed_at.insert(id, u32::MAX) {
                shortest = shortest.min(now - freed_at);
            }
            if let Some(old) = number.checked_sub(ENDPOINTS) {
                let id = ids.by_address[&address(old)];
                in_use.remove(&id);
                freed_at.insert(id, now);
                free(&mut ids, old, now);
            }
        }
        assert!((13 * 3600..24 * 3600).contains(&shortest), "{shortest} s");
        assert!(ids.by_address.len() <= IdRange::AGENT.mask as usize);
    }
}
