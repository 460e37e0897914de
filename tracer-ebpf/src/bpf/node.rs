//! Follows the frame pointers of a Node.js thread and copies what JavaScript's frames say.
//!
//! May import `memory` and the contract. Invariants: the walk goes up the stack only and is bounded by the
//! contract; where it ended is said. The number of frames found is kept in the slot, not in a local:
//! the verifier would follow each of its values through every step.

use aya_ebpf::helpers::generated::bpf_probe_read_user;
use tracer_ebpf::{
    node::{
        BELOW, CALLER, CONTEXT, FUNCTION, FUNCTION_AT, FUNCTION_BYTES, FUNCTION_WORDS,
        MAX_DISTANCE, MAX_STEPS, PC, RETURN, SEARCHED_WORDS, STACK_BYTES, TAG, TAG_MASK,
    },
    runtime::{END_TOO_DEEP, END_UNREADABLE, END_WHOLE, FRAME_BYTES, MAX_FRAMES},
    stack::StackHeader,
};

use super::{memory::user, stacks::Site};

/// Copies the frames of the thread at `site` to `frames`; returns how their chain ended.
///
/// # Safety
///
/// `header` and `frames` are parts of one live stack slot, with room for [`MAX_FRAMES`].
#[inline(always)]
pub unsafe fn copy(header: *mut StackHeader, frames: *mut u8, site: &Site) -> u32 {
    const { assert!(MAX_FRAMES.is_power_of_two()) };
    let mut pc = site.ip;
    let mut fp = if is_caller(site.sp, site.bp) { site.bp } else { search(site.sp) };
    if fp == 0 {
        return END_UNREADABLE;
    }
    for _ in 0..MAX_STEPS {
        // SAFETY: by the contract, with the index masked; the helper fails rather than faults on
        // bad addresses.
        unsafe {
            let count = (&raw const (*header).runtime_frames).read_volatile();
            if count >= MAX_FRAMES as u32 {
                return END_TOO_DEEP;
            }
            let frame = frames.add((count as usize & (MAX_FRAMES - 1)) * FRAME_BYTES);
            let words = frame.cast::<u64>();
            let from = fp.wrapping_sub(BELOW as u64);
            if bpf_probe_read_user(frame.cast(), STACK_BYTES as u32, from as *const _) != 0 {
                return END_UNREADABLE;
            }
            let (context, function) = (words.add(CONTEXT).read(), words.add(FUNCTION).read());
            if context & TAG_MASK == TAG && function & TAG_MASK == TAG {
                let from = function - TAG + FUNCTION_AT;
                let into = words.add(FUNCTION_WORDS);
                if bpf_probe_read_user(into.cast(), FUNCTION_BYTES as u32, from as *const _) == 0 {
                    words.add(PC).write(pc);
                    (&raw mut (*header).runtime_frames).write_volatile(count + 1);
                }
            }
            pc = words.add(RETURN).read();
            let caller = words.add(CALLER).read();
            if !is_caller(fp, caller) {
                return END_WHOLE;
            }
            fp = caller;
        }
    }
    END_TOO_DEEP
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
