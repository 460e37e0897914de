//! Who waits for a connection of a pool, and for how long others have waited.
//!
//! May import the maps, `count` and the contract. The two maps are touched at every acquire, so the
//! common one, which returns at once, costs one insert and one removal and nothing else.

use aya_ebpf::bindings::pt_regs;
use tracer_ebpf::{
    config::PROC_CONNECTED,
    conn::Conn,
    drops::DropReason,
    limits::MIN_WAIT,
    probe::ProbeSpec,
    wait::{Caller, CallerKey, Waits, WaitsKey},
};

use super::{
    count::{count, now},
    maps::{CALLERS, PROCS, WAITS},
    memory::user,
};

/// Who asks: the thread, or the goroutine, which is in the register of Go's internal calling
/// convention that holds `g`, in every function at entry and return.
#[inline(always)]
fn caller(spec: &ProbeSpec, regs: *const pt_regs, pid_tgid: u64) -> CallerKey {
    let caller = if spec.by_thread != 0 {
        u64::from(pid_tgid as u32)
    } else {
        // SAFETY: `regs` is the uprobe's context, readable as a whole.
        unsafe { (&raw const (*regs).r14).read_volatile() }
    };
    CallerKey { tgid: (pid_tgid >> 32) as u32, pool: spec.pool, caller }
}

/// An acquire of this pool begins.
#[inline(always)]
pub fn enter(spec: &ProbeSpec, regs: *const pt_regs, pid_tgid: u64, pool: u64) {
    let key = caller(spec, regs, pid_tgid);
    // SAFETY: no other reference to this value is held.
    if unsafe { PROCS.get(key.tgid) }.is_none_or(|process| process.flags & PROC_CONNECTED == 0) {
        return;
    }
    let instance = if spec.derefs != 0 {
        user(pool.wrapping_add(spec.deref_offset as i64 as u64)).unwrap_or(0)
    } else {
        pool
    };
    if CALLERS.insert(key, Caller { entered_at: now(), instance }, 0).is_err() {
        count(DropReason::CallerMapFull);
    }
}

/// An acquire returns; `None` when its entry was not seen.
#[inline(always)]
pub fn leave(spec: &ProbeSpec, regs: *const pt_regs, pid_tgid: u64) -> Option<Caller> {
    let key = caller(spec, regs, pid_tgid);
    // SAFETY: no other reference to this value is held.
    let entered = *unsafe { CALLERS.get(key) }?;
    // Missing is fine: user space may have removed it.
    let _missing = CALLERS.remove(key);
    Some(entered)
}

/// A caller got this connection at `at`, or before that, when the pool began to do something with it.
///
/// # Safety
///
/// `conn` is a live map value.
#[inline(always)]
pub unsafe fn served(spec: &ProbeSpec, tgid: u32, caller: &Caller, conn: *mut Conn, at: u64) {
    // SAFETY: as the caller says.
    let (opened_at, released_at, used_at) = unsafe {
        if caller.instance != 0 {
            (*conn).pool_instance = caller.instance;
        }
        ((*conn).opened_at, (*conn).released_at, (*conn).wire.use_at)
    };
    // What it takes to open a connection is no wait for one, and neither is a pool's test of it.
    let end = if opened_at > caller.entered_at {
        opened_at
    } else if used_at > caller.entered_at && used_at > released_at {
        used_at
    } else {
        at
    };
    waited(tgid, spec.pool, caller, end, true);
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
