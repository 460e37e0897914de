//! Pool probes: one body, driven by data, behind numbered programs.
//!
//! Program `n` reads entry `n` of `PROBES`. The number is fixed at compile time because kernels
//! before 5.15 have no attach cookie. Attached at RETs and entries only: a uretprobe would rewrite
//! return addresses, which kills Go programs when their stacks move.
//!
//! May import everything in `bpf` but the other programs.

use aya_ebpf::{
    bindings::pt_regs, helpers::bpf_get_current_pid_tgid, macros::uprobe, programs::ProbeContext,
};
use tracer_ebpf::{
    config::{PROC_CONNECTED, PROC_RELEASES, PROC_UNSURE},
    conn::{FLAG_DRIVER, FLAG_EOF},
    drops::DropReason,
    limits::{MAX_KEY_SEARCH, MAX_PROBES},
    parts::{PROBE_PART_FRAMES, PROBE_PART_STACK},
    probe::{
        ACTION_ACQUIRE, ACTION_CONNECT, ACTION_ENTER, ACTION_FORGET, ACTION_NONE, Chain,
        MAX_CHAIN_STEPS, MAX_CHAINS, ProbeSpec, REG_RAX, REG_RBX, REG_RCX, REG_RDI, REG_RDX,
        REG_RSI,
    },
    stack::{FLAG_BOUNDARY, KIND_ACQUIRE},
};

use super::{
    count::{count, now},
    maps::{CHECKOUTS, HandleKey, KEY_OFFSETS, KEYS, PROBE_PARTS, PROBES, PROCS, Site, call_of},
    memory::user,
    sockets::{conn_of, tracked},
    stacks, waits,
};

/// The value of a register the specification names. All are loaded, each at its constant offset:
/// the verifier refuses a context access whose offset was computed.
#[inline(always)]
fn register(regs: *const pt_regs, register: u8) -> u64 {
    // SAFETY: `regs` is the uprobe's context, readable as a whole.
    let (rax, rbx, rcx, rdx, rdi, rsi) = unsafe {
        (
            (&raw const (*regs).rax).read_volatile(),
            (&raw const (*regs).rbx).read_volatile(),
            (&raw const (*regs).rcx).read_volatile(),
            (&raw const (*regs).rdx).read_volatile(),
            (&raw const (*regs).rdi).read_volatile(),
            (&raw const (*regs).rsi).read_volatile(),
        )
    };
    match register {
        REG_RAX => rax,
        REG_RBX => rbx,
        REG_RCX => rcx,
        REG_RDX => rdx,
        REG_RDI => rdi,
        REG_RSI => rsi,
        _ => 0,
    }
}

/// Follows one chain to a tracked descriptor of the process.
#[inline(always)]
fn follow(chain: &Chain, tgid: u32, identity: u64) -> Option<u64> {
    let mut at = identity;
    for step in 0..MAX_CHAIN_STEPS {
        let address = at.wrapping_add(chain.offsets[step] as i64 as u64);
        if step as u32 + 1 >= chain.len {
            let fd = user::<i32>(address)?;
            // SAFETY: no other reference to this value is held.
            return tracked(tgid, fd as u32);
        }
        at = user::<u64>(address)?;
        if at == 0 {
            return None;
        }
    }
    None
}

/// Joins a handle to a connection by the first chain that ends at a tracked descriptor.
#[inline(always)]
fn join(spec: &ProbeSpec, tgid: u32, identity: u64) -> Option<u64> {
    for index in 0..MAX_CHAINS {
        if index as u32 >= u32::from(spec.chain_count) {
            break;
        }
        if let Some(id) = follow(&spec.chains[index], tgid, identity) {
            return Some(id);
        }
    }
    None
}

/// The connection whose backend's process id and key are at `address`; zero for none. The process
/// must have opened it.
#[inline(always)]
fn by_key(tgid: u32, address: u64) -> u64 {
    let Some(pair) = user::<u64>(address) else { return 0 };
    // SAFETY: no other reference to this value is held.
    let Some(id) = (unsafe { KEYS.get(pair) }).copied() else { return 0 };
    match conn_of(id) {
        // SAFETY: a live map value.
        Some(conn) if unsafe { (*conn).tgid } == tgid => id,
        _ => 0,
    }
}

/// The connection that the object at `object` holds, by its backend's key; zero for none. Where
/// the key is in the object is learned from the first one that has a known key: the layout is the
/// compiler's. A function of its own for the verifier.
#[inline(never)]
fn find_by_key(object: u64, within: u32, tgid: u32, point: u64) -> u64 {
    let learned = HandleKey { tgid: u64::from(tgid), identity: point };
    // SAFETY: no other reference to this value is held.
    if let Some(offset) = unsafe { KEY_OFFSETS.get(learned) }.copied() {
        // Nowhere else: what lies beside the object may be another one.
        return by_key(tgid, object.wrapping_add(u64::from(offset)));
    }
    for step in 0..MAX_KEY_SEARCH / 4 {
        let offset = step * 4;
        if offset >= within {
            break;
        }
        let id = by_key(tgid, object.wrapping_add(u64::from(offset)));
        if id != 0 {
            let _full = KEY_OFFSETS.insert(learned, offset, 0);
            return id;
        }
    }
    0
}

/// Notes something of a process that has an entry.
#[inline(always)]
fn mark(tgid: u32, flag: u32) {
    if let Some(process) = PROCS.get_ptr_mut(tgid) {
        // SAFETY: a live map value.
        unsafe {
            if (*process).flags & flag == 0 {
                (*process).flags |= flag;
            }
        }
    }
}

/// A probe whose object is joined by the backend's key. A connection that it cannot join is of
/// another server, encrypted, or from before the start: nothing is said of it.
#[inline(always)]
fn on_key_probe(ctx: &ProbeContext, spec: &ProbeSpec, object: u64) {
    let regs: *const pt_regs = ctx.regs;
    let pid_tgid = bpf_get_current_pid_tgid();
    let tgid = (pid_tgid >> 32) as u32;
    // SAFETY: no other reference to this value is held.
    if unsafe { PROCS.get(tgid) }.is_none_or(|process| process.flags & PROC_CONNECTED == 0) {
        return;
    }
    // Whether it got one is not known where none is joined: that wait is over, and not counted.
    let caller = if spec.by_thread != 0 { waits::leave(spec, regs, pid_tgid) } else { None };
    if spec.has_unless != 0
        && user::<u64>(object.wrapping_add(u64::from(spec.unless_offset))) == Some(spec.unless)
    {
        return;
    }
    // SAFETY: `regs` as in `register`.
    let point = unsafe { (&raw const (*regs).rip).read_volatile() };
    let id = find_by_key(object, spec.key_within, tgid, point);
    let Some(conn) = conn_of(id) else { return };
    let at = now();
    if spec.action != ACTION_ACQUIRE {
        mark(tgid, PROC_RELEASES);
        // SAFETY: a live map value.
        unsafe {
            (*conn).held = 0;
            (*conn).released_at = at;
        }
        return;
    }
    if let Some(caller) = caller {
        // SAFETY: a live map value.
        unsafe { waits::served(spec, tgid, &caller, conn, at) };
    }
    // SAFETY: a live map value.
    unsafe {
        if (*conn).held != 0 {
            mark(tgid, PROC_UNSURE);
            return;
        }
        (*conn).pool = spec.pool;
        (*conn).held = 1;
        (*conn).acquired_at = at;
        (*conn).acquire_tid = pid_tgid as u32;
        (*conn).checkouts += 1;
    }
    keep_stack(ctx, id, at, pid_tgid);
}

/// Goes on in the program that keeps the stack of an acquire of this connection, and does not come
/// back.
#[inline(always)]
fn keep_stack(ctx: &ProbeContext, id: u64, at: u64, pid_tgid: u64) {
    let Some(call) = call_of(pid_tgid) else { return };
    // SAFETY: a live per-CPU map value of this run alone; the array holds programs of uprobes only.
    unsafe {
        (*call).conn = id;
        (*call).want(KIND_ACQUIRE, Site::of(ctx.regs, at, id, pid_tgid, FLAG_BOUNDARY));
        PROBE_PARTS.tail_call(ctx, PROBE_PART_STACK);
    }
}

/// The stack of an acquire is kept.
#[uprobe]
pub fn probe_stack(ctx: ProbeContext) -> u32 {
    if stacks::keep() {
        // SAFETY: the array holds programs of uprobes only.
        unsafe { PROBE_PARTS.tail_call(&ctx, PROBE_PART_FRAMES) };
    }
    0
}

/// The frames of the runtime that belong to that stack are kept.
#[uprobe]
pub fn probe_frames(ctx: ProbeContext) -> u32 {
    if stacks::keep_frames() {
        // SAFETY: as in `probe_stack`.
        unsafe { PROBE_PARTS.tail_call(&ctx, PROBE_PART_FRAMES) };
    }
    0
}

#[inline(always)]
fn on_probe(ctx: &ProbeContext, index: u32) {
    let Some(spec) = PROBES.get(index) else { return };
    if spec.action == ACTION_NONE {
        return;
    }
    let regs: *const pt_regs = ctx.regs;
    let mut identity = register(regs, spec.register);
    if spec.key_within != 0 {
        return on_key_probe(ctx, spec, identity);
    }
    let pid_tgid = bpf_get_current_pid_tgid();
    let tgid = (pid_tgid >> 32) as u32;
    if spec.action == ACTION_ENTER {
        waits::enter(spec, regs, pid_tgid, identity);
        return;
    }
    let caller =
        if spec.action == ACTION_ACQUIRE { waits::leave(spec, regs, pid_tgid) } else { None };
    if identity == 0 {
        if let Some(caller) = caller {
            waits::waited(tgid, spec.pool, &caller, now(), false);
        }
        return;
    }
    if spec.derefs != 0 {
        identity = match user::<u64>(identity.wrapping_add(spec.deref_offset as i64 as u64)) {
            Some(identity) if identity != 0 => identity,
            _ => return,
        };
    }
    let key = HandleKey { tgid: u64::from(tgid), identity };
    // SAFETY: no other reference to this value is held.
    let known = unsafe { CHECKOUTS.get(key) }.copied();
    let joined = known.and_then(|id| conn_of(id).map(|conn| (id, conn)));
    let at = now();
    if spec.action != ACTION_ACQUIRE && spec.action != ACTION_CONNECT {
        if let Some((_, conn)) = joined {
            // SAFETY: a live map value.
            unsafe {
                if (*conn).handle == identity {
                    (*conn).held = 0;
                    (*conn).released_at = at;
                }
            }
        }
        if spec.action == ACTION_FORGET && known.is_some() {
            // Missing is fine: another thread may have been first.
            let _missing = CHECKOUTS.remove(key);
        }
        return;
    }
    let (id, conn) = match joined {
        Some(joined) => joined,
        None => {
            // Only processes that have watched connections have an entry; others use the same pool
            // or library for other servers.
            // SAFETY: no other reference to this value is held.
            if unsafe { PROCS.get(tgid) }.is_none_or(|process| process.flags & PROC_CONNECTED == 0)
            {
                return;
            }
            let Some(id) = join(spec, tgid, identity) else {
                // A driver's other servers are none of ours.
                if spec.action == ACTION_ACQUIRE {
                    count(DropReason::CheckoutUnjoined);
                }
                return;
            };
            // Its release could not be joined either: it would look held for good.
            if CHECKOUTS.insert(key, id, 0).is_err() {
                count(DropReason::CheckoutMapFull);
                return;
            }
            let Some(conn) = conn_of(id) else { return };
            (id, conn)
        }
    };
    if let Some(caller) = caller {
        // SAFETY: a live map value.
        unsafe { waits::served(spec, tgid, &caller, conn, at) };
    }
    // SAFETY: a live map value.
    unsafe {
        (*conn).pool = spec.pool;
        (*conn).handle = identity;
        (*conn).held = 1;
        (*conn).acquired_at = at;
        (*conn).acquire_tid = pid_tgid as u32;
        (*conn).checkouts += 1;
        if spec.action == ACTION_CONNECT {
            (*conn).flags = ((*conn).flags | FLAG_DRIVER) & !FLAG_EOF;
            return;
        }
    }
    keep_stack(ctx, id, at, pid_tgid);
}

macro_rules! programs {
    ($($name:ident = $index:literal),+ $(,)?) => {
        $(
            /// A pool probe.
            #[uprobe]
            pub fn $name(ctx: ProbeContext) -> u32 {
                on_probe(&ctx, $index);
                0
            }
        )+
        const _: () = assert!([$($index),+].len() == MAX_PROBES);
    };
}

programs! {
    probe_0 = 0, probe_1 = 1, probe_2 = 2, probe_3 = 3, probe_4 = 4, probe_5 = 5,
    probe_6 = 6, probe_7 = 7, probe_8 = 8, probe_9 = 9, probe_10 = 10, probe_11 = 11,
    probe_12 = 12, probe_13 = 13, probe_14 = 14, probe_15 = 15, probe_16 = 16, probe_17 = 17,
    probe_18 = 18, probe_19 = 19, probe_20 = 20, probe_21 = 21, probe_22 = 22, probe_23 = 23,
}
