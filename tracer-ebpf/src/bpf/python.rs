//! Copies the frames of the Python interpreter that runs the current thread.
//!
//! May import the maps, `memory` and the contract. Invariants: every loop is bounded by the
//! contract; a pointer that cannot be read ends the chain, and the slot says so.

use aya_ebpf::helpers::generated::{bpf_get_current_task, bpf_probe_read_user};
use tracer_ebpf::{
    python::{Layout, MAX_THREADS, NO_CFRAME, NO_THREADS},
    runtime::{
        END_NO_THREAD, END_NONE, END_TOO_DEEP, END_UNREADABLE, END_WHOLE, FRAME_BYTES, MAX_FRAMES,
    },
    stack::StackHeader,
};

use super::{
    maps::{CONFIG, PYTHONS, Site},
    memory::{kernel, user},
};

/// Copies the frames of the thread at `site` to `frames`; returns how their chain ended.
///
/// # Safety
///
/// `header` and `frames` are parts of one live stack slot, with room for [`MAX_FRAMES`].
#[inline(always)]
pub unsafe fn copy(header: *mut StackHeader, frames: *mut u8, site: &Site) -> u32 {
    let tgid = (site.pid_tgid >> 32) as u32;
    // SAFETY: no other reference to this value is held.
    let Some(layout) = (unsafe { PYTHONS.get(tgid) }) else { return END_NONE };
    match first(layout) {
        // SAFETY: by this function's contract.
        Some(frame) => unsafe { chain(header, frames, layout, frame) },
        None => END_NO_THREAD,
    }
}

/// The innermost frame of the current thread.
#[inline(always)]
fn first(layout: &Layout) -> Option<u64> {
    if layout.threads == NO_THREADS {
        return user::<u64>(layout.runtime);
    }
    let offset = CONFIG.get(0)?.off.task_fsbase;
    if offset == 0 {
        return None;
    }
    // SAFETY: the helper has no precondition.
    let task = unsafe { bpf_get_current_task() };
    let thread_id = kernel::<u64>(task + u64::from(offset))?;
    let interpreter = user::<u64>(layout.runtime + u64::from(layout.interpreters))?;
    let mut thread = user::<u64>(interpreter + u64::from(layout.threads))?;
    for _ in 0..MAX_THREADS {
        if thread == 0 {
            return None;
        }
        if user::<u64>(thread + u64::from(layout.thread_id))? == thread_id {
            let frame = user::<u64>(thread + u64::from(layout.frame))?;
            if layout.cframe == NO_CFRAME {
                return Some(frame);
            }
            return user::<u64>(frame + u64::from(layout.cframe));
        }
        thread = user::<u64>(thread + u64::from(layout.next))?;
    }
    None
}

/// Copies a chain of frames; returns how it ended.
///
/// # Safety
///
/// As for [`copy`].
#[inline(always)]
unsafe fn chain(header: *mut StackHeader, frames: *mut u8, layout: &Layout, first: u64) -> u32 {
    // The pointer lies within the copied bytes, as the mask tells the verifier.
    const BACK: u32 = 0x38;
    const { assert!(BACK as usize + size_of::<u64>() <= FRAME_BYTES) };
    let back = (layout.back & BACK) as usize;
    let mut frame = first;
    for index in 0..MAX_FRAMES {
        if frame == 0 {
            return END_WHOLE;
        }
        // SAFETY: by the contract, with `index` below `MAX_FRAMES`; the helper fails rather than
        // faults on bad addresses.
        unsafe {
            let into = frames.add(index * FRAME_BYTES);
            if bpf_probe_read_user(into.cast(), FRAME_BYTES as u32, frame as *const _) != 0 {
                return END_UNREADABLE;
            }
            (*header).runtime_frames = index as u32 + 1;
            frame = into.add(back).cast::<u64>().read_unaligned();
        }
    }
    if frame == 0 { END_WHOLE } else { END_TOO_DEEP }
}
