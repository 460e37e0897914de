//! Follows the frame pointers of a Node.js thread and copies what JavaScript's frames say.
//!
//! May import the maps, `memory` and the contract. Invariants: the walk goes up the stack only and is bounded by the
//! contract; where it ended is said. The number of frames found is kept in the slot, not in a local:
//! the verifier would follow each of its values through every step.

use aya_ebpf::helpers::generated::bpf_probe_read_user;
use tracer_ebpf::{
    node::{
        BELOW, BYTECODE_ARRAY, BYTECODE_OFFSET, CALLER, CONTEXT, FUNCTION, FUNCTION_AT,
        FUNCTION_BYTES, FUNCTION_WORDS, KEPT, MAX_DISTANCE, MAX_STEPS, PC, RETURN, SEARCHED_WORDS,
        SLACK, STACK_BYTES, STEPS_AT_ONCE, TAG, TAG_MASK,
    },
    runtime::{END_TOO_DEEP, END_UNREADABLE, END_WHOLE, FRAME_BYTES, MAX_FRAMES},
    stack::{self, StackHeader},
};

use super::{
    maps::{Call, Site},
    memory::user,
};

/// Bytes of the stack that are copied before: what a slot has room for.
const COPIED: usize = stack::STACK_BYTES[stack::RUNTIME_CLASS as usize] as usize;

/// No frame pointer, but not zero: what is not in the copied bytes is not the event loop's alone.
const NO_FRAME: u64 = 1;

/// Copies the frames of the thread at `site` to `frames`; returns how their chain ended, or `None` when
/// the program is to go on in itself, from where `call` says then. Of the stack, what the header says is
/// at `stack` already, and not read again: a read of user memory costs more than all else that is done
/// for a frame.
///
/// # Safety
///
/// `header`, `stack` and `frames` are parts of one live stack slot: [`COPIED`] bytes, behind which
/// there is room for [`MAX_FRAMES`]. `call` is a live map value.
#[inline(always)]
pub unsafe fn copy(
    header: *mut StackHeader,
    stack: *const u8,
    frames: *mut u8,
    site: &Site,
    call: *mut Call,
) -> Option<u32> {
    const { assert!(MAX_FRAMES.is_power_of_two() && COPIED.is_power_of_two()) };
    const { assert!(STACK_BYTES <= FRAME_BYTES * MAX_FRAMES) };
    // SAFETY: a live per-CPU map value of this run alone.
    let (rounds, mut pc, mut fp) = unsafe { ((*call).rounds, (*call).pc, (*call).fp) };
    if rounds == 0 {
        pc = site.ip;
        fp = if is_caller(site.sp, site.bp) { site.bp } else { search(site.sp) };
        if fp == 0 {
            return Some(END_UNREADABLE);
        }
        // SAFETY: as above.
        unsafe { (*call).tail_fp = 0 };
    }
    for _ in 0..STEPS_AT_ONCE {
        let from = fp.wrapping_sub(BELOW as u64);
        let at = from.wrapping_sub(site.sp);
        let caller;
        // SAFETY: by the contract, with indices masked; the helper fails rather than faults on
        // bad addresses.
        unsafe {
            let count = (&raw const (*header).runtime_frames).read_volatile();
            if count >= MAX_FRAMES as u32 {
                return Some(END_TOO_DEEP);
            }
            // Read again for the mask, which the compiler would leave out and old verifiers need.
            let place = (&raw const (*header).runtime_frames).read_volatile() as usize;
            let words = frames.add((place & (MAX_FRAMES - 1)) * FRAME_BYTES).cast::<u64>();
            // Read anew each time, because what it is compared with would tell the verifier more of it.
            let len = u64::from((&raw const (*header).len).read_volatile());
            if at & 7 == 0 && at < len.saturating_sub(STACK_BYTES as u64 - 1) {
                let copied = stack.add(at as usize & (COPIED - 8)).cast::<u64>();
                let function = copied.add(FUNCTION).read();
                if is_function(copied.add(CONTEXT).read(), function) {
                    reached(header, at);
                    let is_known = count < (&raw const (*call).known).read_volatile()
                        && is_same(copied, words, pc);
                    for word in 0..STACK_BYTES / 8 {
                        words.add(word).write(copied.add(word).read());
                    }
                    if is_known {
                        (&raw mut (*header).runtime_frames).write_volatile(count + 1);
                    } else {
                        keep(header, words, count, function, pc);
                    }
                }
                pc = copied.add(RETURN).read();
                caller = copied.add(CALLER).read();
            } else {
                if (*call).tail_fp == 0 {
                    if (*header).tail_fp == fp && (*header).tail_pc == pc {
                        return Some(END_WHOLE);
                    }
                    (*call).tail_fp = fp;
                    (*call).tail_pc = pc;
                    // What is read takes the place of what was there before.
                    (*call).known = 0;
                }
                if bpf_probe_read_user(words.cast(), STACK_BYTES as u32, from as *const _) != 0 {
                    return Some(END_UNREADABLE);
                }
                let function = words.add(FUNCTION).read();
                if is_function(words.add(CONTEXT).read(), function) {
                    reached(header, at);
                    keep(header, words, count, function, pc);
                    (*call).tail_fp = NO_FRAME;
                }
                pc = words.add(RETURN).read();
                caller = words.add(CALLER).read();
            }
        }
        if !is_caller(fp, caller) {
            // SAFETY: as above.
            unsafe {
                (*header).tail_fp = (*call).tail_fp;
                (*header).tail_pc = (*call).tail_pc;
            }
            return Some(END_WHOLE);
        }
        fp = caller;
    }
    if rounds + 1 >= (MAX_STEPS / STEPS_AT_ONCE) as u32 {
        return Some(END_TOO_DEEP);
    }
    // SAFETY: as above.
    unsafe {
        (*call).rounds = rounds + 1;
        (*call).pc = pc;
        (*call).fp = fp;
    }
    None
}

/// Begins with the slot of `header`: what may be taken over of what is in it, `frames` among that.
/// Returns their number, and how much of the stack to copy, of `most`.
///
/// # Safety
///
/// `header` is that of a live stack slot.
#[inline(always)]
pub unsafe fn take_over(
    header: *mut StackHeader,
    site: &Site,
    frames: u32,
    most: u32,
) -> (u32, u32) {
    // SAFETY: by this function's contract.
    unsafe {
        let reach = (*header).reach;
        if frames != 0 && site.at.wrapping_sub((*header).kept_at) <= KEPT {
            return (frames, if reach < most { reach } else { most });
        }
        (*header).kept_at = site.at;
        (*header).tail_fp = 0;
        (*header).reach = 0;
    }
    (0, most)
}

/// A frame of JavaScript's is `at` bytes up the stack.
///
/// # Safety
///
/// As for [`take_over`].
#[inline(always)]
unsafe fn reached(header: *mut StackHeader, at: u64) {
    // SAFETY: by this function's contract.
    unsafe {
        let reach = &raw mut (*header).reach;
        let end = (at as u32).wrapping_add(STACK_BYTES as u32 + SLACK);
        if end > reach.read_volatile() {
            reach.write_volatile(end);
        }
    }
}

/// The frame is one of JavaScript's.
#[inline(always)]
fn is_function(context: u64, function: u64) -> bool {
    context & TAG_MASK == TAG && function & TAG_MASK == TAG
}

/// The frame at `copied` has a function that shares with that at `before` all that is copied of it.
/// Compiled code is of one function, so its place tells; what the interpreter runs, the bytecode.
///
/// # Safety
///
/// Both can be read, `before` as a frame of a slot.
#[inline(always)]
unsafe fn is_same(copied: *const u64, before: *const u64, pc: u64) -> bool {
    // SAFETY: by this function's contract.
    unsafe {
        let bytecode = copied.add(BYTECODE_ARRAY).read();
        let is_interpreted =
            bytecode & TAG_MASK == TAG && copied.add(BYTECODE_OFFSET).read() as u32 == 0;
        before.add(PC).read() == pc
            && before.add(FUNCTION).read() == copied.add(FUNCTION).read()
            && (!is_interpreted || before.add(BYTECODE_ARRAY).read() == bytecode)
    }
}

/// Keeps the frame at `words`, if its function can be read.
///
/// # Safety
///
/// `words` is the frame of number `count` in the slot of `header`.
#[inline(always)]
unsafe fn keep(header: *mut StackHeader, words: *mut u64, count: u32, function: u64, pc: u64) {
    let from = function - TAG + FUNCTION_AT;
    // SAFETY: by this function's contract; the helper fails rather than faults on bad addresses.
    unsafe {
        let into = words.add(FUNCTION_WORDS);
        if bpf_probe_read_user(into.cast(), FUNCTION_BYTES as u32, from as *const _) == 0 {
            words.add(PC).write(pc);
            (&raw mut (*header).runtime_frames).write_volatile(count + 1);
        }
    }
}

/// Whether `caller` can be the frame pointer of who called what is at `address`.
#[inline(always)]
fn is_caller(address: u64, caller: u64) -> bool {
    caller.wrapping_sub(address).wrapping_sub(1) < MAX_DISTANCE && caller & 7 == 0
}

/// The first word on the stack that leads up it twice: a saved frame pointer. For a C library or a
/// libuv that uses the register for something else; zero when there is none.
#[inline(always)]
fn search(sp: u64) -> u64 {
    for index in 0..SEARCHED_WORDS {
        let at = sp + index as u64 * 8;
        if let Some(fp) = user::<u64>(at)
            && is_caller(at, fp)
            && let Some(caller) = user::<u64>(fp)
            && is_caller(fp, caller)
        {
            return fp;
        }
    }
    0
}
