//! Pool probes as data: what a probe program does with the registers and memory at its point.
//!
//! May import [`limits`](crate::limits). The catalogue in user space is written in these terms;
//! the kernel side interprets them. Probe program `n` reads entry `n` of the `PROBES` array map:
//! the index is fixed at compile time, so kernels without attach cookies (before 5.15) work.
//! Invariant: a handle is held or not (idempotent set and clear by identity), never counted.

/// A pool handed a handle out; attached at every RET of the acquire function.
pub const ACTION_ACQUIRE: u8 = 1;
/// A handle goes back to its pool; attached at the entry of the release function.
pub const ACTION_RELEASE: u8 = 2;
/// The handle is gone (closed, or taken out of the pool); attached at entry.
pub const ACTION_FORGET: u8 = 3;
/// A driver without a pool made a connection (libpq): joins handle and socket, is no checkout.
pub const ACTION_CONNECT: u8 = 4;
/// A caller asks a pool for a connection; attached at the entry of the acquire function. The handle
/// is the pool itself, or leads to it.
pub const ACTION_ENTER: u8 = 5;
/// Unused entry of the probe array.
pub const ACTION_NONE: u8 = 0;

/// Chains tried, in order, from a handle to the socket's fd.
pub const MAX_CHAINS: usize = 8;
/// Pointer steps of a chain, the fd's own offset included.
pub const MAX_CHAIN_STEPS: usize = 8;

/// Registers by number, as the catalogue names them.
pub const REG_RAX: u8 = 0;
pub const REG_RBX: u8 = 1;
pub const REG_RCX: u8 = 2;
pub const REG_RDX: u8 = 3;
pub const REG_RDI: u8 = 4;
pub const REG_RSI: u8 = 5;

/// What one probe does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ProbeSpec {
    /// One of the `ACTION_` constants.
    pub action: u8,
    /// Register that holds the handle; nothing happens when it is zero.
    pub register: u8,
    /// Number of loads from the handle to the identity (0 or 1): the identity is then
    /// `*(handle + deref_offset)`, and nothing happens when that is zero.
    pub derefs: u8,
    /// Chains in use.
    pub chain_count: u8,
    pub deref_offset: i32,
    /// Pool of the catalogue this probe belongs to; shown in reports through the connection.
    pub pool: u32,
    /// Not zero: the object at the identity holds, within so many bytes, the process id and key of
    /// the server's backend, and the connection is found by them instead of `chains`. Without a
    /// handle of its own, so for objects that move.
    pub key_within: u32,
    /// With `has_unless`: nothing happens when the word at this offset has that value.
    pub unless: u64,
    pub unless_offset: u32,
    pub has_unless: u16,
    /// Not zero: who enters an acquire and returns from it is the same thread; else the same
    /// goroutine, which is not looked for where connections are found by their key.
    pub by_thread: u16,
    /// From the identity to the fd.
    pub chains: [Chain; MAX_CHAINS],
}

/// A documented path through user memory: load a pointer at each offset; the last offset is where
/// the fd (`i32`) is. A chain counts only when the fd it ends at is a tracked one of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Chain {
    /// Offsets in use.
    pub len: u32,
    pub offsets: [i32; MAX_CHAIN_STEPS],
}

const _: () = assert!(size_of::<Chain>() == 36);
const _: () = assert!(size_of::<ProbeSpec>() == 32 + MAX_CHAINS * 36);
