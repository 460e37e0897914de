//! Looking at processes: what they run, which pools can be probed, whether they are to be watched.
//!
//! May import what `session` may. Invariant: a process that goes on connecting is looked at again,
//! ever more rarely, because programs load libraries late.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::Session;
use crate::{
    host::clock,
    ingest::Notice,
    model::{Event, Pid, PoolSeen, Presence, Runtime},
};

/// A process that goes on connecting is looked at again after this long, because programs load
/// libraries late. Each look that finds nothing new doubles the time, up to the second.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(64));

/// The stack class for pools with deep stacks: 16 KiB.
const DEEP_STACKS: u32 = 1;

/// The last look at a process that has connections.
pub(super) struct Look {
    /// Pools found, those that are loaded twice.
    pools: usize,
    /// Not again before.
    until: Instant,
    pause: Duration,
    /// It has connected since.
    connected: bool,
}

impl Session {
    /// Acts on what happened to processes; true when there is something to watch.
    pub(super) fn act(&mut self, mut notices: Vec<Notice>) -> bool {
        let mut due = false;
        let mut wanted = BTreeSet::new();
        // What these opened between their start and now was not seen. It is taken in before their
        // program is probed: a checkout is joined with a connection that is known already.
        let mut late = BTreeSet::new();
        for notice in &notices {
            if matches!(notice, Notice::Exec(_)) {
                self.started = self.ticks;
            }
            if let Notice::Exec(pid) = *notice
                && self.targets.matches(&self.proc, pid)
            {
                wanted.insert(pid);
                self.look_for_marks(pid);
                due |= if self.by_socket { self.calls_needed } else { !self.targets.everything() };
                if !self.targets.everything()
                    && self.targets.mark(self.ingest.kernel(), pid)
                    && !self.proc.socket_fds(Pid(pid)).is_empty()
                {
                    late.insert(Pid(pid));
                }
            }
        }
        if !late.is_empty() {
            notices.extend(self.adopt(&late));
        }
        for notice in notices {
            match notice {
                Notice::Connecting if self.by_socket => {
                    self.calls_needed = true;
                    due = true;
                }
                Notice::Connecting => due |= self.targets.everything(),
                Notice::Connected(pid) => match self.seen.get_mut(&pid) {
                    Some(look) => look.connected = true,
                    None => self.look(pid),
                },
                Notice::Exec(pid) => {
                    self.symbolizer.forget(pid);
                    self.programs.forget(pid);
                    self.ingest.forget_runtime(pid);
                    if wanted.contains(&pid) {
                        self.look_at_executable(pid);
                    }
                    if self.seen.remove(&pid).is_some() {
                        self.look(pid);
                    }
                }
                Notice::Exit(pid) => {
                    self.seen.remove(&pid);
                    self.ended.insert(pid);
                    self.programs.forget(pid);
                    self.ingest.forget_runtime(pid);
                }
            }
        }
        due
    }

    /// Looks at those again that have connected since and whose pause is over.
    pub(super) fn look_again(&mut self) {
        let now = Instant::now();
        let due = |look: &Look| look.connected && now >= look.until;
        let due: Vec<u32> =
            self.seen.iter().filter(|(_, look)| due(look)).map(|(pid, _)| *pid).collect();
        for pid in due {
            if self.programs.refreshes_scripts(pid)
                && let Some(scripts) = self.symbolizer.scripts(pid)
            {
                self.programs.set_scripts(pid, scripts);
            }
            self.look(pid);
        }
    }

    /// Looks at a program that runs or has just started: probes it, and has stacks copied as its
    /// pools and its runtime need them, from its first connection on.
    pub(super) fn look_at_executable(&mut self, pid: u32) {
        let pools = self.programs.look_at_executable(pid, &self.proc, self.ingest.kernel());
        self.prepare_stacks(pid, &pools);
        self.copy_goid(pid);
        let runtime = self.proc.runtime(Pid(pid), self.programs.runtime(pid));
        if matches!(runtime, Some(Runtime::Python | Runtime::Php | Runtime::Node | Runtime::Java))
            && self.symbolizer.observe(pid).is_ok()
        {
            if !self.copy_runtime(pid) {
                // The runtime is not mapped yet: to be looked at again when the process connects.
                self.symbolizer.forget(pid);
            } else if !self.targets.everything() {
                // It is what was asked about.
                self.symbolizer.prepare(pid);
            }
        }
    }

    /// Has the runtime's frames copied, where they are known.
    fn copy_runtime(&mut self, pid: u32) -> bool {
        let Some(frames) = self.symbolizer.runtime_frames(pid) else { return false };
        if !self.ingest.copy_runtime(pid, frames) {
            log::warn!("no frames of the runtime of process {pid}: too many such processes");
        }
        true
    }

    /// Has the number of the goroutine read with each stack, where it is known how.
    fn copy_goid(&mut self, pid: u32) {
        if let Some(goid) = self.programs.goid(pid)
            && !self.ingest.copy_goid(pid, goid)
        {
            log::warn!("no goroutines of process {pid} are told: too many processes");
        }
    }

    /// A stack of a process was resolved: now it may be known which scripts it has loaded, and so
    /// which pools it uses.
    pub(super) fn look_at_scripts(&mut self, pid: u32) {
        if self.programs.knows_scripts(pid) {
            return;
        }
        if let Some(scripts) = self.symbolizer.scripts(pid) {
            self.programs.set_scripts(pid, scripts);
            // Fewer pools than before, for now it is known which are not used.
            self.seen.remove(&pid);
            self.look(pid);
        }
    }

    /// Has stacks copied as large as these pools need them.
    fn prepare_stacks(&mut self, pid: u32, pools: &[PoolSeen]) {
        if self.programs.have_deep_stacks(pools) {
            self.ingest.need_stack_class(pid, DEEP_STACKS);
        }
    }

    /// Looks at a process that has connections: who it is, what can be probed, what its code is.
    pub(super) fn look(&mut self, pid: u32) {
        // A failure is an absence: the process may be gone already, and its stacks say so.
        let _gone = self.symbolizer.observe(pid);
        self.copy_runtime(pid);
        let pools = self.programs.look_at_process(pid, &self.proc, self.ingest.kernel());
        self.copy_goid(pid);
        // One that is just ending has nothing mapped: less than before says nothing.
        let known =
            pools.len() + pools.iter().filter(|pool| pool.presence == Presence::Loaded).count();
        let last = self.seen.remove(&pid).filter(|last| known <= last.pools);
        let (found, pause) = match &last {
            Some(last) => (last.pools, (last.pause * 2).min(LOOK_AGAIN.1)),
            None => (known, LOOK_AGAIN.0),
        };
        let until = Instant::now() + pause;
        self.seen.insert(pid, Look { pools: found, until, pause, connected: false });
        if last.is_some() {
            return;
        }
        self.prepare_stacks(pid, &pools);
        if let Some(mut process) = self.proc.process_seen(Pid(pid), self.programs.runtime(pid)) {
            process.pools = pools;
            let observed = process.pools.iter().filter(|pool| pool.observed);
            let observed: Vec<&str> = observed.map(|pool| pool.name.as_str()).collect();
            log::info!("process {pid} has connections; observed pools: {}", observed.join(", "));
            self.pending.push(Event::Process { at: clock::now(), pid: Pid(pid), process });
        }
    }
}
