//! The PostgreSQL wire as far as it tells who must speak next and in which transaction state.
//!
//! This module holds the state and what it is read through; [`walk`] follows the bytes, and
//! [`mysql`] those of a server that is none of PostgreSQL's. May import nothing of this crate but the kinds of
//! stacks. Pure: bytes come through the [`Memory`] trait, so the same walk runs in the kernel over user memory and in host tests over slices. Total: any bytes in, a state out;
//! what cannot be followed is marked (`synced` = 0), never guessed silently.
//!
//! Who speaks next is `syncs - readies`: each Query, Sync and FunctionCall, and the startup packet,
//! is answered by exactly one ReadyForQuery (PostgreSQL 18 documentation, "Frontend/Backend
//! Protocol", sections 54.2 and 54.7). Both are counters, so it does not matter in which order two
//! threads of a client report a send and the receive that answers it.
//!
//! A receive is walked for a few headers, then its tail is looked at instead: ReadyForQuery is the
//! last message before the server waits, so a receive that ends with one is back in step. That is
//! what keeps a result of a thousand rows as cheap as one row. A send is walked likewise; its tail
//! is a Sync.
//!
//! # Exact, and where it is not
//!
//! While [`MARK_RESYNCED`] is not set, the counters are exact. It is set when a send or the replies
//! to several could not be followed to their end, or when a connection is met in mid-life. From
//! then on a ReadyForQuery that ends a receive means that the server owes nothing, and the counters
//! never go below level. For a client that waits for each answer that is exact too, with these
//! exceptions, each of which the next ReadyForQuery at the end of a receive corrects:
//!
//! - a pipelining client may look idle while later requests of its pipeline are still answered;
//! - a receive reported before the send it answers leaves the connection looking active;
//! - a payload that looks like a header where a lost send is picked up again, or like a Sync or a
//!   ReadyForQuery where a lost send or receive ends, is taken for one.
//!
//! Marked or not, a ReadyForQuery is missed when other messages follow it in a receive that is too
//! long to walk, or when such a receive is spread over several buffers: active until the next one.
//! An end of the startup that is reported before the startup packet was is not seen at all.
//!
//! The statement is that of the last Query, Parse or Bind of a send, and is unknown when its text
//! does not begin in the buffer that its header ends in, or stands behind a name of 62 bytes and
//! more. Marks of statements come from the last Query or Parse of a send only: not from others
//! before it in a pipeline, nor from running a prepared statement again.

pub mod mysql;
pub mod walk;

use crate::stack::{KIND_USE, KIND_USE_OTHER};

pub use walk::{
    begin_receive, begin_send, end_receive, end_send, on_receive, on_send, pass_received,
    pass_sent, walk_receive, walk_send,
};

/// Nothing seen yet: the next send is a startup packet or one of the requests before it.
pub const PHASE_NEW: u32 = 0;
/// SSLRequest or GSSENCRequest sent: the server answers with one byte.
pub const PHASE_ASKED: u32 = 1;
/// Startup packet sent, no ReadyForQuery yet.
pub const PHASE_STARTING: u32 = 2;
/// In session.
pub const PHASE_READY: u32 = 3;
/// TLS or GSS: direction and time only.
pub const PHASE_ENCRYPTED: u32 = 4;
/// A CancelRequest: not a session.
pub const PHASE_CANCEL: u32 = 5;
/// Existed before the start and not yet understood.
pub const PHASE_UNKNOWN: u32 = 6;
/// Not the PostgreSQL protocol.
pub const PHASE_FOREIGN: u32 = 7;
/// MySQL: greeted by the server, no command yet.
pub const PHASE_GREETED: u32 = 8;
/// MySQL: commands are counted, the rest is direction and time.
pub const PHASE_MYSQL: u32 = 9;

/// A COPY is running.
pub const MARK_COPY: u32 = 0x100;
/// The client said Terminate.
pub const MARK_TERMINATED: u32 = 0x200;
/// A replication stream (CopyBoth).
pub const MARK_COPY_BOTH: u32 = 0x400;
/// Messages that the counters count may have been passed over: see "Exact, and where it is not".
pub const MARK_RESYNCED: u32 = 0x800;
/// The last statement came as a simple Query.
pub const MARK_SIMPLE: u32 = 0x1000;
/// The text last looked at was a Query's, not a Parse's.
pub const MARK_TEXT_SIMPLE: u32 = 0x2000;

/// No statement seen.
pub const STATEMENT_NONE: u32 = 0;
/// The text is SQL.
pub const STATEMENT_SQL: u32 = 1;
/// The text is the name of a statement prepared before it was seen.
pub const STATEMENT_NAME: u32 = 2;

/// Protocol codes of the first packet (PostgreSQL `src/include/libpq/pqcomm.h`).
pub const CODE_CANCEL: u32 = 80_877_102;
pub const CODE_SSL: u32 = 80_877_103;
pub const CODE_GSSENC: u32 = 80_877_104;
/// Major protocol version 3.
pub const MAJOR_VERSION: u32 = 3;

/// Longest startup packet (PostgreSQL `MAX_STARTUP_PACKET_LENGTH`).
pub const MAX_STARTUP: u32 = 10_000;

/// Longest message believed; longer means out of step. PostgreSQL limits messages to 1 GiB.
pub const MAX_MESSAGE: u32 = 1 << 30;

/// One direction's position in its message stream.
///
/// Position and cursor are kept in the connection, not in locals of the walk: the verifier follows
/// every known value of a local through every round of a loop, and what it loads from a map is
/// just unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Stream {
    /// Header bytes collected so far, newest in the low byte; while out of step, the last bytes.
    pub head: u64,
    /// Payload bytes of the current message still to come.
    pub skip: u32,
    /// Number of header bytes collected.
    pub have: u16,
    /// 1 while the stream is followed message by message.
    pub synced: u16,
    /// The bytes of the call being followed.
    pub segments: Segments,
}

impl Stream {
    /// In step at a message boundary, or out of step.
    #[inline(always)]
    fn restart(&mut self, synced: bool) {
        self.head = 0;
        self.skip = 0;
        self.have = 0;
        self.synced = synced as u16;
    }

    /// In step, at a message boundary.
    #[inline(always)]
    fn is_between(&self) -> bool {
        self.synced != 0 && self.skip == 0 && self.have == 0
    }

    /// Ends a walk; false when not everything was followed. What the walk left may be payload.
    #[inline(always)]
    fn finish(&mut self) -> bool {
        let left = self.segments.left;
        if self.synced == 0 || self.segments.rest != 0 || left > self.skip as u64 {
            return false;
        }
        self.skip -= left as u32;
        true
    }
}

/// Wire state of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Wire {
    /// `CLOCK_MONOTONIC` nanoseconds of the last send and receive; zero when there was none.
    pub last_send: u64,
    pub last_recv: u64,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    /// Time of the first send after the server was done.
    pub use_at: u64,
    /// Time of the last use that began outside of a transaction: while one is open, it began that.
    pub begun_at: u64,
    /// One of the `PHASE_` constants.
    pub phase: u32,
    /// Messages sent that ReadyForQuery answers, and ReadyForQuery messages received.
    pub syncs: u32,
    pub readies: u32,
    /// Status byte of the last ReadyForQuery: `I`, `T`, `E`, or zero.
    pub status: u8,
    /// Type byte of the last message of each direction.
    pub last_frontend: u8,
    pub last_backend: u8,
    pub _pad: u8,
    /// Statements run: Query and Execute messages.
    pub statements: u32,
    /// First sends after the server was done.
    pub uses: u32,
    /// `MARK_` bits, from here and from [`statement`](crate::statement).
    pub marks: u32,
    /// One of the `STATEMENT_` constants.
    pub statement_kind: u32,
    /// Process id of the server's backend; zero when not seen.
    pub backend_pid: u32,
    /// Length of the name being looked at.
    pub name_len: u32,
    /// Number of the use of `begun_at`; zero when it was not seen.
    pub begun_use: u32,
    /// 0 or 1, the kind of the last use's stack: see [`Wire::use_kind`].
    pub use_turn: u32,
    /// Key of the name being looked at.
    pub name_key: u64,
    /// Payload of the last Query or Parse of the send being followed, and its bytes there.
    pub text_at: u64,
    pub text_left: u64,
    /// Payload of the last Bind of the send being followed, and its bytes there.
    pub bind_at: u64,
    pub bind_left: u64,
    /// Identifies the name under which the kept statement was prepared; zero for the unnamed one.
    pub statement_key: u64,
    pub send: Stream,
    pub recv: Stream,
}

const _: () = assert!(size_of::<Stream>() == 64);
const _: () = assert!(size_of::<Wire>() == 272);

impl Wire {
    /// Messages the server still owes a ReadyForQuery for; negative for a moment when a receive
    /// was reported before the send it answers.
    #[must_use]
    #[inline(always)]
    pub const fn pending(&self) -> i32 {
        self.syncs.wrapping_sub(self.readies) as i32
    }

    /// Whether the server was done before a send at this moment: the send is then a new use. A
    /// client that sends data of a COPY continues one.
    #[must_use]
    #[inline(always)]
    pub const fn settled(&self) -> bool {
        match self.phase {
            PHASE_READY => self.pending() <= 0 && self.marks & MARK_COPY == 0,
            PHASE_ENCRYPTED | PHASE_UNKNOWN | PHASE_GREETED | PHASE_MYSQL => {
                self.last_recv >= self.last_send
            }
            _ => false,
        }
    }

    /// A use begins. The stack of the use that began a transaction is kept while others follow in
    /// it, so these have the other kind.
    #[inline(always)]
    pub fn begin_use(&mut self, at: u64) {
        let before = self.uses;
        self.uses = before.wrapping_add(1);
        self.use_at = at;
        match self.status {
            b'I' => {
                self.begun_at = at;
                self.begun_use = self.uses;
            }
            b'T' | b'E' => {
                if before != 0 && self.begun_use == before {
                    self.use_turn ^= 1;
                }
            }
            _ => self.begun_use = 0,
        }
    }

    /// The kind of the stack of the last use.
    #[must_use]
    #[inline(always)]
    pub const fn use_kind(&self) -> usize {
        if self.use_turn & 1 == 0 { KIND_USE } else { KIND_USE_OTHER }
    }

    /// The use that began the transaction which the server says is open: its number, its time and
    /// the kind of its stack. `None` when there is no transaction, or its beginning was not seen.
    #[must_use]
    pub const fn begun(&self) -> Option<(u32, u64, usize)> {
        if !matches!(self.status, b'T' | b'E') || self.begun_use == 0 {
            return None;
        }
        let used = self.use_kind();
        let kind =
            if self.begun_use == self.uses { used } else { KIND_USE + KIND_USE_OTHER - used };
        Some((self.begun_use, self.begun_at, kind))
    }

    /// Whether there is nothing to read in a send, or in a receive.
    #[must_use]
    #[inline(always)]
    pub const fn is_dark(&self, send: bool) -> bool {
        self.phase == PHASE_ENCRYPTED
            || (!send && (self.phase == PHASE_MYSQL || self.phase == PHASE_GREETED))
    }
}

/// Memory of the traced process, and the places of the connection that text is kept in.
pub trait Memory {
    /// Exactly `N` bytes, or `None`.
    fn read<const N: usize>(&mut self, address: u64) -> Option<[u8; N]>;
    /// Bytes at hand from the beginning of the call's only buffer; zero where there are several.
    fn window(&self) -> u64;
    /// `N` bytes from `at` bytes into the buffer. Meaningless when they are not all at hand.
    fn near<const N: usize>(&self, at: u64) -> [u8; N];
    /// Reads the NUL-terminated name of at most `max` bytes: its [`name_key`] goes to
    /// [`Wire::name_key`], its length with the NUL (zero when it cannot be read) to
    /// [`Wire::name_len`]. Through the connection, because the verifier follows every value that
    /// a function can return.
    fn name(&mut self, wire: &mut Wire, address: u64, max: u32);
    /// Keeps the NUL-terminated text of at most `max` bytes as the connection's statement and
    /// returns the marks that [`classify`](crate::statement::classify) tells.
    fn keep_statement(&mut self, address: u64, max: u32) -> u32;
    /// The server named its backend's process id and the key that cancels its queries.
    fn keep_key(&mut self, pid: u32, key: u32);
    /// Keeps at most `max` bytes as the connection's startup parameters.
    fn keep_startup(&mut self, address: u64, max: u32);
}

/// Bytes of a prepared statement's name that tell it from others (PostgreSQL's `NAMEDATALEN`).
pub const NAME_BYTES: usize = 64;

/// The bytes of one send or receive: one buffer, or an array of `iovec`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Segments {
    /// Present position, and the bytes from there to the end of the present segment.
    at: u64,
    left: u64,
    /// Bytes of the present segment before `at`.
    behind: u64,
    /// Next `iovec` and how many there are.
    iov: u64,
    iov_left: u64,
    /// Bytes of the call not yet in `left`.
    rest: u64,
}

impl Segments {
    /// One buffer.
    #[must_use]
    #[inline(always)]
    pub const fn buffer(at: u64, len: u64) -> Self {
        Self { at, left: len, behind: 0, iov: 0, iov_left: 0, rest: 0 }
    }

    /// An array of `count` `iovec` that holds `len` bytes.
    #[must_use]
    #[inline(always)]
    pub const fn vector(iov: u64, count: u64, len: u64) -> Self {
        Self { at: 0, left: 0, behind: 0, iov, iov_left: count, rest: len }
    }

    /// Loads the next segment; false at the end, or when memory cannot be read.
    #[inline(always)]
    fn next<M: Memory>(&mut self, memory: &mut M) -> bool {
        if self.rest == 0 || self.iov_left == 0 {
            return false;
        }
        // One after the other: verifiers before 5.11 forget that a checked result was not zero.
        let Some(base) = memory.read::<8>(self.iov) else {
            return false;
        };
        let Some(len) = memory.read::<8>(self.iov + 8) else {
            return false;
        };
        let len = u64::from_ne_bytes(len);
        let len = if len < self.rest { len } else { self.rest };
        self.iov = self.iov.wrapping_add(16);
        self.iov_left -= 1;
        self.rest -= len;
        self.at = u64::from_ne_bytes(base);
        self.left = len;
        self.behind = 0;
        true
    }

    #[inline(always)]
    fn advance(&mut self, n: u64) {
        // The array may name any address; only reading it fails.
        self.at = self.at.wrapping_add(n);
        self.left -= n;
        self.behind += n;
    }
}

/// Looks at a name `at` bytes into the buffer, like [`Memory::name`]; false when it is not all at
/// hand.
#[inline(always)]
pub fn near_name<M: Memory>(memory: &M, wire: &mut Wire, at: u64) -> bool {
    let room = memory.window() - at;
    // Most names end within the first word.
    match before_nul(u64::from_le_bytes(memory.near(at))) {
        Some((len, word)) => near_end(wire, room, 0, len, word),
        None => near_long_name(memory, wire, at),
    }
}

/// One that does not. A function of its own, so that the verifier goes on from one state behind it.
#[inline(never)]
fn near_long_name<M: Memory>(memory: &M, wire: &mut Wire, at: u64) -> bool {
    let room = memory.window() - at;
    let mut key = 0;
    for i in 0..NAME_BYTES / NAME_WORD {
        let before = (i * NAME_WORD) as u64;
        let word = u64::from_le_bytes(memory.near(at + before));
        match before_nul(word) {
            Some((len, word)) => return near_end(wire, room, key, before + len, word),
            None => key = mix_name(key, word),
        }
    }
    false
}

/// The last bytes of a name of `len` bytes, `word`, behind those that are mixed into `key`.
#[inline(always)]
fn near_end(wire: &mut Wire, room: u64, key: u64, len: u64, word: u64) -> bool {
    // What stands behind the window is of another call.
    if len >= room || len + 2 > NAME_BYTES as u64 {
        return false;
    }
    wire.name_key = if len == 0 { 0 } else { mix_name(key, word) | 1 };
    wire.name_len = len as u32 + 1;
    true
}

/// Bytes of a name that are mixed into its key at once.
const NAME_WORD: usize = 8;

/// Mixes the next bytes of a name into its key.
#[must_use]
#[inline(always)]
const fn mix_name(key: u64, word: u64) -> u64 {
    let key = (key ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    key ^ (key >> 29)
}

/// A NUL in eight bytes: how many bytes stand before it, and those alone.
#[must_use]
#[inline(always)]
const fn before_nul(word: u64) -> Option<(u64, u64)> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let nuls = word.wrapping_sub(ONES) & !word & (ONES << 7);
    if nuls == 0 {
        return None;
    }
    // The lowest one is never wrong; only it is used.
    let first = nuls & nuls.wrapping_neg();
    let len = (first >> 7).wrapping_mul(0x0001_0203_0405_0607) >> 56;
    Some((len, word & (first - 1)))
}

/// A number that tells a NUL-padded name from others; zero for the empty name only.
#[must_use]
#[inline(always)]
pub fn name_key(name: &[u8; NAME_BYTES]) -> u64 {
    if name[0] == 0 {
        return 0;
    }
    let mut key = 0u64;
    let mut i = 0;
    while i < NAME_BYTES {
        let mut word = [0; NAME_WORD];
        word.copy_from_slice(&name[i..i + NAME_WORD]);
        let word = u64::from_le_bytes(word);
        if let Some((_, word)) = before_nul(word) {
            return mix_name(key, word) | 1;
        }
        key = mix_name(key, word);
        i += NAME_WORD;
    }
    key | 1
}
