//! Numbers as a person reads them, for evidence and reports.
//!
//! May import `std` only. Pure.

/// A duration in nanoseconds as words: `350 ms`, `31.2 s`, `4 min 10 s`, `2 h 5 min`, `3 d 4 h`.
#[must_use]
pub fn duration(nanos: u64) -> String {
    let millis = nanos / 1_000_000;
    let seconds = millis / 1_000;
    match seconds {
        0 => format!("{millis} ms"),
        1..60 => format!("{}.{} s", seconds, millis % 1_000 / 100),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// `1 connection`, `2 connections`.
#[must_use]
pub(super) fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::duration;

    #[test]
    fn durations_keep_two_units_at_most() {
        for (nanos, expected) in [
            (0, "0 ms"),
            (999_999_999, "999 ms"),
            (1_000_000_000, "1.0 s"),
            (59_960_000_000, "59.9 s"),
            (60_000_000_000, "1 min 0 s"),
            (3_725_000_000_000, "1 h 2 min"),
            (200_000_000_000_000, "2 d 7 h"),
            (u64::MAX, "213503 d 23 h"),
        ] {
            assert_eq!(duration(nanos), expected);
        }
    }
}
