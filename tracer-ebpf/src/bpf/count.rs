//! Counting what is lost, and the only place that writes to the ring buffer.
//!
//! May import the maps and the contract.

use aya_ebpf::{
    bindings::{BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::generated::bpf_ktime_get_ns,
};
use tracer_ebpf::{drops::DropReason, record::Record};

use super::maps::{DROPS, RING};

/// Counts one loss.
#[inline(always)]
pub fn count(reason: DropReason) {
    if let Some(counter) = DROPS.get_ptr_mut(reason as u32) {
        // SAFETY: the pointer is a live per-CPU map value; programs do not migrate between CPUs
        // while they run, and a uprobe that interrupts another program on this CPU can at worst
        // lose one count.
        unsafe { *counter += 1 };
    }
}

/// `CLOCK_MONOTONIC` in nanoseconds.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: the helper has no precondition.
    unsafe { bpf_ktime_get_ns() }
}

/// Writes a record; `wake` tells user space at once, otherwise it is seen at the next tick.
#[inline(always)]
pub fn emit(record: Record, wake: bool) {
    let Some(mut entry) = RING.reserve::<Record>(0) else {
        count(DropReason::RingFull);
        return;
    };
    entry.write(record);
    entry.submit(u64::from(if wake { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP }));
}
