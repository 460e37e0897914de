//! A small virtual machine in made-up memory: its tables, one heap of code, and methods.

use std::cell::Cell;

use proptest::prelude::*;

use super::layout::Tables;
use super::memory::Memory;
use super::{Inner, Registers, Step};
use crate::model::Frame;

const BASE: u64 = 0x10_0000;
/// Where the stack of the tests is; nothing else is there.
const STACK: u64 = 0x7000_0000;

/// Memory from [`BASE`] on, and how often it was read.
struct Image {
    bytes: Vec<u8>,
    reads: Cell<usize>,
}

impl Memory for Image {
    fn read(&self, address: u64, into: &mut [u8]) -> Option<()> {
        self.reads.set(self.reads.get() + 1);
        let start = usize::try_from(address.checked_sub(BASE)?).ok()?;
        into.copy_from_slice(self.bytes.get(start..start.checked_add(into.len())?)?);
        Some(())
    }
}

impl Image {
    fn new() -> Self {
        Self { bytes: Vec::new(), reads: Cell::new(0) }
    }

    fn take(&mut self, len: usize) -> u64 {
        let at = self.bytes.len();
        self.bytes.resize((at + len).next_multiple_of(8), 0);
        BASE + at as u64
    }

    fn set(&mut self, at: u64, bytes: &[u8]) {
        let start = (at - BASE) as usize;
        self.bytes[start..start + bytes.len()].copy_from_slice(bytes);
    }

    fn put(&mut self, bytes: &[u8]) -> u64 {
        let at = self.take(bytes.len());
        self.set(at, bytes);
        at
    }

    fn put_text(&mut self, text: &str) -> u64 {
        self.put(format!("{text}\0").as_bytes())
    }

    fn set_word(&mut self, at: u64, word: u64) {
        self.set(at, &word.to_le_bytes());
    }

    fn int(&mut self, at: u64, int: u32) {
        self.set(at, &int.to_le_bytes());
    }

    fn short(&mut self, at: u64, short: u16) {
        self.set(at, &short.to_le_bytes());
    }

    fn words(&mut self, words: &[u64]) -> u64 {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.put(&bytes)
    }

    fn symbol(&mut self, name: &[u8]) -> u64 {
        let mut bytes = vec![0; 4];
        bytes.extend((name.len() as u16).to_le_bytes());
        bytes.extend(name);
        self.put(&bytes)
    }
}

/// Fields of a version, by class: name, type, offset.
type Class = (&'static str, u64, &'static [(&'static str, &'static str, u64)]);

const CLASSES: [Class; 11] = [
    ("VirtualSpace", 32, &[("_low", "char*", 16), ("_high", "char*", 24)]),
    ("GrowableArrayBase", 8, &[("_len", "int", 0)]),
    ("GrowableArray<int>", 16, &[("_data", "int*", 8)]),
    (
        "CodeHeap",
        128,
        &[
            ("_memory", "VirtualSpace", 8),
            ("_segmap", "VirtualSpace", 64),
            ("_log2_segment_size", "int", 112),
        ],
    ),
    ("HeapBlock", 16, &[]),
    ("HeapBlock::Header", 16, &[("_used", "bool", 8)]),
    ("PcDesc", 16, &[("_pc_offset", "int", 0), ("_scope_decode_offset", "int", 4)]),
    ("Method", 16, &[("_constMethod", "ConstMethod*", 8)]),
    (
        "ConstMethod",
        24,
        &[
            ("_constants", "ConstantPool*", 0),
            ("_constMethod_size", "int", 8),
            ("_flags", "u2", 12),
            ("_code_size", "u2", 14),
            ("_name_index", "u2", 16),
        ],
    ),
    (
        "ConstantPool",
        24,
        &[
            ("_pool_holder", "InstanceKlass*", 0),
            ("_length", "int", 8),
            ("_source_file_name_index", "u2", 12),
        ],
    ),
    ("Symbol", 6, &[("_length", "u2", 4), ("_body", "", 6)]),
];
const KLASS: [Class; 2] = [
    ("Klass", 16, &[("_name", "Symbol*", 8)]),
    ("InstanceKlass", 24, &[("_constants", "ConstantPool*", 16)]),
];
/// Up to 22, with what describes a call behind the code.
const BEHIND: [Class; 3] = [
    (
        "CodeBlob",
        40,
        &[
            ("_name", "const char*", 0),
            ("_frame_size", "int", 8),
            ("_code_begin", "address", 16),
            ("_code_end", "address", 24),
        ],
    ),
    (
        "CompiledMethod",
        72,
        &[
            ("_method", "Method*", 40),
            ("_scopes_data_begin", "address", 48),
            ("_deopt_handler_begin", "address", 56),
        ],
    ),
    (
        "nmethod",
        96,
        &[
            ("_metadata_offset", "int", 72),
            ("_scopes_pcs_offset", "int", 76),
            ("_dependencies_offset", "int", 80),
            ("_orig_pc_offset", "int", 84),
        ],
    ),
];
/// From 25, with what describes a call elsewhere.
const ELSEWHERE: [Class; 2] = [
    (
        "CodeBlob",
        40,
        &[
            ("_name", "const char*", 0),
            ("_frame_size", "int", 8),
            ("_code_offset", "int", 12),
            ("_data_offset", "int", 16),
            ("_mutable_data", "address", 24),
            ("_mutable_data_size", "int", 32),
            ("_relocation_size", "int", 36),
        ],
    ),
    (
        "nmethod",
        96,
        &[
            ("_method", "Method*", 40),
            ("_immutable_data", "address", 48),
            ("_immutable_data_size", "int", 56),
            ("_scopes_pcs_offset", "int", 60),
            ("_scopes_data_offset", "int", 64),
            ("_deopt_handler_offset", "int", 68),
            ("_orig_pc_offset", "int", 84),
        ],
    ),
];

/// Bytes of a piece of code, and of its segments.
const PIECE: u64 = 1024;
const SEGMENT: u64 = 128;
/// Where code begins and ends in a piece.
const BEGIN: u64 = 160;
const END: u64 = 400;
const DEOPTIMIZED: u64 = 390;

/// The machine, and what is in it.
struct Scene {
    inner: Inner<Image>,
    /// Code of the interpreter, of a compiled method, and of what enters Java.
    interpreter: u64,
    compiled: u64,
    stub: u64,
    /// `Service.outer` and its first instruction.
    method: u64,
    first: u64,
}

fn tables(
    image: &mut Image,
    major: u32,
    classes: &[Class],
    heaps: u64,
    bounds: [u64; 2],
) -> Tables {
    let version = image.put(&major.to_le_bytes());
    let statics = [
        ("Abstract_VM_Version", "_vm_major_version", version),
        ("CodeCache", "_low_bound", bounds[0]),
        ("CodeCache", "_high_bound", bounds[1]),
        ("CodeCache", "_heaps", heaps),
    ];
    let mut entries = Vec::new();
    let mut sizes = Vec::new();
    for (class, name, address) in statics {
        entries.extend([
            image.put_text(class),
            image.put_text(name),
            image.put_text("int"),
            1,
            0,
            address,
        ]);
    }
    for (class, size, fields) in classes {
        let class = image.put_text(class);
        sizes.extend([class, *size]);
        for (name, kind, at) in *fields {
            entries.extend([class, image.put_text(name), image.put_text(kind), 0, *at, 0]);
        }
    }
    entries.extend([0; 6]);
    sizes.extend([0; 2]);
    let (entries, sizes) = (image.words(&entries), image.words(&sizes));
    let mut variable = |value: u64| image.words(&[value]);
    Tables {
        fields: variable(entries),
        field_entry: [48, 0, 8, 16, 24, 32, 40].map(&mut variable),
        classes: variable(sizes),
        class_entry: [16, 0, 8].map(&mut variable),
    }
}

fn scene(major: u32) -> Scene {
    let mut image = Image::new();
    let is_behind = major < 23;
    // Two methods of one class.
    let class_name = image.symbol("shop/Service".as_bytes());
    let names = ["outer", "внутри", "Service.java"].map(|name| image.symbol(name.as_bytes()));
    let pool = image.take(24);
    for entry in [0, names[0], names[1], names[2]] {
        image.words(&[entry]);
    }
    let class = image.take(24);
    image.set_word(class + 8, class_name);
    image.set_word(class + 16, pool);
    image.set_word(pool, class);
    image.int(pool + 8, 4);
    image.short(pool + 12, 3);
    let method = |image: &mut Image, name: u16, line: u8| {
        let constant = image.take(24);
        // Ten instructions; from the fifth on the line is one more.
        let code = if is_behind { 0 } else { 1 };
        let lines = [0xff, code, line * 2 + code, (5 << 3) | 1, 0];
        image.put(&[&[0; 10], &lines[..]].concat());
        let end = image.take(0);
        image.set_word(constant, pool);
        image.int(constant + 8, ((end - constant) / 8) as u32);
        image.short(constant + 12, 1);
        image.short(constant + 14, 10);
        image.short(constant + 16, name);
        (image.words(&[0, constant]), constant + 24)
    };
    let (outer, first) = method(&mut image, 1, 10);
    let (inner, _) = method(&mut image, 2, 40);
    // Three pieces of code of eight segments each.
    let aligned = image.bytes.len().next_multiple_of(PIECE as usize);
    image.bytes.resize(aligned, 0);
    let low = image.take(3 * PIECE as usize);
    let map: Vec<u8> = (0..3).flat_map(|_| 0..(PIECE / SEGMENT) as u8).collect();
    let map_at = image.put(&map);
    let heap = image.take(128);
    for (at, value) in [(24, low), (32, low + 3 * PIECE), (80, map_at), (88, map_at + 24)] {
        image.set_word(heap + at, value);
    }
    image.int(heap + 112, 7);
    let heaps = image.words(&[heap]);
    let array = image.words(&[1, heaps]);
    let heaps = image.words(&[array]);
    let bounds = [low, low + 3 * PIECE].map(|bound| image.words(&[bound]));
    for (index, name) in ["Interpreter", "nmethod", "StubRoutines (1)"].into_iter().enumerate() {
        let block = low + index as u64 * PIECE;
        let blob = block + 16;
        image.set(block + 8, &[1]);
        let name = image.put_text(name);
        image.set_word(blob, name);
        if is_behind {
            image.set_word(blob + 16, blob + BEGIN);
            image.set_word(blob + 24, blob + END);
        } else {
            image.int(blob + 12, BEGIN as u32);
            image.int(blob + 16, END as u32);
        }
    }
    let blob = low + PIECE + 16;
    image.int(blob + 8, 6);
    image.set_word(blob + 40, outer);
    image.int(blob + 84, 16);
    // Behind the 20th byte of the code: in `внутри` at 5, called by `outer` at 2.
    let code = if is_behind { 0 } else { 1 };
    let data: Vec<u8> =
        [9, 9, 0, 1, 2 + 1, 2, 2, 5 + 1].iter().map(|number| number + code).collect();
    let mut calls = Vec::new();
    for (pc, scope) in [(u32::MAX, 0), (20, 5), (30, 2)] {
        calls.extend([pc, scope, 0, 0_u32].iter().flat_map(|number| number.to_le_bytes()));
    }
    let metadata: Vec<u8> = [outer, inner].iter().flat_map(|at| at.to_le_bytes()).collect();
    if is_behind {
        image.set_word(blob + 56, blob + DEOPTIMIZED);
        image.set(blob + 400, &metadata);
        image.set(blob + 416, &data);
        image.set(blob + 424, &calls);
        image.int(blob + 72, 400);
        image.set_word(blob + 48, blob + 416);
        image.int(blob + 76, 424);
        image.int(blob + 80, 424 + calls.len() as u32);
    } else {
        image.int(blob + 68, DEOPTIMIZED as u32);
        let mutable = image.put(&[&[7; 8], &metadata[..]].concat());
        image.set_word(blob + 24, mutable);
        image.int(blob + 32, 24);
        image.int(blob + 36, 8);
        let immutable = image.put(&[&calls[..], &data[..]].concat());
        image.set_word(blob + 48, immutable);
        image.int(blob + 56, (calls.len() + data.len()) as u32);
        image.int(blob + 64, calls.len() as u32);
    }
    let mut classes = [&CLASSES[..], &KLASS[..]].concat();
    classes.extend(if is_behind { &BEHIND[..] } else { &ELSEWHERE[..] });
    let tables = tables(&mut image, major, &classes, heaps, bounds);
    // Memory ends at a page.
    let pages = image.bytes.len().next_multiple_of(4096);
    image.bytes.resize(pages, 0);
    let piece = |index: u64| low + index * PIECE + 16 + BEGIN;
    Scene {
        inner: Inner::new(image, tables, 0),
        interpreter: piece(0),
        compiled: piece(1),
        stub: piece(2),
        method: outer,
        first,
    }
}

impl Scene {
    fn step(&mut self, pc: u64, bp: u64, words: &[u64]) -> Step {
        let mut read = |address: u64| {
            let index = usize::try_from(address.checked_sub(STACK)? / 8).ok()?;
            words.get(index).copied()
        };
        self.inner.step(Registers { pc, sp: STACK, bp }, &mut read)
    }
}

fn shown(frames: &[Frame]) -> Vec<String> {
    let shown = |frame: &Frame| {
        let Some(symbol) = &frame.symbol else { return "?".to_owned() };
        let (file, line) = (symbol.file.as_deref().unwrap_or("?"), symbol.line.unwrap_or(0));
        let inlined = if frame.inlined { " inlined" } else { "" };
        format!("{} {file}:{line}{inlined}", symbol.function)
    };
    frames.iter().map(shown).collect()
}

/// What was found, and the registers of the caller.
fn found(step: Step) -> (Vec<String>, Option<[u64; 3]>) {
    let Step::Managed(frames, next) = step else { panic!("{step:?}") };
    (shown(&frames), next.ok().map(|next| [next.pc, next.sp, next.bp]))
}

/// An interpreter's frame whose pointer is at word 9 of the stack.
fn interpreted(method: u64, instruction: u64) -> [u64; 12] {
    [0, instruction, 0, 0, 0, 0, method, 0, STACK + 96, 0x7777, 0x1234, 0]
}

const BOTH: [u32; 2] = [17, 25];

#[test]
fn an_interpreters_frame_says_its_method_and_its_instruction() {
    for major in BOTH {
        let mut scene = scene(major);
        for (at, line) in [(0, 10), (4, 10), (5, 11), (9, 11)] {
            let stack = interpreted(scene.method, scene.first + at);
            let step = scene.step(scene.interpreter + 3, STACK + 72, &stack);
            let expected = vec![format!("shop.Service.outer Service.java:{line}")];
            assert_eq!(found(step), (expected, Some([0x1234, STACK + 96, 0x7777])), "{major}");
        }
    }
}

#[test]
fn what_contradicts_itself_is_unknown_and_the_walk_goes_on() {
    for major in BOTH {
        let mut scene = scene(major);
        for (method, instruction) in [
            (scene.method, scene.first + 10),
            (scene.method, scene.first - 1),
            (scene.method + 4, scene.first),
            (scene.first, scene.first),
            (0, 0),
        ] {
            let stack = interpreted(method, instruction);
            let step = scene.step(scene.interpreter + 3, STACK + 72, &stack);
            let expected = (vec!["?".to_owned()], Some([0x1234, STACK + 96, 0x7777]));
            assert_eq!(found(step), expected, "{major}");
        }
    }
}

#[test]
fn compiled_code_says_what_was_inlined_into_it() {
    for major in BOTH {
        let mut scene = scene(major);
        let stack = [0, 0, 0, 0, 0x7777, 0x1234];
        let next = Some([0x1234, STACK + 48, 0x7777]);
        let both =
            ["shop.Service.внутри Service.java:41 inlined", "shop.Service.outer Service.java:10"];
        let step = scene.step(scene.compiled + 20, 0, &stack);
        assert_eq!(found(step), (both.map(str::to_owned).to_vec(), next), "{major}");
        let step = scene.step(scene.compiled + 30, 0, &stack);
        assert_eq!(found(step), (vec![both[1].to_owned()], next), "{major}");
        // No call returns there: other code was here.
        let step = scene.step(scene.compiled + 21, 0, &stack);
        assert_eq!(found(step), (vec!["?".to_owned()], next));
    }
}

#[test]
fn compiled_code_that_will_be_given_up_says_where_it_was() {
    for major in BOTH {
        let mut scene = scene(major);
        let stack = [0, 0, scene.compiled + 20, 0, 0x7777, 0x1234];
        let step = scene.step(scene.compiled - BEGIN + DEOPTIMIZED, 0, &stack);
        assert_eq!(found(step).0.len(), 2, "{major}");
    }
}

#[test]
fn what_enters_java_keeps_a_frame_pointer_and_is_not_shown() {
    let mut scene = scene(17);
    let step = scene.step(scene.stub + 5, STACK + 8, &[0, 0x7777, 0x1234]);
    assert_eq!(found(step), (vec![], Some([0x1234, STACK + 24, 0x7777])));
}

#[test]
fn code_that_was_seen_is_known_when_it_is_gone() {
    let mut scene = scene(17);
    let stack = [0, 0, 0, 0, 0x7777, 0x1234];
    let before = found(scene.step(scene.compiled + 20, 0, &stack));
    let block = scene.compiled - BEGIN - 16;
    scene.inner.memory.set(block + 8, &[0]);
    assert_eq!(found(scene.step(scene.compiled + 20, 0, &stack)), before);
    // The process has ended.
    let of_interpreter = interpreted(scene.method, scene.first);
    let interpreted = found(scene.step(scene.interpreter + 3, STACK + 72, &of_interpreter));
    scene.inner.memory.bytes.clear();
    assert_eq!(found(scene.step(scene.compiled + 20, 0, &stack)), before);
    let after = found(scene.step(scene.interpreter + 3, STACK + 72, &of_interpreter));
    assert_eq!(after, interpreted);
}

#[test]
fn what_is_not_code_is_not_javas_and_what_is_free_is_gone() {
    let mut scene = scene(17);
    assert_eq!(scene.step(0x1234, 0, &[]), Step::Native);
    let block = scene.compiled - BEGIN - 16;
    scene.inner.memory.set(block + 8, &[0]);
    let step = scene.step(scene.compiled + 20, 0, &[0; 8]);
    assert_eq!(found(step), (vec!["?".to_owned()], None));
}

#[test]
fn an_unknown_version_is_refused_with_a_reason() {
    for (major, reason) in
        [(8, "no Java frames: Java 8 is not known"), (26, "no Java frames: Java 26 is not known")]
    {
        let mut scene = scene(major);
        assert_eq!(scene.step(scene.compiled + 20, 0, &[0; 8]), Step::Native);
        let refused = scene.inner.layout.get().and_then(|layout| layout.as_ref().err());
        assert_eq!(refused.map(String::as_str), Some(reason));
    }
    // A table without a field that is needed, as of a version that renamed it.
    let mut scene = scene(17);
    let image = &mut scene.inner.memory;
    let name = b"_constMethod\0";
    let at = image.bytes.windows(name.len()).position(|text| text == name).expect("is there");
    image.bytes[at + 1] = b'X';
    assert_eq!(scene.step(scene.compiled + 20, 0, &[0; 8]), Step::Native);
    let refused = scene.inner.layout.get().and_then(|layout| layout.as_ref().err());
    let reason = "no Java frames: this build of Java 17 does not say where Method::_constMethod is";
    assert_eq!(refused.map(String::as_str), Some(reason));
}

#[test]
fn tables_that_are_not_filled_yet_are_read_again() {
    let mut scene = scene(17);
    let at = scene.inner.tables.field_entry[0];
    scene.inner.memory.set_word(at, 0);
    assert_eq!(scene.step(scene.compiled + 20, 0, &[0; 8]), Step::Native);
    assert!(scene.inner.layout.get().is_none());
    scene.inner.memory.set_word(at, 48);
    assert!(matches!(scene.step(scene.compiled + 20, 0, &[0; 8]), Step::Managed(..)));
}

#[test]
fn tables_that_are_never_filled_are_given_up() {
    let mut scene = scene(17);
    let at = scene.inner.tables.field_entry[0];
    scene.inner.memory.set_word(at, 0);
    for _ in 0..=super::MAX_TRIES {
        assert_eq!(scene.step(scene.compiled + 20, 0, &[0; 8]), Step::Native);
    }
    assert!(scene.inner.layout.get().is_some_and(Result::is_err));
}

proptest! {
    /// Whatever is written over the machine's memory, a step ends soon and goes up the stack.
    #[test]
    fn hostile_memory_gives_a_bounded_step(
        major in prop_oneof![Just(17_u32), Just(25)],
        writes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..200),
        read_before in any::<bool>(),
        kind in 0..3_u8,
        (offset, bp) in (0..300_u64, 0..128_u64),
        stack in proptest::collection::vec(any::<u64>(), 0..16),
    ) {
        let mut scene = scene(major);
        if read_before {
            let _ = scene.step(scene.compiled + 20, 0, &[0; 8]);
        }
        for (at, byte) in writes {
            let at = at.index(scene.inner.memory.bytes.len());
            scene.inner.memory.bytes[at] = byte;
        }
        let mut stack = stack;
        if let Some(word) = stack.get_mut(6) {
            *word = scene.method;
        }
        let pc = [scene.interpreter, scene.compiled, scene.stub][usize::from(kind)] + offset;
        scene.inner.memory.reads.set(0);
        let step = scene.step(pc, STACK + bp, &stack);
        prop_assert!(scene.inner.memory.reads.get() < 20_000);
        if let Step::Managed(frames, next) = step {
            prop_assert!(frames.len() <= 64);
            prop_assert!(next.is_err() || next.is_ok_and(|next| next.sp > STACK));
        }
    }
}
