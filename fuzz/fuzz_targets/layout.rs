//! Addresses and ids of the maps: what is turned to the proxy is told apart again, whatever was freed and given anew.
#![no_main]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use nodetls::fuzzing::Ids;
use nodetls::redirect::{address_key, address_of};
use nodetls_ebpf::{Address, CANARY_ID, IdEntry, IdRange};

/// So few ids that they are all given soon.
const RANGE: IdRange = IdRange {
    prefix: 0x7f80_0000,
    mask: 7,
};
/// At least this long an id rests, in seconds, before it stands for another address.
const REST: u32 = 3600;

#[derive(Arbitrary, Debug)]
struct Input {
    address: SocketAddr,
    number: u32,
    other: u32,
    steps: Vec<Step>,
}

#[derive(Arbitrary, Debug)]
enum Step {
    Allocate(u8),
    Free(u8),
    Wait(u16),
    /// A connection begins or ends to go by an id.
    Use(u8),
    /// Another agent takes over.
    Restart,
}

fn ranges(number: u32, other: u32, address: u32) {
    let ranges = [
        IdRange::AGENT,
        IdRange::exec(number % 4096),
        IdRange::exec(other % 4096),
    ];
    for (place, range) in ranges.iter().enumerate() {
        let id = address & range.mask;
        assert_eq!(range.id(range.address(id)), Some(id));
        if let Some(id) = range.id(address) {
            assert!(id <= range.mask && range.address(id) == address);
        }
        let others = ranges
            .iter()
            .enumerate()
            .filter(|(at, other)| *at != place && *other != range);
        for (_, other) in others {
            assert_eq!(
                other.id(range.address(id)),
                None,
                "{range:?} meets {other:?}"
            );
        }
    }
}

fn addresses(address: SocketAddr, id: u32) {
    let key = address_key(address);
    let back = address_of(key);
    assert_eq!(back.ip().to_canonical(), address.ip().to_canonical());
    assert_eq!(back.port(), address.port());
    assert_eq!(address_key(back), key, "an address has one key");
    assert_eq!(key.is_v4(), address.ip().to_canonical().is_ipv4());
    // As the programs turn it, in network byte order.
    let last = IdRange::AGENT.address(id & IdRange::AGENT.mask).to_be();
    let turned = Address {
        ip: key.turned_to(last),
        port: key.port,
    };
    assert_eq!(
        (turned.is_v4(), turned.is_v6_id()),
        (key.is_v4(), !key.is_v4())
    );
    assert_eq!(turned.ip[3], last);
}

/// The map IDS, and since when each id of it rests.
#[derive(Default)]
struct Model {
    map: BTreeMap<u32, IdEntry>,
    used: BTreeSet<u32>,
    now: u32,
}

impl Model {
    fn write(&mut self, ids: &mut Ids, id: u32, address: Address, freed_at: u32) {
        let entry = IdEntry { address, freed_at };
        self.map.insert(id, entry);
        ids.write(id, entry);
    }

    fn allocate(&mut self, ids: &mut Ids, address: Address) {
        let Some(id) = ids.choose(address, self.now, |id| self.used.contains(&id)) else {
            let full = RANGE.mask as usize == self.map.len();
            assert!(full && self.map.values().all(|entry| entry.address != address));
            return;
        };
        assert!(id != CANARY_ID && id <= RANGE.mask, "{id}");
        match self.map.get(&id) {
            Some(before) if before.address == address => {}
            Some(before) => {
                assert!(before.freed_at != 0, "{id} is in use by {before:?}");
                assert!(before.freed_at + REST <= self.now && !self.used.contains(&id));
                let others = self.map.values().filter(|entry| entry.address == address);
                assert_eq!(others.count(), 0, "{address:?} has an id already");
            }
            None => {}
        }
        self.write(ids, id, address, 0);
    }

    fn free(&mut self, ids: &mut Ids, address: Address) {
        let held = self.map.iter().find(|(_, entry)| entry.address == address);
        if let Some((id, _)) = held {
            self.write(ids, *id, address, self.now);
        }
    }
}

fn allocator(steps: &[Step]) {
    let mut model = Model {
        now: 1,
        ..Model::default()
    };
    let mut ids = Ids::new(RANGE, [].into_iter());
    let address = |number: &u8| Address::v4(u32::from(number % 16), 443);
    for step in steps {
        match step {
            Step::Allocate(number) => model.allocate(&mut ids, address(number)),
            Step::Free(number) => model.free(&mut ids, address(number)),
            Step::Wait(seconds) => model.now = model.now.saturating_add(u32::from(*seconds)),
            Step::Use(id) => {
                let id = u32::from(*id) & RANGE.mask;
                if !model.used.remove(&id) {
                    model.used.insert(id);
                }
            }
            Step::Restart => {
                let entries = model.map.iter().map(|(id, entry)| (*id, *entry));
                // In no order, as a hash map gives them.
                let order = |(id, _): &(u32, IdEntry)| id.wrapping_mul(model.now);
                let mut entries: Vec<_> = entries.collect();
                entries.sort_by_key(order);
                ids = Ids::new(RANGE, entries.into_iter());
            }
        }
        let distinct: BTreeSet<_> = model.map.values().map(|entry| entry.address.ip).collect();
        assert_eq!(distinct.len(), model.map.len(), "two ids have one address");
    }
}

fuzz_target!(|input: Input| {
    ranges(input.number, input.other, input.number ^ input.other);
    ranges(
        input.number,
        input.other,
        0x7f80_0000 | (input.number & 0x7f_ffff),
    );
    addresses(input.address, input.number);
    allocator(&input.steps);
});
