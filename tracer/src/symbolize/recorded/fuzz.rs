//! Stacks of real processes whose memory was changed: no panic, no end that does not come, and no more
//! read than is allowed for a stack.

use proptest::prelude::*;

use super::super::memory::OF_STACK;
use super::super::{MAX_FRAMES, RawStack};
use super::hostile::{Changes, changes};
use super::replay::{Counted, Replay};

/// Of each recording.
const CASES: u32 = 64;

/// What is changed of the copy, with memory or alone.
fn changed(raw: &RawStack, registers: &[u64; 3], changes: &Changes) -> RawStack {
    let mut raw = raw.clone();
    changes.of_bytes(&mut raw.bytes);
    for frame in &mut raw.runtime {
        changes.of_bytes(frame);
    }
    let [ip, sp, bp] = registers;
    (raw.ip, raw.sp, raw.bp) = (raw.ip ^ ip, raw.sp ^ sp, raw.bp ^ bp);
    raw
}

/// Whatever is written over the memory of this process, over the copy of its stack, or over the unwind
/// information of its files.
pub(in crate::symbolize) fn whatever_is_in_memory(text: &str) {
    let replay = Replay::of(text);
    let register = || prop_oneof![4 => Just(0), 1 => (0_u32..64).prop_map(|bit| 1_u64 << bit)];
    let copy = prop::option::of((changes(), [register(), register(), register()]));
    let config = ProptestConfig::with_cases(CASES);
    let unwind = prop::option::weighted(0.3, changes());
    let changed_memory = prop::option::weighted(0.9, changes());
    proptest!(config, |(changes in changed_memory, copy in copy, unwind in unwind)| {
        let unwinder = unwind.map(|changes| replay.unwinder(&changes));
        let raw = match &copy {
            Some((changes, registers)) => changed(&replay.raw, registers, changes),
            None => replay.raw.clone(),
        };
        let counted = Counted::default();
        let memory = match &changes {
            Some(changes) => {
                let hostile = changes.of(&replay.memory);
                counted.memory(move |address, into| hostile.read(address, into))
            }
            None => {
                let memory = replay.memory.clone();
                counted.memory(move |address, into| memory.read(address, into))
            }
        };
        let resolved = match &unwinder {
            Some(unwinder) => replay.resolve_by(unwinder, &raw, memory),
            None => replay.resolve(&raw, memory),
        };
        prop_assert!(resolved.stack.frames.len() <= MAX_FRAMES);
        prop_assert!(counted.bytes() <= OF_STACK.bytes, "{} bytes", counted.bytes());
        prop_assert!(counted.reads() <= OF_STACK.reads, "{} reads", counted.reads());
    });
}
