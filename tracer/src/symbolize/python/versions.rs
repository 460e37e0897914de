//! Where the versions of CPython keep what tells a frame's function and line.
//!
//! May import the contract. Offsets are in bytes, of builds for 64 bits with the GIL. From 3.13 on an
//! interpreter has a table of its own, `_Py_DebugOffsets`, at the start of `_PyRuntime`; only the
//! form of that table is a matter of the version. Before, they are computed from the headers
//! `cpython/pystate.h`, `internal/pycore_frame.h`, `internal/pycore_runtime.h`,
//! `internal/pycore_interp.h` and `cpython/code.h` of each version. A table comes from a traced
//! process's file: it is believed only if all that it says lies within what is read.

use tracer_ebpf::python::{Layout, NO_CFRAME};
use tracer_ebpf::runtime::FRAME_BYTES;

use super::CODE_BYTES;
use crate::symbolize::memory::word;

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
    /// In `_PyRuntimeState`, `PyInterpreterState` and `PyThreadState`.
    interpreters: u32,
    threads: u32,
    next: u32,
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

/// `FRAME_OWNED_BY_CSTACK` of 3.12 and 3.13 and, from 3.14, `FRAME_OWNED_BY_INTERPRETER`: this and
/// higher ones are no functions' frames.
pub(super) const OWNED_BY_C: u8 = 3;

/// The bits of a reference that are no part of the object's address: set from 3.14 on, and zero in
/// every address.
pub(super) const TAG_MASK: u64 = 3;

/// Also that of 3.8.
const V3_9: Version = Version {
    interpreters: 32,
    threads: 8,
    next: 8,
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
    instruction: Instruction::Index { at: 96, unit: 2 },
    lines: LineTable::Ranges,
    ..V3_9
};

const V3_11: Version = Version {
    interpreters: 40,
    threads: 16,
    next: 8,
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

/// Where a version's `_Py_DebugOffsets` says what: the byte offsets of its parts, and within
/// `thread_state` that of the thread's id. The parts' other fields are where they always were.
#[derive(Clone, Copy)]
struct Table {
    thread_state: usize,
    thread_id: usize,
    interpreter_frame: usize,
    code_object: usize,
    unicode_object: usize,
}

const T3_13: Table = Table {
    thread_state: 152,
    thread_id: 40,
    interpreter_frame: 224,
    code_object: 272,
    unicode_object: 536,
};

const T3_14: Table = Table {
    thread_state: 176,
    thread_id: 40,
    interpreter_frame: 248,
    code_object: 312,
    unicode_object: 616,
};

const T3_15: Table = Table {
    thread_state: 176,
    thread_id: 64,
    interpreter_frame: 312,
    code_object: 376,
    unicode_object: 712,
};

/// Bytes that hold all that is read of a table.
pub(super) const TABLE_BYTES: usize = 768;

/// How far into the interpreter's structures something is believed to be.
const MAX_OFFSET: u64 = 1 << 20;

impl Version {
    /// That of Python 3.`minor`; `table` is what `_PyRuntime` begins with.
    ///
    /// # Errors
    ///
    /// Why the frames of this interpreter are not understood.
    pub fn of(minor: u8, table: &[u8]) -> Result<Self, String> {
        let version = match minor {
            ..8 => return Err(format!("Python 3.{minor} is too old")),
            8 | 9 => V3_9,
            10 => V3_10,
            11 => V3_11,
            12 => V3_12,
            13 => return T3_13.read(minor, table),
            14 => return T3_14.read(minor, table),
            15 => return T3_15.read(minor, table),
            16.. => return Err(format!("Python 3.{minor} is not known yet")),
        };
        Ok(version)
    }

    /// `PyThreadState.native_thread_id`, which follows `thread_id` from 3.11 on: the thread's number in
    /// its own pid namespace.
    pub fn native_id(&self) -> Option<u32> {
        (self.lines == LineTable::Locations).then(|| self.thread_id + 8)
    }

    /// What the kernel side needs of it, with the address of `_PyRuntime`.
    pub fn layout(&self, runtime: u64) -> Layout {
        let Self { interpreters, threads, next, thread_id, frame, cframe, back, .. } = *self;
        Layout { runtime, interpreters, threads, next, thread_id, frame, cframe, back, _pad: 0 }
    }
}

impl Table {
    fn read(self, minor: u8, table: &[u8]) -> Result<Version, String> {
        const COOKIE: &[u8] = b"xdebugpy";
        const FREE_THREADED: usize = 16;
        // The version, as `sys.hexversion` has it.
        let is_of_version =
            word(table, 8).is_some_and(|version| version >> 16 == 0x300 | u64::from(minor));
        if !table.starts_with(COOKIE) || !is_of_version {
            return Err(format!("this Python 3.{minor} does not say where they are"));
        }
        if word(table, FREE_THREADED) != Some(0) {
            return Err(format!("a free-threaded build of Python 3.{minor} is not understood"));
        }
        self.offsets(table)
            .ok_or_else(|| format!("this Python 3.{minor} has them where none can be"))
    }

    /// `None` where an offset leads out of what is read.
    fn offsets(self, table: &[u8]) -> Option<Version> {
        const RUNTIME_STATE: usize = 24;
        const INTERPRETER_STATE: usize = 48;
        let at = |part: usize, field: usize| word(table, part + field);
        let state = |part, field| {
            let offset = at(part, field)?;
            u32::try_from(offset).ok().filter(|_| offset <= MAX_OFFSET)
        };
        let within = |part, field, size: usize, limit: usize| {
            let offset = usize::try_from(at(part, field)?).ok()?;
            (offset.checked_add(size)? <= limit).then_some(offset)
        };
        let frame = |field, size| within(self.interpreter_frame, field, size, FRAME_BYTES);
        let code = |field, size| within(self.code_object, field, size, CODE_BYTES);
        // The kernel side masks it: see `bpf/python.rs`.
        let back = frame(8, 8).filter(|back| back & !0x38 == 0)?;
        let ascii = within(self.unicode_object, 24, 16, CODE_BYTES)?;
        Some(Version {
            interpreters: state(RUNTIME_STATE, 16)?,
            threads: state(INTERPRETER_STATE, 24)?,
            next: state(self.thread_state, 16)?,
            thread_id: state(self.thread_state, self.thread_id)?,
            frame: state(self.thread_state, 32)?,
            cframe: NO_CFRAME,
            back: u32::try_from(back).ok()?,
            code: frame(16, 8)?,
            instruction: Instruction::Pointer { at: frame(24, 8)? },
            owner: Some(frame(40, 1)?),
            filename: code(8, 8)?,
            name: code(24, 8)?,
            first_line: code(40, 4)?,
            line_table: code(32, 8)?,
            instructions: code(72, 0)?,
            lines: LineTable::Locations,
            ascii,
            // `PyCompactUnicodeObject` adds a length and a pointer.
            wide: ascii + 16,
        })
    }
}

/// Everything that is read of a frame was copied.
const _: () = {
    let versions = [V3_9, V3_10, V3_11, V3_12];
    let mut index = 0;
    while index < versions.len() {
        let version = versions[index];
        let instruction = match version.instruction {
            Instruction::Index { at, .. } | Instruction::Pointer { at } => at,
        };
        assert!(version.code + 8 <= FRAME_BYTES && instruction + 8 <= FRAME_BYTES);
        index += 1;
    }
};
