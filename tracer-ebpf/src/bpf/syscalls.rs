//! One hook for all system calls, at their exit.
//!
//! The typed tracepoint `sys_exit` hands over the saved user registers, which still hold number
//! and arguments, and the result. Anything that is no send, receive or descriptor operation leaves
//! after one comparison, a process without a watched socket after one byte more, and another socket
//! of one that has some after a map miss.
//!
//! May import everything in `bpf` but the other programs. x86-64 only: numbers and registers are
//! those of its system-call convention (kernel `arch/x86/entry/syscalls/syscall_64.tbl`).

use aya_ebpf::{
    bindings::pt_regs, helpers::bpf_get_current_pid_tgid, macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use aya_log_ebpf::debug;
use tracer_ebpf::{
    conn::{Conn, FLAG_CONNECTING, FLAG_EOF},
    parts::{
        PART_CONNECT, PART_FRAMES, PART_MARK, PART_RECEIVE_STEPS, PART_RECEIVE_WALK,
        PART_SEND_STEPS, PART_SEND_WALK, PART_STACK,
    },
    wire::{self, PHASE_ENCRYPTED, PHASE_MYSQL, PHASE_READY, PHASE_UNKNOWN, Segments},
};

use super::{
    count::now,
    maps::{Call, PARTS, call_of, holder},
    marks,
    memory::{ConnMemory, user, user_or_zero},
    sockets::{conn_of, on_close, on_close_range, on_connect, on_dup, tracked},
    stacks,
};

const READ: u64 = 0;
const WRITE: u64 = 1;
const CLOSE: u64 = 3;
const READV: u64 = 19;
const WRITEV: u64 = 20;
const DUP: u64 = 32;
const DUP2: u64 = 33;
const CONNECT: u64 = 42;
const SENDTO: u64 = 44;
const RECVFROM: u64 = 45;
const SENDMSG: u64 = 46;
const RECVMSG: u64 = 47;
const FCNTL: u64 = 72;
const DUP3: u64 = 292;
const RECVMMSG: u64 = 299;
const SENDMMSG: u64 = 307;
const CLOSE_RANGE: u64 = 436;

const F_DUPFD: u64 = 0;
const F_DUPFD_CLOEXEC: u64 = 1030;
const MSG_PEEK: u64 = 2;
const ECONNRESET: i64 = -104;

/// Calls that matter with numbers below 64, as bits.
const LOW: u64 = 1 << READ
    | 1 << WRITE
    | 1 << CLOSE
    | 1 << READV
    | 1 << WRITEV
    | 1 << DUP
    | 1 << DUP2
    | 1 << CONNECT
    | 1 << SENDTO
    | 1 << RECVFROM
    | 1 << SENDMSG
    | 1 << RECVMSG;

/// Bytes of `struct mmsghdr`, and where it keeps the bytes moved.
const MMSG_BYTES: u64 = 64;
const MMSG_LEN: u64 = 56;
/// Messages of one `sendmmsg` or `recvmmsg` whose bytes are counted.
const MMSG_COUNTED: u64 = 8;

/// The exit of every system call.
#[btf_tracepoint(function = "sys_exit")]
pub fn on_syscall(ctx: BtfTracePointContext) -> u32 {
    let regs: *const pt_regs = ctx.arg(0);
    // SAFETY: the verifier types the argument as the kernel's `struct pt_regs`.
    let nr = unsafe { (*regs).orig_rax };
    if nr < 64 {
        if (LOW >> nr) & 1 == 0 {
            return 0;
        }
    } else if nr != FCNTL && nr != DUP3 && nr != RECVMMSG && nr != SENDMMSG && nr != CLOSE_RANGE {
        return 0;
    }
    let ret: i64 = ctx.arg(1);
    let pid_tgid = bpf_get_current_pid_tgid();
    let tgid = (pid_tgid >> 32) as u32;
    // SAFETY: a byte of a live map value.
    if nr != CONNECT && holder(tgid).is_none_or(|holder| unsafe { *holder } == 0) {
        return 0;
    }
    // SAFETY: as above.
    let (fd, second, third) = unsafe { ((*regs).rdi as u32, (*regs).rsi, (*regs).rdx) };
    match nr {
        CONNECT => go_on(&ctx, PART_CONNECT),
        CLOSE => on_close(tgid, fd),
        DUP | DUP2 | DUP3 => on_dup(tgid, fd, ret),
        FCNTL => {
            if second == F_DUPFD || second == F_DUPFD_CLOEXEC {
                on_dup(tgid, fd, ret);
            }
        }
        CLOSE_RANGE => {
            if ret == 0 {
                on_close_range(tgid, u64::from(fd), second, third);
            }
        }
        _ => {
            if let Some(id) = tracked(tgid, fd)
                && let Some(call) = call_of(pid_tgid)
            {
                // SAFETY: a live per-CPU map value of this run alone.
                unsafe {
                    (*call).conn = id;
                    (*call).passed = 0;
                }
                match nr {
                    WRITE | SENDTO => pass(&ctx, call, pid_tgid, true),
                    READ | RECVFROM => pass(&ctx, call, pid_tgid, false),
                    WRITEV | SENDMSG | SENDMMSG => go_on(&ctx, PART_SEND_WALK),
                    _ => go_on(&ctx, PART_RECEIVE_WALK),
                }
            }
        }
    }
    0
}

/// Goes on in another program, and does not come back. It comes back only when the program is not
/// there, which user space rules out: it fills the array before it attaches.
#[inline(always)]
fn go_on(ctx: &BtfTracePointContext, part: u32) {
    // SAFETY: the array holds programs for this very tracepoint only.
    unsafe { PARTS.tail_call(ctx, part) };
}

/// `connect` returned.
#[btf_tracepoint(function = "sys_exit")]
pub fn part_connect(ctx: BtfTracePointContext) -> u32 {
    let (ret, pid_tgid): (i64, u64) = (ctx.arg(1), bpf_get_current_pid_tgid());
    debug!(&ctx, "process {} connect returned {}", pid_tgid >> 32, ret);
    if on_connect(ctx.arg(0), ret, pid_tgid) {
        go_on(&ctx, PART_STACK);
    }
    0
}

/// A send on a watched socket returned that was not passed whole.
#[btf_tracepoint(function = "sys_exit")]
pub fn part_send_walk(ctx: BtfTracePointContext) -> u32 {
    walk(&ctx, true);
    0
}

/// A receive on a watched socket returned that was not passed whole.
#[btf_tracepoint(function = "sys_exit")]
pub fn part_receive_walk(ctx: BtfTracePointContext) -> u32 {
    walk(&ctx, false);
    0
}

/// Some steps along the messages of a send.
#[btf_tracepoint(function = "sys_exit")]
pub fn part_send_steps(ctx: BtfTracePointContext) -> u32 {
    steps(&ctx, true);
    0
}

/// Some steps along the messages of a receive.
#[btf_tracepoint(function = "sys_exit")]
pub fn part_receive_steps(ctx: BtfTracePointContext) -> u32 {
    steps(&ctx, false);
    0
}

/// The stack at a call is kept.
#[btf_tracepoint(function = "sys_exit")]
pub fn part_stack(ctx: BtfTracePointContext) -> u32 {
    // SAFETY: the trusted argument of the tracepoint.
    if unsafe { stacks::keep(ctx.arg(0)) } {
        go_on(&ctx, PART_FRAMES);
    }
    0
}

/// The frames of the runtime that belong to that stack are kept.
#[btf_tracepoint(function = "sys_exit")]
pub fn part_frames(ctx: BtfTracePointContext) -> u32 {
    // SAFETY: the trusted argument of the tracepoint.
    if unsafe { stacks::keep_frames(ctx.arg(0)) } {
        go_on(&ctx, PART_FRAMES);
    }
    0
}

/// A receive of no bytes on a watched socket returned.
#[btf_tracepoint(function = "sys_exit")]
pub fn part_mark(ctx: BtfTracePointContext) -> u32 {
    marks::on_mark(ctx.arg(0));
    0
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
fn pass(ctx: &BtfTracePointContext, call: *mut Call, pid_tgid: u64, send: bool) {
    let (regs, ret): (*const pt_regs, i64) = (ctx.arg(0), ctx.arg(1));
    let Some(conn) = moved(call, regs, ret, send) else {
        // SAFETY: `regs` as in `moved`.
        if !send && ret == 0 && unsafe { (*regs).rdx } == 0 {
            go_on(ctx, PART_MARK);
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
        return go_on(ctx, if send { PART_SEND_WALK } else { PART_RECEIVE_WALK });
    }
    if send {
        sent(ctx, conn, call, pid_tgid, len, settled);
    } else {
        received(conn, len);
    }
}

/// A send or a receive of any shape.
#[inline(always)]
fn walk(ctx: &BtfTracePointContext, send: bool) {
    let (regs, ret): (*const pt_regs, i64) = (ctx.arg(0), ctx.arg(1));
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
        if nr == SENDMMSG || nr == RECVMMSG {
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
        return go_on(ctx, if send { PART_SEND_STEPS } else { PART_RECEIVE_STEPS });
    }
    walked(ctx, conn, call, pid_tgid, send);
}

/// Goes on along the messages of a send or a receive, and ends that when there are no more.
#[inline(always)]
fn steps(ctx: &BtfTracePointContext, send: bool) {
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
        return go_on(ctx, if send { PART_SEND_STEPS } else { PART_RECEIVE_STEPS });
    }
    if send {
        wire::end_send(&mut memory, wire);
    } else {
        wire::end_receive(&mut memory, wire);
    }
    walked(ctx, conn, call, pid_tgid, send);
}

/// A send or a receive of any shape was followed.
#[inline(always)]
fn walked(ctx: &BtfTracePointContext, conn: *mut Conn, call: *mut Call, pid_tgid: u64, send: bool) {
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
        sent(ctx, conn, call, pid_tgid, bytes, settled);
    } else {
        received(conn, bytes);
    }
}

/// `bytes` were sent, and the wire follows them; `settled` says whether the server was done before.
#[inline(always)]
fn sent(
    ctx: &BtfTracePointContext,
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
        // SAFETY: a live per-CPU map value of this run alone.
        unsafe { (*call).want(kind, at, 0, pid_tgid) };
        go_on(ctx, PART_STACK);
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
