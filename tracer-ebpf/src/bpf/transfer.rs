//! Following one send or receive on a watched socket, whichever hook saw it.
//!
//! May import everything in `bpf` but the programs. x86-64 only: numbers and registers are those of its
//! system-call convention (kernel `arch/x86/entry/syscalls/syscall_64.tbl`).

use aya_ebpf::{bindings::pt_regs, helpers::bpf_get_current_pid_tgid};
use tracer_ebpf::{
    conn::{Conn, FLAG_CONNECTING, FLAG_EOF},
    parts::{
        PART_MARK, PART_RECEIVE_STEPS, PART_RECEIVE_WALK, PART_SEND_STEPS, PART_SEND_WALK,
        PART_STACK,
    },
    wire::{self, PHASE_ENCRYPTED, PHASE_MYSQL, PHASE_READY, PHASE_UNKNOWN, Segments},
};

use super::{
    count::now,
    maps::{Call, Site, call_of},
    memory::{ConnMemory, user, user_or_zero},
    sockets::conn_of,
    stacks,
};

pub const READ: u64 = 0;
pub const WRITE: u64 = 1;
pub const READV: u64 = 19;
pub const WRITEV: u64 = 20;
pub const CLOSE: u64 = 3;
pub const CONNECT: u64 = 42;
pub const SENDTO: u64 = 44;
pub const RECVFROM: u64 = 45;
pub const SENDMSG: u64 = 46;
pub const RECVMSG: u64 = 47;
pub const RECVMMSG: u64 = 299;
pub const SENDMMSG: u64 = 307;

const MSG_PEEK: u64 = 2;
pub const ECONNRESET: i64 = -104;

/// Bytes of `struct mmsghdr`, and where it keeps the bytes moved.
const MMSG_BYTES: u64 = 64;
const MMSG_LEN: u64 = 56;
/// Messages of one `sendmmsg` or `recvmmsg` whose bytes are counted.
const MMSG_COUNTED: u64 = 8;

/// What saw the call.
pub trait Hook {
    /// It is passed for each message of a `sendmmsg` or `recvmmsg`, with the bytes of that one.
    const EACH_MESSAGE: bool;

    /// Its program has room for the copying of stacks, too: only verifiers before 6.3 do not follow that.
    const NEAR_STACK: bool;

    /// The saved user registers, which still hold the call's number and arguments. Typed by the verifier.
    fn regs(&self) -> *const pt_regs;

    /// The result so far.
    fn ret(&self) -> i64;

    /// Goes on in another program, and does not come back. It comes back only when the program is not
    /// there, which user space rules out: it fills the array before it attaches.
    fn go_on(&self, part: u32);
}

/// The connection of the call, when it moved bytes.
#[inline(always)]
fn moved(call: *mut Call, regs: *const pt_regs, ret: i64, send: bool) -> Option<*mut Conn> {
    // SAFETY: `regs` is the trusted argument of the tracepoint, `call` a live per-CPU map value of
    // this run alone.
    let (nr, third, fourth, id) =
        unsafe { ((*regs).orig_rax, (*regs).rdx, (*regs).r10, (*call).conn) };
    let conn = conn_of(id)?;
    if ret <= 0 {
        if !send && (ret == ECONNRESET || (ret == 0 && third != 0)) {
            // SAFETY: a live map value.
            unsafe { (*conn).flags |= FLAG_EOF };
        }
        return None;
    }
    let peeked = !send
        && ((nr == RECVFROM && fourth & MSG_PEEK != 0)
            || (nr == RECVMSG && third & MSG_PEEK != 0)
            || (nr == RECVMMSG && fourth & MSG_PEEK != 0));
    if peeked { None } else { Some(conn) }
}

/// A send or a receive of one buffer: followed here as far as it is of the common shape, and handed
/// on otherwise. Apart from [`walk`], because the verifier takes the product of what one program
/// does in a row.
#[inline(always)]
pub fn pass(hook: &impl Hook, call: *mut Call, pid_tgid: u64, send: bool) {
    let (regs, ret) = (hook.regs(), hook.ret());
    let Some(conn) = moved(call, regs, ret, send) else {
        // SAFETY: `regs` as in `moved`.
        if !send && ret == 0 && unsafe { (*regs).rdx } == 0 {
            hook.go_on(PART_MARK);
        }
        return;
    };
    let len = ret as u64;
    // SAFETY: `regs` as in `moved`.
    let buffer = unsafe { (*regs).rsi };
    // SAFETY: a live map value. The walker gets its wire state and, through the memory, other
    // fields of the same connection; nothing else of this program refers to them meanwhile.
    let wire = unsafe { &mut (*conn).wire };
    let settled = send && wire.settled();
    let passed = if wire.phase == PHASE_READY {
        let mut memory = ConnMemory::new(conn, call, buffer, len);
        if send {
            wire::pass_sent(&mut memory, wire, buffer, len)
        } else {
            wire::pass_received(&memory, wire, len)
        }
    } else if wire.is_dark(send) {
        // There is nothing to read.
        len
    } else {
        0
    };
    if passed != len {
        // SAFETY: a live per-CPU map value of this run alone.
        unsafe {
            (*call).passed = passed;
            (*call).settled = u64::from(settled);
        }
        return hook.go_on(if send { PART_SEND_WALK } else { PART_RECEIVE_WALK });
    }
    if send {
        sent(hook, conn, call, pid_tgid, len, settled);
    } else {
        received(conn, len);
    }
}

/// A send or a receive of any shape.
#[inline(always)]
pub fn walk<H: Hook>(hook: &H, send: bool) {
    let (regs, ret) = (hook.regs(), hook.ret());
    let pid_tgid = bpf_get_current_pid_tgid();
    let Some(call) = call_of(pid_tgid) else { return };
    let Some(conn) = moved(call, regs, ret, send) else { return };
    // SAFETY: `regs` and `call` as in `moved`.
    let (nr, buffer, third, passed) =
        unsafe { ((*regs).orig_rax, (*regs).rsi, (*regs).rdx, (*call).passed) };
    let len = ret as u64;
    let mut bytes = len;
    // For one buffer `count` is `ONE_BUFFER`, else `buffer` is an array of `count` `iovec`.
    let (buffer, count, len) = if nr == WRITE || nr == READ || nr == SENDTO || nr == RECVFROM {
        (buffer, ONE_BUFFER, len)
    } else if nr == WRITEV || nr == READV {
        (buffer, third & 0xffff, len)
    } else {
        // `struct msghdr`: the `iovec` array at 16, its length at 24.
        let Some(iov) = user::<u64>(buffer + 16) else {
            return;
        };
        let Some(count) = user::<u64>(buffer + 24) else {
            return;
        };
        if (nr == SENDMMSG || nr == RECVMMSG) && H::EACH_MESSAGE {
            if third != 1 {
                // Which one of several this is, nothing tells.
                // SAFETY: as in `moved`.
                unsafe {
                    (*call).moved = bytes;
                    (*call).several = 1;
                    (*call).settled = u64::from((*conn).wire.settled());
                }
                return walked(hook, conn, call, pid_tgid, send);
            }
            (iov, count & 0xffff, len)
        } else if nr == SENDMMSG || nr == RECVMMSG {
            bytes = several(buffer, len);
            // PostgreSQL clients do not batch messages; the bytes and times of several count,
            // and what they say is followed for the first.
            let first = user_or_zero(buffer + MMSG_LEN);
            (iov, count & 0xffff, u64::from(first))
        } else {
            (iov, count & 0xffff, len)
        }
    };
    // SAFETY: as in `pass`.
    let wire = unsafe { &mut (*conn).wire };
    let one = count == ONE_BUFFER;
    let mut memory = ConnMemory::new(conn, call, buffer, if one { len } else { 0 });
    let segments =
        if one { Segments::buffer(buffer, len) } else { Segments::vector(buffer, count, len) };
    // SAFETY: as in `moved`.
    unsafe {
        (*call).moved = bytes;
        (*call).rounds = 0;
        if send && passed == 0 {
            (*call).settled = u64::from(wire.settled());
        }
    }
    let begun = if send {
        wire::begin_send(&mut memory, wire, segments, passed)
    } else {
        wire::begin_receive(&mut memory, wire, segments, passed)
    };
    // SAFETY: as in `moved`.
    unsafe { (*call).several = u32::from(bytes != len) };
    if begun {
        return hook.go_on(if send { PART_SEND_STEPS } else { PART_RECEIVE_STEPS });
    }
    walked(hook, conn, call, pid_tgid, send);
}

/// Goes on along the messages of a send or a receive, and ends that when there are no more.
#[inline(always)]
pub fn steps(hook: &impl Hook, send: bool) {
    let pid_tgid = bpf_get_current_pid_tgid();
    let Some(call) = call_of(pid_tgid) else { return };
    // SAFETY: a live per-CPU map value of this run alone.
    let (id, rounds) = unsafe { ((*call).conn, (*call).rounds) };
    let Some(conn) = conn_of(id) else { return };
    // SAFETY: as in `pass`.
    let wire = unsafe { &mut (*conn).wire };
    let mut memory = ConnMemory::again(conn, call);
    let more = if send {
        wire::walk_send(&mut memory, wire, rounds)
    } else {
        wire::walk_receive(&mut memory, wire, rounds)
    };
    if more {
        // SAFETY: as above.
        unsafe { (*call).rounds = rounds + 1 };
        return hook.go_on(if send { PART_SEND_STEPS } else { PART_RECEIVE_STEPS });
    }
    if send {
        wire::end_send(&mut memory, wire);
    } else {
        wire::end_receive(&mut memory, wire);
    }
    walked(hook, conn, call, pid_tgid, send);
}

/// A send or a receive of any shape was followed.
#[inline(always)]
fn walked(hook: &impl Hook, conn: *mut Conn, call: *mut Call, pid_tgid: u64, send: bool) {
    // SAFETY: live map values, as in `moved`.
    let (bytes, settled) = unsafe {
        if (*call).several != 0 {
            let wire = &mut (*conn).wire;
            let stream = if send { &mut wire.send } else { &mut wire.recv };
            stream.synced = 0;
        }
        ((*call).moved, (*call).settled != 0)
    };
    if send {
        sent(hook, conn, call, pid_tgid, bytes, settled);
    } else {
        received(conn, bytes);
    }
}

/// `bytes` were sent, and the wire follows them; `settled` says whether the server was done before.
#[inline(always)]
fn sent<H: Hook>(
    hook: &H,
    conn: *mut Conn,
    call: *mut Call,
    pid_tgid: u64,
    bytes: u64,
    settled: bool,
) {
    let at = now();
    // SAFETY: a live map value; only plain fields are read and written.
    let use_begins = unsafe {
        (*conn).flags &= !FLAG_CONNECTING;
        let state = &mut (*conn).wire;
        state.bytes_sent += bytes;
        state.last_send = at;
        // A new use is the first send after the server was done, in a session.
        let in_session = state.phase == PHASE_READY
            || state.phase == PHASE_ENCRYPTED
            || state.phase == PHASE_MYSQL
            || state.phase == PHASE_UNKNOWN;
        if settled && in_session {
            state.begin_use(at);
            Some(state.use_kind())
        } else {
            None
        }
    };
    if let Some(kind) = use_begins {
        // SAFETY: a live per-CPU map value of this run alone, and registers that the verifier types.
        let site = unsafe { Site::of(hook.regs(), at, (*call).conn, pid_tgid, 0) };
        if H::NEAR_STACK && stacks::keep_again(conn, kind, &site) {
            return;
        }
        // SAFETY: as above.
        unsafe { (*call).want(kind, site) };
        hook.go_on(PART_STACK);
    }
}

/// `bytes` were received, and the wire follows them.
#[inline(always)]
fn received(conn: *mut Conn, bytes: u64) {
    // SAFETY: as in `sent`.
    unsafe {
        (*conn).flags &= !FLAG_CONNECTING;
        let state = &mut (*conn).wire;
        state.bytes_received += bytes;
        state.last_recv = now();
    }
}

/// `count` of a call with one buffer.
const ONE_BUFFER: u64 = u64::MAX;

/// Bytes moved by the messages of a `sendmmsg` or `recvmmsg`.
#[inline(always)]
fn several(messages: u64, count: u64) -> u64 {
    let mut total = 0;
    for index in 0..MMSG_COUNTED {
        if index >= count {
            break;
        }
        total += u64::from(user_or_zero(messages + index * MMSG_BYTES + MMSG_LEN));
    }
    total
}
