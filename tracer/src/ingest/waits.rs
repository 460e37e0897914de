//! From the maps of callers to events: who waits for a connection of which pool.
//!
//! May import what `ingest` may. Invariants: a pool in the memory of a process is told by a number,
//! never by its address; what belongs to a process that is gone or not watched is removed here.

use std::collections::{BTreeMap, HashMap};

use tracer_ebpf::{
    config::PROC_CONNECTED,
    limits::MIN_WAIT,
    wait::{CallerKey, WaitsKey},
};

use super::decode::PoolName;
use crate::{
    host::proc::ProcFs,
    loader::Kernel,
    model::{Event, MonoNanos, Pid, PoolWaits},
    pools::size::{OBJECT_BYTES, max_open},
};

/// Pools of processes that are told apart; waits for further ones are not told.
const MAX_INSTANCES: usize = 4_096;
/// Callers of one pool of which it is told since when they wait.
const MAX_TOLD: usize = 64;

/// Process, pool of the catalogue, and the address of the pool.
type Key = (u32, u32, u64);

/// The pools, and what was told of each last.
#[derive(Default)]
pub(super) struct Waits {
    numbers: HashMap<Key, u32>,
    told: HashMap<Key, PoolWaits>,
    /// How many connections they may have, as told last.
    sizes: HashMap<Key, Option<u32>>,
}

impl Waits {
    /// The number of a pool of a process; `None` for none, or when there are too many.
    pub(super) fn number(&mut self, tgid: u32, pool: u32, instance: u64) -> Option<u32> {
        let key = (tgid, pool, instance);
        if let Some(number) = self.numbers.get(&key) {
            return Some(*number);
        }
        if instance == 0 || self.numbers.len() >= MAX_INSTANCES {
            return None;
        }
        let same = |known: &&Key| (known.0, known.1) == (tgid, pool);
        let number = self.numbers.keys().filter(same).count() as u32 + 1;
        self.numbers.insert(key, number);
        Some(number)
    }

    /// The process is gone, or runs another program.
    pub(super) fn forget(&mut self, tgid: u32, kernel: &mut Kernel) {
        self.numbers.retain(|(of, ..), _| *of != tgid);
        self.told.retain(|(of, ..), _| *of != tgid);
        self.sizes.retain(|(of, ..), _| *of != tgid);
        let maps = kernel.waits();
        for key in maps.callers().into_keys().filter(|key| key.tgid == tgid) {
            maps.forget_caller(key);
        }
        for (key, _) in maps.over().into_iter().filter(|(key, _)| key.tgid == tgid) {
            maps.forget_pool(key);
        }
    }

    /// How many connections a pool may have, where that is news; read from its memory.
    pub(super) fn size(
        &mut self,
        at: MonoNanos,
        (tgid, pool, instance): (u32, u32, u64),
        pools: &[PoolName],
        proc: &ProcFs,
    ) -> Option<Event> {
        let PoolName { name, sizes, .. } = pools.get(pool as usize)?;
        if sizes.is_empty() {
            return None;
        }
        let number = self.number(tgid, pool, instance)?;
        let read = |address| proc.memory::<OBJECT_BYTES>(Pid(tgid), address);
        let max_open = max_open(sizes, instance, read);
        if self.sizes.insert((tgid, pool, instance), max_open) == Some(max_open) {
            return None;
        }
        Some(Event::PoolSize { at, pid: Pid(tgid), pool: name.clone(), instance: number, max_open })
    }

    /// Emits what changed since the last scan.
    pub(super) fn scan(
        &mut self,
        at: MonoNanos,
        kernel: &mut Kernel,
        pools: &[PoolName],
        events: &mut Vec<Event>,
    ) {
        let (callers, over) = (kernel.waits().callers(), kernel.waits().over());
        let mut gone = HashMap::new();
        let mut is_gone = |tgid: u32, kernel: &Kernel| {
            *gone.entry(tgid).or_insert_with(|| {
                let process = kernel.process(tgid);
                process.is_none_or(|process| process.flags & PROC_CONNECTED == 0)
            })
        };
        let mut waiting: BTreeMap<Key, Vec<MonoNanos>> = BTreeMap::new();
        for (key, caller) in callers {
            let CallerKey { tgid, pool, .. } = key;
            if is_gone(tgid, kernel) {
                kernel.waits().forget_caller(key);
            } else if at.0.saturating_sub(caller.entered_at) >= MIN_WAIT {
                let since = MonoNanos(caller.entered_at);
                waiting.entry((tgid, pool, caller.instance)).or_default().push(since);
            }
        }
        let mut now: BTreeMap<Key, PoolWaits> = BTreeMap::new();
        // Whoever waited at the last scan may have none left.
        for (key, told) in &self.told {
            now.insert(*key, PoolWaits { waiting: 0, since: Vec::new(), ..told.clone() });
        }
        for (key, over) in over {
            let WaitsKey { tgid, pool, instance } = key;
            if is_gone(tgid, kernel) {
                kernel.waits().forget_pool(key);
            } else if let Some(waits) = self.entry(&mut now, (tgid, pool, instance), pools) {
                waits.served = over.served;
                if waits.failed.is_some() {
                    waits.failed = Some(over.failed);
                }
                waits.nanos = over.nanos;
                waits.longest = over.longest;
            }
        }
        for (key, mut since) in waiting {
            if let Some(waits) = self.entry(&mut now, key, pools) {
                waits.waiting = since.len() as u64;
                since.sort_unstable();
                since.truncate(MAX_TOLD);
                waits.since = since;
            }
        }
        for (key, waits) in now {
            if self.told.get(&key) != Some(&waits) {
                self.told.insert(key, waits.clone());
                events.push(Event::Waits { at, pid: Pid(key.0), waits });
            }
        }
    }

    fn entry<'a>(
        &mut self,
        now: &'a mut BTreeMap<Key, PoolWaits>,
        key: Key,
        pools: &[PoolName],
    ) -> Option<&'a mut PoolWaits> {
        let (tgid, pool, instance) = key;
        let PoolName { name, joins_by_key, .. } = pools.get(pool as usize)?;
        let number = self.number(tgid, pool, instance)?;
        Some(now.entry(key).or_insert_with(|| PoolWaits {
            failed: (!joins_by_key).then_some(0),
            ..PoolWaits::none(name.clone(), number)
        }))
    }
}
