//! Every bound of the kernel side, in one place, with what happens when it is reached.
//!
//! May import nothing.

/// Live connections tracked at once. When full, the open is counted as
/// [`NoConnectionSlot`](crate::drops::DropReason::NoConnectionSlot) and the connection is not seen.
pub const MAX_CONNECTIONS: u32 = 16_384;

/// Opens after which user space is woken, so that it keeps up with a burst of them. Counted by
/// slots; a power of two.
pub const OPENS_PER_WAKE: u32 = 512;
const _: () = assert!(OPENS_PER_WAKE.is_power_of_two());

/// Descriptors (process, fd) that refer to tracked connections, and with them the sockets of those that the
/// hooks on sockets follow. When full, the insert is counted
/// as [`DescriptorMapFull`](crate::drops::DropReason::DescriptorMapFull).
pub const MAX_DESCRIPTORS: u32 = 32_768;

/// Places for descriptors that are found without a look into their map; a power of two. What another one
/// has taken the place of is looked for in the map.
pub const NEAR_FDS: u32 = 1 << 16;
const _: () = assert!(NEAR_FDS.is_power_of_two() && NEAR_FDS >= 2 * MAX_DESCRIPTORS);

/// Pool handles (process, pointer) joined to a connection. When full, the acquire is counted as
/// [`CheckoutMapFull`](crate::drops::DropReason::CheckoutMapFull).
pub const MAX_CHECKOUTS: u32 = 16_384;

/// Callers that are in a pool's acquire at the same time. When full, the caller is counted as
/// [`CallerMapFull`](crate::drops::DropReason::CallerMapFull) and its wait is not seen.
pub const MAX_CALLERS: u32 = 16_384;

/// Pools of processes with waits that are over. When full, a wait is counted as
/// [`WaitsMapFull`](crate::drops::DropReason::WaitsMapFull).
pub const MAX_WAITED_POOLS: u32 = 1_024;

/// An acquire that takes less, in nanoseconds, is no wait.
pub const MIN_WAIT: u64 = 1_000_000;

/// Keys of server backends that are remembered, two for each connection. When full, the least
/// recently used is forgotten.
pub const MAX_KEYS: u32 = 2 * MAX_CONNECTIONS;

/// Bytes of a pool's object that are searched for the connection's key.
pub const MAX_KEY_SEARCH: u32 = 512;

/// Processes with a per-process setting (watched, stack class). When full, the process is counted
/// as [`ProcessMapFull`](crate::drops::DropReason::ProcessMapFull).
pub const MAX_PROCESSES: u32 = 8_192;

/// Process ids there can be (Linux `include/linux/threads.h`, `PID_MAX_LIMIT`), and of how many one
/// element of the map of holders tells.
pub const PIDS: u32 = 1 << 22;
pub const PIDS_TOGETHER: u32 = 1 << 12;

/// Python processes whose interpreter is known. When full, stacks of further ones have no Python
/// frames, and say so.
pub const MAX_PYTHONS: u32 = 1_024;

/// Watched TCP ports. More are refused on the command line.
pub const MAX_PORTS: usize = 16;

/// Probe programs in the object: one per probe of the catalogue. A catalogue with more is refused
/// at load.
pub const MAX_PROBES: usize = 24;

/// Bytes of the ring buffer for rare events. When full, the record is counted as
/// [`RingFull`](crate::drops::DropReason::RingFull).
pub const RING_BYTES: u32 = 1 << 20;

/// Bytes of a statement kept per connection; the rest is cut.
pub const STATEMENT_BYTES: usize = 128;

/// Bytes of the startup packet kept per connection; parameters beyond are unknown.
pub const STARTUP_BYTES: usize = 256;

/// Message headers walked in one send, or in one receive while the connection starts or pipelines.
pub const WALK_STEPS: u32 = 16;

/// Message headers walked in an ordinary receive; a longer one is followed by its tail.
pub const WALK_STEPS_RECEIVE: u32 = 8;

/// Of these, walked by one run of a program, which then goes on in itself: the verifier follows each
/// step through all of its paths, and this many instead of all.
pub const STEPS_AT_ONCE: u32 = 4;
const _: () = assert!(
    WALK_STEPS.is_multiple_of(STEPS_AT_ONCE) && WALK_STEPS_RECEIVE.is_multiple_of(STEPS_AT_ONCE)
);

/// Messages passed before that, where their headers are at hand.
pub const PASS_STEPS: u32 = 8;

/// Pending uretprobes whose return addresses are saved with a stack copy.
pub const MAX_FIXUPS: usize = 8;
