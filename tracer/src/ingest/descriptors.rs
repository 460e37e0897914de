//! Which descriptor of which process refers to which connection: user space's copy of the kernel
//! side's descriptor map, which it needs where only it can act (fork, exec, exit, close_range).
//!
//! Pure: imports `std` only. Invariant: a connection whose last descriptor is removed is reported
//! exactly once, by that removal.

use std::collections::{BTreeMap, HashMap};

/// The descriptors of all traced processes.
#[derive(Debug, Default)]
pub struct Descriptors {
    by_fd: BTreeMap<(u32, i32), u64>,
    holders: HashMap<u64, u32>,
}

/// A descriptor that was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removed {
    pub pid: u32,
    pub fd: i32,
    pub conn: u64,
    /// It was the connection's last.
    pub last: bool,
}

impl Descriptors {
    /// Makes a descriptor refer to a connection; returns what it referred to before.
    pub fn insert(&mut self, pid: u32, fd: i32, conn: u64) -> Option<Removed> {
        if self.by_fd.get(&(pid, fd)) == Some(&conn) {
            return None;
        }
        let removed = self.remove(pid, fd);
        self.by_fd.insert((pid, fd), conn);
        *self.holders.entry(conn).or_default() += 1;
        removed
    }

    /// Removes a descriptor.
    pub fn remove(&mut self, pid: u32, fd: i32) -> Option<Removed> {
        let conn = self.by_fd.remove(&(pid, fd))?;
        let holders = self.holders.entry(conn).or_default();
        *holders = holders.saturating_sub(1);
        let last = *holders == 0;
        if last {
            self.holders.remove(&conn);
        }
        Some(Removed { pid, fd, conn, last })
    }

    /// The descriptors of a process with `first <= fd <= last`.
    #[must_use]
    pub fn of(&self, pid: u32, first: i32, last: i32) -> Vec<(i32, u64)> {
        if first > last {
            return Vec::new();
        }
        self.by_fd.range((pid, first)..=(pid, last)).map(|((_, fd), conn)| (*fd, *conn)).collect()
    }

    /// The connection a descriptor refers to.
    #[must_use]
    pub fn get(&self, pid: u32, fd: i32) -> Option<u64> {
        self.by_fd.get(&(pid, fd)).copied()
    }

    /// The descriptors that refer to the connection.
    #[must_use]
    pub fn holders(&self, conn: u64) -> Vec<(u32, i32)> {
        let Some(count) = self.holders.get(&conn) else { return Vec::new() };
        let all = self.by_fd.iter().filter(|(_, id)| **id == conn);
        all.map(|(key, _)| *key).take(*count as usize).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_ends_with_its_last_descriptor() {
        let mut fds = Descriptors::default();
        assert_eq!(fds.insert(1, 3, 7), None);
        assert_eq!(fds.insert(1, 4, 7), None);
        assert_eq!(fds.insert(2, 3, 7), None);
        assert!(fds.remove(1, 3).is_some_and(|removed| !removed.last));
        assert!(fds.remove(2, 3).is_some_and(|removed| !removed.last));
        assert_eq!(fds.holders(7), vec![(1, 4)]);
        assert_eq!(fds.remove(1, 4), Some(Removed { pid: 1, fd: 4, conn: 7, last: true }));
        assert_eq!(fds.remove(1, 4), None);
        assert_eq!(fds.holders(7), vec![]);
    }

    #[test]
    fn a_reused_number_ends_what_it_referred_to() {
        let mut fds = Descriptors::default();
        fds.insert(1, 3, 7);
        assert!(fds.insert(1, 3, 8).is_some_and(|removed| removed.conn == 7 && removed.last));
        assert_eq!(fds.insert(1, 3, 8), None);
        assert_eq!(fds.get(1, 3), Some(8));
    }

    #[test]
    fn a_range_is_of_one_process() {
        let mut fds = Descriptors::default();
        for (pid, fd) in [(1, 3), (1, 9), (2, 4)] {
            fds.insert(pid, fd, u64::from(pid) * 100 + fd.unsigned_abs() as u64);
        }
        assert_eq!(fds.of(1, 0, i32::MAX), vec![(3, 103), (9, 109)]);
        assert_eq!(fds.of(1, 4, 8), vec![]);
        assert_eq!(fds.of(1, 8, 4), vec![]);
    }
}
