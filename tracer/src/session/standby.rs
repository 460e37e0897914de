//! What is watched by which hooks, and taking in the connections that exist when that begins.
//!
//! Where the kernel has hooks on sockets, they watch from the start, as they cost nothing to whoever has no
//! watched connection. The hook on system calls, which costs every process of the host a little, takes their
//! place when they do not suffice; on other kernels it is attached only while there is something to watch.
//!
//! May import what `session` may. Invariant: hooks are attached before existing connections are
//! listed, so that one opened meanwhile is seen by the one or the other.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::{Session, SessionError, Sink, TICKS_PER_CHECK};
use crate::{
    host::{clock, sockets},
    ingest::Notice,
    loader::Watching,
    model::Pid,
};

/// Checks in a row that found nothing to watch, after which the session stands by: a minute.
const CHECKS_BEFORE_STANDBY: u32 = 6;

impl Session {
    /// Whether any process talks to PostgreSQL, or may soon because a server is on this host.
    fn is_something_to_watch(&self) -> bool {
        if sockets::is_served(&self.proc, &self.ports, self.any_unix_port) {
            return true;
        }
        let own = self.proc.socket_fds(Pid(std::process::id()));
        let is_own = |inode| own.iter().any(|(_, own)| *own == inode);
        let listing = sockets::list(&self.proc, &self.ports, self.any_unix_port);
        listing.sockets.iter().any(|socket| !is_own(socket.inode))
    }

    /// Whether there may be connections that the hooks on sockets do not see whole.
    fn need_calls(&self) -> bool {
        self.calls_needed || sockets::is_served_by_unix(&self.proc, &self.ports, self.any_unix_port)
    }

    /// Notes a process that marks its checkouts, which only the hook on system calls sees.
    pub(super) fn look_for_marks(&mut self, pid: u32) {
        self.calls_needed |= self.programs.marks(pid, &self.proc);
    }

    /// What to watch at the start.
    pub(super) fn first_watching(&self, watched: &BTreeSet<u32>) -> Watching {
        let calls = if self.by_socket {
            self.need_calls()
        } else if self.targets.everything() {
            self.is_something_to_watch()
        } else {
            !watched.is_empty()
        };
        match (calls, self.by_socket) {
            (true, _) => Watching::Calls,
            (false, true) => Watching::Sockets,
            (false, false) => Watching::Nothing,
        }
    }

    /// Watches by these hooks from here on, and takes in the connections that exist.
    pub(super) fn watch_by(
        &mut self,
        watching: Watching,
        sink: &mut dyn Sink,
    ) -> Result<(), SessionError> {
        self.ingest.kernel().switch(watching)?;
        self.watching = watching;
        self.idle_checks = 0;
        if watching == Watching::Nothing {
            return Ok(());
        }
        // What the hooks on sockets did not see of descriptors, that on system calls must not believe.
        self.ingest.verify_all(&self.proc, clock::now(), &mut self.pending);
        let only = self
            .running()?
            .into_iter()
            .filter(|pid| self.targets.matches(&self.proc, *pid))
            .map(Pid)
            .collect();
        let notices = self.adopt(&only);
        self.act(notices);
        self.flush(sink)
    }

    /// Takes in the connections that these processes have already.
    pub(super) fn adopt(&mut self, only: &BTreeSet<Pid>) -> Vec<Notice> {
        let listing = sockets::list(&self.proc, &self.ports, self.any_unix_port);
        for unread in &listing.unread {
            self.note(format!(
                "connections that existed before are not known in network namespace {}: {}",
                unread.netns, unread.reason
            ));
        }
        let inodes: HashSet<u64> = listing.sockets.iter().map(|socket| socket.inode).collect();
        let mut holders: HashMap<u64, Vec<(u32, i32)>> = HashMap::new();
        if !inodes.is_empty() {
            for holder in self.proc.holders(&inodes, Some(only)) {
                holders.entry(holder.inode).or_default().push((holder.pid.0, holder.fd.0));
            }
        }
        let at = clock::now();
        let mut notices = Vec::new();
        for socket in &listing.sockets {
            if let Some(holders) = holders.get(&socket.inode) {
                self.ingest.adopt(socket, holders, at, &mut self.pending, &mut notices);
            }
        }
        notices
    }

    /// A connection begins that the hooks attached do not follow, or a process that it matters of.
    pub(super) fn wake_up(&mut self, sink: &mut dyn Sink) -> Result<(), SessionError> {
        if self.watching == Watching::Nothing && self.targets.everything() {
            let note = "system calls were watched only when something talked to PostgreSQL: the \
                connections that began it have no stack of their opening";
            self.note(note.to_owned());
        }
        self.watch_by(Watching::Calls, sink)
    }

    /// Looks whether more has to be watched than is.
    pub(super) fn look_for_more(&mut self, sink: &mut dyn Sink) -> Result<(), SessionError> {
        let more = match self.watching {
            Watching::Calls => false,
            // A socket to listen on is mostly that of a program that has just been started.
            Watching::Sockets => {
                let may_be_new = self.ticks - self.started <= TICKS_PER_CHECK
                    || self.ticks.is_multiple_of(TICKS_PER_CHECK);
                may_be_new && self.need_calls()
            }
            Watching::Nothing => self.targets.everything() && self.is_something_to_watch(),
        };
        if more { self.wake_up(sink) } else { Ok(()) }
    }

    /// Detaches the hook on system calls when there has been no need of it for some time.
    pub(super) fn stand_by(&mut self) -> Result<(), SessionError> {
        let can = self.by_socket || self.targets.everything();
        if self.watching != Watching::Calls || !can {
            return Ok(());
        }
        let needed = if self.by_socket { self.need_calls() } else { self.is_something_to_watch() };
        if self.ingest.live() > 0 || needed {
            self.idle_checks = 0;
            return Ok(());
        }
        self.idle_checks += 1;
        if self.idle_checks >= CHECKS_BEFORE_STANDBY {
            let to = if self.by_socket { Watching::Sockets } else { Watching::Nothing };
            self.ingest.kernel().switch(to)?;
            self.watching = to;
        }
        Ok(())
    }
}
