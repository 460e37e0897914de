//! The maps of callers that wait for a connection of a pool.
//!
//! May import aya and the contract. Invariant: reading ends after a bounded number of steps,
//! because the kernel starts over where a key was removed meanwhile.

use std::collections::HashMap as StdHashMap;

use aya::{
    Ebpf,
    maps::{HashMap, MapData, PerCpuHashMap},
};
use tracer_ebpf::wait::{Caller, CallerKey, Waits, WaitsKey};

use super::{
    LoadError,
    pod::{PodCaller, PodCallerKey, PodWaits, PodWaitsKey},
    take,
};

/// Steps of one reading: so many, and so many more for each caller that was found.
const STEPS: usize = 256;
const STEPS_PER_CALLER: usize = 4;

/// Callers in an acquire, and waits that are over.
pub struct WaitMaps {
    callers: HashMap<MapData, PodCallerKey, PodCaller>,
    over: PerCpuHashMap<MapData, PodWaitsKey, PodWaits>,
}

impl WaitMaps {
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self, LoadError> {
        Ok(Self { callers: take(ebpf, "CALLERS")?, over: take(ebpf, "WAITS")? })
    }

    /// Callers that are in an acquire.
    #[must_use]
    pub fn callers(&self) -> StdHashMap<CallerKey, Caller> {
        let mut found = StdHashMap::new();
        for (step, key) in self.callers.keys().enumerate() {
            if step > STEPS + STEPS_PER_CALLER * found.len() {
                break;
            }
            // Gone meanwhile: it waits no more.
            if let Ok(key) = key
                && let Ok(caller) = self.callers.get(&key, 0)
            {
                found.insert(key.0, caller.0);
            }
        }
        found
    }

    /// Waits that are over.
    #[must_use]
    pub fn over(&self) -> Vec<(WaitsKey, Waits)> {
        let known = self.over.iter().filter_map(Result::ok);
        let sum = |mut sum: Waits, each: &PodWaits| {
            sum.served = sum.served.saturating_add(each.0.served);
            sum.failed = sum.failed.saturating_add(each.0.failed);
            sum.nanos = sum.nanos.saturating_add(each.0.nanos);
            sum.longest = sum.longest.max(each.0.longest);
            sum
        };
        known.map(|(key, each)| (key.0, each.iter().fold(Waits::default(), sum))).collect()
    }

    /// The caller's process is gone, or runs another program.
    pub fn forget_caller(&mut self, key: CallerKey) {
        // Missing is fine: it may have returned meanwhile.
        let _missing = self.callers.remove(&PodCallerKey(key));
    }

    /// The pool's process is gone, or runs another program.
    pub fn forget_pool(&mut self, key: WaitsKey) {
        // Missing is fine: there is nothing to remove then.
        let _missing = self.over.remove(&PodWaitsKey(key));
    }
}
