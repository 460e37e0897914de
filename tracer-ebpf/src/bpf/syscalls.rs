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
    parts::{PART_CONNECT, PART_FRAMES, PART_RECEIVE_WALK, PART_SEND_WALK, PART_STACK},
    socket::BY_CALL,
};

use super::{
    maps::{PARTS, call_of, holder, is_mode},
    marks,
    sockets::{on_close, on_close_range, on_connect, on_dup, tracked},
    stacks,
    transfer::{
        CLOSE, CONNECT, Hook, READ, READV, RECVFROM, RECVMMSG, RECVMSG, SENDMMSG, SENDMSG, SENDTO,
        WRITE, WRITEV, pass, steps, walk,
    },
};

const DUP: u64 = 32;
const DUP2: u64 = 33;
const FCNTL: u64 = 72;
const DUP3: u64 = 292;
const CLOSE_RANGE: u64 = 436;

const F_DUPFD: u64 = 0;
const F_DUPFD_CLOEXEC: u64 = 1030;

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

/// The exit of a system call.
struct Exit<'a>(&'a BtfTracePointContext);

impl Hook for Exit<'_> {
    const EACH_MESSAGE: bool = false;
    const NEAR_STACK: bool = false;

    #[inline(always)]
    fn regs(&self) -> *const pt_regs {
        self.0.arg(0)
    }

    #[inline(always)]
    fn ret(&self) -> i64 {
        self.0.arg(1)
    }

    #[inline(always)]
    fn go_on(&self, part: u32) {
        // SAFETY: the array holds programs for this very tracepoint only.
        unsafe { PARTS.tail_call(self.0, part) };
    }
}

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
    let hook = Exit(&ctx);
    match nr {
        CONNECT => hook.go_on(PART_CONNECT),
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
                && is_mode(BY_CALL)
                && let Some(call) = call_of(pid_tgid)
            {
                // SAFETY: a live per-CPU map value of this run alone.
                unsafe {
                    (*call).conn = id;
                    (*call).passed = 0;
                }
                match nr {
                    WRITE | SENDTO => pass(&hook, call, pid_tgid, true),
                    READ | RECVFROM => pass(&hook, call, pid_tgid, false),
                    WRITEV | SENDMSG | SENDMMSG => hook.go_on(PART_SEND_WALK),
                    _ => hook.go_on(PART_RECEIVE_WALK),
                }
            }
        }
    }
    0
}

/// `connect` returned.
#[btf_tracepoint(function = "sys_exit")]
pub fn part_connect(ctx: BtfTracePointContext) -> u32 {
    let (ret, pid_tgid): (i64, u64) = (ctx.arg(1), bpf_get_current_pid_tgid());
    debug!(&ctx, "process {} connect returned {}", pid_tgid >> 32, ret);
    if on_connect(ctx.arg(0), ret, pid_tgid, None) {
        Exit(&ctx).go_on(PART_STACK);
    }
    0
}

/// A send on a watched socket returned that was not passed whole.
#[btf_tracepoint(function = "sys_exit")]
pub fn part_send_walk(ctx: BtfTracePointContext) -> u32 {
    walk(&Exit(&ctx), true);
    0
}

/// A receive on a watched socket returned that was not passed whole.
#[btf_tracepoint(function = "sys_exit")]
pub fn part_receive_walk(ctx: BtfTracePointContext) -> u32 {
    walk(&Exit(&ctx), false);
    0
}

/// Some steps along the messages of a send.
#[btf_tracepoint(function = "sys_exit")]
pub fn part_send_steps(ctx: BtfTracePointContext) -> u32 {
    steps(&Exit(&ctx), true);
    0
}

/// Some steps along the messages of a receive.
#[btf_tracepoint(function = "sys_exit")]
pub fn part_receive_steps(ctx: BtfTracePointContext) -> u32 {
    steps(&Exit(&ctx), false);
    0
}

/// The stack at a call is kept.
#[btf_tracepoint(function = "sys_exit")]
pub fn part_stack(ctx: BtfTracePointContext) -> u32 {
    if stacks::keep() {
        Exit(&ctx).go_on(PART_FRAMES);
    }
    0
}

/// The frames of the runtime that belong to that stack are kept.
#[btf_tracepoint(function = "sys_exit")]
pub fn part_frames(ctx: BtfTracePointContext) -> u32 {
    if stacks::keep_frames() {
        Exit(&ctx).go_on(PART_FRAMES);
    }
    0
}

/// A receive of no bytes on a watched socket returned.
#[btf_tracepoint(function = "sys_exit")]
pub fn part_mark(ctx: BtfTracePointContext) -> u32 {
    marks::on_mark(ctx.arg(0));
    0
}
