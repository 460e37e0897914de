//! Stacks of real versions of Node.js, as `tests/clients/README.md` says how to record them: a script
//! that writes to a socket, interpreted and optimised.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;

use tracer_ebpf::node::{BYTECODE_ARRAY, BYTECODE_OFFSET};

use super::heap::word;
use super::scripts::{CHUNK_BYTES, MAX_BYTES};
use crate::symbolize::memory::OF_STACK;
use crate::symbolize::recorded::{Counted, Replay, is_named, shown, whatever_is_in_memory};
use crate::symbolize::runtime::Runtime as Running;

const INTERPRETED_20: &str = include_str!("recorded/20-interpreted.json");
const OPTIMISED_20: &str = include_str!("recorded/20-optimised.json");
const INTERPRETED_24: &str = include_str!("recorded/24-interpreted.json");
const OPTIMISED_24: &str = include_str!("recorded/24-optimised.json");

#[test]
fn an_interpreted_stack_is_named() {
    let expected = [
        "(9 native)",
        "handleWriteReq node:internal/stream_base_commons:52",
        "writeGeneric node:internal/stream_base_commons:150",
        "Socket._writeGeneric node:net:958",
        "Socket._write node:net:970",
        "writeOrBuffer node:internal/streams/writable:572",
        "_write node:internal/streams/writable:501",
        "Writable.write node:internal/streams/writable:510",
        "descend /srv/größe/record_stacks.js:49",
        "descend /srv/größe/record_stacks.js:48",
        "descend /srv/größe/record_stacks.js:48",
        "漏れ /srv/größe/record_stacks.js:54",
        "main /srv/größe/record_stacks.js:76",
        "(anonymous)",
        "(5 native)",
        "processTicksAndRejections node:internal/process/task_queues:95",
    ];
    is_named(INTERPRETED_20, &expected);
}

#[test]
fn an_interpreted_stack_of_another_version_is_named() {
    let expected = [
        "(6 native)",
        "handleWriteReq node:internal/stream_base_commons:52",
        "writeGeneric node:internal/stream_base_commons:148",
        "Socket._writeGeneric node:net:1262",
        "Socket._write node:net:1274",
        "writeOrBuffer node:internal/streams/writable:574",
        "_write node:internal/streams/writable:503",
        "Writable.write node:internal/streams/writable:512",
        "descend /srv/größe/record_stacks.js:49",
        "descend /srv/größe/record_stacks.js:48",
        "descend /srv/größe/record_stacks.js:48",
        "漏れ /srv/größe/record_stacks.js:54",
        "main /srv/größe/record_stacks.js:76",
        "(anonymous)",
        "(4 native)",
        "processTicksAndRejections node:internal/process/task_queues:104",
    ];
    is_named(INTERPRETED_24, &expected);
}

#[test]
fn an_optimised_stack_is_named_with_what_was_inlined() {
    let expected = [
        "(6 native)",
        "handleWriteReq node:internal/stream_base_commons:52 inlined",
        "writeGeneric node:internal/stream_base_commons:150 inlined",
        "Socket._writeGeneric node:net:958 inlined",
        "Socket._write node:net:970 inlined",
        "writeOrBuffer node:internal/streams/writable:572",
        "_write node:internal/streams/writable:501",
        "Writable.write node:internal/streams/writable:510 inlined",
        "send /srv/größe/record_stacks.js:71 inlined",
        "read /srv/größe/record_stacks.js:67 inlined",
        "load /srv/größe/record_stacks.js:62 inlined",
        "main /srv/größe/record_stacks.js:81",
        "(anonymous)",
        "(4 native)",
        "processTicksAndRejections node:internal/process/task_queues:95",
        "(8 native)",
    ];
    is_named(OPTIMISED_20, &expected);
}

#[test]
fn an_optimised_stack_of_another_version_is_named_with_what_was_inlined() {
    let expected = [
        "(6 native)",
        "handleWriteReq node:internal/stream_base_commons:52 inlined",
        "writeGeneric node:internal/stream_base_commons:148 inlined",
        "Socket._writeGeneric node:net:1262",
        "Socket._write node:net:1274 inlined",
        "writeOrBuffer node:internal/streams/writable:574 inlined",
        "_write node:internal/streams/writable:503",
        "Writable.write node:internal/streams/writable:512 inlined",
        "send /srv/größe/record_stacks.js:71 inlined",
        "read /srv/größe/record_stacks.js:67 inlined",
        "load /srv/größe/record_stacks.js:62",
        "main /srv/größe/record_stacks.js:81",
        "(anonymous)",
        "(4 native)",
        "processTicksAndRejections node:internal/process/task_queues:104",
        "(6 native)",
    ];
    is_named(OPTIMISED_24, &expected);
}

#[test]
fn hostile_memory_of_an_interpreted_stack_is_read_with_bounds() {
    whatever_is_in_memory(INTERPRETED_20);
}

#[test]
fn hostile_memory_of_an_interpreted_stack_of_another_version_is_read_with_bounds() {
    whatever_is_in_memory(INTERPRETED_24);
}

#[test]
fn hostile_memory_of_an_optimised_stack_is_read_with_bounds() {
    whatever_is_in_memory(OPTIMISED_20);
}

#[test]
fn hostile_memory_of_an_optimised_stack_of_another_version_is_read_with_bounds() {
    whatever_is_in_memory(OPTIMISED_24);
}

/// Each frame is at another place of a function whose table of places is as long as any is read, or
/// as what is left of the allowance.
#[test]
fn tables_without_end_are_read_as_much_as_is_allowed_for_a_stack() {
    const FRAMES: u64 = 64;
    const MAX_TABLE: u64 = 4 << 20;
    const LITTLE: u64 = 16 << 10;
    let replay = Replay::of(INTERPRETED_20);
    let mut raw = replay.raw.clone();
    // `descend`, which calls itself.
    let frame = raw.runtime[8];
    raw.runtime = (0..FRAMES)
        .map(|at| {
            let mut frame = frame;
            let offset = (54 + at) << 32;
            frame[BYTECODE_OFFSET * 8..][..8].copy_from_slice(&offset.to_le_bytes());
            frame
        })
        .collect();
    let memory = replay.memory.clone();
    let bytecode = word(&frame, BYTECODE_ARRAY * 8).expect("there") - 1;
    let table = memory.word(bytecode + 32).expect("a table") - 1;
    let counted = Counted::default();
    let is_hostile = Rc::new(Cell::new(true));
    let means_harm = Rc::clone(&is_hostile);
    let tables = Cell::new(0);
    let hostile = counted.memory(move |address, into| {
        if memory.read(address, into).is_none() {
            into.fill(0x7e);
        }
        if address == table && means_harm.get() {
            let len = MAX_TABLE >> (tables.get() / 16 * 3);
            tables.set(tables.get() + 1);
            into[8..16].copy_from_slice(&(len << 32).to_le_bytes());
        }
        Some(())
    });
    let mut runtime = replay.runtime(hostile);
    let resolved = replay.resolve_with(&mut runtime, &raw);
    let all = OF_STACK.bytes;
    assert!((all - LITTLE..=all).contains(&counted.bytes()), "{} bytes", counted.bytes());
    let shown = shown(&resolved.stack.frames);
    assert!(shown.contains(&"descend /srv/größe/record_stacks.js:47 (definition)".to_owned()));
    // The next stack is not the worse for it.
    is_hostile.set(false);
    assert_eq!(replay.resolve_with(&mut runtime, &replay.raw), replay.resolved());
}

/// A process may have more memory that is written to than anybody can look at.
#[test]
fn scripts_are_looked_for_in_so_much_memory_only() {
    const MOST: u64 = MAX_BYTES / CHUNK_BYTES as u64;
    let replay = Replay::of(INTERPRETED_20);
    let counted = Counted::default();
    let memory = replay.memory.clone();
    let mut runtime =
        replay.runtime(counted.memory(move |address, into| memory.read(address, into)));
    replay.resolve_with(&mut runtime, &replay.raw);
    let before = counted.reads();
    let Running::Node(node) = runtime else { panic!("another runtime") };
    assert_eq!(node.scripts(&[0..1 << 46, 1 << 46..1 << 47]), Some(BTreeSet::new()));
    assert!(u64::from(counted.reads() - before) <= MOST);
}
