//! Who waits for a connection of a pool of a process, and how that was over the last while.
//!
//! May import `model::event`, `model::connection` and `model::process`. Facts only, no verdict.
//! Invariants: samples are taken at ticks, never between, so they do not depend on what happens to
//! be told when; their number is bounded.

use std::collections::{BTreeMap, VecDeque};

use super::{
    connection::Connection,
    event::{Checkout, ConnId, MonoNanos, PoolWaits, WirePhase},
    process::Process,
};

/// Samples kept for one pool.
const MAX_SAMPLES: u64 = 64;
/// The shortest time that samples are kept for, in nanoseconds.
const MIN_WINDOW: u64 = 5_000_000_000;
/// A connection that went back this short a time before is between two callers, in nanoseconds.
const HANDOVER: u64 = 20_000_000;

/// A pool at a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sample {
    pub(super) at: MonoNanos,
    /// Callers that waited, without those that open a connection themselves.
    pub(super) waiting: u64,
    /// Connections open, and of these out or just handed over.
    pub(super) open: u64,
    pub(super) out: u64,
    /// Checkouts so far of those open.
    pub(super) taken: u64,
    /// Waits that had ended with a connection, and the time of all that had ended.
    pub(super) served: u64,
    pub(super) nanos: u64,
}

/// A pool of a process whose acquires are seen at both ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waits {
    /// As told last.
    pub told: PoolWaits,
    /// Connections that were out at the same time, at most: the pool's size as far as it is known.
    pub most_out: u64,
    samples: VecDeque<Sample>,
}

impl Waits {
    pub(super) fn new(told: PoolWaits) -> Self {
        Self { told, most_out: 0, samples: VecDeque::new() }
    }

    /// Whether a checkout is known to be of this pool.
    #[must_use]
    pub fn is_of(&self, checkout: &Checkout) -> bool {
        checkout.pool == self.told.pool && checkout.instance == Some(self.told.instance)
    }

    /// Whether a checkout may be of this pool.
    pub(super) fn may_be_of(&self, checkout: &Checkout) -> bool {
        checkout.pool == self.told.pool
            && checkout.instance.is_none_or(|instance| instance == self.told.instance)
    }

    /// For how long the longest has waited, in nanoseconds.
    #[must_use]
    pub fn longest_waiting(&self, now: MonoNanos) -> Option<u64> {
        Some(now.since(self.told.since.iter().copied().min()?))
    }

    pub(super) fn samples(&self) -> &VecDeque<Sample> {
        &self.samples
    }

    fn sample(&mut self, window: u64, sample: Sample, held: u64) {
        self.most_out = self.most_out.max(held);
        let spacing = window / MAX_SAMPLES;
        if self.samples.back().is_some_and(|last| sample.at.since(last.at) < spacing) {
            return;
        }
        self.samples.push_back(sample);
        while self.samples.len() as u64 > MAX_SAMPLES
            || self.samples.front().is_some_and(|first| sample.at.since(first.at) > window)
        {
            self.samples.pop_front();
        }
    }
}

/// Takes a sample of each pool of a process.
pub(super) fn sample(
    process: &mut Process,
    connections: &BTreeMap<ConnId, Connection>,
    threshold: u64,
    now: MonoNanos,
) {
    let mut pools = std::mem::take(&mut process.waits);
    for waits in &mut pools {
        let alive = process.alive.iter().filter_map(|id| connections.get(id));
        let (mut open, mut held, mut out, mut taken, mut connecting) = (0, 0, 0, 0_u64, 0);
        for conn in alive {
            connecting += u64::from(conn.phase() == WirePhase::Connecting);
            let Some(checkout) = conn.pool_checkout() else { continue };
            if conn.peer_closed() || !waits.may_be_of(checkout) {
                continue;
            }
            let between = |at: MonoNanos| now.since(at) < HANDOVER;
            open += 1;
            taken = taken.saturating_add(checkout.count);
            held += u64::from(checkout.held);
            out += u64::from(checkout.held || checkout.released_at.is_some_and(between));
        }
        let PoolWaits { waiting, served, nanos, .. } = waits.told;
        let waiting = waiting.saturating_sub(connecting);
        let sample = Sample { at: now, waiting, open, out, taken, served, nanos };
        waits.sample(threshold.max(MIN_WINDOW), sample, held);
    }
    process.waits = pools;
}

/// Of one or more pools.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WaitTotals {
    /// Callers that wait.
    pub waiting: u64,
    /// For how long the longest of them has, in nanoseconds; `None` of none.
    pub longest_waiting: Option<u64>,
    /// Waits that ended with a connection, and without, where that shows.
    pub served: u64,
    pub failed: Option<u64>,
    /// Time of all waits that ended, and the longest, in nanoseconds.
    pub nanos: u64,
    pub longest: u64,
    /// Connections that were out at the same time, at most.
    pub most_out: u64,
}

impl WaitTotals {
    /// The sum of some pools; `None` of none.
    #[must_use]
    pub fn of<'a>(pools: impl IntoIterator<Item = &'a Waits>, now: MonoNanos) -> Option<Self> {
        let mut sum: Option<Self> = None;
        for pool in pools {
            let sum = sum.get_or_insert(Self { failed: Some(0), ..Self::default() });
            sum.waiting = sum.waiting.saturating_add(pool.told.waiting);
            sum.longest_waiting = sum.longest_waiting.max(pool.longest_waiting(now));
            sum.served = sum.served.saturating_add(pool.told.served);
            let failed = sum.failed.zip(pool.told.failed);
            sum.failed = failed.map(|(sum, more)| sum.saturating_add(more));
            sum.nanos = sum.nanos.saturating_add(pool.told.nanos);
            sum.longest = sum.longest.max(pool.told.longest);
            sum.most_out = sum.most_out.saturating_add(pool.most_out);
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::{MonoNanos, PoolWaits, WaitTotals, Waits};

    #[test]
    fn what_does_not_show_of_one_pool_is_not_known_of_all() {
        let waits = |pool: &str, served, failed| {
            Waits::new(PoolWaits { served, failed, ..PoolWaits::none(pool.to_owned(), 1) })
        };
        let [go, rust] = [waits("database/sql", 3, Some(2)), waits("r2d2", 5, None)];
        let failed = |pools: &[&Waits]| {
            WaitTotals::of(pools.iter().copied(), MonoNanos(0)).map(|sum| (sum.served, sum.failed))
        };
        assert_eq!(failed(&[&go, &go]), Some((6, Some(4))));
        assert_eq!(failed(&[&go, &rust]), Some((8, None)));
        assert_eq!(failed(&[&rust, &go]), Some((8, None)));
        assert_eq!(failed(&[]), None);
        let told = serde_json::to_string(&rust.told).expect("JSON");
        assert!(told.contains("\"failed\":null"), "{told}");
        assert_eq!(serde_json::from_str::<PoolWaits>(&told).expect("the same"), rust.told);
    }
}
