//! What a thread does at this moment, with its stack where it is blocked, without stopping it.
//!
//! May import this module's files, the contract and `std`. Invariants: it only reads; a stack counts
//! only if the thread was not switched to while it was read; every read and every loop is bounded;
//! what the memory of the process says is never trusted.

use tracer_ebpf::python::{Layout, MAX_THREADS, NO_CFRAME, NO_THREADS};
use tracer_ebpf::runtime::{
    END_NO_THREAD, END_NONE, END_TOO_DEEP, END_UNREADABLE, END_WHOLE, FRAME_BYTES,
};

use super::memory::{ProcessMemory, word};
use super::process::{read, start_time_of};
use super::runtime::{Runtime, RuntimeFrames};
use super::unwind::End;
use super::{RawStack, Symbolizer};
use crate::model::Stack;

/// Bytes read of a stack.
const STACK_BYTES: usize = 128 << 10;
/// Frames read of an interpreter.
const MAX_FRAMES: usize = 256;
/// Looks at a thread that goes on while it is looked at.
const ATTEMPTS: usize = 3;
/// Bytes read of `/proc/PID/task/TID/status` and `syscall`.
const MAX_STATUS_BYTES: u64 = 64 << 10;
/// Where the C library of GNU keeps a thread's number, from its FS base (`struct pthread.tid`).
const GLIBC_TID: u64 = 720;

/// In place of a frame pointer that is not known: leads nowhere, and is not zero, which would be the
/// end of a stack.
const UNKNOWN: u64 = 1;

/// What a thread does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Present {
    Ended,
    /// It runs, or never stays blocked for long enough.
    Running,
    Waiting(Waiting),
}

/// A thread that is blocked in a system call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Number of the system call.
    pub call: u64,
    pub stack: Stack,
}

/// A blocked thread at one moment: what does not change while it stays so.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Blocked {
    /// `/proc/PID/task/TID/syscall`
    line: String,
    call: u64,
    sp: u64,
    pc: u64,
    /// How often it gave up its processor, and how often that was taken from it.
    switches: [u64; 2],
    /// Its number in its own pid namespace.
    own_tid: u32,
}

impl Symbolizer {
    /// What the thread does that had this number when `is_same` says so of its start, in clock ticks
    /// after boot. `None` where that may not be seen.
    pub fn present(
        &mut self,
        pid: u32,
        tid: u32,
        is_same: impl Fn(u64) -> bool,
    ) -> Option<Present> {
        self.observe(pid).ok()?;
        let task = format!("/proc/{pid}/task/{tid}");
        let memory = ProcessMemory::of(pid)?;
        for _ in 0..ATTEMPTS {
            if !start_time_of(&format!("{task}/stat")).is_ok_and(&is_same) {
                return Some(Present::Ended);
            }
            let Ok(before) = blocked(&task) else { return ended_or_hidden(&task) };
            let Some(before) = before else { continue };
            let mut raw = self.copy(pid, &memory, &before);
            if let Some(entry) = self.processes.get_mut(&pid) {
                let walk = entry.process.walk(&raw);
                let read = |address, into: &mut [u8]| memory.fill(address, into);
                if walk.end == End::OffStack
                    && let Some(found) = entry.process.frame_pointer(&walk, &read)
                {
                    raw.bp = found;
                }
            }
            if blocked(&task).is_ok_and(|after| after.as_ref() == Some(&before)) {
                let mut stack = self.resolve(&raw).stack;
                if raw.runtime.is_empty() && !matches!(raw.runtime_end, END_NONE | END_WHOLE) {
                    stack.truncated = Some("the interpreter's frames were not found".to_owned());
                }
                return Some(Present::Waiting(Waiting { call: before.call, stack }));
            }
        }
        Some(Present::Running)
    }

    /// The stack of a blocked thread.
    fn copy(&self, pid: u32, memory: &ProcessMemory, thread: &Blocked) -> RawStack {
        let runtime = self.processes.get(&pid).and_then(|entry| entry.process.runtime.as_ref());
        let (runtime, runtime_end) = match runtime.map(|runtime| (runtime, runtime.frames())) {
            Some((runtime, Some(RuntimeFrames::Interpreter(layout)))) => {
                let native_id = match runtime {
                    Runtime::Python(python) => python.native_id(),
                    _ => None,
                };
                frames(memory, &layout, native_id, thread.own_tid)
            }
            _ => (Vec::new(), END_NONE),
        };
        RawStack {
            pid,
            ip: thread.pc,
            sp: thread.sp,
            bp: UNKNOWN,
            bytes: memory.from(thread.sp, STACK_BYTES),
            runtime,
            runtime_end,
            ..RawStack::default()
        }
    }
}

fn ended_or_hidden(task: &str) -> Option<Present> {
    start_time_of(&format!("{task}/stat")).is_err().then_some(Present::Ended)
}

/// The thread, if it is blocked in a system call.
fn blocked(task: &str) -> std::io::Result<Option<Blocked>> {
    let text = |name: &str| {
        let bytes = read(&format!("{task}/{name}"), MAX_STATUS_BYTES)?;
        std::io::Result::Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let status = text("status")?;
    Ok(parse(text("syscall")?, &status))
}

fn parse(line: String, status: &str) -> Option<Blocked> {
    let words: Vec<&str> = line.split_whitespace().collect();
    // Also "running", and "-1" with two addresses only: blocked, but in no call.
    let [call, .., sp, pc] = words[..] else { return None };
    let hex = |word: &str| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next_back()
    };
    let (call, sp, pc) = (call.parse().ok()?, hex(sp)?, hex(pc)?);
    let switches = [
        field("voluntary_ctxt_switches:")?.parse().ok()?,
        field("nonvoluntary_ctxt_switches:")?.parse().ok()?,
    ];
    let own_tid = field("NSpid:")?.parse().ok()?;
    Some(Blocked { call, sp, pc, switches, own_tid, line })
}

/// The frames of an interpreter's thread, innermost first, and how their chain ended: as the kernel
/// side copies them (`python` in the contract).
fn frames(
    memory: &ProcessMemory,
    layout: &Layout,
    native_id: Option<u32>,
    own_tid: u32,
) -> (Vec<[u8; FRAME_BYTES]>, u32) {
    let mut frames = Vec::new();
    let Some(mut frame) = first(memory, layout, native_id, own_tid) else {
        return (frames, END_NO_THREAD);
    };
    while frame != 0 {
        if frames.len() == MAX_FRAMES {
            return (frames, END_TOO_DEEP);
        }
        let mut bytes = [0; FRAME_BYTES];
        let back = memory.fill(frame, &mut bytes).and_then(|()| word(&bytes, layout.back as usize));
        let Some(back) = back else { return (frames, END_UNREADABLE) };
        frames.push(bytes);
        frame = back;
    }
    (frames, END_WHOLE)
}

/// The innermost frame of a thread.
fn first(
    memory: &ProcessMemory,
    layout: &Layout,
    native_id: Option<u32>,
    own_tid: u32,
) -> Option<u64> {
    let number = |address: u64| {
        let mut bytes = [0; 8];
        memory.fill(address, &mut bytes)?;
        Some(u64::from_le_bytes(bytes))
    };
    let at = |base: u64, offset: u32| base.wrapping_add(u64::from(offset));
    if layout.threads == NO_THREADS {
        return number(layout.runtime);
    }
    let interpreter = number(at(layout.runtime, layout.interpreters))?;
    let mut thread = number(at(interpreter, layout.threads))?;
    for _ in 0..MAX_THREADS {
        if thread == 0 {
            return None;
        }
        let id = match native_id {
            Some(offset) => number(at(thread, offset))?,
            None => {
                let base = number(at(thread, layout.thread_id))?;
                // The number is half a word.
                number(base.wrapping_add(GLIBC_TID)).unwrap_or_default() & u64::from(u32::MAX)
            }
        };
        if id == u64::from(own_tid) {
            let frame = number(at(thread, layout.frame))?;
            return if layout.cframe == NO_CFRAME {
                Some(frame)
            } else {
                number(at(frame, layout.cframe))
            };
        }
        thread = number(at(thread, layout.next))?;
    }
    None
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const STATUS: &str = "Name:\tpython3\nNSpid:\t4711\t12\nvoluntary_ctxt_switches:\t57\n\
        nonvoluntary_ctxt_switches:\t3\n";

    fn parsed(line: &str) -> Option<Blocked> {
        parse(line.to_owned(), STATUS)
    }

    #[test]
    fn a_blocked_thread_is_told_from_others() {
        let line = "45 0x5 0x7f01 0x2000 0x0 0x0 0x0 0x7fffaab0 0x7f3300de\n";
        let wanted = Blocked {
            line: line.to_owned(),
            call: 45,
            sp: 0x7fff_aab0,
            pc: 0x7f33_00de,
            switches: [57, 3],
            own_tid: 12,
        };
        assert_eq!(parsed(line), Some(wanted));
        for other in ["running\n", "-1 0x7fffaab0 0x7f3300de\n", "", "45\n", "45 0x5\n", "x y z\n"]
        {
            assert_eq!(parsed(other), None, "{other}");
        }
        assert_eq!(parse(line.to_owned(), "Name:\tvoluntary_ctxt_switches: 1\n"), None);
    }

    #[test]
    fn a_chain_of_frames_without_end_is_given_up_and_an_unreadable_one_ends() {
        let memory = ProcessMemory::of(std::process::id()).unwrap();
        let frame = [const { Cell::new(0_u64) }; FRAME_BYTES / 8];
        let address = frame.as_ptr() as u64;
        let first = Box::new(address);
        let runtime = std::ptr::from_ref::<u64>(&first) as u64;
        let layout = Layout { runtime, threads: NO_THREADS, back: 8, ..Layout::default() };
        let walked = frames(&memory, &layout, None, 1);
        assert_eq!((walked.0.len(), walked.1), (1, END_WHOLE));
        frame[1].set(address);
        let walked = frames(&memory, &layout, None, 1);
        assert_eq!((walked.0.len(), walked.1), (MAX_FRAMES, END_TOO_DEEP));
        frame[1].set(8);
        let walked = frames(&memory, &layout, None, 1);
        assert_eq!((walked.0.len(), walked.1), (1, END_UNREADABLE));
    }
}
