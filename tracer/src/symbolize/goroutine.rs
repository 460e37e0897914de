//! What a goroutine does at this moment, with its stack where it waits, without stopping anything.
//!
//! May import this module's files, `binary` and `std`. Invariants: it only reads; a stack counts only
//! if the goroutine had no turn while it was read; what the memory of the process says is never
//! trusted, and a record that contradicts itself says nothing; every read and every loop is bounded.

use super::memory::{ProcessMemory, word};
use super::owner::Role;
use super::process::{Process, start_time_of};
use super::{RawStack, Symbolizer};
use crate::binary::go::{Layout, RECORD_BYTES};
use crate::model::Stack;

/// Bytes read of a stack.
const STACK_BYTES: u64 = 128 << 10;
/// No stack is larger (`maxstacksize` of the Go runtime).
const MAX_STACK: u64 = 1 << 30;
/// Looks at a goroutine that goes on while it is looked at.
const ATTEMPTS: usize = 3;

/// States of a goroutine (`runtime/runtime2.go`), the same in all versions that are known.
const RUNNABLE: u32 = 1;
const RUNNING: u32 = 2;
const IN_SYSCALL: u32 = 3;
const WAITING: u32 = 4;
const DEAD: u32 = 6;
const STACK_MOVES: u32 = 8;
const PREEMPTED: u32 = 9;
/// Set while its stack is scanned, in any of these.
const SCANNED: u32 = 0x1000;

/// Reasons to wait that goroutines give which really run, on another stack.
const NO_WAITS: [&str; 11] = [
    "GC assist marking",
    "garbage collection",
    "garbage collection scan",
    "GC worker (active)",
    "preempted",
    "GC mark termination",
    "stopping the world",
    "flushing proc caches",
    "trace goroutine status",
    "trace proc status",
    "page trace flush",
];
/// As Go's tracebacks call it.
const SYSCALL: &str = "syscall";

/// In place of a frame pointer that is not known: leads nowhere, and is not zero, which would be the
/// end of a stack.
const UNKNOWN: u64 = 1;

/// What a goroutine does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GoroutineNow {
    Ended,
    /// It runs or is about to, or never waits for long enough.
    Running,
    /// It waits for this, as Go's tracebacks have it.
    Waiting(&'static str, Stack),
}

/// What its record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ended,
    Running,
    Waiting(Place),
}

/// Where a goroutine goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    reason: &'static str,
    pc: u64,
    sp: u64,
    /// `None`: its version keeps none here.
    bp: Option<u64>,
    /// End of its stack.
    end: u64,
}

impl Symbolizer {
    /// What the goroutine does whose record was at `g` when its number was `goid`; `is_same` says of a
    /// start, in clock ticks after boot, whether it is that of the process which had it. `None` where
    /// that may not be seen, or is not understood.
    pub fn goroutine(
        &mut self,
        pid: u32,
        g: u64,
        goid: u64,
        is_same: impl Fn(u64) -> bool,
    ) -> Option<GoroutineNow> {
        self.observe(pid).ok()?;
        if !start_time_of(&format!("/proc/{pid}/stat")).is_ok_and(is_same) {
            return Some(GoroutineNow::Ended);
        }
        let layout = self.processes.get(&pid)?.process.goroutines()?;
        let memory = ProcessMemory::of(pid)?;
        let record = || {
            let mut bytes = [0; RECORD_BYTES];
            memory.fill(g, &mut bytes).map(|()| bytes)
        };
        for _ in 0..ATTEMPTS {
            let before = record()?;
            let place = match state(&before, layout, g, goid)? {
                State::Ended => return Some(GoroutineNow::Ended),
                State::Running => continue,
                State::Waiting(place) => place,
            };
            let bp = place.bp.or_else(|| self.processes.get(&pid)?.process.go_frame(&place));
            let bytes = (place.end - place.sp).min(STACK_BYTES);
            let raw = RawStack {
                pid,
                ip: place.pc,
                sp: place.sp,
                bp: bp.unwrap_or(UNKNOWN),
                bytes: memory.from(place.sp, usize::try_from(bytes).ok()?),
                ..RawStack::default()
            };
            // The record has a counter of its turns.
            if record()? == before {
                return Some(GoroutineNow::Waiting(place.reason, self.resolve(&raw).stack));
            }
        }
        Some(GoroutineNow::Running)
    }
}

impl Process {
    /// What the record of a goroutine looks like, where the program's version of Go is known.
    fn goroutines(&self) -> Option<&'static Layout> {
        let mut programs =
            self.code.iter().flatten().filter(|code| code.owner.role() == Role::Program);
        programs.find_map(|code| code.module.goroutines())
    }

    /// The frame pointer of a goroutine in a system call: Go's functions save their caller's right
    /// below the return address.
    fn go_frame(&self, place: &Place) -> Option<u64> {
        let (index, _) = self.maps.code_at(place.pc)?;
        let code = self.code.get(index)?.as_ref()?;
        // It is where a call returns to.
        let address = place.pc.checked_sub(code.bias?)?.checked_sub(1)?;
        let above = code.module.go_table()?.frame_bytes(address)?;
        let bp = place.sp.checked_add(above.into())?.checked_sub(8)?;
        (place.sp..place.end).contains(&bp).then_some(bp)
    }
}

/// What the record at `g` says of the goroutine that had this number; `None` if it is no record of a
/// goroutine.
fn state(record: &[u8; RECORD_BYTES], layout: &Layout, g: u64, goid: u64) -> Option<State> {
    let word = |at| word(record, at);
    let status = word(layout.status)? as u32 & !SCANNED;
    if status == DEAD {
        // Nothing else in it need be set.
        return Some(State::Ended);
    }
    if word(layout.own)? != g {
        return None;
    }
    if word(layout.goid)? != goid {
        return Some(State::Ended);
    }
    let (reason, pc, sp, bp) = match status {
        RUNNABLE | RUNNING | STACK_MOVES | PREEMPTED => return Some(State::Running),
        WAITING => {
            let reason = layout.words(*record.get(layout.reason)?)?;
            if NO_WAITS.contains(&reason) {
                return Some(State::Running);
            }
            (reason, word(layout.pc)?, word(layout.sp)?, Some(word(layout.bp)?))
        }
        IN_SYSCALL => {
            let bp = match layout.syscall_bp {
                Some(at) => Some(word(at)?),
                None => None,
            };
            (SYSCALL, word(layout.syscall_pc)?, word(layout.syscall_sp)?, bp)
        }
        _ => return None,
    };
    let (low, end) = (word(0)?, word(8)?);
    let is_stack = low < end && end - low <= MAX_STACK;
    let place = Place { reason, pc, sp, bp, end };
    (is_stack && (low..end).contains(&sp)).then_some(State::Waiting(place))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::binary::go::of_release;

    const G: u64 = 0x00c0_0000_61a0;
    const STACK: (u64, u64) = (0xc000_1000, 0xc000_3000);

    /// The record of goroutine 41 with this status and reason.
    fn record(layout: &Layout, status: u32, reason: u8) -> [u8; RECORD_BYTES] {
        let mut record = [0; RECORD_BYTES];
        let mut put = |at: usize, word: u64| {
            record[at..at + 8].copy_from_slice(&word.to_le_bytes());
        };
        put(0, STACK.0);
        put(8, STACK.1);
        put(layout.sp, STACK.0 + 0x100);
        put(layout.pc, 0x43_1000);
        put(layout.own, G);
        put(layout.bp, STACK.0 + 0x140);
        put(layout.syscall_sp, STACK.0 + 0x200);
        put(layout.syscall_pc, 0x47_2000);
        if let Some(at) = layout.syscall_bp {
            put(at, STACK.0 + 0x240);
        }
        put(layout.status, status.into());
        put(layout.goid, 41);
        record[layout.reason] = reason;
        record
    }

    fn all() -> impl Iterator<Item = &'static Layout> {
        (19..=27).map(|minor| of_release(minor).unwrap())
    }

    #[test]
    fn each_state_is_told_in_each_version() {
        for layout in all() {
            let told = |status, reason| state(&record(layout, status, reason), layout, G, 41);
            let (reason, pc, sp, bp) = ("IO wait", 0x43_1000, STACK.0 + 0x100, STACK.0 + 0x140);
            let parked = Place { reason, pc, sp, bp: Some(bp), end: STACK.1 };
            for status in [WAITING, WAITING | SCANNED] {
                assert_eq!(told(status, 2), Some(State::Waiting(parked)));
            }
            let bp = layout.syscall_bp.map(|_| STACK.0 + 0x240);
            let (pc, sp) = (0x47_2000, STACK.0 + 0x200);
            let called = Place { reason: "syscall", pc, sp, bp, end: STACK.1 };
            assert_eq!(told(IN_SYSCALL, 0), Some(State::Waiting(called)));
            for status in [RUNNABLE, RUNNING, STACK_MOVES, PREEMPTED, RUNNING | SCANNED] {
                assert_eq!(told(status, 0), Some(State::Running));
            }
            assert_eq!(told(DEAD, 0), Some(State::Ended));
            // It says that it waits, and marks.
            assert_eq!(told(WAITING, 1), Some(State::Running));
        }
    }

    #[test]
    fn a_record_that_was_given_to_another_goroutine_means_that_the_first_has_ended() {
        for layout in all() {
            let record = record(layout, WAITING, 2);
            assert_eq!(state(&record, layout, G, 40), Some(State::Ended));
        }
    }

    #[test]
    fn a_record_that_contradicts_itself_says_nothing() {
        for layout in all() {
            let good = record(layout, WAITING, 2);
            let with = |at: usize, word: u64| {
                let mut record = good;
                record[at..at + 8].copy_from_slice(&word.to_le_bytes());
                state(&record, layout, G, 41)
            };
            assert!(matches!(with(layout.own, G), Some(State::Waiting(_))));
            assert_eq!(with(layout.own, G + 8), None, "no record");
            assert_eq!(with(layout.sp, STACK.1), None, "not on its stack");
            assert_eq!(with(layout.sp, 0), None, "not on its stack");
            assert_eq!(with(0, STACK.1), None, "no stack");
            assert_eq!(with(8, STACK.0 + MAX_STACK + 8), None, "too large a stack");
            assert_eq!(with(layout.status, 0), None, "not made yet");
            assert_eq!(with(layout.status, 77), None, "no state");
            assert_eq!(state(&record(layout, WAITING, 200), layout, G, 41), None, "no reason");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_in_a_record_a_place_is_on_its_stack(
            bytes in prop::collection::vec(any::<u8>(), RECORD_BYTES),
            words in prop::collection::vec((0..RECORD_BYTES / 8, any::<u64>()), 0..8),
            minor in 19_u32..28,
            is_shaped: bool,
        ) {
            let layout = of_release(minor).unwrap();
            let mut record = record(layout, WAITING, 2);
            if !is_shaped {
                record.copy_from_slice(&bytes);
            }
            for (index, word) in words {
                record[8 * index..][..8].copy_from_slice(&word.to_le_bytes());
            }
            if let Some(State::Waiting(place)) = state(&record, layout, G, 41) {
                let low = word(&record, 0).unwrap();
                prop_assert!(low <= place.sp && place.sp < place.end);
                prop_assert!(place.end - place.sp <= MAX_STACK);
            }
        }
    }
}
