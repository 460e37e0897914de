//! The hooks on sockets, in place of the one on system calls where the kernel has them (see `socket` in the
//! contract).
//!
//! Bytes that move over a socket are followed as they are at the exit of a system call: the saved user
//! registers hold number and arguments already. A connection is found by its socket instead of its
//! descriptor, so duplicates and children's need not be known. Anything else leaves after a look at the
//! peer's port.
//!
//! May import everything in `bpf` but the other programs. x86-64 only, as `transfer`.

use aya_ebpf::{
    bindings::pt_regs,
    helpers::{
        bpf_get_current_pid_tgid,
        generated::{bpf_get_current_task_btf, bpf_task_pt_regs},
    },
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use tracer_ebpf::{
    parts::{
        PART_FRAMES, PART_RECEIVE_WALK, PART_SEND_WALK, STATE_PART_CONNECT, STATE_PART_FRAMES,
        STATE_PART_STACK,
    },
    socket::{self, BY_SOCKET, ESTABLISHED, FIN_WAIT1, LAST_ACK, SYN_SENT, SockHead},
};

use super::{
    maps::{CONFIG, SOCKET_PARTS, STATE_PARTS, call_of, holder, is_mode},
    sockets::{
        adopted, conn_of, is_watched_port, key_of, of_sock, on_connect, on_established, on_gone,
        tracked,
    },
    stacks,
    transfer::{
        CLOSE, CONNECT, ECONNRESET, Hook, READ, READV, RECVFROM, RECVMMSG, RECVMSG, SENDMMSG,
        SENDMSG, SENDTO, WRITE, WRITEV, pass, steps, walk,
    },
};

/// As `connect` returns while the connection is not there yet.
const EINPROGRESS: i64 = -115;

/// Bytes moved over a socket.
struct Moved<'a> {
    ctx: &'a BtfTracePointContext,
    regs: *const pt_regs,
}

impl<'a> Moved<'a> {
    #[inline(always)]
    fn of(ctx: &'a BtfTracePointContext) -> Self {
        Self { ctx, regs: saved_registers() }
    }
}

impl Hook for Moved<'_> {
    const EACH_MESSAGE: bool = true;
    const NEAR_STACK: bool = true;

    #[inline(always)]
    fn regs(&self) -> *const pt_regs {
        self.regs
    }

    #[inline(always)]
    fn ret(&self) -> i64 {
        moved(self.ctx)
    }

    #[inline(always)]
    fn go_on(&self, part: u32) {
        moved_go_on(self.ctx, part);
    }
}

#[inline(always)]
fn moved_go_on(ctx: &BtfTracePointContext, part: u32) {
    // SAFETY: the array holds programs for tracepoints with these arguments only.
    unsafe { SOCKET_PARTS.tail_call(ctx, part) };
}

/// The registers that the process's thread entered the kernel with.
#[inline(always)]
fn saved_registers() -> *const pt_regs {
    // SAFETY: the helpers have no precondition; the verifier knows the type of both results.
    unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) as *const pt_regs }
}

/// Bytes that were moved, or the error.
#[inline(always)]
fn moved(ctx: &BtfTracePointContext) -> i64 {
    let ret: i32 = ctx.arg(1);
    i64::from(ret)
}

/// The socket that the tracepoint is about and its key, when its peer has a watched port.
#[inline(always)]
fn watched(ctx: &BtfTracePointContext) -> Option<(*const SockHead, u64)> {
    let sock: *const SockHead = ctx.arg(0);
    // SAFETY: the verifier types the argument as the kernel's `struct sock`, which begins like this.
    let port = u16::from_be(unsafe { (*sock).dport });
    let config = CONFIG.get(0)?;
    is_watched_port(config, port).then(|| (sock, key_of(sock, config)))
}

/// Bytes were sent.
#[btf_tracepoint(function = "sock_send_length")]
pub fn on_socket_send(ctx: BtfTracePointContext) -> u32 {
    if moved(&ctx) > 0 {
        let _other = on_moved(&ctx, true);
    }
    0
}

/// Bytes were received, or the peer has closed.
#[btf_tracepoint(function = "sock_recv_length")]
pub fn on_socket_receive(ctx: BtfTracePointContext) -> u32 {
    let ret = moved(&ctx);
    if ret >= 0 || ret == ECONNRESET {
        let _other = on_moved(&ctx, false);
    }
    0
}

#[inline(always)]
fn on_moved(ctx: &BtfTracePointContext, send: bool) -> Option<()> {
    let (sock, key) = watched(ctx)?;
    let pid_tgid = bpf_get_current_pid_tgid();
    let known = of_sock(key);
    if known.is_none() {
        // SAFETY: a byte of a live map value.
        let holds = unsafe { *holder((pid_tgid >> 32) as u32)? };
        if holds == 0 {
            return None;
        }
    }
    let hook = Moved::of(ctx);
    // SAFETY: the verifier types the registers.
    let (nr, fd) = unsafe { ((*hook.regs).orig_rax, (*hook.regs).rdi as u32) };
    let id = known.or_else(|| adopted(sock, (pid_tgid >> 32) as u32, fd))?;
    if !is_mode(BY_SOCKET) {
        return None;
    }
    let call = call_of(pid_tgid)?;
    // SAFETY: a live per-CPU map value of this run alone.
    unsafe {
        (*call).conn = id;
        (*call).passed = 0;
    }
    match nr {
        WRITE | SENDTO if send => pass(&hook, call, pid_tgid, true),
        READ | RECVFROM if !send => pass(&hook, call, pid_tgid, false),
        WRITEV | SENDMSG | SENDMMSG if send => hook.go_on(PART_SEND_WALK),
        READV | RECVMSG | RECVMMSG if !send => hook.go_on(PART_RECEIVE_WALK),
        // Asynchronous ones tell nothing of their buffers.
        _ => {}
    }
    Some(())
}

/// A send that was not passed whole.
#[btf_tracepoint(function = "sock_send_length")]
pub fn socket_send_walk(ctx: BtfTracePointContext) -> u32 {
    walk(&Moved::of(&ctx), true);
    0
}

/// A receive that was not passed whole.
#[btf_tracepoint(function = "sock_send_length")]
pub fn socket_receive_walk(ctx: BtfTracePointContext) -> u32 {
    walk(&Moved::of(&ctx), false);
    0
}

/// Some steps along the messages of a send.
#[btf_tracepoint(function = "sock_send_length")]
pub fn socket_send_steps(ctx: BtfTracePointContext) -> u32 {
    steps(&Moved::of(&ctx), true);
    0
}

/// Some steps along the messages of a receive.
#[btf_tracepoint(function = "sock_send_length")]
pub fn socket_receive_steps(ctx: BtfTracePointContext) -> u32 {
    steps(&Moved::of(&ctx), false);
    0
}

/// The stack at a send is kept.
#[btf_tracepoint(function = "sock_send_length")]
pub fn socket_stack(ctx: BtfTracePointContext) -> u32 {
    if stacks::keep() {
        moved_go_on(&ctx, PART_FRAMES);
    }
    0
}

/// The frames of the runtime that belong to that stack are kept.
#[btf_tracepoint(function = "sock_send_length")]
pub fn socket_frames(ctx: BtfTracePointContext) -> u32 {
    if stacks::keep_frames() {
        moved_go_on(&ctx, PART_FRAMES);
    }
    0
}

/// A TCP connection changed its state.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn on_socket_state(ctx: BtfTracePointContext) -> u32 {
    let (before, state): (i32, i32) = (ctx.arg(1), ctx.arg(2));
    if state == SYN_SENT {
        // Whatever the peer's port is: what the process asked for counts, and something may rewrite it.
        // SAFETY: the verifier types the registers.
        if unsafe { (*saved_registers()).orig_rax } == CONNECT {
            state_go_on(&ctx, STATE_PART_CONNECT);
        }
        return 0;
    }
    let Some((sock, key)) = watched(&ctx) else { return 0 };
    match state {
        ESTABLISHED if before == SYN_SENT => {
            // SAFETY: as in `watched`.
            on_established(key, unsafe { (*sock).num });
        }
        FIN_WAIT1 | LAST_ACK | socket::CLOSE => {
            if let Some(id) = of_sock(key).or_else(|| closed_unmoved(sock)) {
                on_gone(key, id);
            }
        }
        _ => {}
    }
    0
}

/// The connection that existed before the watch and has not moved a byte since, when the process closes it.
#[inline(always)]
fn closed_unmoved(sock: *const SockHead) -> Option<u64> {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    // SAFETY: a byte of a live map value.
    if unsafe { *holder(tgid)? } == 0 {
        return None;
    }
    let regs = saved_registers();
    // SAFETY: the verifier types the registers.
    let (nr, fd) = unsafe { ((*regs).orig_rax, (*regs).rdi as u32) };
    if nr != CLOSE {
        return None;
    }
    let id = tracked(tgid, fd)?;
    let conn = conn_of(id)?;
    // SAFETY: a live map value, and the socket as in `watched`. A softirq may have come between with the
    // state of another one, but no other of the process has this port.
    let is_it = unsafe { (*conn).sock == 0 && (*conn).local_port == (*sock).num };
    is_it.then_some(id)
}

#[inline(always)]
fn state_go_on(ctx: &BtfTracePointContext, part: u32) {
    // SAFETY: the array holds programs for this very tracepoint only.
    unsafe { STATE_PARTS.tail_call(ctx, part) };
}

/// A process asks for a connection.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn state_connect(ctx: BtfTracePointContext) -> u32 {
    let sock: *const SockHead = ctx.arg(0);
    if on_connect(saved_registers(), EINPROGRESS, bpf_get_current_pid_tgid(), Some(sock)) {
        state_go_on(&ctx, STATE_PART_STACK);
    }
    0
}

/// The stack at `connect` is kept.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn state_stack(ctx: BtfTracePointContext) -> u32 {
    if stacks::keep() {
        state_go_on(&ctx, STATE_PART_FRAMES);
    }
    0
}

/// The frames of the runtime that belong to that stack are kept.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn state_frames(ctx: BtfTracePointContext) -> u32 {
    if stacks::keep_frames() {
        state_go_on(&ctx, STATE_PART_FRAMES);
    }
    0
}
