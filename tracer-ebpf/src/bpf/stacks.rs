//! Copies registers and raw stack into a connection's slot, and the frames of its runtime.
//!
//! May import the maps, `count`, `memory`, `sockets`, `python`, `node` and the contract. Invariants: the slot's sequence number
//! is odd while it is written; bytes that could not be read are not counted in `len`.

use aya_ebpf::{
    helpers::bpf_get_current_pid_tgid,
    helpers::generated::{
        bpf_get_current_task, bpf_get_current_task_btf, bpf_probe_read_user,
        bpf_probe_read_user_str,
    },
};
use tracer_ebpf::{
    config::Offsets,
    conn::Conn,
    drops::DropReason,
    limits::MAX_FIXUPS,
    mark::TEXT_BYTES,
    runtime,
    stack::{
        CHUNK_BYTES, FLAG_FULL, FLAG_MARK, GOROUTINE_BYTES, KIND_ACQUIRE, KINDS, LARGEST_CLASS,
        MAX_GAP, RUNTIME_CLASS, STACK_BYTES, SlotRef, StackHeader,
    },
};

use super::{
    count::count,
    maps::{
        CONFIG, Call, FREE_STACKS_0, FREE_STACKS_1, FREE_STACKS_2, FREE_STACKS_3, STACKS_0,
        STACKS_1, STACKS_2, STACKS_3, Site, call_of,
    },
    memory::kernel,
    node, python,
    sockets::conn_of,
};

/// What the program before this part asked for: the connection, the kind of the stack, and its site.
#[inline(always)]
fn asked() -> Option<(*mut Conn, usize, Site, *mut Call)> {
    let pid_tgid = bpf_get_current_pid_tgid();
    let call = call_of(pid_tgid)?;
    // SAFETY: a live per-CPU map value of this run alone.
    let (kind, site) = unsafe { ((*call).kind, (*call).site) };
    if site.pid_tgid != pid_tgid {
        // Another thread's, which has the place now (see `CALL`): no stack rather than a wrong one.
        count(DropReason::StackReadFailed);
        return None;
    }
    Some((conn_of(site.conn)?, kind as usize & (KINDS - 1), site, call))
}

/// Keeps the stack that the program before this part asked for; true where the runtime's frames are
/// to follow.
#[inline(always)]
pub fn keep() -> bool {
    let Some((conn, kind, site, call)) = asked() else { return false };
    // SAFETY: `conn` is a live map value, and `kind` below `KINDS`.
    let (packed, class, goid, of) =
        unsafe { ((*conn).stacks[kind], (*conn).stack_class, (*conn).goid, (*conn).runtime) };
    let mut slot = SlotRef::unpack(packed);
    let is_fresh = slot.is_none_or(|slot| slot.class < class);
    if is_fresh {
        let Some(fresh) = take(class) else {
            count(DropReason::NoStackSlot);
            return false;
        };
        if let Some(old) = slot {
            give_back(old);
        }
        // SAFETY: as above.
        unsafe { (*conn).stacks[kind] = fresh.pack() };
        slot = Some(fresh);
    }
    let Some(slot) = slot else { return false };
    // A stack that stands alone is ended here, those with frames when these are copied.
    macro_rules! copy {
        ($stacks:ident, $chunks:literal, $alone:literal, $most:expr) => {
            if let Some(slot) = $stacks.get_ptr_mut(slot.index) {
                // SAFETY: live map values, whose fields are plain bytes.
                unsafe {
                    let (header, bytes) =
                        (&raw mut (*slot).header, (&raw mut (*slot).bytes).cast());
                    let before = begin(header, &site);
                    let most = if !$alone && of == runtime::NODE {
                        let frames = if is_fresh { 0 } else { before };
                        let (known, most) = node::take_over(header, &site, frames, $most);
                        (*call).known = known;
                        most
                    } else {
                        $most
                    };
                    // Before the stack, which takes the place of what it reads.
                    let end = if goid != 0 { goroutine(header, bytes, &site, goid) } else { 0 };
                    let end = if end != 0 { end } else { end_of_stack(conn, &site) };
                    let has_gap = $alone && of == runtime::BUFFERED_JAVA;
                    chunks::<$chunks>(header, bytes, &site, end, most, has_gap);
                    if $alone {
                        self::end(header);
                    }
                }
            }
        };
    }
    match slot.class {
        0 => copy!(STACKS_0, 1, true, STACK_BYTES[0]),
        1 => copy!(STACKS_1, 4, true, STACK_BYTES[1]),
        2 => copy!(STACKS_2, 12, true, STACK_BYTES[2]),
        _ => {
            // The others' frames are not on the stack.
            let chunks = if of == runtime::NODE { 2 } else { 1 };
            copy!(STACKS_3, 2, false, chunks * CHUNK_BYTES);
            // SAFETY: a live per-CPU map value of this run alone.
            unsafe { (*call).rounds = 0 };
            return true;
        }
    }
    false
}

/// Keeps a stack in the slot that the connection's last one of this kind is in, where nothing more is to do
/// than that; false where [`keep`] is to see to it. Without a program of its own, as it is what the sends of
/// a busy connection mostly come to.
#[inline(always)]
pub fn keep_again(conn: *mut Conn, kind: usize, site: &Site) -> bool {
    // SAFETY: `conn` is a live map value, and `kind` is masked.
    let (packed, class, goid, of) = unsafe {
        let packed = (*conn).stacks[kind & (KINDS - 1)];
        (packed, (*conn).stack_class, (*conn).goid, (*conn).runtime)
    };
    let Some(slot) = SlotRef::unpack(packed) else { return false };
    if slot.class != class || goid != 0 || of != runtime::NONE {
        return false;
    }
    macro_rules! copy {
        ($stacks:ident, $chunks:literal, $most:expr) => {{
            let Some(slot) = $stacks.get_ptr_mut(slot.index) else { return false };
            // SAFETY: live map values, whose fields are plain bytes.
            unsafe {
                let (header, bytes) = (&raw mut (*slot).header, (&raw mut (*slot).bytes).cast());
                begin(header, site);
                if !at_once::<$chunks>(header, bytes, site, end_of_stack(conn, site), $most) {
                    // It is begun again.
                    return false;
                }
                end(header);
            }
            true
        }};
    }
    match class {
        0 => copy!(STACKS_0, 1, STACK_BYTES[0]),
        1 => copy!(STACKS_1, 4, STACK_BYTES[1]),
        _ => false,
    }
}

/// Copies the frames of the process's runtime behind the stack that was kept before; true where this is
/// to be gone on with.
#[inline(always)]
pub fn keep_frames() -> bool {
    let Some((conn, kind, site, call)) = asked() else { return false };
    // SAFETY: as in `keep`.
    let Some(slot) = SlotRef::unpack(unsafe { (*conn).stacks[kind] }) else { return false };
    if slot.class != RUNTIME_CLASS {
        return false;
    }
    let Some(slot) = STACKS_3.get_ptr_mut(slot.index) else { return false };
    // SAFETY: a live map value, whose fields are plain bytes.
    unsafe {
        let header = &raw mut (*slot).header;
        if (*header).at != site.at || (*header).conn != site.conn {
            // Meanwhile it has become another one's.
            return false;
        }
        let bytes: *mut u8 = (&raw mut (*slot).bytes).cast();
        let frames = bytes.add(STACK_BYTES[RUNTIME_CLASS as usize] as usize);
        let ended = match (*conn).runtime {
            runtime::NODE => node::copy(header, bytes, frames, &site, call),
            runtime::PYTHON => Some(python::copy(header, frames, &site)),
            _ => Some(runtime::END_NONE),
        };
        let Some(ended) = ended else { return true };
        (*header).runtime_end = ended;
        end(header);
    }
    false
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

/// Begins to write a slot; returns the number of the runtime's frames in it, if they are of this process.
///
/// # Safety
///
/// `header` is that of a live stack slot.
#[inline(always)]
unsafe fn begin(header: *mut StackHeader, site: &Site) -> u32 {
    // SAFETY: by this function's contract.
    unsafe {
        let tgid = (site.pid_tgid >> 32) as u32;
        let before = if (*header).tgid == tgid { (*header).runtime_frames } else { 0 };
        (*header).seq = (*header).seq.wrapping_add(1) | 1;
        (*header).flags = site.flags;
        (*header).conn = site.conn;
        (*header).at = site.at;
        (*header).tgid = tgid;
        (*header).tid = site.pid_tgid as u32;
        (*header).ip = site.ip;
        (*header).sp = site.sp;
        (*header).bp = site.bp;
        (*header).g = site.g;
        (*header).goid = 0;
        (*header).runtime_frames = 0;
        before
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

/// Where the current thread's own stack ends; zero when that is not known.
#[inline(always)]
fn end_of_thread(sp: u64) -> u64 {
    let Some(config) = CONFIG.get(0) else { return 0 };
    let off = &config.off;
    // SAFETY: the helper has no precondition.
    let task = unsafe { bpf_get_current_task() };
    let end = if sp < FIRST_THREADS {
        if off.task_fsbase == 0 { None } else { kernel(task + u64::from(off.task_fsbase)) }
    } else if off.mm_start_stack == 0 {
        None
    } else {
        kernel::<u64>(task + u64::from(off.task_mm))
            .and_then(|mm| kernel(mm + u64::from(off.mm_start_stack)))
    };
    end.unwrap_or(0)
}

/// The stack of a process's first thread lies above: the kernel puts it at most 16 GiB below the end of
/// user addresses, its arguments and environment in between, and nothing else there (Linux
/// `arch/x86/mm/mmap.c`, `stack_maxrandom_size`). It ends at `mm->start_stack`, where the arguments begin.
/// Those of other threads end with what the C library keeps of the thread, at the FS base
/// (`pthread_create` of glibc and musl).
const FIRST_THREADS: u64 = (1 << 47) - (16 << 30) - (256 << 20);

/// No address of a stack.
const UNKNOWN_END: u64 = u64::MAX;

/// Where the stack at `sp` ends; [`UNKNOWN_END`] when that is not known. What is behind belongs to no
/// frame, and to copy it costs more than to ask, once for a connection and thread.
///
/// # Safety
///
/// `conn` is a live map value.
#[inline(always)]
unsafe fn end_of_stack(conn: *mut Conn, site: &Site) -> u64 {
    let tid = site.pid_tgid as u32;
    // SAFETY: by this function's contract.
    let end = unsafe {
        if (*conn).stack_tid != tid {
            (*conn).stack_end = end_of_thread(site.sp);
            (*conn).stack_tid = tid;
        }
        (*conn).stack_end
    };
    // Another stack than the thread's own, of a coroutine say, is nowhere near.
    let near = end > site.sp && end - site.sp < u64::from(STACK_BYTES[LARGEST_CLASS as usize]);
    if near { end } else { UNKNOWN_END }
}

/// Copies `most` of the stack, or what there is of it, in one read, because each call of the helper costs
/// more than what it copies; false where that fails.
///
/// # Safety
///
/// `header` and `bytes` are the parts of one live stack slot with room for `CHUNKS` chunks.
#[inline(always)]
unsafe fn at_once<const CHUNKS: u32>(
    header: *mut StackHeader,
    bytes: *mut u8,
    site: &Site,
    end: u64,
    most: u32,
) -> bool {
    // SAFETY: by this function's contract; the helper fails rather than faults on bad addresses.
    unsafe {
        let room = end.saturating_sub(site.sp);
        let is_full = room >= u64::from(most);
        let len = &raw mut (*header).len;
        // From memory, for the mask, which the compiler would leave out and old verifiers need.
        len.write_volatile(if is_full { most } else { room as u32 });
        let all = len.read_volatile() & ((CHUNKS * CHUNK_BYTES + 1).next_power_of_two() - 1);
        (*header).gap = 0;
        let is_read = all <= CHUNKS * CHUNK_BYTES
            && all != 0
            && bpf_probe_read_user(bytes.cast(), all, site.sp as *const _) == 0;
        if is_read && is_full {
            (*header).flags |= FLAG_FULL;
        }
        is_read
    }
}

/// Copies the stack: at once or, where that fails, in pieces. With `has_gap`, what Java before 13 has on it
/// that nobody needs is left out.
///
/// # Safety
///
/// As of [`at_once`].
#[inline(always)]
unsafe fn chunks<const CHUNKS: u32>(
    header: *mut StackHeader,
    bytes: *mut u8,
    site: &Site,
    end: u64,
    most: u32,
    has_gap: bool,
) {
    // SAFETY: by this function's contract; the helper fails rather than faults on bad addresses.
    unsafe {
        if !has_gap && at_once::<CHUNKS>(header, bytes, site, end, most) {
            return;
        }
        let mut gap = 0;
        let len = &raw mut (*header).len;
        len.write_volatile(0);
        for chunk in 0..CHUNKS {
            let mut from = site.sp + u64::from(chunk * CHUNK_BYTES);
            if chunk > 0 {
                from += gap;
            }
            if from >= end || chunk * CHUNK_BYTES >= most {
                break;
            }
            let room = end - from;
            let into = bytes.add((chunk * CHUNK_BYTES) as usize);
            // Up to the end of the stack, or at least to that of the page.
            let part = if room < u64::from(CHUNK_BYTES) {
                room as u32
            } else if bpf_probe_read_user(into.cast(), CHUNK_BYTES, from as *const _) == 0 {
                len.write_volatile((chunk + 1) * CHUNK_BYTES);
                if (chunk + 1) * CHUNK_BYTES >= most {
                    (*header).flags |= FLAG_FULL;
                }
                if has_gap && CHUNKS > 1 && chunk == 0 {
                    gap = self::gap(bytes, site, u64::from(CHUNKS * CHUNK_BYTES));
                }
                continue;
            } else {
                (u64::from(CHUNK_BYTES) - (from & u64::from(CHUNK_BYTES - 1))) as u32
            };
            // From memory, for the mask, which the compiler would leave out and old verifiers need.
            (&raw mut (*header).gap).write_volatile(u64::from(part));
            let part = (&raw const (*header).gap).read_volatile() as u32 & (CHUNK_BYTES - 1);
            if bpf_probe_read_user(into.cast(), part, from as *const _) == 0 {
                len.write_volatile(len.read_volatile() + part);
            }
            break;
        }
        (*header).gap = gap;
        if len.read_volatile() == 0 {
            count(DropReason::StackReadFailed);
        }
    }
}

/// Keeps the number of the goroutine whose stack this is, by its record's offset `goid`, and returns
/// where the stack ends; zero where the register holds none, or another one than that of this stack.
/// In one read, so `bytes` has it for a moment.
///
/// # Safety
///
/// `header` and `bytes` are the parts of one live stack slot.
#[inline(always)]
unsafe fn goroutine(header: *mut StackHeader, bytes: *mut u8, site: &Site, goid: u32) -> u64 {
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
        (*header).goid = bytes.add((goid & LAST) as usize).cast::<u64>().read_volatile();
        high
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

/// `Offsets::task_utask` again, for the verifier, which lets programs read a task's fields themselves where
/// it knows them; zero where the kernel has no such tasks for them, before 5.11. Set before loading.
#[unsafe(no_mangle)]
static TASK_UTASK: u32 = 0;

/// Whether no uprobe was ever hit by the thread, without the helper that reads kernel memory.
#[inline(always)]
fn has_no_utask() -> bool {
    // SAFETY: a constant of the object, and volatile as it is not the compiler's to know.
    let at = unsafe { (&raw const TASK_UTASK).read_volatile() };
    // SAFETY: the verifier checks that there is a pointer at that place of the task.
    at != 0
        && unsafe {
            let task = bpf_get_current_task_btf() as *const u8;
            task.add(at as usize).cast::<u64>().read_volatile() == 0
        }
}

/// Saves the return addresses that pending uretprobes (of other tracers) replaced on the stack.
///
/// # Safety
///
/// `header` is a live stack header.
#[inline(always)]
unsafe fn fixups(header: *mut StackHeader, off: &Offsets) -> u32 {
    if off.ri_known == 0 || has_no_utask() {
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
