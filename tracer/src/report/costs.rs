//! What watching has cost, as rows and in words.
//!
//! May import `model` and the report. Pure.

use super::{CostsRow, NamedRow, ProgramsRow};
use crate::model::{Costs, NamingCosts, Runtime, duration};

const MICRO: u64 = 1_000;
const MILLI: u64 = 1_000_000;

impl CostsRow {
    pub(super) fn of(costs: &Costs) -> Self {
        Self {
            processor_ms: costs.processor_nanos / MILLI,
            resident_bytes: costs.resident_bytes,
            programs: costs.programs.map(|programs| ProgramsRow {
                runs: programs.runs,
                total_ms: programs.nanos / MILLI,
                mean_ns: programs.nanos / programs.runs.max(1),
            }),
            stacks_named: costs.naming.iter().map(named_row).collect(),
        }
    }

    /// In words: what it cost this host, and how long names took.
    pub(super) fn words(&self) -> Vec<String> {
        let processor = duration(self.processor_ms.saturating_mul(MILLI));
        let mut all = format!("{processor} of processor time");
        if let Some(bytes) = self.resident_bytes {
            all += &format!(", {} MiB of memory", bytes.div_ceil(1 << 20));
        }
        if let Some(programs) = &self.programs {
            all += &format!("; {} ns a run in the kernel", programs.mean_ns);
        }
        let mut words = vec![all];
        for row in &self.stacks_named {
            let times = match (row.mean_us, row.first_us) {
                (Some(mean), Some(first)) => {
                    format!("{} each, the first of a process in {}", millis(mean), millis(first))
                }
                (one, other) => millis(one.or(other).unwrap_or(0)),
            };
            let stacks = if row.count == 1 { "stack" } else { "stacks" };
            let runtime = runtime_words(row.runtime);
            words.push(format!("{} {stacks} of {runtime} named in {times}", row.count));
        }
        words
    }
}

fn named_row(costs: &NamingCosts) -> NamedRow {
    let later = (costs.later > 0).then_some(costs.later);
    NamedRow {
        runtime: costs.runtime,
        count: costs.first.saturating_add(costs.later),
        first_us: (costs.first > 0).then_some(costs.first_longest / MICRO),
        mean_us: later.map(|later| costs.later_nanos / later / MICRO),
        longest_us: later.map(|_| costs.later_longest / MICRO),
    }
}

/// Microseconds as milliseconds with one decimal.
fn millis(micros: u64) -> String {
    format!("{}.{} ms", micros / 1_000, micros % 1_000 / 100)
}

fn runtime_words(runtime: Option<Runtime>) -> &'static str {
    match runtime {
        Some(Runtime::Go) => "Go",
        Some(Runtime::Node) => "Node.js",
        Some(Runtime::Python) => "Python",
        Some(Runtime::Java) => "Java",
        Some(Runtime::Ruby) => "Ruby",
        Some(Runtime::Php) => "PHP",
        Some(Runtime::Dotnet) => ".NET",
        Some(Runtime::Native) => "native code",
        None => "unknown runtimes",
    }
}
