//! Copies registers and raw stack into a connection's slot, and the frames of its runtime.
//!
//! May import the maps, `count`, `memory`, `python`, `node` and the contract. Invariants: the slot's sequence number
//! is odd while it is written; bytes that could not be read are not counted in `len`.

use aya_ebpf::{
    bindings::pt_regs,
    helpers::generated::{bpf_get_current_task, bpf_probe_read_user, bpf_probe_read_user_str},
};
use tracer_ebpf::{
    config::Offsets,
    conn::Conn,
    drops::DropReason,
    limits::MAX_FIXUPS,
    mark::TEXT_BYTES,
    runtime,
    stack::{
        CHUNK_BYTES, FLAG_FULL, FLAG_MARK, GOROUTINE_BYTES, KIND_ACQUIRE, KINDS, MAX_GAP,
        RUNTIME_CLASS, STACK_BYTES, SlotRef, StackHeader,
    },
};

use super::{
    count::count,
    maps::{
        CONFIG, FREE_STACKS_0, FREE_STACKS_1, FREE_STACKS_2, FREE_STACKS_3, PROCS, STACKS_0,
        STACKS_1, STACKS_2, STACKS_3,
    },
    memory::kernel,
    node, python,
};

/// Where the stack is taken.
#[derive(Clone, Copy)]
pub struct Site {
    /// `CLOCK_MONOTONIC` nanoseconds.
    pub at: u64,
    pub conn: u64,
    pub pid_tgid: u64,
    pub ip: u64,
    pub sp: u64,
    pub bp: u64,
    pub g: u64,
    /// `FLAG_` bits of the contract's `stack` module.
    pub flags: u32,
}

impl Site {
    /// The place of the saved registers.
    ///
    /// # Safety
    ///
    /// `regs` is the context of a uprobe or the trusted argument of a tracepoint.
    #[inline(always)]
    pub unsafe fn of(regs: *const pt_regs, at: u64, conn: u64, pid_tgid: u64, flags: u32) -> Self {
        // SAFETY: by this function's contract.
        let (ip, sp, bp, g) = unsafe { ((*regs).rip, (*regs).rsp, (*regs).rbp, (*regs).r14) };
        Self { at, conn, pid_tgid, ip, sp, bp, g, flags }
    }
}

/// Copies the stack of `site` into the connection's slot of `kind`. A function of its own for its
/// stack frame.
#[inline(never)]
pub fn copy(conn: *mut Conn, kind: usize, site: &Site) {
    let kind = kind & (KINDS - 1);
    // SAFETY: `conn` is a live map value, and `kind` below `KINDS`.
    let (packed, class, goid) =
        unsafe { ((*conn).stacks[kind], (*conn).stack_class, (*conn).goid) };
    let mut slot = SlotRef::unpack(packed);
    if slot.is_none_or(|slot| slot.class < class) {
        let Some(fresh) = take(class) else {
            count(DropReason::NoStackSlot);
            return;
        };
        if let Some(old) = slot {
            give_back(old);
        }
        // SAFETY: as above.
        unsafe { (*conn).stacks[kind] = fresh.pack() };
        slot = Some(fresh);
    }
    let Some(slot) = slot else { return };
    match slot.class {
        0 => {
            if let Some(slot) = STACKS_0.get_ptr_mut(slot.index) {
                // SAFETY: a live map value, whose fields are plain bytes.
                unsafe {
                    fill::<1>(&raw mut (*slot).header, (&raw mut (*slot).bytes).cast(), site, goid);
                }
            }
        }
        1 => {
            if let Some(slot) = STACKS_1.get_ptr_mut(slot.index) {
                // SAFETY: as above.
                unsafe {
                    fill::<4>(&raw mut (*slot).header, (&raw mut (*slot).bytes).cast(), site, goid);
                }
            }
        }
        2 => {
            if let Some(slot) = STACKS_2.get_ptr_mut(slot.index) {
                // SAFETY: as above.
                unsafe {
                    fill::<12>(
                        &raw mut (*slot).header,
                        (&raw mut (*slot).bytes).cast(),
                        site,
                        goid,
                    );
                }
            }
        }
        _ => {
            if let Some(slot) = STACKS_3.get_ptr_mut(slot.index) {
                // SAFETY: as above.
                unsafe {
                    fill_runtime(&raw mut (*slot).header, (&raw mut (*slot).bytes).cast(), site);
                }
            }
        }
    }
}

/// Keeps the text of a mark in the place of the acquire's stack, in the smallest slot.
#[inline(never)]
pub fn keep_mark(conn: *mut Conn, site: &Site, text: u64) {
    // SAFETY: `conn` is a live map value.
    let known = SlotRef::unpack(unsafe { (*conn).stacks[KIND_ACQUIRE] });
    let index = match known {
        Some(slot) if slot.class == 0 => slot.index,
        _ => {
            let Ok(Some(index)) = FREE_STACKS_0.pop() else {
                count(DropReason::NoStackSlot);
                return;
            };
            if let Some(other) = known {
                give_back(other);
            }
            // SAFETY: as above.
            unsafe { (*conn).stacks[KIND_ACQUIRE] = SlotRef { class: 0, index }.pack() };
            index
        }
    };
    let Some(slot) = STACKS_0.get_ptr_mut(index) else { return };
    // SAFETY: a live map value, whose fields are plain bytes and more than the text can be.
    unsafe {
        let header = &raw mut (*slot).header;
        begin(header, site);
        (*header).flags = FLAG_MARK;
        (*header).fixup_count = 0;
        (*header).gap = 0;
        let len =
            bpf_probe_read_user_str((&raw mut (*slot).bytes).cast(), TEXT_BYTES, text as *const _);
        if len <= 0 {
            count(DropReason::StackReadFailed);
        }
        // The NUL is not part of the text.
        (*header).len = if len <= 0 { 0 } else { len as u32 - 1 };
        (*header).seq = (*header).seq.wrapping_add(1);
    }
}

const _: () = assert!(STACK_BYTES[0] == CHUNK_BYTES);
const _: () = assert!(STACK_BYTES[1] == 4 * CHUNK_BYTES);
const _: () = assert!(STACK_BYTES[2] == 12 * CHUNK_BYTES);
const _: () = assert!(STACK_BYTES[RUNTIME_CLASS as usize] == 2 * CHUNK_BYTES);

/// A free slot of the class, or of the next smaller one that has one.
#[inline(always)]
fn take(class: u32) -> Option<SlotRef> {
    if class == RUNTIME_CLASS {
        if let Ok(Some(index)) = FREE_STACKS_3.pop() {
            return Some(SlotRef { class: RUNTIME_CLASS, index });
        }
        return None;
    }
    if class >= 2
        && let Ok(Some(index)) = FREE_STACKS_2.pop()
    {
        return Some(SlotRef { class: 2, index });
    }
    if class >= 1
        && let Ok(Some(index)) = FREE_STACKS_1.pop()
    {
        return Some(SlotRef { class: 1, index });
    }
    match FREE_STACKS_0.pop() {
        Ok(Some(index)) => Some(SlotRef { class: 0, index }),
        _ => None,
    }
}

#[inline(always)]
fn give_back(slot: SlotRef) {
    let pushed = match slot.class {
        0 => FREE_STACKS_0.push(slot.index, 0),
        1 => FREE_STACKS_1.push(slot.index, 0),
        2 => FREE_STACKS_2.push(slot.index, 0),
        _ => FREE_STACKS_3.push(slot.index, 0),
    };
    if pushed.is_err() {
        count(DropReason::FreeListFull);
    }
}

/// # Safety
///
/// `header` and `bytes` are the parts of one live stack slot with room for `CHUNKS` chunks.
#[inline(always)]
unsafe fn fill<const CHUNKS: u32>(
    header: *mut StackHeader,
    bytes: *mut u8,
    site: &Site,
    goid: u32,
) {
    // SAFETY: by this function's contract.
    unsafe {
        begin(header, site);
        if goid != 0 {
            // Before the stack, which takes the place of what it reads.
            (*header).goid = goroutine(bytes, site, goid);
        }
        chunks::<CHUNKS, true>(header, bytes, site);
        end(header);
    }
}

/// Copies the stack, and the frames of the process's runtime behind it.
///
/// # Safety
///
/// `header` and `bytes` are the parts of one live stack slot of the runtimes' class.
#[inline(always)]
unsafe fn fill_runtime(header: *mut StackHeader, bytes: *mut u8, site: &Site) {
    let tgid = (site.pid_tgid >> 32) as u32;
    // SAFETY: no other reference to this value is held.
    let kind = unsafe { PROCS.get(tgid) }.map_or(runtime::NONE, |process| process.runtime);
    // SAFETY: by this function's contract.
    unsafe {
        begin(header, site);
        (*header).runtime_frames = 0;
        let frames = bytes.add(STACK_BYTES[RUNTIME_CLASS as usize] as usize);
        (*header).runtime_end = if kind == runtime::NODE {
            chunks::<2, false>(header, bytes, site);
            node::copy(header, bytes, frames, site)
        } else {
            chunks::<1, false>(header, bytes, site);
            if kind == runtime::PYTHON {
                python::copy(header, frames, site)
            } else {
                runtime::END_NONE
            }
        };
        end(header);
    }
}

/// Begins to write a slot.
///
/// # Safety
///
/// `header` is that of a live stack slot.
#[inline(always)]
unsafe fn begin(header: *mut StackHeader, site: &Site) {
    // SAFETY: by this function's contract.
    unsafe {
        (*header).seq = (*header).seq.wrapping_add(1) | 1;
        (*header).flags = site.flags;
        (*header).conn = site.conn;
        (*header).at = site.at;
        (*header).tgid = (site.pid_tgid >> 32) as u32;
        (*header).tid = site.pid_tgid as u32;
        (*header).ip = site.ip;
        (*header).sp = site.sp;
        (*header).bp = site.bp;
        (*header).g = site.g;
        (*header).goid = 0;
    }
}

/// Ends what [`begin`] began, with what belongs to every stack.
///
/// # Safety
///
/// `header` is that of a live stack slot.
#[inline(always)]
unsafe fn end(header: *mut StackHeader) {
    // SAFETY: by this function's contract.
    unsafe {
        (*header).fixup_count = match CONFIG.get(0) {
            Some(config) => fixups(header, &config.off),
            None => 0,
        };
        (*header).seq = (*header).seq.wrapping_add(1);
    }
}

/// Copies the stack. With `GAP`, what Java before 13 has on it that nobody needs is left out.
///
/// # Safety
///
/// `header` and `bytes` are the parts of one live stack slot with room for `CHUNKS` chunks.
#[inline(always)]
unsafe fn chunks<const CHUNKS: u32, const GAP: bool>(
    header: *mut StackHeader,
    bytes: *mut u8,
    site: &Site,
) {
    // SAFETY: by this function's contract; the helper fails rather than faults on bad addresses.
    unsafe {
        let mut gap = 0;
        let mut len = 0u32;
        let mut chunk = 0u32;
        while chunk < CHUNKS {
            let mut from = site.sp + u64::from(chunk * CHUNK_BYTES);
            if GAP && chunk > 0 {
                from += gap;
            }
            let into = bytes.add((chunk * CHUNK_BYTES) as usize);
            if bpf_probe_read_user(into.cast(), CHUNK_BYTES, from as *const _) != 0 {
                // The stack ends within this chunk: take what is left of the page.
                let rest = (u64::from(CHUNK_BYTES) - (from & u64::from(CHUNK_BYTES - 1))) as u32
                    & (CHUNK_BYTES - 1);
                if bpf_probe_read_user(into.cast(), rest, from as *const _) == 0 {
                    len += rest;
                }
                break;
            }
            len += CHUNK_BYTES;
            if GAP && CHUNKS > 1 && chunk == 0 {
                gap = self::gap(bytes, site, u64::from(CHUNKS * CHUNK_BYTES));
            }
            chunk += 1;
        }
        if chunk == CHUNKS {
            (*header).flags |= FLAG_FULL;
        }
        (*header).gap = gap;
        if len == 0 {
            count(DropReason::StackReadFailed);
        }
        (*header).len = len;
    }
}

/// The number of the goroutine whose stack this is, by its record's offset `goid`; zero where the
/// register holds none, or another one than that of this stack. In one read, so `bytes` has it for a
/// moment.
///
/// # Safety
///
/// `bytes` is the beginning of a live stack slot.
#[inline(always)]
unsafe fn goroutine(bytes: *mut u8, site: &Site, goid: u32) -> u64 {
    const LAST: u32 = (GOROUTINE_BYTES - 8).next_power_of_two() - 8;
    // SAFETY: by this function's contract; the helper fails rather than faults on bad addresses. The
    // mask keeps the number within the slot whatever the offset is.
    unsafe {
        if bpf_probe_read_user(bytes.cast(), GOROUTINE_BYTES, site.g as *const _) != 0 {
            return 0;
        }
        let low = bytes.cast::<u64>().read_volatile();
        let high = bytes.add(8).cast::<u64>().read_volatile();
        if site.sp < low || site.sp >= high {
            return 0;
        }
        bytes.add((goid & LAST) as usize).cast::<u64>().read_volatile()
    }
}

/// What to leave out of the stack of Java before 13, whose network library has a buffer of 64 KiB on
/// it when it writes: from the end of the first chunk, which is at `bytes`, to the frame that the
/// buffer is in. That keeps a frame pointer, which the frame below has saved; in the register the C
/// library may have something else.
///
/// # Safety
///
/// `bytes` is the beginning of a live stack slot, with its first chunk.
#[inline(always)]
unsafe fn gap(bytes: *const u8, site: &Site, copied: u64) -> u64 {
    const WORDS: usize = 64;
    let tgid = (site.pid_tgid >> 32) as u32;
    // SAFETY: no other reference to this value is held.
    let runtime = unsafe { PROCS.get(tgid) }.map_or(runtime::NONE, |process| process.runtime);
    if runtime != runtime::BUFFERED_JAVA {
        return 0;
    }
    for index in 0..WORDS {
        // SAFETY: by this function's contract, with the word in the first chunk.
        let frame = unsafe { bytes.cast::<u64>().add(index).read() };
        let above = frame.wrapping_sub(site.sp);
        if above < copied || above - copied >= MAX_GAP || frame & 7 != 0 {
            continue;
        }
        let mut caller = 0u64;
        // SAFETY: the helper fails rather than faults on bad addresses.
        let failed =
            unsafe { bpf_probe_read_user((&raw mut caller).cast(), 8, frame as *const _) } != 0;
        if !failed && caller > frame && caller - frame < MAX_GAP {
            return above - u64::from(CHUNK_BYTES);
        }
    }
    0
}

/// Saves the return addresses that pending uretprobes (of other tracers) replaced on the stack.
///
/// # Safety
///
/// `header` is a live stack header.
#[inline(always)]
unsafe fn fixups(header: *mut StackHeader, off: &Offsets) -> u32 {
    if off.ri_known == 0 {
        return 0;
    }
    // SAFETY: the helper has no precondition.
    let task = unsafe { bpf_get_current_task() };
    let Some(utask) = kernel::<u64>(task + u64::from(off.task_utask)) else { return 0 };
    if utask == 0 {
        return 0;
    }
    let Some(mut instance) = kernel::<u64>(utask + u64::from(off.utask_return_instances)) else {
        return 0;
    };
    let mut found = 0;
    for i in 0..MAX_FIXUPS {
        if instance == 0 {
            break;
        }
        let Some(original) = kernel::<u64>(instance + u64::from(off.ri_orig_ret_vaddr)) else {
            break;
        };
        let Some(slot) = kernel::<u64>(instance + u64::from(off.ri_stack)) else {
            break;
        };
        let Some(next) = kernel::<u64>(instance + u64::from(off.ri_next)) else {
            break;
        };
        // SAFETY: by this function's contract, with `i` below the array's length.
        unsafe { (*header).fixups[i] = [slot, original] };
        found = i as u32 + 1;
        instance = next;
    }
    found
}
