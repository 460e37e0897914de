//! Fork, exec and exit of the processes that matter.
//!
//! May import the maps, `count`, `memory` and the contract.

use aya_ebpf::{
    helpers::bpf_get_current_pid_tgid, macros::btf_tracepoint, programs::BtfTracePointContext,
};
use tracer_ebpf::{
    drops::DropReason,
    record::{EXEC, EXIT, FORK, Record},
    runtime,
};

use super::{
    count::{count, emit, now},
    maps::{CONFIG, PROCS, PYTHONS, holder},
    memory::kernel,
};

/// A child of a known process inherits its descriptors and settings.
#[btf_tracepoint(function = "sched_process_fork")]
pub fn on_fork(ctx: BtfTracePointContext) -> u32 {
    let parent = (bpf_get_current_pid_tgid() >> 32) as u32;
    // SAFETY: no other reference to this value is held.
    let Some(process) = (unsafe { PROCS.get(parent) }) else { return 0 };
    let process = *process;
    let Some(config) = CONFIG.get(0) else { return 0 };
    let child_task: u64 = ctx.arg(1);
    let Some(child) = kernel::<u32>(child_task + u64::from(config.off.task_tgid)) else {
        count(DropReason::KernelReadFailed);
        return 0;
    };
    if child == parent {
        // A thread.
        return 0;
    }
    if PROCS.insert(child, process, 0).is_err() {
        count(DropReason::ProcessMapFull);
    }
    if process.runtime == runtime::PYTHON {
        // SAFETY: no other reference to this value is held.
        let layout = unsafe { PYTHONS.get(parent) }.copied();
        // Without room the child's stacks have no Python frames, and say so.
        let _kept = layout.map(|layout| PYTHONS.insert(child, layout, 0));
    }
    let record =
        Record { kind: FORK, tgid: parent, at: now(), a: u64::from(child), ..Record::default() };
    emit(record, true);
    0
}

/// A new image: descriptors may have closed, and it may be a program to probe.
#[btf_tracepoint(function = "sched_process_exec")]
pub fn on_exec(_ctx: BtfTracePointContext) -> u32 {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    emit(Record { kind: EXEC, tgid, at: now(), ..Record::default() }, true);
    0
}

/// The last thread of a known process ended.
#[btf_tracepoint(function = "sched_process_exit")]
pub fn on_exit(ctx: BtfTracePointContext) -> u32 {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    // SAFETY: the value is not used, only its presence.
    if unsafe { PROCS.get(tgid) }.is_none() {
        return 0;
    }
    let Some(config) = CONFIG.get(0) else { return 0 };
    let task: u64 = ctx.arg(0);
    let live = kernel::<u64>(task + u64::from(config.off.task_signal))
        .and_then(|signal| kernel::<u32>(signal + u64::from(config.off.signal_live)));
    match live {
        // `do_exit` counts the thread out before the tracepoint (kernel `kernel/exit.c`).
        Some(0) => {}
        Some(_) => return 0,
        None => count(DropReason::KernelReadFailed),
    }
    // Missing is fine: user space may have removed it.
    let _missing = PROCS.remove(tgid);
    if let Some(holder) = holder(tgid) {
        // SAFETY: a byte of a live map value.
        unsafe { *holder = 0 };
    }
    emit(Record { kind: EXIT, tgid, at: now(), ..Record::default() }, false);
    0
}
