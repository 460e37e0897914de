//! The walk along the messages of a send or a receive.
//!
//! May import the wire's state, [`limits`](crate::limits) and [`statement`](crate::statement).
//! Invariants: reads only the bytes of the call (a text or name up to its end or that of its
//! buffer); a bounded number of steps; no arithmetic that some bytes could make panic.

use super::{
    CODE_CANCEL, CODE_GSSENC, CODE_SSL, MAJOR_VERSION, MARK_COPY, MARK_COPY_BOTH, MARK_RESYNCED,
    MARK_SIMPLE, MARK_TERMINATED, MARK_TEXT_SIMPLE, MAX_MESSAGE, MAX_STARTUP, Memory, NAME_BYTES,
    PHASE_ASKED, PHASE_CANCEL, PHASE_ENCRYPTED, PHASE_FOREIGN, PHASE_GREETED, PHASE_MYSQL,
    PHASE_NEW, PHASE_READY, PHASE_STARTING, PHASE_UNKNOWN, STATEMENT_NAME, STATEMENT_NONE,
    STATEMENT_SQL, Segments, Stream, Wire, mysql,
};
use crate::{
    limits::{PASS_STEPS, STATEMENT_BYTES, STEPS_AT_ONCE, WALK_STEPS, WALK_STEPS_RECEIVE},
    statement::{CLEAR_ADVISORY_LOCK, CLEAR_LISTEN, MARK_ADVISORY_LOCK, MARK_LISTEN},
};

/// Bytes of a message's type and length.
const HEADER: u64 = 5;

#[inline(always)]
const fn be32(bytes: [u8; 4]) -> u32 {
    u32::from_be_bytes(bytes)
}

/// A TLS record header: content type 20 to 23, major version 3.
#[inline(always)]
const fn is_tls(kind: u8, major: u8) -> bool {
    kind >= 20 && kind <= 23 && major == 3
}

/// Whether type and length are those of a frontend message.
#[inline(always)]
const fn is_frontend(kind: u8, len: u32) -> bool {
    match kind {
        b'S' | b'H' | b'X' | b'c' => len == 4,
        b'Q' | b'P' | b'B' | b'D' | b'E' | b'C' | b'F' | b'p' | b'd' | b'f' => {
            len >= 4 && len <= MAX_MESSAGE
        }
        _ => false,
    }
}

/// Whether type and length are those of a backend message.
#[inline(always)]
const fn is_backend(kind: u8, len: u32) -> bool {
    match kind {
        b'Z' => len == 5,
        b'1' | b'2' | b'3' | b'I' | b'c' | b'n' | b's' => len == 4,
        b'A' | b'C' | b'D' | b'E' | b'G' | b'H' | b'K' | b'N' | b'R' | b'S' | b'T' | b'V'
        | b'W' | b'd' | b't' | b'v' => len >= 4 && len <= MAX_MESSAGE,
        _ => false,
    }
}

#[inline(always)]
const fn is_status(status: u8) -> bool {
    matches!(status, b'I' | b'T' | b'E')
}

/// Follows a send of the client from where [`pass_sent`] left it: `passed` bytes.
pub fn on_send<M: Memory>(memory: &mut M, wire: &mut Wire, segments: Segments, passed: u64) {
    if !begin_send(memory, wire, segments, passed) {
        return;
    }
    let mut rounds = 0;
    while walk_send(memory, wire, rounds) {
        rounds += 1;
    }
    end_send(memory, wire);
}

/// Begins to follow a send; false when there is nothing to walk along, and the send has been followed.
/// Else [`walk_send`] goes on, with the number of times that it has, while it says so, and then
/// [`end_send`].
#[inline(always)]
pub fn begin_send<M: Memory>(
    memory: &mut M,
    wire: &mut Wire,
    mut segments: Segments,
    passed: u64,
) -> bool {
    let phase = wire.phase;
    if phase == PHASE_ENCRYPTED || phase == PHASE_CANCEL || phase == PHASE_FOREIGN {
        return false;
    }
    if phase == PHASE_GREETED || phase == PHASE_MYSQL {
        mysql::on_send(memory, wire, segments);
        return false;
    }
    // A client that sends again has seen the server's answer, reported or not.
    let first = phase == PHASE_NEW || phase == PHASE_ASKED;
    if first {
        // Until understood.
        wire.phase = PHASE_UNKNOWN;
    }
    if passed == 0 {
        wire.text_left = 0;
        wire.bind_left = 0;
    }
    segments.advance(passed);
    wire.send.segments = segments;
    if wire.send.segments.left == 0 && !wire.send.segments.next(memory) {
        wire.send.restart(false);
        return false;
    }
    if first {
        first_packet(memory, wire);
        return wire.phase == PHASE_STARTING;
    }
    if wire.send.synced == 0 {
        wire.send.restart(false);
        wire.marks |= MARK_RESYNCED;
        resume_send(memory, wire);
        return wire.phase == PHASE_READY || wire.phase == PHASE_STARTING;
    }
    true
}

/// Walks along a send that was begun; false when that is over.
#[inline(always)]
pub fn walk_send<M: Memory>(memory: &mut M, wire: &mut Wire, rounds: u32) -> bool {
    for _ in 0..STEPS_AT_ONCE {
        if !step_send(memory, wire) {
            return false;
        }
    }
    rounds < WALK_STEPS / STEPS_AT_ONCE - 1
}

/// Gets a send back in step when it begins like a message: clients write whole messages.
#[inline(always)]
fn resume_send<M: Memory>(memory: &mut M, wire: &mut Wire) {
    if wire.send.segments.left < 5 {
        return;
    }
    let Some([kind, l0, l1, l2, l3]) = memory.read::<5>(wire.send.segments.at) else {
        return;
    };
    if wire.phase == PHASE_UNKNOWN && is_tls(kind, l0) {
        wire.phase = PHASE_ENCRYPTED;
        return;
    }
    // Text has no NUL, so a cut text does not look like this. A message of 16 MiB does not either.
    if l0 == 0 && is_frontend(kind, be32([l0, l1, l2, l3])) {
        wire.send.restart(true);
        if wire.phase == PHASE_UNKNOWN {
            wire.phase = PHASE_READY;
        }
    }
}

/// Keeps the statement of a send that was walked along, and looks at what the walk left over.
#[inline(always)]
pub fn end_send<M: Memory>(memory: &mut M, wire: &mut Wire) {
    statement(memory, wire);
    if wire.send.finish() {
        return;
    }
    let Segments { at, left, rest, .. } = wire.send.segments;
    // The tail must not be payload of a message that was walked.
    let whole = rest == 0 && left >= u64::from(wire.send.skip) + 5;
    wire.send.restart(false);
    wire.marks |= MARK_RESYNCED;
    if whole && memory.read::<5>(at.wrapping_add(left - 5)) == Some([b'S', 0, 0, 0, 4]) {
        // A batch too long to walk that ends with Sync: back in step.
        wire.last_frontend = b'S';
        frontend(wire, b'S', 0, 0);
        wire.send.restart(true);
    }
}

/// Follows a receive of the client from where [`pass_received`] left it: `passed` bytes.
pub fn on_receive<M: Memory>(memory: &mut M, wire: &mut Wire, segments: Segments, passed: u64) {
    if !begin_receive(memory, wire, segments, passed) {
        return;
    }
    let mut rounds = 0;
    while walk_receive(memory, wire, rounds) {
        rounds += 1;
    }
    end_receive(memory, wire);
}

/// Begins to follow a receive, like [`begin_send`] a send.
#[inline(always)]
pub fn begin_receive<M: Memory>(
    memory: &mut M,
    wire: &mut Wire,
    mut segments: Segments,
    passed: u64,
) -> bool {
    let phase = wire.phase;
    if phase == PHASE_NEW {
        mysql::greeting(memory, wire, segments);
        return false;
    }
    if phase != PHASE_READY
        && phase != PHASE_STARTING
        && phase != PHASE_UNKNOWN
        && phase != PHASE_ASKED
    {
        return false;
    }
    if wire.send.synced == 0 && phase != PHASE_ASKED {
        wire.marks |= MARK_RESYNCED;
    }
    segments.advance(passed);
    wire.recv.segments = segments;
    if wire.recv.segments.left == 0 && !wire.recv.segments.next(memory) {
        wire.recv.restart(false);
        return false;
    }
    if phase == PHASE_ASKED {
        if wire.recv.segments.left == 0 {
            return false;
        }
        match memory.read::<1>(wire.recv.segments.at) {
            Some([b'S' | b'G']) => wire.phase = PHASE_ENCRYPTED,
            Some([b'N']) => wire.phase = PHASE_NEW,
            _ => {}
        }
        return false;
    }
    true
}

/// Walks along a receive that was begun, like [`walk_send`].
#[inline(always)]
pub fn walk_receive<M: Memory>(memory: &mut M, wire: &mut Wire, rounds: u32) -> bool {
    if wire.recv.synced == 0 {
        return false;
    }
    let ordinary = rounds < WALK_STEPS_RECEIVE / STEPS_AT_ONCE;
    for _ in 0..STEPS_AT_ONCE {
        if (!ordinary && walked_enough(wire)) || !step_receive(memory, wire) {
            return false;
        }
    }
    rounds < WALK_STEPS / STEPS_AT_ONCE - 1
}

/// Looks at what the walk along a receive left over.
#[inline(always)]
pub fn end_receive<M: Memory>(memory: &mut M, wire: &mut Wire) {
    if wire.recv.synced != 0 && (!status(memory, wire) || !wire.recv.finish()) {
        wire.recv.restart(false);
    }
    if wire.recv.synced == 0 {
        tail(memory, wire);
    }
    level(wire);
}

/// Whether the tail tells the rest of a receive: not while several answers are expected, and not
/// within a header, whose bytes may have taken a step each.
#[inline(always)]
fn walked_enough(wire: &Wire) -> bool {
    wire.recv.have == 0 && wire.phase != PHASE_STARTING && wire.pending() <= 1
}

/// The first packet has no type byte: length, code, then parameters.
#[inline(always)]
fn first_packet<M: Memory>(memory: &mut M, wire: &mut Wire) {
    let Segments { at, left, .. } = wire.send.segments;
    if left < 8 {
        return;
    }
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
        wire.send.skip = len;
        let here = if u64::from(len) < left { len } else { left as u32 };
        memory.keep_startup(at.wrapping_add(8), here - 8);
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

/// After a receive that ends with ReadyForQuery: once the counters are not exact, it settles them.
#[inline(always)]
fn level(wire: &mut Wire) {
    let recv = &wire.recv;
    if wire.marks & MARK_RESYNCED == 0
        || wire.last_backend != b'Z'
        || recv.synced == 0
        || recv.skip != 0
        || recv.have != 0
    {
        return;
    }
    wire.readies = wire.syncs;
    if wire.send.skip != 0 || wire.send.have != 0 {
        // A client that waits has sent whole messages: the header was none.
        wire.send.restart(false);
    }
}

/// Passes the whole messages that a send of `len` bytes at `start` begins with, in session and in
/// step, as far as their headers are at hand. Returns the bytes passed; when that is all, the send
/// has been followed. [`on_send`] would find the same, at three times the price.
#[inline(always)]
pub fn pass_sent<M: Memory>(memory: &mut M, wire: &mut Wire, start: u64, len: u64) -> u64 {
    if wire.phase != PHASE_READY || !wire.send.is_between() {
        return 0;
    }
    wire.text_left = 0;
    wire.bind_left = 0;
    let window = memory.window();
    wire.send.segments.behind = 0;
    for _ in 0..PASS_STEPS {
        let at = wire.send.segments.behind;
        if at + HEADER > window {
            break;
        }
        let [kind, l0, l1, l2, l3] = memory.near::<5>(at);
        let size = be32([l0, l1, l2, l3]);
        let next = at + 1 + u64::from(size);
        if next > len || !is_frontend(kind, size) {
            break;
        }
        wire.last_frontend = kind;
        let payload = at + HEADER;
        frontend(wire, kind, start.wrapping_add(payload), len - payload);
        wire.send.segments.behind = next;
    }
    let passed = wire.send.segments.behind;
    if passed == len {
        statement(memory, wire);
    }
    passed
}

/// Passes the whole messages that a receive of `len` bytes begins with, like [`pass_sent`].
#[inline(always)]
pub fn pass_received<M: Memory>(memory: &M, wire: &mut Wire, len: u64) -> u64 {
    if wire.phase != PHASE_READY || !wire.recv.is_between() || wire.send.synced == 0 {
        return 0;
    }
    let window = memory.window();
    wire.recv.segments.behind = 0;
    for _ in 0..PASS_STEPS {
        let at = wire.recv.segments.behind;
        // With ReadyForQuery's status byte.
        if at + HEADER + 1 > window {
            break;
        }
        let [kind, l0, l1, l2, l3, status] = memory.near::<6>(at);
        let size = be32([l0, l1, l2, l3]);
        let next = at + 1 + u64::from(size);
        if next > len || !is_backend(kind, size) || kind == b'K' {
            break;
        }
        if kind == b'Z' {
            if !is_status(status) {
                break;
            }
            ready(wire, status);
        } else {
            copying(wire, kind);
        }
        wire.last_backend = kind;
        wire.recv.segments.behind = next;
    }
    let passed = wire.recv.segments.behind;
    if passed == len {
        level(wire);
    }
    passed
}

/// Takes the next header of a stream: `Some((0, 0))` when the step only moved on, `None` when the
/// walk is over (everything seen, or out of step).
#[inline(always)]
fn header<M: Memory>(memory: &mut M, stream: &mut Stream) -> Option<(u8, u32)> {
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
        return Some((kind, be32([l0, l1, l2, l3]) | no_type(kind)));
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
    Some((kind, len | no_type(kind)))
}

/// Keeps a header of zeros apart from a step that only moved on.
#[inline(always)]
const fn no_type(kind: u8) -> u32 {
    (kind == 0) as u32
}

/// One step of a walk along a send; false at its end. A function of its own, for its stack frame
/// and for the verifier, which then begins each round from the same state.
#[inline(never)]
fn step_send<M: Memory>(memory: &mut M, wire: &mut Wire) -> bool {
    if wire.send.synced == 0 || (wire.send.segments.left == 0 && !wire.send.segments.next(memory)) {
        return false;
    }
    let Some((kind, len)) = header(memory, &mut wire.send) else {
        return false;
    };
    if kind == 0 && len == 0 {
        return true;
    }
    if !is_frontend(kind, len) {
        wire.send.synced = 0;
        return false;
    }
    wire.send.skip = len - 4;
    wire.last_frontend = kind;
    frontend(wire, kind, wire.send.segments.at, wire.send.segments.left);
    true
}

/// One step of a walk along a receive; false at its end.
#[inline(never)]
fn step_receive<M: Memory>(memory: &mut M, wire: &mut Wire) -> bool {
    if wire.recv.segments.left == 0 && !wire.recv.segments.next(memory) {
        return false;
    }
    if !status(memory, wire) {
        return false;
    }
    let Some((kind, len)) = header(memory, &mut wire.recv) else {
        return false;
    };
    if kind == 0 && len == 0 {
        return true;
    }
    if !is_backend(kind, len) {
        wire.recv.synced = 0;
        return false;
    }
    wire.recv.skip = len - 4;
    wire.last_backend = kind;
    backend(memory, wire, kind);
    true
}

/// Takes the status byte of a ReadyForQuery when it is next; false when it is no status.
#[inline(always)]
fn status<M: Memory>(memory: &mut M, wire: &mut Wire) -> bool {
    if wire.last_backend != b'Z' || wire.recv.skip != 1 || wire.recv.segments.left == 0 {
        return true;
    }
    let status = memory.read::<1>(wire.recv.segments.at);
    wire.recv.segments.advance(1);
    wire.recv.skip = 0;
    match status {
        Some([status]) if is_status(status) => ready(wire, status),
        _ => wire.recv.synced = 0,
    }
    wire.recv.synced != 0
}

/// A frontend message whose payload begins at `at`, in a buffer that has `left` bytes from there.
#[inline(always)]
fn frontend(wire: &mut Wire, kind: u8, at: u64, left: u64) {
    match kind {
        b'Q' => {
            wire.syncs = wire.syncs.wrapping_add(1);
            wire.statements = wire.statements.wrapping_add(1);
            wire.marks |= MARK_SIMPLE | MARK_TEXT_SIMPLE;
            text(wire, at, left);
        }
        b'P' => {
            wire.marks &= !(MARK_SIMPLE | MARK_TEXT_SIMPLE);
            text(wire, at, left);
        }
        b'B' => {
            wire.bind_at = at;
            wire.bind_left = left;
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

/// The payload of a Query or Parse.
#[inline(always)]
fn text(wire: &mut Wire, at: u64, left: u64) {
    wire.text_at = at;
    wire.text_left = left;
    // Unknown rather than the previous one, in case the text is in another buffer.
    wire.statement_kind = STATEMENT_NONE;
    wire.statement_key = 0;
}

/// Keeps the last statement of a send: the text of its last Query or Parse, and then, when its
/// last Bind names another statement, that name. A function of its own for the verifier, like
/// [`step_send`].
#[inline(never)]
fn statement<M: Memory>(memory: &mut M, wire: &mut Wire) {
    if wire.text_left != 0 {
        wire.name_key = 0;
        wire.name_len = 0;
        if wire.marks & MARK_TEXT_SIMPLE == 0 {
            name(memory, wire, wire.text_at, wire.text_left);
        }
        let (at, left) = behind_name(wire, wire.text_at, wire.text_left);
        keep(memory, wire, at, left, STATEMENT_SQL);
    }
    if wire.bind_left != 0 {
        // The portal's name, then the statement's.
        name(memory, wire, wire.bind_at, wire.bind_left);
        let (at, left) = behind_name(wire, wire.bind_at, wire.bind_left);
        name(memory, wire, at, left);
        let same = wire.name_key == wire.statement_key && wire.statement_kind != STATEMENT_NONE;
        // Format codes and values stand behind a name that is whole.
        if u64::from(wire.name_len) < left && !same {
            keep(memory, wire, at, left, STATEMENT_NAME);
        }
    }
}

/// What stands behind the name looked at last, which began at `at`.
#[inline(always)]
fn behind_name(wire: &Wire, at: u64, left: u64) -> (u64, u64) {
    let len = u64::from(wire.name_len);
    if len >= NAME_BYTES as u64 - 1 {
        // Longer than what was looked at, perhaps.
        return (at, 0);
    }
    (at.wrapping_add(len), left.saturating_sub(len))
}

/// A backend message whose payload begins at the receive's position.
#[inline(always)]
fn backend<M: Memory>(memory: &mut M, wire: &mut Wire, kind: u8) {
    let (at, left) = (wire.recv.segments.at, wire.recv.segments.left);
    if kind != b'K' {
        copying(wire, kind);
    } else if left >= 8
        && let Some([p0, p1, p2, p3, k0, k1, k2, k3]) = memory.read::<8>(at)
    {
        wire.backend_pid = be32([p0, p1, p2, p3]);
        // Longer ones are those of protocol 3.2 (PostgreSQL 18).
        if wire.recv.skip == 8 {
            memory.keep_key(wire.backend_pid, be32([k0, k1, k2, k3]));
        }
    }
}

/// What a backend message says of a COPY.
#[inline(always)]
fn copying(wire: &mut Wire, kind: u8) {
    match kind {
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
    if left == 0 {
        return;
    }
    wire.statement_key = wire.name_key;
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

/// Looks for a ReadyForQuery at the end of a receive that could not be walked.
#[inline(always)]
fn tail<M: Memory>(memory: &mut M, wire: &mut Wire) {
    let segments = &wire.recv.segments;
    let end = segments.at.wrapping_add(segments.left);
    let len = segments.behind + segments.left;
    // With more buffers behind, the end was not reached.
    let reached = segments.rest == 0;
    let mut head = wire.recv.head;
    wire.recv.restart(false);
    if !reached {
        return;
    }
    if len >= 6 {
        let Some([b0, b1, b2, b3, b4, b5]) = memory.read::<6>(end.wrapping_sub(6)) else {
            return;
        };
        head = u64::from_be_bytes([0, 0, b0, b1, b2, b3, b4, b5]);
    } else {
        for index in 0..5 {
            if index >= len {
                break;
            }
            let Some([byte]) = memory.read::<1>(end.wrapping_sub(len - index)) else {
                return;
            };
            head = (head << 8) | u64::from(byte);
        }
    }
    let status = head as u8;
    if (head >> 8) & 0xff_ffff_ffff != 0x5a_0000_0005 || !is_status(status) {
        wire.recv.head = head;
        return;
    }
    if wire.phase == PHASE_STARTING && len >= 19 {
        // BackendKeyData of 4 bytes of key, directly before the first ReadyForQuery: servers
        // report more parameters than are walked.
        if let Some([b'K', 0, 0, 0, 12, p0, p1, p2, p3, k0, k1, k2, k3, ..]) =
            memory.read::<19>(end.wrapping_sub(19))
        {
            wire.backend_pid = be32([p0, p1, p2, p3]);
            memory.keep_key(wire.backend_pid, be32([k0, k1, k2, k3]));
        }
    }
    if wire.pending() > 1 {
        // How many were passed over is not known.
        wire.marks |= MARK_RESYNCED;
    }
    ready(wire, status);
    wire.last_backend = b'Z';
    wire.recv.restart(true);
}
