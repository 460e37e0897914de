//! Frames of the Python interpreter, as copied at an event, to functions, files and lines.
//!
//! May import `model`, the contract, `binary` and `owner`. What a frame refers to, its code object, lives as
//! long as its function and is read from the process's memory when a stack is resolved; what was
//! read is kept. Invariants: memory of traced processes is never trusted: every read is bounded,
//! and an object is a code object only if its type says so; a frame that cannot be understood is
//! unknown, never guessed.

mod lines;
#[cfg(test)]
mod tests;
mod versions;

use std::rc::Rc;

use tracer_ebpf::python::Layout;
use tracer_ebpf::runtime::{END_NO_THREAD, END_TOO_DEEP, END_UNREADABLE, FRAME_BYTES};

use self::versions::{Instruction, OWNED_BY_C, TAG_MASK, Version};
use super::cache::Cache;
use super::memory::{self, Memory, word};
use super::owner;
use crate::binary::elf::Elf;
use crate::model::{Frame, FrameKind, Symbol};

/// Half the number of code objects remembered for one process.
const CACHED_CODE: usize = 512;
/// Characters of a name or path; a longer one is cut.
const MAX_CHARACTERS: usize = 1_024;
/// Bytes of a function's line table; a longer one is not read.
const MAX_LINE_TABLE: usize = 256 << 10;
/// Bytes of the longest one that is remembered: what a process makes us keep is bounded.
const MAX_CACHED_LINE_TABLE: usize = 16 << 10;
/// Bytes read of a code object: all that is asked for.
const CODE_BYTES: usize = 256;

/// An interpreter in a file: addresses are the file's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Interpreter {
    version: Version,
    /// `_PyRuntime`
    runtime: u64,
    /// `PyCode_Type`
    code_type: u64,
}

impl Interpreter {
    /// Looks for it in a file; `Some(Err)` says why its frames are not understood.
    pub fn find(elf: &Elf<'_>, name: &str) -> Option<Result<Self, String>> {
        let runtime = elf.exported("_PyRuntime")?;
        let read = |at: u64, bytes: usize| elf.bytes(at, at.checked_add(bytes as u64)?);
        // `Py_Version`, from 3.11, is that of `sys.hexversion`; before, the file's name tells.
        let hex = elf.exported("Py_Version").and_then(|at| read(at, 4));
        let named = || {
            let rest = name.split_once("python3.")?.1;
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            rest[..digits].parse().ok()
        };
        let minor = match hex {
            Some([_, _, minor, 3]) => *minor,
            Some([.., major]) => return Some(Err(format!("Python {major} is not known yet"))),
            _ => match named() {
                Some(minor) => minor,
                None => return Some(Err("which version of Python it is does not show".to_owned())),
            },
        };
        let table = read(runtime, versions::TABLE_BYTES).unwrap_or_default();
        Some(Version::of(minor, table).and_then(|version| {
            let code_type = elf.exported("PyCode_Type");
            let code_type = code_type.ok_or("its types are not exported")?;
            Ok(Self { version, runtime, code_type })
        }))
    }
}

/// What `_PyEval_EvalFrameDefault` of all versions begins with: where Python runs on a native
/// stack.
const EVALUATION: &str = "_PyEval_EvalFrame";

/// The interpreter of a process.
pub(super) struct Python {
    memory: Box<Memory>,
    version: Version,
    layout: Layout,
    code_type: u64,
    /// The module that it is in.
    module: String,
    code: Cache<u64, Rc<Code>>,
}

/// A code object: what a function was compiled to.
struct Code {
    /// What the object referred to: another one at the same address refers elsewhere.
    identity: [u64; 4],
    function: String,
    file: String,
    first_line: i32,
    line_table: Vec<u8>,
}

impl Python {
    /// The interpreter that is mapped `bias` above its file's addresses as this module; `None` when
    /// the process has ended.
    pub fn new(pid: u32, found: Interpreter, bias: u64, module: &str) -> Option<Self> {
        Some(Self::reading(memory::of(pid)?, found, bias, module))
    }

    fn reading(memory: Box<Memory>, found: Interpreter, bias: u64, module: &str) -> Self {
        Self {
            memory,
            version: found.version,
            layout: found.version.layout(found.runtime.wrapping_add(bias)),
            code_type: found.code_type.wrapping_add(bias),
            module: module.to_owned(),
            code: Cache::new(CACHED_CODE),
        }
    }

    /// What the kernel side needs to copy frames.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Where its threads have their number.
    pub fn native_id(&self) -> Option<u32> {
        self.version.native_id()
    }

    /// Names the frames, and says why the outer end is missing.
    pub fn frames(&mut self, raw: &[[u8; FRAME_BYTES]], end: u32) -> (Vec<Frame>, Option<String>) {
        let frames = raw.iter().filter_map(|frame| self.frame(frame)).collect();
        let reason = match end {
            END_TOO_DEEP => Some(format!("more than {} Python frames", raw.len())),
            END_UNREADABLE => Some("a Python frame could not be read".to_owned()),
            END_NO_THREAD => Some("the thread is not known to the Python interpreter".to_owned()),
            _ => None,
        };
        (frames, reason)
    }

    /// One stack of native frames and these.
    pub fn merge(&self, native: Vec<Frame>, python: Vec<Frame>) -> Vec<Frame> {
        merge(native, python, &self.module)
    }

    /// `None` for a frame that is no function's.
    fn frame(&mut self, raw: &[u8; FRAME_BYTES]) -> Option<Frame> {
        let version = self.version;
        if version.owner.is_some_and(|at| raw.get(at).is_some_and(|&by| by >= OWNED_BY_C)) {
            return None;
        }
        let address = word(raw, version.code)? & !TAG_MASK;
        let Some(code) = self.code(address) else {
            return Some(Frame {
                symbol: None,
                module: None,
                kind: FrameKind::Unknown,
                inlined: false,
            });
        };
        let offset = match version.instruction {
            Instruction::Index { at, unit } => {
                word(raw, at).map(|value| i64::from(value as u32 as i32) * unit)
            }
            Instruction::Pointer { at } => word(raw, at).map(|pointer| {
                let start = address.wrapping_add(version.instructions as u64);
                // Before the first instruction of a function that is just being entered.
                pointer.wrapping_sub(start).cast_signed().max(0)
            }),
        };
        let line = offset.and_then(|offset| {
            lines::line(version.lines, &code.line_table, code.first_line, offset)
        });
        Some(Frame {
            kind: owner::python(&code.file),
            symbol: Some(Symbol {
                function: owner::shortened(&code.function),
                file: Some(owner::shortened(&code.file)),
                line,
                column: None,
                definition: false,
                generated: None,
            }),
            module: None,
            inlined: false,
        })
    }

    /// The code object at an address; of a process that has ended, what is remembered.
    fn code(&mut self, address: u64) -> Option<Rc<Code>> {
        let version = self.version;
        let known = self.code.get(&address);
        let mut object = [0; CODE_BYTES];
        if self.read(address, &mut object).is_none() {
            return known;
        }
        // PyObject.ob_type
        if word(&object, 8)? != self.code_type {
            return None;
        }
        let first_line = word(&object, version.first_line)? & u64::from(u32::MAX);
        let [name, file, lines] = [version.name, version.filename, version.line_table]
            .map(|at| word(&object, at).unwrap_or_default());
        let identity = [name, file, lines, first_line];
        if let Some(known) = known.filter(|known| known.identity == identity) {
            return Some(known);
        }
        let code = Rc::new(Code {
            identity,
            function: self.string(name)?,
            file: self.string(file)?,
            first_line: first_line as u32 as i32,
            line_table: self.bytes(lines).unwrap_or_default(),
        });
        if code.line_table.len() <= MAX_CACHED_LINE_TABLE {
            self.code.insert(address, Rc::clone(&code));
        }
        Some(code)
    }

    /// A `PyUnicodeObject` in its compact form, which names and paths have.
    fn string(&self, address: u64) -> Option<String> {
        const STATE: usize = 32;
        let mut object = [0; 40];
        self.read(address, &mut object)?;
        let length = usize::try_from(word(&object, 16)?).ok()?.min(MAX_CHARACTERS);
        let state = word(&object, STATE)? as u32;
        // Bits of `PyASCIIObject.state`, as in 3.8 to 3.15: interned 2, kind 3, compact, ascii.
        let (kind, compact, ascii) = ((state >> 2) & 7, (state >> 5) & 1, (state >> 6) & 1);
        if compact == 0 || !matches!(kind, 1 | 2 | 4) {
            return None;
        }
        let data = if ascii == 1 { self.version.ascii } else { self.version.wide };
        let width = kind as usize;
        let mut bytes = vec![0; length * width];
        self.read(address.wrapping_add(data as u64), &mut bytes)?;
        let character = |bytes: &[u8]| {
            let number =
                bytes.iter().rev().fold(0, |number, byte| (number << 8) | u32::from(*byte));
            char::from_u32(number).unwrap_or(char::REPLACEMENT_CHARACTER)
        };
        Some(bytes.chunks_exact(width).map(character).collect())
    }

    /// A `PyBytesObject`.
    fn bytes(&self, address: u64) -> Option<Vec<u8>> {
        let mut object = [0; 24];
        self.read(address, &mut object)?;
        let length = usize::try_from(word(&object, 16)?).ok()?;
        if length > MAX_LINE_TABLE {
            return None;
        }
        let mut bytes = vec![0; length];
        self.read(address.wrapping_add(32), &mut bytes)?;
        Some(bytes)
    }

    fn read(&self, address: u64, into: &mut [u8]) -> Option<()> {
        (self.memory)(address, into)
    }
}

/// One stack of both: the native frames down to where the interpreter, which is the module of this
/// name, runs, then Python's. Where each instruction is a function (builds that call them in tail
/// position, from 3.14 on) those have no names: then all of the interpreter that is outermost is
/// taken for its running.
fn merge(native: Vec<Frame>, python: Vec<Frame>, interpreter: &str) -> Vec<Frame> {
    let is_evaluation = |frame: &Frame| {
        let symbol = frame.symbol.as_ref();
        symbol.is_some_and(|symbol| symbol.function.starts_with(EVALUATION))
    };
    let is_interpreter = |frame: &Frame| frame.module.as_deref() == Some(interpreter);
    let called = match native.iter().position(is_evaluation) {
        Some(position) => position,
        None => {
            let end = native.iter().rposition(is_interpreter).map_or(native.len(), |last| last + 1);
            let others = native[..end].iter().rposition(|frame| !is_interpreter(frame));
            // One of it is the function that was called.
            others.map_or(end, |other| end.min(other + 2))
        }
    };
    native.into_iter().take(called).chain(python).collect()
}
