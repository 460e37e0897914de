//! Where the versions of CPython keep what tells a frame's function and line.
//!
//! May import the contract. Offsets are in bytes, of builds for 64 bits with the GIL; computed from
//! the headers `cpython/pystate.h`, `internal/pycore_frame.h`, `internal/pycore_runtime.h`,
//! `internal/pycore_interp.h` and `cpython/code.h` of each version.

use tracer_ebpf::python::{Layout, NO_CFRAME};
use tracer_ebpf::runtime::FRAME_BYTES;

/// How a version of CPython writes which instruction is on which line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LineTable {
    /// `co_lnotab`: up to 3.9.
    Lnotab,
    /// `co_linetable` of PEP 626: 3.10.
    Ranges,
    /// The location table: from 3.11.
    Locations,
}

/// How a frame refers to its current instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Instruction {
    /// A number, in units of so many bytes.
    Index { at: usize, unit: i64 },
    /// A pointer into the code object.
    Pointer { at: usize },
}

/// One version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Version {
    pub minor: u8,
    /// In `_PyRuntimeState`, `PyInterpreterState` and `PyThreadState`.
    interpreters: u32,
    threads: u32,
    thread_id: u32,
    frame: u32,
    cframe: u32,
    back: u32,
    /// In the frame.
    pub code: usize,
    pub instruction: Instruction,
    /// The byte that tells who owns the frame; those of the C stack are no Python functions.
    pub owner: Option<usize>,
    /// In the code object.
    pub filename: usize,
    pub name: usize,
    pub first_line: usize,
    pub line_table: usize,
    pub instructions: usize,
    pub lines: LineTable,
    /// In a string: where its characters begin, when they are ASCII and when they are not.
    pub ascii: usize,
    pub wide: usize,
}

/// `PyThreadState.next`, in all of them.
const NEXT: u32 = 8;

/// `FRAME_OWNED_BY_CSTACK`
pub(super) const OWNED_BY_C: u8 = 3;

const V3_9: Version = Version {
    minor: 9,
    interpreters: 32,
    threads: 8,
    thread_id: 176,
    frame: 24,
    cframe: NO_CFRAME,
    back: 24,
    code: 32,
    instruction: Instruction::Index { at: 104, unit: 1 },
    owner: None,
    filename: 104,
    name: 112,
    first_line: 40,
    line_table: 120,
    instructions: 0,
    lines: LineTable::Lnotab,
    ascii: 48,
    wide: 72,
};

const V3_10: Version = Version {
    minor: 10,
    instruction: Instruction::Index { at: 96, unit: 2 },
    lines: LineTable::Ranges,
    ..V3_9
};

const V3_11: Version = Version {
    minor: 11,
    interpreters: 40,
    threads: 16,
    thread_id: 152,
    frame: 56,
    cframe: 8,
    back: 48,
    code: 32,
    instruction: Instruction::Pointer { at: 56 },
    owner: None,
    filename: 112,
    // co_qualname
    name: 128,
    first_line: 72,
    line_table: 136,
    instructions: 184,
    lines: LineTable::Locations,
    ascii: 48,
    wide: 72,
};

const V3_12: Version = Version {
    minor: 12,
    threads: 72,
    thread_id: 136,
    cframe: 0,
    back: 8,
    code: 0,
    owner: Some(70),
    first_line: 68,
    instructions: 192,
    ascii: 40,
    wide: 56,
    ..V3_11
};

const V3_13: Version = Version {
    minor: 13,
    interpreters: 632,
    threads: 7344,
    thread_id: 152,
    frame: 72,
    cframe: NO_CFRAME,
    instructions: 200,
    ..V3_12
};

/// Those that are known.
pub(super) const VERSIONS: [Version; 5] = [V3_9, V3_10, V3_11, V3_12, V3_13];

impl Version {
    /// That of Python 3.`minor`.
    pub fn of(minor: u8) -> Option<&'static Self> {
        VERSIONS.iter().find(|version| version.minor == minor)
    }

    /// What the kernel side needs of it, with the address of `_PyRuntime`.
    pub fn layout(&self, runtime: u64) -> Layout {
        let Self { interpreters, threads, thread_id, frame, cframe, back, .. } = *self;
        Layout {
            runtime,
            interpreters,
            threads,
            next: NEXT,
            thread_id,
            frame,
            cframe,
            back,
            _pad: 0,
        }
    }
}

/// Everything that is read of a frame was copied.
const _: () = {
    let mut index = 0;
    while index < VERSIONS.len() {
        let version = VERSIONS[index];
        let instruction = match version.instruction {
            Instruction::Index { at, .. } | Instruction::Pointer { at } => at,
        };
        assert!(version.code + 8 <= FRAME_BYTES && instruction + 8 <= FRAME_BYTES);
        index += 1;
    }
};
