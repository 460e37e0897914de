//! What the rules are told from outside.
//!
//! May import nothing.

/// What decides when silence is worth a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Held and silent for this long in nanoseconds is a finding.
    pub threshold: u64,
    /// Silent for this long in nanoseconds is worth resolving stacks for.
    pub soft_threshold: u64,
}

impl Settings {
    /// Settings for a threshold in nanoseconds; the soft one is a tenth of it, at most a second.
    #[must_use]
    pub const fn new(threshold: u64) -> Self {
        let tenth = threshold / 10;
        Self {
            threshold,
            soft_threshold: if tenth < 1_000_000_000 { tenth } else { 1_000_000_000 },
        }
    }
}
