//! Callers that wait for a connection of a pool: who has entered an acquire and not come back.
//!
//! May import nothing. Invariants: a caller is set at the entry and removed at the return, never
//! counted, because entries fire twice when a Go stack grows; the identity of a caller is its
//! goroutine (the runtime's `g`, which stays in one place), because goroutines change threads, and
//! the thread where acquires block theirs.

/// A caller in an acquire. The pool is part of it: an acquire of one kind of pool may call that of
/// another (pgxpool below `database/sql`), and both are under way then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct CallerKey {
    pub tgid: u32,
    /// Pool of the catalogue, by index.
    pub pool: u32,
    /// Address of the goroutine's `g`, or the thread's id.
    pub caller: u64,
}

/// Of a caller in an acquire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Caller {
    pub entered_at: u64,
    /// Address of the pool in the process's memory.
    pub instance: u64,
}

/// A pool of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct WaitsKey {
    pub tgid: u32,
    /// Pool of the catalogue, by index.
    pub pool: u32,
    /// Address of the pool in the process's memory.
    pub instance: u64,
}

/// Waits for a connection of a pool that are over, those shorter than
/// [`MIN_WAIT`](crate::limits::MIN_WAIT) left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Waits {
    /// Ended with a connection.
    pub served: u64,
    /// Ended without.
    pub failed: u64,
    /// Time of all of them, and the longest, in nanoseconds.
    pub nanos: u64,
    pub longest: u64,
}

const _: () = assert!(size_of::<CallerKey>() == 16 && size_of::<Caller>() == 16);
const _: () = assert!(size_of::<WaitsKey>() == 16 && size_of::<Waits>() == 32);
