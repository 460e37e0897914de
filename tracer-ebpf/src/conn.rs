//! One tracked connection as the kernel side keeps it and user space reads it (memory-mapped).
//!
//! May import [`limits`](crate::limits), [`stack`](crate::stack) and [`wire`](crate::wire).
//! Invariants: a slot is owned by the kernel side from the pop of the free list until user space
//! pushes it back; `generation` changes at each use, so an id never names two connections; fields
//! are written by plain stores of at most eight bytes, so a reader sees old or new, never a mix.
//! Slot 0 is never used.

use crate::{
    limits::{STARTUP_BYTES, STATEMENT_BYTES},
    stack::KINDS,
    wire::Wire,
};

/// A connection id: slot in the low 32 bits, generation in the high ones. Never zero.
#[must_use]
#[inline(always)]
pub const fn conn_id(slot: u32, generation: u32) -> u64 {
    ((generation as u64) << 32) | slot as u64
}

/// The slot of an id.
#[must_use]
#[inline(always)]
pub const fn conn_slot(id: u64) -> u32 {
    id as u32
}

/// The generation of an id.
#[must_use]
#[inline(always)]
pub const fn conn_generation(id: u64) -> u32 {
    (id >> 32) as u32
}

/// Existed before the start: listed by user space, not seen at `connect`.
pub const FLAG_EXISTED: u32 = 1;
/// `connect` returned EINPROGRESS and no byte has moved yet.
pub const FLAG_CONNECTING: u32 = 2;
/// A receive returned zero: the peer closed.
pub const FLAG_EOF: u32 = 4;
/// A driver without a pool owns it (libpq), by [`ACTION_CONNECT`](crate::probe::ACTION_CONNECT).
pub const FLAG_DRIVER: u32 = 8;

/// Address family values as in the sockets API.
pub const AF_UNIX: u16 = 1;
pub const AF_INET: u16 = 2;
pub const AF_INET6: u16 = 10;

/// A connection slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Conn {
    /// Generation of the slot's present use; zero means the slot is free.
    pub generation: u32,
    /// Opener: process and thread in the initial pid namespace.
    pub tgid: u32,
    pub tid: u32,
    /// Descriptor at open.
    pub fd: i32,
    /// Time of `connect`; zero when the connection existed before the start.
    pub opened_at: u64,
    /// Inode number of the socket, as in `/proc/PID/fd` and sock_diag.
    pub inode: u64,
    /// Inode number of the network namespace.
    pub netns: u32,
    /// `FLAG_` bits.
    pub flags: u32,
    /// [`AF_INET`], [`AF_INET6`] or [`AF_UNIX`].
    pub family: u16,
    /// Peer port, host order; for a Unix socket the number in `.s.PGSQL.N`.
    pub peer_port: u16,
    /// Local port, host order; zero when not bound yet or Unix.
    pub local_port: u16,
    pub _pad: u16,
    /// Peer address; IPv4 in the first four bytes.
    pub peer_addr: [u8; 16],

    /// Pool of the catalogue (index) whose probes saw this connection, when `checkouts` is not 0.
    pub pool: u32,
    /// 1 while checked out.
    pub held: u32,
    /// Checkouts seen.
    pub checkouts: u64,
    /// Handle identity in the process's memory.
    pub handle: u64,
    /// Address of the pool in the process's memory; zero when no entry of an acquire was seen.
    pub pool_instance: u64,
    /// Time of the last acquire and release; zero when there was none.
    pub acquired_at: u64,
    pub released_at: u64,
    /// Thread of the last acquire.
    pub acquire_tid: u32,
    /// Generation of the slot's last use; never goes back, survives the freeing of the slot.
    pub epoch: u32,

    /// Stack slots by kind, packed as [`SlotRef`](crate::stack::SlotRef).
    pub stacks: [u32; KINDS],
    /// Index into [`CLASS_BYTES`](crate::stack::CLASS_BYTES) for the next stacks.
    pub stack_class: u32,
    /// For the next stacks, as [`Process::goid`](crate::config::Process::goid).
    pub goid: u32,
    /// Thread that the last stack was of, and where its own stack ends; zero when that is not known.
    pub stack_tid: u32,
    /// For the next stacks, as [`Process::runtime`](crate::config::Process::runtime).
    pub runtime: u32,
    pub stack_end: u64,
    /// Its key as a socket (see [`sock_key`](crate::fd::sock_key)); zero until a hook on sockets saw it.
    pub sock: u64,

    pub wire: Wire,

    /// Bytes of `startup` in use.
    pub startup_len: u32,
    /// Bytes of `statement` in use.
    pub statement_len: u32,
    /// The startup packet's parameters: name, NUL, value, NUL, ...
    pub startup: [u8; STARTUP_BYTES],
    /// Beginning of the last statement's text, or a prepared statement's name: see
    /// [`Wire::statement_kind`].
    pub statement: [u8; STATEMENT_BYTES],
}

/// Bytes of a connection slot.
pub const CONN_BYTES: usize = size_of::<Conn>();
const _: () = assert!(CONN_BYTES == 168 + 272 + 8 + STARTUP_BYTES + STATEMENT_BYTES);
const _: () = assert!(CONN_BYTES.is_multiple_of(8));

#[cfg(test)]
mod tests {
    use super::{conn_generation, conn_id, conn_slot};

    #[test]
    fn an_id_keeps_slot_and_generation() {
        let id = conn_id(16_383, u32::MAX);
        assert_eq!((conn_slot(id), conn_generation(id)), (16_383, u32::MAX));
    }
}
