//! For the report: what the threads and goroutines do now that took the connections which did not come
//! back.
//!
//! May import what `session` may. Invariant: only those that the model asks for are looked at,
//! and only at the end of a capture.

use std::collections::HashMap;

use super::{Session, SessionError, Sink};
use crate::{
    host::clock,
    loader::CopiedStack,
    model::{ConnId, Event, MonoNanos, Process, Runtime, StackEvent, ThreadNow, wanted_holders},
    symbolize::{GoroutineNow, Present},
};

/// Clock ticks of `/proc` in a second: the same on every kernel for x86-64.
const TICKS_PER_SECOND: u64 = 100;

/// System calls that block, by number on x86-64.
const CALLS: [(u64, &str); 44] = [
    (0, "read"),
    (1, "write"),
    (7, "poll"),
    (16, "ioctl"),
    (17, "pread64"),
    (18, "pwrite64"),
    (19, "readv"),
    (20, "writev"),
    (23, "select"),
    (34, "pause"),
    (35, "nanosleep"),
    (40, "sendfile"),
    (42, "connect"),
    (43, "accept"),
    (44, "sendto"),
    (45, "recvfrom"),
    (46, "sendmsg"),
    (47, "recvmsg"),
    (61, "wait4"),
    (65, "semop"),
    (70, "msgrcv"),
    (72, "fcntl"),
    (73, "flock"),
    (74, "fsync"),
    (75, "fdatasync"),
    (127, "rt_sigpending"),
    (128, "rt_sigtimedwait"),
    (130, "rt_sigsuspend"),
    (202, "futex"),
    (208, "io_getevents"),
    (220, "semtimedop"),
    (230, "clock_nanosleep"),
    (232, "epoll_wait"),
    (243, "mq_timedreceive"),
    (247, "waitid"),
    (257, "openat"),
    (270, "pselect6"),
    (271, "ppoll"),
    (281, "epoll_pwait"),
    (288, "accept4"),
    (299, "recvmmsg"),
    (426, "io_uring_enter"),
    (441, "epoll_pwait2"),
    (449, "futex_waitv"),
];

/// The thread that a stack was taken on.
#[derive(Clone, Copy)]
struct Thread {
    uses: u64,
    pid: u32,
    tid: u32,
    /// When it was taken.
    at: MonoNanos,
    /// The goroutine that ran on it: its record, and its number.
    goroutine: Option<(u64, u64)>,
}

/// What the threads of the stacks were that were understood.
#[derive(Default)]
pub(super) struct Threads(HashMap<(ConnId, StackEvent), Thread>);

impl Threads {
    /// Keeps the thread of a stack.
    pub fn keep(&mut self, conn: ConnId, of: StackEvent, uses: u64, copied: &CopiedStack) {
        if self.0.len() >= tracer_ebpf::limits::MAX_CONNECTIONS as usize {
            self.0.clear();
        }
        let header = &copied.header;
        let (pid, tid, at) = (header.tgid, header.tid, MonoNanos(header.at));
        let goroutine = (header.goid != 0).then_some((header.g, header.goid));
        self.0.insert((conn, of), Thread { uses, pid, tid, at, goroutine });
    }

    fn of(&self, conn: ConnId, of: StackEvent, uses: u64) -> Option<Thread> {
        self.0.get(&(conn, of)).copied().filter(|thread| thread.uses == uses)
    }
}

impl Session {
    /// Looks at the threads that the report has something to say about.
    pub(super) fn look_at_holders(&mut self, sink: &mut dyn Sink) -> Result<(), SessionError> {
        let at = self.tracker.now();
        for (conn, of, uses) in wanted_holders(&self.tracker, at) {
            let Some(thread) = self.threads.of(conn, of, uses) else { continue };
            let owner = self.tracker.connection(conn).map(|conn| conn.owner);
            let owner = owner.and_then(|owner| self.tracker.process(owner));
            let is_its_own = |owner: &&Process| {
                // A thread of Go serves whoever is next.
                let is_told = owner.runtime() != Some(Runtime::Go) || thread.goroutine.is_some();
                owner.pid.0 == thread.pid && is_told
            };
            if owner.filter(is_its_own).is_none() {
                continue;
            }
            // What began after the use has the number of what has ended.
            let since_boot = clock::ticks_of(thread.at, TICKS_PER_SECOND);
            let is_same = |started| started <= since_boot;
            let now = match thread.goroutine {
                Some(goroutine) => self.goroutine_now(thread.pid, goroutine, is_same),
                None => self.thread_now(thread.pid, thread.tid, is_same),
            };
            let Some(now) = now else { continue };
            let (tid, goroutine) = (thread.tid, thread.goroutine.map(|(_, goid)| goid));
            self.pending.push(Event::Holder { at, conn, of, uses, tid, goroutine, now });
        }
        self.flush(sink)
    }

    fn thread_now(
        &mut self,
        pid: u32,
        tid: u32,
        is_same: impl Fn(u64) -> bool,
    ) -> Option<ThreadNow> {
        Some(match self.symbolizer.present(pid, tid, is_same)? {
            Present::Ended => ThreadNow::Ended,
            Present::Running => ThreadNow::Running,
            Present::Waiting(waiting) => {
                let known = CALLS.iter().find(|(number, _)| *number == waiting.call);
                let call = known.map_or_else(
                    || format!("system call {}", waiting.call),
                    |(_, name)| (*name).to_owned(),
                );
                ThreadNow::Waiting { call, stack: waiting.stack }
            }
        })
    }

    fn goroutine_now(
        &mut self,
        pid: u32,
        (g, goid): (u64, u64),
        is_same: impl Fn(u64) -> bool,
    ) -> Option<ThreadNow> {
        Some(match self.symbolizer.goroutine(pid, g, goid, is_same)? {
            GoroutineNow::Ended => ThreadNow::Ended,
            GoroutineNow::Running => ThreadNow::Running,
            GoroutineNow::Waiting(reason, stack) => {
                ThreadNow::Waiting { call: reason.to_owned(), stack }
            }
        })
    }
}
