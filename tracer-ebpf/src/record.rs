//! Ring-buffer records: rare events only (open, close, fork, exec, exit).
//!
//! May import nothing. Invariant: one fixed layout for all kinds, so decoding is a length check
//! and a match on `kind`; an unknown kind is counted by the reader, never an error.

/// A tracked connection was opened; `id` names its slot, `a` is the fd.
pub const OPEN: u32 = 1;
/// A descriptor was closed; `a` is the fd, `id` the connection it referred to.
pub const CLOSE: u32 = 2;
/// A descriptor was duplicated; `a` is the old fd, `b` the new one, `id` the connection.
pub const DUP: u32 = 3;
/// `close_range`: `a` is the first fd, `b` the last, `id` the flags.
pub const CLOSE_RANGE: u32 = 4;
/// A process forked; `tgid` is the parent, `a` the child.
pub const FORK: u32 = 5;
/// A process replaced its image.
pub const EXEC: u32 = 6;
/// The last thread of a process ended.
pub const EXIT: u32 = 7;
/// A process began a TCP connection to a watched port that what is attached does not follow: system calls
/// would have to be watched.
pub const CONNECT: u32 = 8;
/// The socket of a connection is gone, and with it every descriptor that referred to it; `a` is the fd it
/// was opened as, `id` the connection.
pub const GONE: u32 = 9;

/// One record. Unused fields are zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Record {
    /// One of the constants of this module.
    pub kind: u32,
    /// Process (thread group) in the initial pid namespace.
    pub tgid: u32,
    /// `CLOCK_MONOTONIC` nanoseconds.
    pub at: u64,
    pub a: u64,
    pub b: u64,
    pub id: u64,
}

/// Bytes of a record.
pub const RECORD_BYTES: usize = 40;
const _: () = assert!(size_of::<Record>() == RECORD_BYTES);
