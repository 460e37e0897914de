//! The decoder on memory that real interpreters had, and on memory that means harm.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use proptest::prelude::*;
use serde::Deserialize;
use tracer_ebpf::python::{Layout, MAX_THREADS, NO_CFRAME};
use tracer_ebpf::runtime::{END_WHOLE, FRAME_BYTES, MAX_FRAMES};

use super::versions::TABLE_BYTES;
use super::{CODE_BYTES, Frame, FrameKind, Interpreter, Python, Version, merge, word};
use super::{MAX_CHARACTERS, MAX_LINE_TABLE};
use crate::symbolize::recorded::{Counted, Pieces, changes};

/// Bytes read for a frame at the most: its code object, two strings and a table.
const PER_FRAME: usize = 2 * 40 + 24 + CODE_BYTES + 2 * 4 * MAX_CHARACTERS + MAX_LINE_TABLE;

/// What `tests/clients/python/record_frames.py` writes: memory by its address, and what the
/// interpreter said itself.
#[derive(Deserialize)]
struct Recorded {
    minor: u8,
    runtime: u64,
    code_type: u64,
    thread: u64,
    frames: Vec<(String, String, u32)>,
    memory: BTreeMap<String, String>,
}

fn pieces(recorded: &Recorded) -> Pieces {
    let byte = |digits: &[u8]| {
        u8::from_str_radix(std::str::from_utf8(digits).expect("ASCII"), 16).expect("a byte")
    };
    Pieces::of(recorded.memory.iter().map(|(at, bytes)| {
        let at = u64::from_str_radix(at.trim_start_matches("0x"), 16).expect("an address");
        (at, bytes.as_bytes().chunks(2).map(byte).collect())
    }))
}

/// As the kernel side does it: the current thread's frames, innermost first.
fn copied(memory: &Pieces, layout: &Layout, thread_id: u64) -> Option<Vec<[u8; FRAME_BYTES]>> {
    let interpreter = memory.word(layout.runtime + u64::from(layout.interpreters))?;
    let mut thread = memory.word(interpreter + u64::from(layout.threads))?;
    for _ in 0..MAX_THREADS {
        if memory.word(thread + u64::from(layout.thread_id))? == thread_id {
            break;
        }
        thread = memory.word(thread + u64::from(layout.next))?;
    }
    let mut frame = memory.word(thread + u64::from(layout.frame))?;
    if layout.cframe != NO_CFRAME {
        frame = memory.word(frame + u64::from(layout.cframe))?;
    }
    let mut frames = Vec::new();
    while frame != 0 && frames.len() < MAX_FRAMES {
        let mut bytes = [0; FRAME_BYTES];
        // A frame that is no function's is not in the record.
        if memory.read(frame, &mut bytes).is_none() {
            break;
        }
        frames.push(bytes);
        frame = word(&bytes, layout.back as usize)?;
    }
    Some(frames)
}

/// A record's interpreter, and the frames of the thread that waits in it.
fn replayed(record: &str) -> (Recorded, Python, Vec<[u8; FRAME_BYTES]>) {
    let recorded: Recorded = serde_json::from_str(record).expect("a record");
    let version = Version::of(recorded.minor, &[]).expect("known");
    let found = Interpreter { version, runtime: recorded.runtime, code_type: recorded.code_type };
    let memory = pieces(&recorded);
    let reader = memory.clone();
    let read = move |address, into: &mut [u8]| reader.read(address, into);
    let python = Python::reading(Box::new(read), found, 0, "python3");
    let raw = copied(&memory, &python.layout(), recorded.thread).expect("the thread is there");
    (recorded, python, raw)
}

/// Function, file and line of each.
fn named(frames: Vec<Frame>) -> Vec<(String, String, u32)> {
    let symbols = frames.into_iter().map(|frame| frame.symbol.expect("named"));
    let whole = symbols
        .map(|symbol| (symbol.function, symbol.file.expect("known"), symbol.line.expect("known")));
    whole.collect()
}

const RECORDED_3_8: &str = include_str!("recorded/3.8.json");
const RECORDED_3_10: &str = include_str!("recorded/3.10.json");
const RECORDED_3_12: &str = include_str!("recorded/3.12.json");

#[test]
fn what_was_recorded_is_named_as_the_interpreter_names_it() {
    for record in [RECORDED_3_8, RECORDED_3_10, RECORDED_3_12] {
        let (recorded, mut python, raw) = replayed(record);
        let (frames, reason) = python.frames(&raw, END_WHOLE);
        assert_eq!(named(frames), recorded.frames, "3.{}", recorded.minor);
        assert_eq!(reason, None);
    }
}

#[test]
fn hostile_memory_of_what_was_recorded_is_read_with_bounds() {
    const CASES: u32 = 48;
    for record in [RECORDED_3_8, RECORDED_3_10, RECORDED_3_12] {
        let (recorded, _, raw) = replayed(record);
        let version = Version::of(recorded.minor, &[]).expect("known");
        let Recorded { runtime, code_type, .. } = recorded;
        let found = Interpreter { version, runtime, code_type };
        let pieces = pieces(&recorded);
        let copy = prop::option::weighted(0.3, changes());
        proptest!(ProptestConfig::with_cases(CASES), |(changes in changes(), copy in copy)| {
            let hostile = changes.of(&pieces);
            let counted = Counted::default();
            let memory = counted.memory(move |address, into| hostile.read(address, into));
            let mut raw = raw.clone();
            if let Some(changes) = copy {
                raw.iter_mut().for_each(|frame| changes.of_bytes(frame));
            }
            let mut python = Python::reading(memory, found, 0, "python3");
            let (named, _reason) = python.frames(&raw, END_WHOLE);
            prop_assert!(named.len() <= raw.len());
            let most = (raw.len() * PER_FRAME) as u64;
            prop_assert!(counted.bytes() <= most, "{} bytes", counted.bytes());
        });
    }
}

#[test]
fn a_reference_may_be_tagged() {
    let (recorded, mut python, mut raw) = replayed(RECORDED_3_12);
    for (tag, frame) in raw.iter_mut().enumerate() {
        // `f_executable` is first.
        frame[0] |= tag as u8 & 3;
    }
    assert_eq!(named(python.frames(&raw, END_WHOLE).0), recorded.frames);
}

#[test]
fn a_code_object_is_read_again_where_another_took_its_place() {
    let (recorded, python, raw) = replayed(RECORDED_3_12);
    let Python { memory, version, layout, code_type, .. } = python;
    let found = Interpreter { version, runtime: layout.runtime, code_type };
    let first_line = word(&raw[0], version.code).expect("there") + version.first_line as u64;
    let moved = Rc::new(Cell::new(0));
    let by = Rc::clone(&moved);
    let read = move |address: u64, into: &mut [u8]| {
        memory(address, into)?;
        if let Some(at) = first_line.checked_sub(address)
            && let Some(byte) = usize::try_from(at).ok().and_then(|at| into.get_mut(at))
        {
            *byte += by.get();
        }
        Some(())
    };
    let mut python = Python::reading(Box::new(read), found, 0, "python3");
    let mut line = || named(python.frames(&raw[..1], END_WHOLE).0)[0].2;
    let known = recorded.frames[0].2;
    assert_eq!((line(), line()), (known, known));
    moved.set(5);
    assert_eq!(line(), known + 5);
}

/// A table as an interpreter of this version begins with, in which everything is zero.
fn table(minor: u8) -> Vec<u8> {
    let mut table = b"xdebugpy".to_vec();
    table.extend([0xf0, 1, minor, 3, 0, 0, 0, 0]);
    table.resize(TABLE_BYTES, 0);
    table
}

#[test]
fn an_interpreter_that_is_not_understood_says_why() {
    let reason = |minor, table: &[u8]| Version::of(minor, table).expect_err("not understood");
    assert_eq!(reason(7, &[]), "Python 3.7 is too old");
    assert_eq!(reason(16, &table(16)), "Python 3.16 is not known yet");
    assert_eq!(reason(14, &[]), "this Python 3.14 does not say where they are");
    assert_eq!(reason(14, &table(13)), "this Python 3.14 does not say where they are");
    let mut free_threaded = table(14);
    free_threaded[16] = 1;
    let why = "a free-threaded build of Python 3.14 is not understood";
    assert_eq!(reason(14, &free_threaded), why);
    let mut far = table(14);
    // `interpreter_frame.executable`
    far[264] = 105;
    assert_eq!(reason(14, &far), "this Python 3.14 has them where none can be");
    assert!(Version::of(14, &table(14)).is_ok());
}

fn native(module: &str, function: Option<&str>) -> Frame {
    let symbol = function.map(|function| super::Symbol {
        function: function.to_owned(),
        file: None,
        line: None,
        column: None,
        definition: false,
        generated: None,
    });
    Frame { symbol, module: Some(module.to_owned()), kind: FrameKind::Unknown, inlined: false }
}

#[test]
fn native_frames_end_where_the_interpreter_runs() {
    let shown = |native: &[Frame]| {
        let frames = merge(native.to_vec(), vec![self::native("python", Some("f"))], "python3.14");
        let name =
            |frame: Frame| frame.symbol.map_or(frame.module.unwrap_or_default(), |s| s.function);
        frames.into_iter().map(name).collect::<Vec<_>>()
    };
    let (evaluation, none) = ("_PyEval_EvalFrameDefault", None);
    let outer = [native("python3.14", none), native("libc.so.6", Some("start_thread"))];
    let begin = [native("libpq.so.5", Some("PQexec")), native("python3.14", none)];
    let named = [&begin[..], &[native("python3.14", Some(evaluation))], &outer].concat();
    assert_eq!(shown(&named), ["PQexec", "python3.14", "f"]);
    // Instructions without a name.
    assert_eq!(shown(&[&begin[..], &outer].concat()), ["PQexec", "python3.14", "f"]);
    assert_eq!(shown(&begin), ["PQexec", "python3.14", "f"]);
    assert_eq!(shown(&begin[..1]), ["PQexec", "f"]);
    assert_eq!(shown(&outer), ["python3.14", "f"]);
    assert_eq!(shown(&[]), ["f"]);
}

/// Numbers that lead somewhere, and any others.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0u64..4096,
        2 => (0u32..64).prop_map(|bit| 1 << bit),
        1 => Just(u64::MAX),
        1 => any::<u64>(),
        // A string's state: any width, compact or not, ASCII or not.
        2 => (0u64..8, any::<bool>(), any::<bool>())
            .prop_map(|(kind, compact, ascii)| (kind << 2) | (u64::from(compact) << 5) | (u64::from(ascii) << 6)),
    ]
}

fn version() -> impl Strategy<Value = Version> {
    let tables = (13u8..=15, prop::collection::vec(0u64..130, TABLE_BYTES / 8)).prop_filter_map(
        "an offset leads out of what is read",
        |(minor, offsets)| {
            let mut bytes = table(minor);
            for (into, offset) in bytes[24..].chunks_mut(8).zip(offsets) {
                into.copy_from_slice(&(offset & !7).to_le_bytes());
            }
            // `interpreter_frame.previous`, which has the narrowest bounds.
            for at in [232, 256, 320] {
                bytes[at..at + 8].copy_from_slice(&8u64.to_le_bytes());
            }
            Version::of(minor, &bytes).ok()
        },
    );
    prop_oneof![(8u8..=12).prop_map(|minor| Version::of(minor, &[]).expect("known")), tables]
}

proptest! {
    /// All memory can be read, and repeats these words: every object has the right type, and what
    /// it refers to is what chance makes of it.
    #[test]
    fn no_memory_is_read_without_bound(
        version in version(),
        words in prop::collection::vec(number(), 1..48),
        raw in prop::collection::vec(prop::collection::vec(number(), FRAME_BYTES / 8), 0..8),
        end in 0u32..8,
    ) {
        let frames: Vec<[u8; FRAME_BYTES]> = raw
            .iter()
            .map(|frame| {
                let bytes: Vec<u8> = frame.iter().flat_map(|word| word.to_le_bytes()).collect();
                bytes.try_into().expect("as many bytes")
            })
            .collect();
        let pattern: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let at = move |address: u64, into: &mut [u8]| {
            for (index, byte) in into.iter_mut().enumerate() {
                let place = address.wrapping_add(index as u64) % pattern.len() as u64;
                *byte = pattern[usize::try_from(place).unwrap_or_default()];
            }
        };
        for frame in &frames {
            // What the first of its objects has for a type is the type that is asked for.
            let mut code_type = [0; 8];
            let code = word(frame, version.code).unwrap_or_default() & !super::TAG_MASK;
            at(code.wrapping_add(8), &mut code_type);
            let read = Rc::new(Cell::new(0));
            let (count, at) = (Rc::clone(&read), at.clone());
            let memory = move |address: u64, into: &mut [u8]| {
                count.set(count.get() + into.len());
                at(address, into);
                Some(())
            };
            let code_type = u64::from_le_bytes(code_type);
            let found = Interpreter { version, runtime: 0, code_type };
            let mut python = Python::reading(Box::new(memory), found, 0, "python3");
            let (named, _reason) = python.frames(&frames, end);
            prop_assert!(named.len() <= frames.len());
            prop_assert!(read.get() <= frames.len() * PER_FRAME, "{} bytes", read.get());
            for symbol in named.iter().filter_map(|frame| frame.symbol.as_ref()) {
                prop_assert!(symbol.function.chars().count() <= MAX_CHARACTERS);
            }
        }
    }

    /// Everything is an object of this length and state.
    #[test]
    fn no_string_or_table_is_read_without_bound(
        version in version(),
        length in prop_oneof![0u64..4096, (0u32..64).prop_map(|bit| 1 << bit), any::<u64>()],
        kind in prop::sample::select(vec![0u64, 1, 2, 3, 4, 7]),
        ascii in any::<bool>(),
    ) {
        let read = Rc::new(Cell::new(0));
        let count = Rc::clone(&read);
        let memory = move |_address: u64, into: &mut [u8]| {
            count.set(count.get() + into.len());
            let state = (kind << 2) | (1 << 5) | (u64::from(ascii) << 6);
            for (at, word) in [(16, length), (32, state)] {
                if let Some(into) = into.get_mut(at..at + 8) {
                    into.copy_from_slice(&word.to_le_bytes());
                }
            }
            Some(())
        };
        let found = Interpreter { version, runtime: 0, code_type: 0 };
        let python = Python::reading(Box::new(memory), found, 0, "python3");
        let string = python.string(0);
        prop_assert!(string.is_none_or(|string| string.chars().count() as u64 <= length));
        prop_assert!(read.get() <= 40 + 4 * MAX_CHARACTERS, "{} bytes", read.get());
        read.set(0);
        let bytes = python.bytes(0);
        prop_assert!(bytes.is_none_or(|bytes| bytes.len() as u64 == length));
        prop_assert!(read.get() <= 24 + MAX_LINE_TABLE, "{} bytes", read.get());
    }

    #[test]
    fn any_bytes_are_a_table(minor in any::<u8>(), bytes in prop::collection::vec(any::<u8>(), 0..TABLE_BYTES)) {
        let mut table = table(minor);
        table[24..].iter_mut().zip(&bytes).for_each(|(into, byte)| *into = *byte);
        let _version = Version::of(minor, &table);
        let _version = Version::of(minor, &bytes);
    }
}
