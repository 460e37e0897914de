//! Watching system calls only while there is something to watch, and taking in the connections that
//! exist when that begins.
//!
//! May import what `session` may. Invariant: the hook is attached before existing connections are
//! listed, so that one opened meanwhile is seen by the one or the other.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::{Session, SessionError, Sink};
use crate::{
    host::{clock, sockets},
    ingest::Notice,
    model::Pid,
};

/// Checks in a row that found nothing to watch, after which the session stands by: a minute.
const CHECKS_BEFORE_STANDBY: u32 = 6;

impl Session {
    /// Whether any process talks to PostgreSQL, or may soon because a server is on this host.
    pub(super) fn is_something_to_watch(&self) -> bool {
        if sockets::is_served(&self.proc, &self.ports, self.any_unix_port) {
            return true;
        }
        let own = self.proc.socket_fds(Pid(std::process::id()));
        let is_own = |inode| own.iter().any(|(_, own)| *own == inode);
        let listing = sockets::list(&self.proc, &self.ports, self.any_unix_port);
        listing.sockets.iter().any(|socket| !is_own(socket.inode))
    }

    /// Watches system calls from here on and takes in the connections that exist.
    pub(super) fn watch_everything(&mut self, sink: &mut dyn Sink) -> Result<(), SessionError> {
        self.ingest.kernel().watch_syscalls(true)?;
        self.watching = true;
        self.idle_checks = 0;
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

    /// Begins to watch where that has become due.
    pub(super) fn wake_up(&mut self, sink: &mut dyn Sink) -> Result<(), SessionError> {
        if self.targets.everything() {
            let note = "system calls were watched only when something talked to PostgreSQL: the \
                connections that began it have no stack of their opening";
            self.note(note.to_owned());
        }
        self.watch_everything(sink)
    }

    /// Stands by when there has been nothing to watch for some time.
    pub(super) fn stand_by(&mut self) -> Result<(), SessionError> {
        if !self.watching || !self.targets.everything() {
            return Ok(());
        }
        if self.ingest.live() > 0 || self.is_something_to_watch() {
            self.idle_checks = 0;
            return Ok(());
        }
        self.idle_checks += 1;
        if self.idle_checks >= CHECKS_BEFORE_STANDBY {
            self.ingest.kernel().watch_syscalls(false)?;
            self.watching = false;
        }
        Ok(())
    }
}
