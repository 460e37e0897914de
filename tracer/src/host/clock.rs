//! The monotonic clock that events carry, and its pairing with the wall clock.
//!
//! May import [`crate::model`]'s time type and `rustix`. Invariant: wall time is derived
//! from one [`Anchor`], so two events keep their order and distance when printed.

use rustix::time::{ClockId, Timespec, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::model::MonoNanos;

/// `CLOCK_MONOTONIC` now: the clock of `bpf_ktime_get_ns`.
#[must_use]
pub fn now() -> MonoNanos {
    let nanos = nanos(clock_gettime(ClockId::Monotonic));
    MonoNanos(u64::try_from(nanos).unwrap_or(0))
}

/// A moment in clock ticks after boot, sleep included: as `/proc` tells when a thread started.
#[must_use]
pub fn ticks_of(at: MonoNanos, ticks_per_second: u64) -> u64 {
    let asleep = nanos(clock_gettime(ClockId::Boottime)) - nanos(clock_gettime(ClockId::Monotonic));
    let since_boot = at.0.saturating_add(u64::try_from(asleep).unwrap_or(0));
    u64::try_from(u128::from(since_boot) * u128::from(ticks_per_second) / 1_000_000_000)
        .unwrap_or(u64::MAX)
}

/// One moment on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchor {
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub mono: MonoNanos,
    /// `CLOCK_REALTIME`, nanoseconds since 1970-01-01T00:00:00Z.
    pub unix_nanos: i64,
}

impl Anchor {
    /// Reads both clocks, the wall clock between two readings of the monotonic one.
    #[must_use]
    pub fn take() -> Self {
        let before = now();
        let unix_nanos = nanos(clock_gettime(ClockId::Realtime));
        let after = now();
        Self { mono: MonoNanos(before.0 + after.since(before) / 2), unix_nanos }
    }

    /// Wall time of `at` in milliseconds since 1970-01-01 UTC; a time before that is zero.
    #[must_use]
    pub fn unix_ms(&self, at: MonoNanos) -> u64 {
        let after = i128::from(at.0) - i128::from(self.mono.0);
        let millis = (i128::from(self.unix_nanos) + after).max(0) / 1_000_000;
        u64::try_from(millis).unwrap_or(u64::MAX)
    }
}

/// Saturates in the year 2262.
fn nanos(time: Timespec) -> i64 {
    time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec)
}

#[cfg(test)]
mod tests {
    use super::{Anchor, now};
    use crate::model::MonoNanos;

    const ANCHOR: Anchor =
        Anchor { mono: MonoNanos(5_000_000_000), unix_nanos: 1_700_000_000_123_456_789 };

    #[test]
    fn wall_time_follows_the_monotonic_distance() {
        assert_eq!(ANCHOR.unix_ms(ANCHOR.mono), 1_700_000_000_123);
        assert_eq!(ANCHOR.unix_ms(MonoNanos(6_500_000_000)), 1_700_000_001_623);
        assert_eq!(ANCHOR.unix_ms(MonoNanos(0)), 1_699_999_995_123);
    }

    #[test]
    fn times_before_the_epoch_are_its_first_moment() {
        assert_eq!(Anchor { mono: MonoNanos(u64::MAX), unix_nanos: 0 }.unix_ms(MonoNanos(0)), 0);
    }

    #[test]
    fn the_clock_does_not_go_back() {
        let before = now();
        let anchor = Anchor::take();
        assert!(before <= anchor.mono && anchor.mono <= now());
    }
}
