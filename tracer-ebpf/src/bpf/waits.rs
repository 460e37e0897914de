//! Who waits for a connection of a pool, and for how long others have waited.
//!
//! May import the maps, `count` and the contract. The two maps are touched at every acquire, so the
//! common one, which returns at once, costs one insert and one removal and nothing else.

use aya_ebpf::bindings::pt_regs;
use tracer_ebpf::{
    config::PROC_CONNECTED,
    drops::DropReason,
    limits::MIN_WAIT,
    wait::{Caller, CallerKey, Waits, WaitsKey},
};

use super::{
    count::{count, now},
    maps::{CALLERS, PROCS, WAITS},
};

/// The goroutine: the register of Go's internal calling convention that holds `g`, in every
/// function at entry and return.
#[inline(always)]
fn caller(regs: *const pt_regs, tgid: u32, pool: u32) -> CallerKey {
    // SAFETY: `regs` is the uprobe's context, readable as a whole.
    let caller = unsafe { (&raw const (*regs).r14).read_volatile() };
    CallerKey { tgid, pool, caller }
}

/// An acquire begins.
#[inline(always)]
pub fn enter(regs: *const pt_regs, tgid: u32, pool: u32, instance: u64) {
    // SAFETY: no other reference to this value is held.
    if unsafe { PROCS.get(tgid) }.is_none_or(|process| process.flags & PROC_CONNECTED == 0) {
        return;
    }
    let value = Caller { entered_at: now(), instance };
    if CALLERS.insert(caller(regs, tgid, pool), value, 0).is_err() {
        count(DropReason::CallerMapFull);
    }
}

/// An acquire returns; `None` when its entry was not seen.
#[inline(always)]
pub fn leave(regs: *const pt_regs, tgid: u32, pool: u32) -> Option<Caller> {
    let key = caller(regs, tgid, pool);
    // SAFETY: no other reference to this value is held.
    let entered = *unsafe { CALLERS.get(key) }?;
    // Missing is fine: user space may have removed it.
    let _missing = CALLERS.remove(key);
    Some(entered)
}

/// An acquire waited until `end`.
#[inline(always)]
pub fn waited(tgid: u32, pool: u32, caller: &Caller, end: u64, served: bool) {
    let nanos = end.saturating_sub(caller.entered_at);
    if nanos < MIN_WAIT {
        return;
    }
    let key = WaitsKey { tgid, pool, instance: caller.instance };
    if WAITS.get_ptr(key).is_none() {
        // Another one may have been first: then its value stays.
        const NOEXIST: u64 = aya_ebpf::bindings::BPF_NOEXIST as u64;
        let _exists = WAITS.insert(key, Waits::default(), NOEXIST);
    }
    let Some(waits) = WAITS.get_ptr_mut(key) else {
        count(DropReason::WaitsMapFull);
        return;
    };
    // SAFETY: a live per-CPU map value, as in `count`.
    unsafe {
        (*waits).served += u64::from(served);
        (*waits).failed += u64::from(!served);
        (*waits).nanos += nanos;
        if nanos > (*waits).longest {
            (*waits).longest = nanos;
        }
    }
}
