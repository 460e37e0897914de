//! For the report: what the threads do now that took the connections which did not come back.
//!
//! May import what `session` may. Invariant: only the threads that the model asks for are looked at,
//! and only at the end of a capture.

use std::collections::HashMap;

use super::{Session, SessionError, Sink};
use crate::{
    host::clock,
    loader::CopiedStack,
    model::{ConnId, Event, MonoNanos, StackEvent, ThreadNow, wanted_holders},
    symbolize::Present,
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
}

/// The threads of the stacks that were understood.
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
        self.0.insert((conn, of), Thread { uses, pid, tid, at });
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
            if owner.is_none_or(|owner| owner.pid.0 != thread.pid) {
                continue;
            }
            // A thread that began after the use has the number of the one that has ended.
            let since_boot = clock::ticks_of(thread.at, TICKS_PER_SECOND);
            let is_same = |started| started <= since_boot;
            let now = match self.symbolizer.present(thread.pid, thread.tid, is_same) {
                None => continue,
                Some(Present::Ended) => ThreadNow::Ended,
                Some(Present::Running) => ThreadNow::Running,
                Some(Present::Waiting(waiting)) => {
                    let known = CALLS.iter().find(|(number, _)| *number == waiting.call);
                    let call = known.map_or_else(
                        || format!("system call {}", waiting.call),
                        |(_, name)| (*name).to_owned(),
                    );
                    ThreadNow::Waiting { call, stack: waiting.stack }
                }
            };
            self.pending.push(Event::Holder { at, conn, of, uses, tid: thread.tid, now });
        }
        self.flush(sink)
    }
}
