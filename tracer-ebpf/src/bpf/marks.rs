//! Checkouts that a process marks itself, as its pool has no function that could be probed.
//!
//! May import the maps, `count`, `memory`, `sockets`, `stacks` and the contract. Invariant: what is
//! marked is said of the process's own connection only, that which the marked descriptor refers to.

use aya_ebpf::{bindings::pt_regs, helpers::bpf_get_current_pid_tgid};
use tracer_ebpf::{
    conn::FLAG_DRIVER,
    mark::{MAGIC, NO_POOL, RETURNED, TAKEN, TEXT_AT},
};

use super::{
    count::now,
    maps::{CONFIG, Site, call_of},
    memory::user,
    sockets::conn_of,
    stacks,
};

/// A receive of no bytes returned, on a connection that is watched.
#[inline(always)]
pub fn on_mark(regs: *const pt_regs) {
    let pid_tgid = bpf_get_current_pid_tgid();
    let Some(call) = call_of(pid_tgid) else { return };
    // SAFETY: `regs` is the trusted argument of the tracepoint, `call` a live per-CPU map value of
    // this run alone.
    let (buffer, id) = unsafe { ((*regs).rsi, (*call).conn) };
    let (low, high) = MAGIC.split_at(MAGIC.len() / 2);
    if user::<u64>(buffer) != word(low) || user::<u64>(buffer + 8) != word(high) {
        return;
    }
    let Some(what) = user::<u8>(buffer + TEXT_AT - 1) else { return };
    let Some(conn) = conn_of(id) else { return };
    let Some(config) = CONFIG.get(0) else { return };
    let at = now();
    if what == RETURNED {
        // SAFETY: a live map value.
        unsafe {
            // What was taken before the watch began is not known, so neither is that it is back.
            if (*conn).checkouts != 0 {
                (*conn).held = 0;
                (*conn).released_at = at;
            }
        }
        return;
    }
    let Some(&pool) = config.marked_pools.get(usize::from(what.wrapping_sub(TAKEN))) else {
        return;
    };
    if pool != NO_POOL {
        // SAFETY: a live map value; `regs` as above.
        let site = unsafe {
            (*conn).pool = pool;
            // Whoever made it, it is a pool's.
            (*conn).flags &= !FLAG_DRIVER;
            (*conn).held = 1;
            (*conn).acquired_at = at;
            (*conn).acquire_tid = pid_tgid as u32;
            (*conn).checkouts += 1;
            Site::of(regs, at, id, pid_tgid, 0)
        };
        stacks::keep_mark(conn, &site, buffer + TEXT_AT);
    }
}

/// Eight bytes as they are in memory.
const fn word(bytes: &[u8]) -> Option<u64> {
    match bytes.first_chunk() {
        Some(bytes) => Some(u64::from_ne_bytes(*bytes)),
        None => None,
    }
}
