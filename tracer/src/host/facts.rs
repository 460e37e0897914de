//! What this host allows, probed once into a plain struct, and what follows from it.
//!
//! May import the siblings `btf`, `clock` and `proc`. Invariants: [`probe`] reads and judges
//! nothing, [`decide`] and [`losses`] judge and read nothing; features are probed, kernel versions
//! are never compared.
//!
//! Not asked, because it does not matter here: tracefs (our tracepoints are attached by
//! `BPF_RAW_TRACEPOINT_OPEN`, uprobes by the perf device), `kernel.perf_event_paranoid`,
//! `kernel.unprivileged_bpf_disabled` and `kernel.kptr_restrict` (none binds who has the
//! capabilities that are asked for).

use std::{fmt, fs, io, os::unix::fs::MetadataExt, path::Path, thread::available_parallelism};

use rustix::{
    process::{Resource, geteuid, getrlimit},
    system::uname,
    thread::{CapabilitySet, capabilities},
};
use tracer_ebpf::config::Offsets;

use super::{btf, clock::Anchor};

/// Inode of the initial pid namespace: `PROC_PID_INIT_INO` of Linux `include/linux/proc_ns.h`.
const INITIAL_PID_NAMESPACE: u64 = 0xefff_fffc;
/// The perf device of uprobes, relative to `/sys`; there when `CONFIG_UPROBE_EVENTS` is.
const UPROBE_DEVICE: &str = "bus/event_source/devices/uprobe/type";

/// Capabilities that are asked about, each with its name.
pub const CAPABILITIES: [(CapabilitySet, &str); 6] = [
    (CapabilitySet::BPF, "CAP_BPF"),
    (CapabilitySet::PERFMON, "CAP_PERFMON"),
    (CapabilitySet::SYS_PTRACE, "CAP_SYS_PTRACE"),
    (CapabilitySet::DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH"),
    (CapabilitySet::SYS_ADMIN, "CAP_SYS_ADMIN"),
    (CapabilitySet::SYS_RESOURCE, "CAP_SYS_RESOURCE"),
];
/// Without one of these nothing useful can be seen: loading and attaching programs, and reading
/// other users' processes.
const REQUIRED: CapabilitySet = CapabilitySet::BPF
    .union(CapabilitySet::PERFMON)
    .union(CapabilitySet::SYS_PTRACE)
    .union(CapabilitySet::DAC_READ_SEARCH);

/// The mode of `kernel_lockdown(7)`, from the least to the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lockdown {
    /// Off, or not in this kernel.
    None,
    Integrity,
    /// Programs may not read kernel memory.
    Confidentiality,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// As `uname -r`.
    pub kernel: String,
    pub arch: &'static str,
    pub cpus: usize,
    pub root: bool,
    pub effective: CapabilitySet,
    /// From the kernel's BTF; or why not, as a sentence that says what to do.
    pub offsets: Result<Offsets, String>,
    /// Uprobes can be attached as perf events.
    pub uprobes: bool,
    pub lockdown: Lockdown,
    /// Process ids here are those of the initial namespace, which the kernel side reports.
    pub initial_pid_namespace: bool,
    /// Bytes that may be locked; `None` is no limit. Kernels before 5.11 count maps against it.
    pub memlock: Option<u64>,
    /// Pairs the clock of events with the wall clock.
    pub anchor: Anchor,
}

/// Why `connleak` cannot run: a sentence that names the object and says what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem(pub String);

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Probes this host.
#[must_use]
pub fn probe() -> Facts {
    probe_in(Path::new("/proc"), Path::new("/sys"))
}

/// As [`probe`], with the files of other trees laid out like `/proc` and `/sys`.
#[must_use]
pub fn probe_in(proc: &Path, sys: &Path) -> Facts {
    let lockdown = fs::read(sys.join("kernel/security/lockdown"));
    let pid_namespace = fs::metadata(proc.join("self/ns/pid"));
    Facts {
        kernel: uname().release().to_string_lossy().into_owned(),
        arch: std::env::consts::ARCH,
        cpus: available_parallelism().map_or(1, usize::from),
        root: geteuid().is_root(),
        effective: capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective),
        offsets: btf::read_offsets(&sys.join("kernel/btf/vmlinux")).map_err(|e| advice(&e)),
        uprobes: sys.join(UPROBE_DEVICE).exists(),
        lockdown: lockdown.map_or(Lockdown::None, |text| parse_lockdown(&text)),
        initial_pid_namespace: pid_namespace.is_ok_and(|ns| ns.ino() == INITIAL_PID_NAMESPACE),
        memlock: getrlimit(Resource::Memlock).current,
        anchor: Anchor::take(),
    }
}

/// Whether `connleak` can run here; every reason why not.
///
/// # Errors
/// The problems, the first to solve first.
pub fn decide(facts: &Facts) -> Result<(), Vec<Problem>> {
    let mut problems = Vec::new();
    let missing = names(REQUIRED.difference(granted(facts.effective)));
    if !missing.is_empty() && facts.root {
        problems.push(format!(
            "root has no {missing} here: run connleak outside of the container, or start the \
             container with these capabilities"
        ));
    } else if !missing.is_empty() {
        problems.push(format!(
            "connleak needs root to load its eBPF programs and to read other processes ({missing} \
             missing): run it with sudo"
        ));
    }
    if facts.lockdown == Lockdown::Confidentiality {
        problems.push(
            "the kernel is locked down for confidentiality, so eBPF programs cannot read kernel \
             memory: boot with lockdown=integrity or without it"
                .to_owned(),
        );
    }
    if !facts.initial_pid_namespace {
        problems.push(
            "connleak is in a pid namespace of its own and cannot tell which process the kernel \
             means: run it on the host, or start its container with --pid=host"
                .to_owned(),
        );
    }
    problems.extend(facts.offsets.as_ref().err().cloned());
    if problems.is_empty() { Ok(()) } else { Err(problems.into_iter().map(Problem).collect()) }
}

/// What will be missing from reports although `connleak` can run.
#[must_use]
pub fn losses(facts: &Facts) -> Vec<String> {
    let mut losses = Vec::new();
    if !facts.uprobes {
        losses.push(
            "no uprobes (the kernel lacks CONFIG_UPROBE_EVENTS): pools are not observed, checkouts \
             are inferred from the wire"
                .to_owned(),
        );
    }
    if !facts.effective.contains(CapabilitySet::SYS_ADMIN) {
        losses.push(
            "no CAP_SYS_ADMIN: connections opened before the start are listed in this network \
             namespace only, and the libraries of containers cannot be opened"
                .to_owned(),
        );
    }
    if facts.offsets.as_ref().is_ok_and(|offsets| offsets.ri_known == 0) {
        losses.push(
            "no return instances in the kernel's BTF: where another tool has uretprobes, stacks \
             end at them"
                .to_owned(),
        );
    }
    losses
}

/// `CAP_SYS_ADMIN` includes what was split off it in Linux 5.8.
fn granted(effective: CapabilitySet) -> CapabilitySet {
    if effective.contains(CapabilitySet::SYS_ADMIN) {
        effective | CapabilitySet::BPF | CapabilitySet::PERFMON
    } else {
        effective
    }
}

/// The names in `set`, joined by commas.
fn names(set: CapabilitySet) -> String {
    let names: Vec<_> = CAPABILITIES
        .iter()
        .filter(|(capability, _)| set.contains(*capability))
        .map(|(_, name)| *name)
        .collect();
    names.join(", ")
}

fn advice(error: &btf::Error) -> String {
    match error {
        btf::Error::Unreadable { path, source } if source.kind() == io::ErrorKind::NotFound => {
            format!(
                "the kernel does not describe its types ({path} is missing): run a kernel built \
                 with CONFIG_DEBUG_INFO_BTF=y, or mount /sys if this is a container"
            )
        }
        btf::Error::Unreadable { .. } => format!("{error}: run connleak with sudo"),
        btf::Error::Malformed(_) | btf::Error::NoMember(_) => {
            format!("{error}: this kernel is newer than this connleak, so get a newer connleak")
        }
    }
}

/// The mode in brackets in a text like `none [integrity] confidentiality`.
fn parse_lockdown(text: &[u8]) -> Lockdown {
    let chosen = text.split(|byte| *byte == b'[').nth(1).unwrap_or_default();
    match chosen.split(|byte| *byte == b']').next() {
        Some(b"integrity") => Lockdown::Integrity,
        Some(b"confidentiality") => Lockdown::Confidentiality,
        _ => Lockdown::None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;
    use rustix::thread::CapabilitySet;
    use tracer_ebpf::config::Offsets;

    use super::{Facts, Lockdown, Problem, decide, losses, parse_lockdown, probe, probe_in};
    use crate::{host::clock::Anchor, model::MonoNanos};

    /// A host on which all works.
    pub(in crate::host) fn good() -> Facts {
        Facts {
            kernel: "6.18.0".to_owned(),
            arch: "x86_64",
            cpus: 2,
            root: true,
            effective: CapabilitySet::all(),
            offsets: Ok(Offsets { ri_known: 1, socket_hooks: 1, ..Offsets::default() }),
            uprobes: true,
            lockdown: Lockdown::None,
            initial_pid_namespace: true,
            memlock: Some(8 << 20),
            anchor: Anchor { mono: MonoNanos(0), unix_nanos: 0 },
        }
    }

    /// The problems, as text.
    fn problems(change: impl FnOnce(&mut Facts)) -> Vec<String> {
        let mut facts = good();
        change(&mut facts);
        decide(&facts).err().unwrap_or_default().into_iter().map(|Problem(text)| text).collect()
    }

    #[test]
    fn a_good_host_has_no_problem_and_loses_nothing() {
        assert_eq!(decide(&good()), Ok(()));
        assert_eq!(losses(&good()), Vec::<String>::new());
    }

    #[test]
    fn each_problem_names_its_object_and_what_to_do() {
        type Case = (fn(&mut Facts), &'static str, &'static str);
        let table: [Case; 6] = [
            (
                |f| (f.root, f.effective) = (false, CapabilitySet::empty()),
                "CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE, CAP_DAC_READ_SEARCH",
                "run it with sudo",
            ),
            (|f| f.effective.remove(CapabilitySet::SYS_PTRACE), "CAP_SYS_PTRACE", "container"),
            (
                |f| f.effective.remove(CapabilitySet::SYS_ADMIN | CapabilitySet::BPF),
                "CAP_BPF",
                "container",
            ),
            (|f| f.lockdown = Lockdown::Confidentiality, "locked down", "lockdown=integrity"),
            (|f| f.initial_pid_namespace = false, "pid namespace", "--pid=host"),
            (|f| f.offsets = Err("no BTF: do this".to_owned()), "no BTF", "do this"),
        ];
        for (change, object, remedy) in table {
            let problems = problems(change);
            let [problem] = &problems[..] else { panic!("{object}: {problems:?}") };
            assert!(problem.contains(object) && problem.contains(remedy), "{problem}");
        }
    }

    #[test]
    fn what_only_costs_something_is_no_problem() {
        assert_eq!(problems(|f| f.root = false), Vec::<String>::new());
        assert_eq!(problems(|f| f.lockdown = Lockdown::Integrity), Vec::<String>::new());
        let split = CapabilitySet::BPF | CapabilitySet::PERFMON;
        assert_eq!(problems(|f| f.effective.remove(split)), Vec::<String>::new());
        type Case = (fn(&mut Facts), &'static str);
        let table: [Case; 3] = [
            (|f| f.uprobes = false, "pools are not observed"),
            (|f| f.effective.remove(CapabilitySet::SYS_ADMIN), "network namespace"),
            (|f| f.offsets = Ok(Offsets::default()), "uretprobes"),
        ];
        for (change, lost) in table {
            let mut facts = good();
            change(&mut facts);
            assert_eq!(decide(&facts), Ok(()));
            let losses = losses(&facts);
            assert!(matches!(&losses[..], [loss] if loss.contains(lost)), "{losses:?}");
        }
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let several = problems(|f| {
            f.effective = CapabilitySet::empty();
            f.initial_pid_namespace = false;
            f.offsets = Err("no BTF".to_owned());
        });
        assert_eq!(several.len(), 3);
    }

    #[test]
    fn the_lockdown_mode_is_the_one_in_brackets() {
        let parse = |text: &str| parse_lockdown(text.as_bytes());
        assert_eq!(parse("[none] integrity confidentiality\n"), Lockdown::None);
        assert_eq!(parse("none [integrity] confidentiality\n"), Lockdown::Integrity);
        assert_eq!(parse("none integrity [confidentiality]\n"), Lockdown::Confidentiality);
        assert_eq!(parse("none integrity confidentiality"), Lockdown::None);
    }

    #[test]
    fn a_host_without_btf_and_uprobes_is_told_what_it_needs() {
        let empty = tempfile::tempdir().unwrap();
        let facts = probe_in(empty.path(), empty.path());
        assert!(!facts.uprobes && !facts.initial_pid_namespace);
        let sentence = facts.offsets.unwrap_err();
        assert!(sentence.contains("kernel/btf/vmlinux is missing"), "{sentence}");
        assert!(sentence.contains("CONFIG_DEBUG_INFO_BTF"), "{sentence}");
    }

    #[test]
    fn this_host_is_probed() {
        let facts = probe();
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        assert_eq!(facts.kernel, release.trim_end());
        assert!(facts.cpus >= 1 && facts.offsets.is_ok());
    }

    proptest! {
        #[test]
        fn any_lockdown_text_is_parsed(text in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = parse_lockdown(&text);
        }
    }
}
