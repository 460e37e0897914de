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
    statement::{CLEAR_ADVISORY_LOCK, CLEAR_LISTEN, MARK_ADVISORY_LOCK, MARK_LISTEN},
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
    /// Length of the name being looked at.
    pub name_len: u32,
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
const _: () = assert!(size_of::<Wire>() == 256);

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
    /// Reads the NUL-terminated name of at most `max` bytes: its [`name_key`] goes to
    /// [`Wire::name_key`], its length with the NUL (zero when it cannot be read) to
    /// [`Wire::name_len`]. Through the connection, because the verifier follows every value that
    /// a function can return.
    fn name(&mut self, wire: &mut Wire, address: u64, max: u32);
    /// Keeps the NUL-terminated text of at most `max` bytes as the connection's statement and
    /// returns what [`classify`](crate::statement::classify) says of its first bytes.
    fn keep_statement(&mut self, address: u64, max: u32) -> u32;
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
pub fn on_send<M: Memory>(memory: &mut M, wire: &mut Wire, segments: Segments) {
    wire.send.segments = segments;
    if wire.send.segments.left == 0 && !wire.send.segments.next(memory) {
        return;
    }
    let phase = wire.phase;
    if phase == PHASE_NEW {
        return first_packet(memory, wire);
    }
    if phase != PHASE_READY && phase != PHASE_STARTING && phase != PHASE_UNKNOWN {
        return;
    }
    if phase == PHASE_UNKNOWN || wire.send.synced == 0 {
        // Clients write whole messages: take the beginning of a send for a boundary when it looks
        // like one.
        let Some([kind, second]) = memory.read::<2>(wire.send.segments.at) else {
            return;
        };
        if phase == PHASE_UNKNOWN {
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
        } else if !is_frontend(kind) || second >= (MAX_MESSAGE >> 24) as u8 {
            return;
        }
        wire.send.restart(true);
    }
    wire.text_left = 0;
    wire.bind_left = 0;
    for _ in 0..WALK_STEPS {
        if !step_send(memory, wire) {
            break;
        }
    }
    statement(memory, wire);
    let segments = &wire.send.segments;
    if segments.left == 0 && segments.rest == 0 {
        return;
    }
    let end = segments.at + segments.left;
    let whole = segments.rest == 0 && segments.behind + segments.left >= 5;
    wire.send.restart(false);
    if whole && memory.read::<5>(end - 5) == Some([b'S', 0, 0, 0, 4]) {
        // A batch too long to walk that ends with Sync: back in step.
        wire.syncs = wire.syncs.wrapping_add(1);
        wire.send.restart(true);
    }
}

/// Follows a receive of the client.
#[inline(always)]
pub fn on_receive<M: Memory>(memory: &mut M, wire: &mut Wire, segments: Segments) {
    wire.recv.segments = segments;
    if wire.recv.segments.left == 0 && !wire.recv.segments.next(memory) {
        return;
    }
    let phase = wire.phase;
    if phase == PHASE_ASKED {
        match memory.read::<1>(wire.recv.segments.at) {
            Some([b'S' | b'G']) => wire.phase = PHASE_ENCRYPTED,
            Some([b'N']) => wire.phase = PHASE_NEW,
            _ => {}
        }
        return;
    }
    if phase != PHASE_READY && phase != PHASE_STARTING && phase != PHASE_UNKNOWN {
        return;
    }
    if wire.recv.synced != 0 {
        let all = phase == PHASE_STARTING || wire.pending() > 1;
        for step in 0..WALK_STEPS {
            if (step == WALK_STEPS_RECEIVE && !all) || !step_receive(memory, wire) {
                break;
            }
        }
        let segments = &wire.recv.segments;
        if segments.left != 0 || segments.rest != 0 {
            wire.recv.restart(false);
        }
    }
    if wire.recv.synced == 0 {
        tail(memory, wire);
    }
}

/// The first packet has no type byte: length, code, then parameters.
#[inline(always)]
fn first_packet<M: Memory>(memory: &mut M, wire: &mut Wire) {
    let (at, left) = (wire.send.segments.at, wire.send.segments.left);
    let Some([l0, l1, l2, l3, c0, c1, c2, c3]) = memory.read::<8>(at) else {
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
        wire.send.restart(true);
        wire.recv.restart(true);
        if u64::from(len) > left {
            wire.send.skip = len - left as u32;
        }
        memory.keep_startup(at + 8, len - 8);
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

/// Takes the next header of a stream: `Some((0, 0))` when the step only moved on, `None` when the
/// walk is over (everything seen, or out of step).
#[inline(always)]
fn header<M: Memory>(memory: &mut M, stream: &mut Stream) -> Option<(u8, u32)> {
    if stream.segments.left == 0 && !stream.segments.next(memory) {
        return None;
    }
    if stream.skip != 0 {
        let skip = u64::from(stream.skip);
        let left = stream.segments.left;
        let n = if skip < left { skip } else { left };
        stream.skip -= n as u32;
        stream.segments.advance(n);
        // A payload and the header behind it are one step.
        if stream.skip != 0 || stream.segments.left == 0 {
            return Some((0, 0));
        }
    }
    if stream.have == 0 && stream.segments.left >= 5 {
        let [kind, l0, l1, l2, l3] = memory.read::<5>(stream.segments.at)?;
        stream.segments.advance(5);
        return Some((kind, be32([l0, l1, l2, l3])));
    }
    // A header split over buffers is collected byte by byte.
    if stream.segments.left == 0 {
        return Some((0, 0));
    }
    let [byte] = memory.read::<1>(stream.segments.at)?;
    stream.segments.advance(1);
    stream.head = (stream.head << 8) | u64::from(byte);
    stream.have += 1;
    if stream.have < 5 {
        return Some((0, 0));
    }
    let (kind, len) = ((stream.head >> 32) as u8, stream.head as u32);
    stream.have = 0;
    stream.head = 0;
    Some((kind, len))
}

/// One step of a walk along a send; false at its end. A function of its own, for its stack frame
/// and for the verifier, which then begins each round from the same state.
#[inline(never)]
fn step_send<M: Memory>(memory: &mut M, wire: &mut Wire) -> bool {
    let Some((kind, len)) = header(memory, &mut wire.send) else {
        return false;
    };
    if kind == 0 && len == 0 {
        return true;
    }
    if !is_frontend(kind) || !(4..=MAX_MESSAGE).contains(&len) {
        // Out of step; a segment that is not used up says so.
        wire.send.segments.rest = 1;
        wire.send.segments.iov_left = 0;
        return false;
    }
    wire.send.skip = len - 4;
    wire.last_frontend = kind;
    frontend(wire, kind);
    true
}

/// One step of a walk along a receive; false at its end.
#[inline(never)]
fn step_receive<M: Memory>(memory: &mut M, wire: &mut Wire) -> bool {
    if wire.last_backend == b'Z' && wire.recv.skip == 1 && wire.recv.segments.left != 0 {
        let Some([status]) = memory.read::<1>(wire.recv.segments.at) else {
            return false;
        };
        ready(wire, status);
    }
    let Some((kind, len)) = header(memory, &mut wire.recv) else {
        return false;
    };
    if kind == 0 && len == 0 {
        return true;
    }
    if !is_backend(kind) || !(4..=MAX_MESSAGE).contains(&len) || (kind == b'Z' && len != 5) {
        wire.recv.segments.rest = 1;
        wire.recv.segments.iov_left = 0;
        return false;
    }
    wire.recv.skip = len - 4;
    wire.last_backend = kind;
    backend(memory, wire, kind);
    true
}

/// A frontend message whose payload begins at the send's position.
#[inline(always)]
fn frontend(wire: &mut Wire, kind: u8) {
    match kind {
        b'Q' => {
            wire.syncs = wire.syncs.wrapping_add(1);
            wire.statements = wire.statements.wrapping_add(1);
            wire.marks |= MARK_SIMPLE;
            wire.text_at = wire.send.segments.at;
            wire.text_left = wire.send.segments.left;
        }
        b'P' => {
            wire.marks &= !MARK_SIMPLE;
            wire.text_at = wire.send.segments.at;
            wire.text_left = wire.send.segments.left;
        }
        b'B' => {
            wire.bind_at = wire.send.segments.at;
            wire.bind_left = wire.send.segments.left;
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

/// Keeps the last statement of a send: the text of its last Query or Parse, and then, when its
/// last Bind names another statement, that name.
#[inline(always)]
fn statement<M: Memory>(memory: &mut M, wire: &mut Wire) {
    if wire.text_left != 0 {
        let mut skip = 0;
        wire.name_key = 0;
        if wire.marks & MARK_SIMPLE == 0 {
            name(memory, wire, wire.text_at, wire.text_left);
            skip = u64::from(wire.name_len);
        }
        keep(memory, wire, wire.text_at + skip, wire.text_left.saturating_sub(skip), STATEMENT_SQL);
    }
    if wire.bind_left != 0 {
        // The portal's name, then the statement's.
        name(memory, wire, wire.bind_at, wire.bind_left);
        let portal = u64::from(wire.name_len);
        let (at, left) = (wire.bind_at + portal, wire.bind_left.saturating_sub(portal));
        name(memory, wire, at, left);
        if wire.name_len != 0 && wire.name_key != wire.statement_key {
            keep(memory, wire, at, left, STATEMENT_NAME);
        }
    }
}

/// A backend message whose payload begins at the receive's position.
#[inline(always)]
fn backend<M: Memory>(memory: &mut M, wire: &mut Wire, kind: u8) {
    let (at, left) = (wire.recv.segments.at, wire.recv.segments.left);
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

/// Keeps a statement's text or name and what it says about silence. Its key is that of the name
/// looked at last.
#[inline(always)]
fn keep<M: Memory>(memory: &mut M, wire: &mut Wire, at: u64, left: u64, kind: u32) {
    wire.statement_key = wire.name_key;
    if left == 0 {
        // The text is in another buffer: unknown rather than the previous one.
        wire.statement_kind = STATEMENT_NONE;
        return;
    }
    let max = if left < STATEMENT_BYTES as u64 { left as u32 } else { STATEMENT_BYTES as u32 };
    let found = memory.keep_statement(at, max);
    wire.statement_kind = kind;
    if kind != STATEMENT_SQL {
        return;
    }
    wire.marks |= found & (MARK_LISTEN | MARK_ADVISORY_LOCK);
    // The bits that clear are those that mark, two places up.
    wire.marks &= !((found & (CLEAR_LISTEN | CLEAR_ADVISORY_LOCK)) >> 2);
}

/// Looks at the name at `at`.
#[inline(always)]
fn name<M: Memory>(memory: &mut M, wire: &mut Wire, at: u64, left: u64) {
    let max = if left < NAME_BYTES as u64 { left as u32 } else { NAME_BYTES as u32 };
    memory.name(wire, at, max);
}

/// A number that tells a zero-padded name from others; zero for the empty name only.
#[must_use]
#[inline(always)]
pub fn name_key(name: &[u8; NAME_BYTES]) -> u64 {
    if name[0] == 0 {
        return 0;
    }
    let mut key = 0u64;
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
    key | 1
}

/// Looks for a ReadyForQuery at the end of a receive that could not be walked.
#[inline(always)]
fn tail<M: Memory>(memory: &mut M, wire: &mut Wire) {
    let segments = &wire.recv.segments;
    let end = segments.at + segments.left;
    let len = segments.behind + segments.left;
    // With more buffers behind, the end was not reached.
    let reached = segments.rest == 0;
    let mut head = wire.recv.head;
    wire.recv.restart(false);
    if !reached {
        return;
    }
    if len >= 6 {
        let Some([b0, b1, b2, b3, b4, b5]) = memory.read::<6>(end - 6) else {
            return;
        };
        head = u64::from_be_bytes([0, 0, b0, b1, b2, b3, b4, b5]);
    } else {
        for index in 0..5 {
            if index >= len {
                break;
            }
            let Some([byte]) = memory.read::<1>(end - len + index) else {
                return;
            };
            head = (head << 8) | u64::from(byte);
        }
    }
    let status = head as u8;
    if (head >> 8) & 0xff_ffff_ffff != 0x5a_0000_0005 || !matches!(status, b'I' | b'T' | b'E') {
        wire.recv.head = head;
        return;
    }
    if wire.pending() > 1 {
        // How many were passed over is not known; the server is done with those seen.
        wire.readies = wire.syncs.wrapping_sub(1);
        wire.marks |= MARK_RESYNCED;
    }
    ready(wire, status);
    wire.last_backend = b'Z';
    wire.recv.restart(true);
}
