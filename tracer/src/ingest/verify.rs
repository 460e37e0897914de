//! Checking against `/proc` which descriptors refer to a connection.
//!
//! May import what `ingest` may. Heals what a lost record left behind, and what the hooks on sockets do not
//! see: that one of several descriptors was closed, or that there is another one. Invariant: a connection
//! whose socket somebody still has is not ended here.

use std::collections::HashSet;

use super::{Ingest, fd_key};
use crate::{
    host::proc::ProcFs,
    model::{ConnId, Event, Fd, MonoNanos, Pid},
};

impl Ingest {
    /// Checks that the descriptors of these connections still refer to them, and emits what was missed.
    pub fn verify(
        &mut self,
        conns: &[ConnId],
        proc: &ProcFs,
        at: MonoNanos,
        events: &mut Vec<Event>,
    ) {
        let mut gone: Vec<(u64, u64, u32, i32)> = Vec::new();
        for ConnId(id) in conns {
            let Some(inode) = self.live.get(id).map(|live| live.inode) else { continue };
            for (pid, fd) in self.fds.holders(*id) {
                if !proc.fd_is_socket(Pid(pid), Fd(fd), inode) {
                    gone.push((*id, inode, pid, fd));
                }
            }
        }
        if gone.is_empty() {
            return;
        }
        // Duplicated, inherited or handed on: whoever has them now, before the last one is taken away.
        let inodes: HashSet<u64> = gone.iter().map(|(_, inode, ..)| *inode).collect();
        for holder in proc.holders(&inodes, None) {
            for (id, ..) in gone.iter().filter(|(_, inode, ..)| *inode == holder.inode).take(1) {
                self.duplicate(holder.pid.0, holder.fd.0, *id, at, events);
            }
        }
        for (id, _, pid, fd) in gone {
            self.kernel.remove_fd(fd_key(pid, fd), id);
            self.close(pid, fd, at, events);
        }
    }

    /// The same of all connections.
    pub fn verify_all(&mut self, proc: &ProcFs, at: MonoNanos, events: &mut Vec<Event>) {
        let all: Vec<ConnId> = self.live.keys().map(|id| ConnId(*id)).collect();
        self.verify(&all, proc, at, events);
    }

    /// The connection has this descriptor, which was not seen to become one.
    fn duplicate(&mut self, pid: u32, fd: i32, id: u64, at: MonoNanos, events: &mut Vec<Event>) {
        if self.fds.get(pid, fd) == Some(id) {
            return;
        }
        self.kernel.set_fd(fd_key(pid, fd), id);
        if let Some(removed) = self.fds.insert(pid, fd, id) {
            self.closed(removed, at, events);
        }
        events.push(Event::Duplicate { at, conn: ConnId(id), pid: Pid(pid), fd: Fd(fd) });
    }
}
