//! Marks: what a process says of its own checkouts, by an opt-in file that it loads.
//!
//! May import nothing. A mark is a read of no bytes from a connection's socket, into a buffer that
//! begins with [`MAGIC`]: the kernel returns zero without looking at the socket, so nothing is sent,
//! taken or changed, and no program makes such a call by accident. Behind the magic are one byte, which
//! says what happened, and text up to a NUL. The other ends are `preload/connleak-node.js` and
//! `preload/connleak_python/sitecustomize.py`.

/// What a mark begins with.
pub const MAGIC: [u8; 16] = *b"connleak.mark/1 ";

/// The byte behind the magic, from this one on: a pool, which is told by the byte, gave the connection
/// out, and the text names the frames of who took it, innermost first; each is
/// `function TAB file TAB line TAB column LF`.
pub const TAKEN: u8 = b'a';
/// Pools that have such a byte; a power of two.
pub const POOLS: usize = 8;
const _: () = assert!(POOLS.is_power_of_two());
/// The same: it was given back.
pub const RETURNED: u8 = b'-';

/// Where the text begins.
pub const TEXT_AT: u64 = MAGIC.len() as u64 + 1;

/// Bytes of text that are kept, the NUL included; a power of two.
pub const TEXT_BYTES: u32 = 1024;
const _: () = assert!(TEXT_BYTES.is_power_of_two());

/// In [`Config::marked_pools`](crate::config::Config::marked_pools) where there is none.
pub const NO_POOL: u32 = u32::MAX;
