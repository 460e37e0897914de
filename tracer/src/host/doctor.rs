//! What `connleak doctor` says: the facts, which hooks work, and what is lost without the rest.
//!
//! May import the sibling `facts`. Reads nothing itself: the loader finds out what works by
//! loading it. Invariant: text and JSON say the same.

use std::io::{self, Write};

use rustix::thread::CapabilitySet;
use serde::Serialize;

use super::facts::{CAPABILITIES, Facts, Lockdown, Problem, decide, losses};

/// Schema of the JSON form.
pub const SCHEMA: &str = "connleak.doctor/1";

/// A hook of the eBPF object, tried by really loading and attaching it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookStatus {
    /// For example `tp_btf/sys_exit`.
    pub name: String,
    /// The error as text when it does not work.
    pub works: Result<(), String>,
    /// What is not seen without it, in words.
    pub gives: String,
}

/// How to write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Text,
    Json,
}

#[derive(Serialize)]
struct Doctor<'a> {
    schema: &'static str,
    /// No problem, and every hook works.
    ok: bool,
    kernel: &'a str,
    arch: &'a str,
    cpus: usize,
    root: bool,
    capabilities: Vec<&'static str>,
    missing_capabilities: Vec<&'static str>,
    btf: bool,
    uprobes: bool,
    /// Else the exits of all system calls are watched.
    socket_hooks: bool,
    lockdown: &'static str,
    initial_pid_namespace: bool,
    /// `null` is no limit.
    memlock_bytes: Option<u64>,
    hooks: Vec<Hook<'a>>,
    problems: Vec<String>,
    losses: Vec<String>,
}

#[derive(Serialize)]
struct Hook<'a> {
    name: &'a str,
    works: bool,
    error: Option<&'a str>,
    gives: &'a str,
}

impl<'a> Doctor<'a> {
    fn new(facts: &'a Facts, hooks: &'a [HookStatus]) -> Self {
        let problems = decide(facts).err().unwrap_or_default();
        let mut losses = losses(facts);
        let broken = hooks.iter().filter(|hook| hook.works.is_err());
        losses.extend(broken.map(|hook| format!("{} does not work: no {}", hook.name, hook.gives)));
        let with = |present: bool| {
            let is =
                move |(set, _): &&(CapabilitySet, _)| facts.effective.contains(*set) == present;
            CAPABILITIES.iter().filter(is).map(|(_, name)| *name).collect()
        };
        Self {
            schema: SCHEMA,
            ok: problems.is_empty() && hooks.iter().all(|hook| hook.works.is_ok()),
            kernel: &facts.kernel,
            arch: facts.arch,
            cpus: facts.cpus,
            root: facts.root,
            capabilities: with(true),
            missing_capabilities: with(false),
            btf: facts.offsets.is_ok(),
            uprobes: facts.uprobes,
            socket_hooks: facts.offsets.as_ref().is_ok_and(|offsets| offsets.socket_hooks != 0),
            lockdown: match facts.lockdown {
                Lockdown::None => "none",
                Lockdown::Integrity => "integrity",
                Lockdown::Confidentiality => "confidentiality",
            },
            initial_pid_namespace: facts.initial_pid_namespace,
            memlock_bytes: facts.memlock,
            hooks: hooks
                .iter()
                .map(|hook| Hook {
                    name: &hook.name,
                    works: hook.works.is_ok(),
                    error: hook.works.as_ref().err().map(String::as_str),
                    gives: &hook.gives,
                })
                .collect(),
            problems: problems.into_iter().map(|Problem(text)| text).collect(),
            losses,
        }
    }
}

/// Writes what was found out.
///
/// # Errors
/// What writing to `out` fails with.
pub fn render(
    facts: &Facts,
    hooks: &[HookStatus],
    format: Format,
    out: &mut dyn Write,
) -> io::Result<()> {
    let doctor = Doctor::new(facts, hooks);
    match format {
        Format::Json => {
            serde_json::to_writer_pretty(&mut *out, &doctor)?;
            writeln!(out)
        }
        Format::Text => text(facts, &doctor, out),
    }
}

fn text(facts: &Facts, doctor: &Doctor, out: &mut dyn Write) -> io::Result<()> {
    let yes = |yes: bool| if yes { "yes" } else { "no" };
    writeln!(out, "kernel         {} {}, {} CPUs", doctor.kernel, doctor.arch, doctor.cpus)?;
    writeln!(out, "BTF            {}", yes(doctor.btf))?;
    writeln!(out, "uprobes        {}", yes(doctor.uprobes))?;
    let sockets = if doctor.socket_hooks {
        "yes"
    } else {
        "no (since Linux 6.3): the exits of all system calls are watched, some 100 ns each"
    };
    writeln!(out, "socket hooks   {sockets}")?;
    writeln!(out, "root           {}", yes(doctor.root))?;
    writeln!(out, "capabilities   {}", or_none(&doctor.capabilities.join(", ")))?;
    writeln!(out, "missing        {}", or_none(&doctor.missing_capabilities.join(", ")))?;
    writeln!(out, "lockdown       {}", doctor.lockdown)?;
    let namespace = if doctor.initial_pid_namespace { "the host's" } else { "of its own" };
    writeln!(out, "pid namespace  {namespace}")?;
    let memlock = facts.memlock.map_or("unlimited".to_owned(), |b| format!("{} KiB", b >> 10));
    writeln!(out, "memlock        {memlock} (counts before Linux 5.11 only)")?;
    writeln!(out, "\nhooks")?;
    for hook in &doctor.hooks {
        writeln!(out, "  {:<5} {}", if hook.works { "works" } else { "fails" }, hook.name)?;
        // An error may be a verifier's log.
        for line in hook.error.iter().flat_map(|error| error.lines()) {
            writeln!(out, "          {}", line.escape_debug())?;
        }
    }
    list(out, "problems", &doctor.problems)?;
    list(out, "lost", &doctor.losses)
}

fn or_none(names: &str) -> &str {
    if names.is_empty() { "none" } else { names }
}

fn list(out: &mut dyn Write, title: &str, sentences: &[String]) -> io::Result<()> {
    writeln!(out, "\n{title}")?;
    if sentences.is_empty() {
        return writeln!(out, "  none");
    }
    sentences.iter().try_for_each(|sentence| writeln!(out, "  - {sentence}"))
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use rustix::thread::CapabilitySet;
    use tracer_ebpf::config::Offsets;

    use super::{Format, HookStatus, render};
    use crate::host::facts::{Facts, tests::good};

    fn hooks() -> Vec<HookStatus> {
        let hook = |name: &str, works, gives: &str| HookStatus {
            name: name.to_owned(),
            works,
            gives: gives.to_owned(),
        };
        let error = "permission denied\nR1 invalid \u{1b}[31mmem access".to_owned();
        vec![
            hook("tp_btf/sys_exit", Ok(()), "connections at all"),
            hook("uprobe", Err(error), "observed checkouts"),
        ]
    }

    fn check(facts: &Facts, hooks: &[HookStatus], format: Format, expected: Expect) {
        let mut out = Vec::new();
        render(facts, hooks, format, &mut out).unwrap();
        expected.assert_eq(&String::from_utf8(out).unwrap());
    }

    #[test]
    fn a_good_host_reads_in_one_screen() {
        check(
            &good(),
            &hooks()[..1],
            Format::Text,
            expect![[r#"
            kernel         6.18.0 x86_64, 2 CPUs
            BTF            yes
            uprobes        yes
            socket hooks   yes
            root           yes
            capabilities   CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE, CAP_DAC_READ_SEARCH, CAP_SYS_ADMIN, CAP_SYS_RESOURCE
            missing        none
            lockdown       none
            pid namespace  the host's
            memlock        8192 KiB (counts before Linux 5.11 only)

            hooks
              works tp_btf/sys_exit

            problems
              none

            lost
              none
        "#]],
        );
    }

    #[test]
    fn what_fails_says_what_is_lost() {
        let mut facts = good();
        facts.effective.remove(CapabilitySet::SYS_RESOURCE | CapabilitySet::SYS_PTRACE);
        facts.memlock = None;
        facts.offsets = facts.offsets.map(|offsets| Offsets { socket_hooks: 0, ..offsets });
        check(
            &facts,
            &hooks(),
            Format::Text,
            expect![[r#"
            kernel         6.18.0 x86_64, 2 CPUs
            BTF            yes
            uprobes        yes
            socket hooks   no (since Linux 6.3): the exits of all system calls are watched, some 100 ns each
            root           yes
            capabilities   CAP_BPF, CAP_PERFMON, CAP_DAC_READ_SEARCH, CAP_SYS_ADMIN
            missing        CAP_SYS_PTRACE, CAP_SYS_RESOURCE
            lockdown       none
            pid namespace  the host's
            memlock        unlimited (counts before Linux 5.11 only)

            hooks
              works tp_btf/sys_exit
              fails uprobe
                      permission denied
                      R1 invalid \u{1b}[31mmem access

            problems
              - root has no CAP_SYS_PTRACE here: run connleak outside of the container, or start the container with these capabilities

            lost
              - uprobe does not work: no observed checkouts
        "#]],
        );
    }

    #[test]
    fn json_says_the_same() {
        let mut facts = good();
        facts.effective.remove(CapabilitySet::SYS_RESOURCE);
        check(
            &facts,
            &hooks(),
            Format::Json,
            expect![[r#"
            {
              "schema": "connleak.doctor/1",
              "ok": false,
              "kernel": "6.18.0",
              "arch": "x86_64",
              "cpus": 2,
              "root": true,
              "capabilities": [
                "CAP_BPF",
                "CAP_PERFMON",
                "CAP_SYS_PTRACE",
                "CAP_DAC_READ_SEARCH",
                "CAP_SYS_ADMIN"
              ],
              "missing_capabilities": [
                "CAP_SYS_RESOURCE"
              ],
              "btf": true,
              "uprobes": true,
              "socket_hooks": true,
              "lockdown": "none",
              "initial_pid_namespace": true,
              "memlock_bytes": 8388608,
              "hooks": [
                {
                  "name": "tp_btf/sys_exit",
                  "works": true,
                  "error": null,
                  "gives": "connections at all"
                },
                {
                  "name": "uprobe",
                  "works": false,
                  "error": "permission denied\nR1 invalid \u001b[31mmem access",
                  "gives": "observed checkouts"
                }
              ],
              "problems": [],
              "losses": [
                "uprobe does not work: no observed checkouts"
              ]
            }
        "#]],
        );
    }
}
