//! The kernel's run-time statistics of eBPF programs.
//!
//! May import `std` only. Invariant: the switch is as it was before when its value is gone.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Sub;

use anyhow::{Context as _, Result};

/// Costs every run of every program two readings of the clock while it is on (kernel
/// `Documentation/admin-guide/sysctl/kernel.rst`, `bpf_stats_enabled`).
const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// Counting is on while this lives.
pub struct Counting {
    before: String,
}

impl Counting {
    pub fn on() -> Result<Self> {
        let before = fs::read_to_string(SWITCH).with_context(|| format!("reading {SWITCH}"))?;
        fs::write(SWITCH, "1").with_context(|| format!("writing {SWITCH}"))?;
        Ok(Self { before })
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        if let Err(error) = fs::write(SWITCH, self.before.trim()) {
            eprintln!("writing {SWITCH}: {error}");
        }
    }
}

/// Runs of programs and the nanoseconds they took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Runs {
    pub count: u64,
    pub nanos: u64,
}

impl Runs {
    /// Nanoseconds per run; zero without runs.
    pub fn mean(self) -> f64 {
        if self.count == 0 { 0.0 } else { self.nanos as f64 / self.count as f64 }
    }
}

impl Sub for Runs {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            count: self.count.saturating_sub(earlier.count),
            nanos: self.nanos.saturating_sub(earlier.nanos),
        }
    }
}

/// The programs of a process by id, apart by what they are attached to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Programs {
    pub tracepoints: BTreeMap<u32, Runs>,
    pub uprobes: BTreeMap<u32, Runs>,
}

/// `BPF_PROG_TYPE_KPROBE` and `BPF_PROG_TYPE_TRACING` of `linux/bpf.h`.
const TYPE_KPROBE: u64 = 2;
const TYPE_TRACING: u64 = 26;

impl Programs {
    /// Those of which the process holds a descriptor.
    pub fn of(pid: u32) -> Result<Self> {
        let dir = format!("/proc/{pid}/fdinfo");
        let mut programs = Self::default();
        for entry in fs::read_dir(&dir).with_context(|| format!("reading {dir}"))? {
            // A descriptor may be closed meanwhile.
            if let Ok(text) = fs::read_to_string(entry?.path()) {
                programs.add(&text);
            }
        }
        Ok(programs)
    }

    /// Takes in one descriptor's description (kernel `bpf_prog_show_fdinfo`).
    fn add(&mut self, text: &str) {
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.and_then(|value| value.trim().parse::<u64>().ok())
        };
        let (Some(kind), Some(id)) = (field("prog_type"), field("prog_id")) else { return };
        let (Some(count), Some(nanos)) = (field("run_cnt"), field("run_time_ns")) else { return };
        let programs = match kind {
            TYPE_KPROBE => &mut self.uprobes,
            TYPE_TRACING => &mut self.tracepoints,
            _ => return,
        };
        programs.insert(u32::try_from(id).unwrap_or(u32::MAX), Runs { count, nanos });
    }

    /// What ran since `earlier`, of each kind.
    pub fn since(&self, earlier: &Self) -> (Vec<Runs>, Vec<Runs>) {
        let difference = |now: &BTreeMap<u32, Runs>, then: &BTreeMap<u32, Runs>| {
            let then = |id| then.get(id).copied().unwrap_or_default();
            now.iter().map(|(id, runs)| *runs - then(id)).collect()
        };
        (
            difference(&self.tracepoints, &earlier.tracepoints),
            difference(&self.uprobes, &earlier.uprobes),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROGRAM: &str = "pos:\t0\nflags:\t02000002\nmnt_id:\t15\nino:\t1053\nprog_type:\t26\n\
        prog_jited:\t1\nprog_tag:\t5d1f1a1c3f2b3c4d\nmemlock:\t4096\nprog_id:\t74\n\
        run_time_ns:\t5000\nrun_cnt:\t20\nrecursion_misses:\t0\nverified_insns:\t137\n";

    #[test]
    fn a_program_is_counted_once_and_a_link_is_none() {
        let mut programs = Programs::default();
        programs.add(PROGRAM);
        programs.add(PROGRAM);
        programs.add("link_type:\ttracing\nlink_id:\t3\nprog_tag:\t5d1f\nprog_id:\t74\n");
        assert_eq!(programs.tracepoints, BTreeMap::from([(74, Runs { count: 20, nanos: 5000 })]));
        assert!(programs.uprobes.is_empty());
        assert_eq!(programs.since(&programs).0, [Runs::default()]);
        let since_start = programs.since(&Programs::default());
        assert_eq!(since_start.0[0].mean(), 250.0);
    }
}
