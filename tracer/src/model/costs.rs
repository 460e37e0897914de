//! What watching has cost, as the tracer measured it on itself.
//!
//! May import `serde` and `model::event`. Told in the report, and nothing follows from it.

use serde::{Deserialize, Serialize};

use super::event::Runtime;

/// What a capture has cost so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Costs {
    /// Processor time of the tracer itself, in nanoseconds.
    pub processor_nanos: u64,
    /// Its resident memory in bytes, what it shares with the kernel side and its executable included;
    /// `None` when it could not be read.
    pub resident_bytes: Option<u64>,
    /// Runs of the programs in the kernel and their time in nanoseconds, which other processes paid;
    /// `None` where the kernel does not count (`kernel.bpf_stats_enabled`).
    pub programs: Option<ProgramCosts>,
    /// Stacks named, by runtime; `None` where it was not recognised.
    pub naming: Vec<NamingCosts>,
}

/// Time of the programs in the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramCosts {
    pub runs: u64,
    pub nanos: u64,
}

/// Time it took to unwind and name the stacks of one runtime's processes, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamingCosts {
    pub runtime: Option<Runtime>,
    /// The first of each process, for which symbols are read.
    pub first: u64,
    pub first_longest: u64,
    /// All others.
    pub later: u64,
    pub later_nanos: u64,
    pub later_longest: u64,
}

impl NamingCosts {
    /// None yet.
    #[must_use]
    pub const fn none(runtime: Option<Runtime>) -> Self {
        Self { runtime, first: 0, first_longest: 0, later: 0, later_nanos: 0, later_longest: 0 }
    }

    /// Counts one.
    pub fn count(&mut self, is_first: bool, nanos: u64) {
        if is_first {
            self.first += 1;
            self.first_longest = self.first_longest.max(nanos);
        } else {
            self.later += 1;
            self.later_nanos = self.later_nanos.saturating_add(nanos);
            self.later_longest = self.later_longest.max(nanos);
        }
    }
}
