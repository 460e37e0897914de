//! What the capture costs, measured on itself while it runs.
//!
//! May import `host`, the model and `rustix`.

use std::collections::{BTreeMap, BTreeSet};

use rustix::time::{ClockId, clock_gettime};

use crate::{
    host::{clock, proc::ProcFs},
    model::{Costs, MonoNanos, NamingCosts, Pid, ProgramCosts, Runtime},
};

/// Processes told apart; of further ones no stack is a first one.
const MAX_PROCESSES: usize = 4_096;

/// Measures.
#[derive(Debug, Default)]
pub struct Meter {
    /// Processes of which a stack was named.
    named: BTreeSet<u32>,
    naming: BTreeMap<Option<Runtime>, NamingCosts>,
}

impl Meter {
    /// A stack of a process was named, which began at this time.
    pub fn named(&mut self, pid: u32, runtime: Option<Runtime>, begin: MonoNanos) {
        let nanos = clock::now().since(begin);
        let is_first = self.named.len() < MAX_PROCESSES && self.named.insert(pid);
        let costs = self.naming.entry(runtime);
        costs.or_insert(NamingCosts::none(runtime)).count(is_first, nanos);
    }

    /// The sum so far. `programs` are the runs and nanoseconds of each in the kernel.
    pub fn costs(&self, proc: &ProcFs, programs: &[(String, u64, u64)]) -> Costs {
        let time = clock_gettime(ClockId::ProcessCPUTime);
        let nanos = time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec);
        let sum = |of: fn(&(String, u64, u64)) -> u64| programs.iter().map(of).sum();
        let counted = ProgramCosts { runs: sum(|one| one.1), nanos: sum(|one| one.2) };
        Costs {
            processor_nanos: u64::try_from(nanos).unwrap_or(0),
            resident_bytes: proc.resident_bytes(Pid(std::process::id())),
            programs: (counted.runs > 0).then_some(counted),
            naming: self.naming.values().copied().collect(),
        }
    }
}
