//! The PostgreSQL wire as far as it tells who must speak next and in which transaction state.
//!
//! May import [`limits`](crate::limits) and [`statement`](crate::statement). Pure: bytes come
//! through the [`Memory`] trait, so the same walk runs in the kernel over user memory and in host
//! tests over slices. Total: any bytes in, a state out; what cannot be followed is marked
//! (`synced` = 0), never guessed silently.
//!
//! Who speaks next is `syncs - readies`: each Query, Sync and FunctionCall, and the startup packet,
//! is answered by exactly one ReadyForQuery (PostgreSQL 18 documentation, "Frontend/Backend
//! Protocol", sections 54.2 and 54.7). Both are counters, so it does not matter in which order two
//! threads of a client report a send and the receive that answers it.
//!
//! A receive is walked for a few headers, then its tail is looked at instead: ReadyForQuery is the
//! last message before the server waits, so a receive that ends with one is back in step. That is
//! what keeps a result of a thousand rows as cheap as one row.

use crate::{
    limits::{STATEMENT_BYTES, WALK_STEPS, WALK_STEPS_RECEIVE},
    statement::{
        CLEAR_ADVISORY_LOCK, CLEAR_LISTEN, MARK_ADVISORY_LOCK, MARK_LISTEN, PREFIX_BYTES, classify,
    },
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

/// A COPY is running.
pub const MARK_COPY: u32 = 0x100;
/// The client said Terminate.
pub const MARK_TERMINATED: u32 = 0x200;
/// A replication stream (CopyBoth).
pub const MARK_COPY_BOTH: u32 = 0x400;
/// The two counters were repaired from a tail: exact only up to pipelining.
pub const MARK_RESYNCED: u32 = 0x800;

/// The last statement came as a simple Query.
pub const MARK_SIMPLE: u32 = 0x1000;

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
    pub _pad2: u32,
    /// Identifies the name under which the kept statement was prepared; zero for the unnamed one.
    pub statement_key: u64,
    pub send: Stream,
    pub recv: Stream,
}

const _: () = assert!(size_of::<Stream>() == 16);
const _: () = assert!(size_of::<Wire>() == 120);

impl Wire {
    /// Messages the server still owes a ReadyForQuery for; negative for a moment when a receive
    /// was reported before the send it answers.
    #[must_use]
    #[inline(always)]
    pub const fn pending(&self) -> i32 {
        self.syncs.wrapping_sub(self.readies) as i32
    }

    /// Whether the server was done before a send at this moment: the send is then a new use.
    #[must_use]
    #[inline(always)]
    pub const fn settled(&self) -> bool {
        match self.phase {
            PHASE_READY => self.pending() <= 0,
            PHASE_ENCRYPTED | PHASE_UNKNOWN => self.last_recv >= self.last_send,
            _ => false,
        }
    }
}

/// Memory of the traced process, and the places of the connection that text is kept in.
pub trait Memory {
    /// Exactly `N` bytes, or `None`.
    fn read<const N: usize>(&mut self, address: u64) -> Option<[u8; N]>;
    /// A NUL-terminated name of at most `max` bytes, zero-padded, and its length with the NUL;
    /// length zero when it cannot be read.
    fn read_name(&mut self, address: u64, max: u32) -> ([u8; NAME_BYTES], u32);
    /// Keeps the NUL-terminated text of at most `max` bytes as the connection's statement and
    /// returns its first bytes.
    fn keep_statement(&mut self, address: u64, max: u32) -> [u8; PREFIX_BYTES];
    /// Keeps at most `max` bytes as the connection's startup parameters.
    fn keep_startup(&mut self, address: u64, max: u32);
}

/// Bytes of a prepared statement's name that tell it from others (PostgreSQL's `NAMEDATALEN`).
pub const NAME_BYTES: usize = 64;

/// The bytes of one send or receive: one buffer, or an array of `iovec`.
#[derive(Clone, Copy, Debug)]
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
        let (Some(base), Some(len)) = (memory.read::<8>(self.iov), memory.read::<8>(self.iov + 8))
        else {
            return false;
        };
        let len = u64::from_ne_bytes(len);
        let len = if len < self.rest { len } else { self.rest };
        self.iov += 16;
        self.iov_left -= 1;
        self.rest -= len;
        self.at = u64::from_ne_bytes(base);
        self.left = len;
        self.behind = 0;
        true
    }

    #[inline(always)]
    fn advance(&mut self, n: u64) {
        self.at += n;
        self.left -= n;
        self.behind += n;
    }
}

#[inline(always)]
const fn be32(bytes: [u8; 4]) -> u32 {
    u32::from_be_bytes(bytes)
}

/// A TLS record header: content type 20 to 23, major version 3.
#[inline(always)]
const fn is_tls(kind: u8, major: u8) -> bool {
    kind >= 20 && kind <= 23 && major == 3
}

/// Whether a byte is the type of a frontend message.
#[inline(always)]
const fn is_frontend(kind: u8) -> bool {
    matches!(
        kind,
        b'Q' | b'P'
            | b'B'
            | b'D'
            | b'E'
            | b'C'
            | b'H'
            | b'S'
            | b'F'
            | b'X'
            | b'p'
            | b'd'
            | b'c'
            | b'f'
    )
}

/// Whether a byte is the type of a backend message.
#[inline(always)]
const fn is_backend(kind: u8) -> bool {
    matches!(
        kind,
        b'1' | b'2'
            | b'3'
            | b'A'
            | b'C'
            | b'D'
            | b'E'
            | b'G'
            | b'H'
            | b'I'
            | b'K'
            | b'N'
            | b'R'
            | b'S'
            | b'T'
            | b'V'
            | b'W'
            | b'Z'
            | b'c'
            | b'd'
            | b'n'
            | b's'
            | b't'
            | b'v'
    )
}

/// Follows a send of the client.
#[inline(always)]
pub fn on_send<M: Memory>(memory: &mut M, wire: &mut Wire, mut segments: Segments) {
    if segments.left == 0 && !segments.next(memory) {
        return;
    }
    match wire.phase {
        PHASE_READY | PHASE_STARTING => {}
        PHASE_NEW => return first_packet(memory, wire, &segments),
        PHASE_UNKNOWN => {
            let Some([kind, second]) = memory.read::<2>(segments.at) else {
                return;
            };
            if is_tls(kind, second) {
                wire.phase = PHASE_ENCRYPTED;
                return;
            }
            if !is_frontend(kind) || second != 0 {
                return;
            }
            // What was sent and answered before the start is unknown, so begin level.
            wire.phase = PHASE_READY;
            wire.readies = wire.syncs;
        }
        _ => return,
    }
    if wire.send.synced == 0 {
        // Clients write whole messages: take the beginning of a send for a boundary when it looks
        // like one.
        let Some([kind, second]) = memory.read::<2>(segments.at) else {
            return;
        };
        if !is_frontend(kind) || second >= (MAX_MESSAGE >> 24) as u8 {
            return;
        }
        wire.send = Stream { synced: 1, ..Stream::default() };
    }
    walk(memory, wire, &mut segments, true, WALK_STEPS);
    if wire.send.synced == 0
        && segments.rest == 0
        && segments.behind + segments.left >= 5
        && memory.read::<5>(segments.at + segments.left - 5) == Some([b'S', 0, 0, 0, 4])
    {
        // A batch too long to walk that ends with Sync: back in step.
        wire.syncs = wire.syncs.wrapping_add(1);
        wire.send = Stream { synced: 1, ..Stream::default() };
    }
}

/// Follows a receive of the client.
#[inline(always)]
pub fn on_receive<M: Memory>(memory: &mut M, wire: &mut Wire, mut segments: Segments) {
    if segments.left == 0 && !segments.next(memory) {
        return;
    }
    match wire.phase {
        PHASE_READY | PHASE_STARTING | PHASE_UNKNOWN => {}
        PHASE_ASKED => {
            match memory.read::<1>(segments.at) {
                Some([b'S' | b'G']) => wire.phase = PHASE_ENCRYPTED,
                Some([b'N']) => wire.phase = PHASE_NEW,
                _ => {}
            }
            return;
        }
        _ => return,
    }
    if wire.recv.synced != 0 {
        let steps = if wire.phase == PHASE_STARTING || wire.pending() > 1 {
            WALK_STEPS
        } else {
            WALK_STEPS_RECEIVE
        };
        walk(memory, wire, &mut segments, false, steps);
    }
    if wire.recv.synced == 0 {
        tail(memory, wire, &segments);
    }
}

/// The first packet has no type byte: length, code, then parameters.
#[inline(always)]
fn first_packet<M: Memory>(memory: &mut M, wire: &mut Wire, segments: &Segments) {
    let Some([l0, l1, l2, l3, c0, c1, c2, c3]) = memory.read::<8>(segments.at) else {
        return;
    };
    if is_tls(l0, l1) {
        // Direct TLS (`sslnegotiation=direct`, PostgreSQL 17).
        wire.phase = PHASE_ENCRYPTED;
        return;
    }
    let len = be32([l0, l1, l2, l3]);
    let code = be32([c0, c1, c2, c3]);
    if code == CODE_CANCEL {
        wire.phase = PHASE_CANCEL;
    } else if code == CODE_SSL || code == CODE_GSSENC {
        wire.phase = PHASE_ASKED;
    } else if code >> 16 == MAJOR_VERSION && (8..=MAX_STARTUP).contains(&len) {
        wire.phase = PHASE_STARTING;
        wire.syncs = 1;
        wire.send.synced = 1;
        wire.recv.synced = 1;
        if u64::from(len) > segments.left {
            wire.send.skip = len - segments.left as u32;
        }
        memory.keep_startup(segments.at + 8, len - 8);
    } else {
        wire.phase = PHASE_FOREIGN;
    }
}

/// ReadyForQuery with its status byte.
#[inline(always)]
fn ready(wire: &mut Wire, status: u8) {
    if wire.pending() > 0 || wire.marks & MARK_RESYNCED == 0 {
        wire.readies = wire.readies.wrapping_add(1);
    }
    wire.status = status;
    wire.marks &= !MARK_COPY;
    wire.phase = PHASE_READY;
}

/// Walks at most `steps` message headers; leaves `synced` at 0 when the end was not reached.
#[inline(always)]
fn walk<M: Memory>(
    memory: &mut M,
    wire: &mut Wire,
    segments: &mut Segments,
    send: bool,
    steps: u32,
) {
    let mut stream = if send { wire.send } else { wire.recv };
    for step in 0..WALK_STEPS {
        if step >= steps || (segments.left == 0 && !segments.next(memory)) {
            break;
        }
        if stream.skip != 0 {
            if !send && wire.last_backend == b'Z' && segments.left != 0 {
                let Some([status]) = memory.read::<1>(segments.at) else {
                    stream.synced = 0;
                    break;
                };
                ready(wire, status);
            }
            let skip = u64::from(stream.skip);
            let n = if skip < segments.left { skip } else { segments.left };
            stream.skip -= n as u32;
            segments.advance(n);
            // A payload and the header behind it are one step.
            if stream.skip != 0 || segments.left == 0 {
                continue;
            }
        }
        let kind;
        let len;
        if stream.have == 0 && segments.left >= 5 {
            let Some([k, l0, l1, l2, l3]) = memory.read::<5>(segments.at) else {
                stream.synced = 0;
                break;
            };
            kind = k;
            len = be32([l0, l1, l2, l3]);
            segments.advance(5);
        } else {
            // A header split over buffers is collected byte by byte.
            if segments.left == 0 {
                continue;
            }
            let Some([byte]) = memory.read::<1>(segments.at) else {
                stream.synced = 0;
                break;
            };
            segments.advance(1);
            stream.head = (stream.head << 8) | u64::from(byte);
            stream.have += 1;
            if stream.have < 5 {
                continue;
            }
            kind = (stream.head >> 32) as u8;
            len = stream.head as u32;
            stream.have = 0;
            stream.head = 0;
        }
        let known = if send { is_frontend(kind) } else { is_backend(kind) };
        if !known || !(4..=MAX_MESSAGE).contains(&len) || (kind == b'Z' && len != 5) {
            stream.synced = 0;
            break;
        }
        stream.skip = len - 4;
        if send {
            wire.last_frontend = kind;
            frontend(memory, wire, kind, segments.at, segments.left);
        } else {
            wire.last_backend = kind;
            backend(memory, wire, kind, segments.at, segments.left);
        }
    }
    if segments.left != 0 || segments.rest != 0 {
        stream.synced = 0;
    }
    if stream.synced == 0 {
        stream = Stream::default();
    }
    if send {
        wire.send = stream;
    } else {
        wire.recv = stream;
    }
}

/// A frontend message whose payload begins at `at`, `left` bytes of it (or more) in the segment.
#[inline(always)]
fn frontend<M: Memory>(memory: &mut M, wire: &mut Wire, kind: u8, at: u64, left: u64) {
    match kind {
        b'Q' => {
            wire.syncs = wire.syncs.wrapping_add(1);
            wire.statements = wire.statements.wrapping_add(1);
            wire.marks |= MARK_SIMPLE;
            keep(memory, wire, at, left, STATEMENT_SQL, 0);
        }
        b'P' => {
            let (key, skip) = name_key(memory, at, left);
            if skip < left {
                keep(memory, wire, at + skip, left - skip, STATEMENT_SQL, key);
            }
        }
        b'B' => {
            let (_, portal) = name_key(memory, at, left);
            if portal < left {
                let (key, _) = name_key(memory, at + portal, left - portal);
                if key != wire.statement_key {
                    keep(memory, wire, at + portal, left - portal, STATEMENT_NAME, key);
                }
            }
        }
        b'E' => wire.statements = wire.statements.wrapping_add(1),
        b'S' | b'F' => {
            wire.syncs = wire.syncs.wrapping_add(1);
            wire.marks &= !MARK_SIMPLE;
        }
        b'X' => wire.marks |= MARK_TERMINATED,
        _ => {}
    }
}

/// A backend message whose payload begins at `at`.
#[inline(always)]
fn backend<M: Memory>(memory: &mut M, wire: &mut Wire, kind: u8, at: u64, left: u64) {
    match kind {
        b'K' if left >= 8 => {
            if let Some(pid) = memory.read::<4>(at) {
                wire.backend_pid = be32(pid);
            }
        }
        b'G' => {
            wire.marks |= MARK_COPY;
            // The server ignores a Sync that came with a COPY FROM STDIN of the extended protocol
            // (PostgreSQL `src/backend/commands/copyfromparse.c`, `CopyGetData`).
            if wire.marks & MARK_SIMPLE == 0 && wire.pending() > 0 {
                wire.syncs = wire.syncs.wrapping_sub(1);
            }
        }
        b'H' => wire.marks |= MARK_COPY,
        b'W' => wire.marks |= MARK_COPY | MARK_COPY_BOTH,
        _ => {}
    }
}

/// Keeps a statement's text or name and what it says about silence.
#[inline(always)]
fn keep<M: Memory>(memory: &mut M, wire: &mut Wire, at: u64, left: u64, kind: u32, key: u64) {
    let max = if left < STATEMENT_BYTES as u64 { left as u32 } else { STATEMENT_BYTES as u32 };
    if max == 0 {
        // The text is in another buffer: unknown rather than the previous one.
        wire.statement_kind = STATEMENT_NONE;
        wire.statement_key = key;
        return;
    }
    let prefix = memory.keep_statement(at, max);
    wire.statement_kind = kind;
    wire.statement_key = key;
    if kind == STATEMENT_SQL {
        let found = classify(&prefix);
        wire.marks |= found & (MARK_LISTEN | MARK_ADVISORY_LOCK);
        if found & CLEAR_LISTEN != 0 {
            wire.marks &= !MARK_LISTEN;
        }
        if found & CLEAR_ADVISORY_LOCK != 0 {
            wire.marks &= !MARK_ADVISORY_LOCK;
        }
    }
}

/// A number that tells a name from others (zero for the empty one), and its bytes with the NUL.
#[inline(always)]
fn name_key<M: Memory>(memory: &mut M, at: u64, left: u64) -> (u64, u64) {
    let max = if left < NAME_BYTES as u64 { left as u32 } else { NAME_BYTES as u32 };
    let (name, len) = memory.read_name(at, max);
    if len == 0 {
        // Unreadable: a length that no segment has, so the caller keeps nothing.
        return (0, u64::MAX);
    }
    let mut key = 0u64;
    if name[0] != 0 {
        let mut word = 0;
        while word < NAME_BYTES / 8 {
            let i = word * 8;
            let value = u64::from_ne_bytes([
                name[i],
                name[i + 1],
                name[i + 2],
                name[i + 3],
                name[i + 4],
                name[i + 5],
                name[i + 6],
                name[i + 7],
            ]);
            key = (key ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            key ^= key >> 29;
            word += 1;
        }
        key |= 1;
    }
    (key, u64::from(len))
}

/// Looks for a ReadyForQuery at the end of a receive that could not be walked.
#[inline(always)]
fn tail<M: Memory>(memory: &mut M, wire: &mut Wire, segments: &Segments) {
    if segments.rest != 0 {
        // The end lies in a buffer that was not reached.
        wire.recv = Stream::default();
        return;
    }
    let end = segments.at + segments.left;
    let len = segments.behind + segments.left;
    let mut head = wire.recv.head;
    if len >= 6 {
        let Some([b0, b1, b2, b3, b4, b5]) = memory.read::<6>(end - 6) else {
            wire.recv = Stream::default();
            return;
        };
        head = u64::from_be_bytes([0, 0, b0, b1, b2, b3, b4, b5]);
    } else {
        for index in 0..5 {
            if index >= len {
                break;
            }
            let Some([byte]) = memory.read::<1>(end - len + index) else {
                wire.recv = Stream::default();
                return;
            };
            head = (head << 8) | u64::from(byte);
        }
    }
    let status = head as u8;
    if (head >> 8) & 0xff_ffff_ffff == 0x5a_0000_0005 && matches!(status, b'I' | b'T' | b'E') {
        if wire.pending() > 1 {
            // How many were passed over is not known; the server is done with those seen.
            wire.readies = wire.syncs.wrapping_sub(1);
            wire.marks |= MARK_RESYNCED;
        }
        ready(wire, status);
        wire.last_backend = b'Z';
        wire.recv = Stream { synced: 1, ..Stream::default() };
    } else {
        wire.recv = Stream { head, ..Stream::default() };
    }
}
