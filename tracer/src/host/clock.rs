//! The monotonic clock that events carry, and its pairing with the wall clock.
//!
//! May import [`crate::model`]'s time type, `rustix` and `jiff`. Invariant: wall time is derived
//! from one [`Anchor`], so two events keep their order and distance when printed.

use jiff::Timestamp;
use rustix::time::{ClockId, Timespec, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::model::MonoNanos;

/// `CLOCK_MONOTONIC` now: the clock of `bpf_ktime_get_ns`.
#[must_use]
pub fn now() -> MonoNanos {
    let nanos = nanos(clock_gettime(ClockId::Monotonic));
    MonoNanos(u64::try_from(nanos).unwrap_or(0))
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

    /// Wall time of `at`, RFC 3339 in UTC with milliseconds. A time before 1970 is
    /// written as its first moment.
    #[must_use]
    pub fn rfc3339(&self, at: MonoNanos) -> String {
        let after = i128::from(at.0) - i128::from(self.mono.0);
        let nanos = (i128::from(self.unix_nanos) + after).max(0);
        let at = Timestamp::from_nanosecond(nanos).unwrap_or(Timestamp::MAX);
        format!("{at:.3}")
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
        assert_eq!(ANCHOR.rfc3339(ANCHOR.mono), "2023-11-14T22:13:20.123Z");
        assert_eq!(ANCHOR.rfc3339(MonoNanos(6_500_000_000)), "2023-11-14T22:13:21.623Z");
        assert_eq!(ANCHOR.rfc3339(MonoNanos(0)), "2023-11-14T22:13:15.123Z");
    }

    #[test]
    fn times_out_of_range_are_clamped() {
        assert_eq!(
            Anchor { mono: MonoNanos(u64::MAX), unix_nanos: 0 }.rfc3339(MonoNanos(0)),
            "1970-01-01T00:00:00.000Z"
        );
        let far = Anchor { mono: MonoNanos(0), unix_nanos: i64::MAX };
        assert_eq!(far.rfc3339(MonoNanos(u64::MAX)), "2846-10-30T23:21:50.564Z");
    }

    #[test]
    fn the_clock_does_not_go_back() {
        let before = now();
        let anchor = Anchor::take();
        assert!(before <= anchor.mono && anchor.mono <= now());
    }
}
