//! Frames of the Python interpreter, as copied at an event, to functions, files and lines.
//!
//! May import `model`, the contract, `binary` and `owner`. What a frame refers to, its code object, lives as
//! long as its function and is read from the process's memory when a stack is resolved; what was
//! read is kept. Invariants: memory of traced processes is never trusted: every read is bounded,
//! and an object is a code object only if its type says so; a frame that cannot be understood is
//! unknown, never guessed.

mod lines;
mod versions;

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::rc::Rc;

use tracer_ebpf::python::Layout;
use tracer_ebpf::runtime::{END_NO_THREAD, END_TOO_DEEP, END_UNREADABLE, FRAME_BYTES, MAX_FRAMES};

use self::versions::{Instruction, OWNED_BY_C, Version};
use super::cache::Cache;
use super::owner;
use crate::binary::elf::Elf;
use crate::model::{Frame, FrameKind, Symbol};

/// Half the number of code objects remembered for one process.
const CACHED_CODE: usize = 2_048;
/// Characters of a name or path; a longer one is cut.
const MAX_CHARACTERS: usize = 1_024;
/// Bytes of a function's line table; a longer one is not read.
const MAX_LINE_TABLE: usize = 256 << 10;
/// Bytes read of a code object: all that is asked for.
const CODE_BYTES: usize = 256;

/// An interpreter in a file: addresses are the file's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Interpreter {
    /// 3.`minor`
    pub minor: u8,
    /// `_PyRuntime`
    pub runtime: u64,
    /// `PyCode_Type`
    pub code_type: u64,
}

impl Interpreter {
    /// Looks for it in a file.
    pub fn find(elf: &Elf<'_>, name: &str) -> Option<Self> {
        let runtime = elf.exported("_PyRuntime")?;
        // `Py_Version`, from 3.11, is that of `sys.hexversion`; before, the file's name tells.
        let version = elf.exported("Py_Version").and_then(|at| elf.bytes(at, at.checked_add(4)?));
        let minor = match version {
            Some([_, _, minor, 3]) => *minor,
            Some(_) => return None,
            None => {
                let rest = name.split_once("python3.")?.1;
                let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
                rest[..digits].parse().ok()?
            }
        };
        Some(Self { minor, runtime, code_type: elf.exported("PyCode_Type")? })
    }
}

/// What `_PyEval_EvalFrameDefault` of all versions begins with: where Python runs on a native
/// stack.
const EVALUATION: &str = "_PyEval_EvalFrame";

/// The interpreter of a process.
pub(super) struct Python {
    memory: File,
    version: &'static Version,
    layout: Layout,
    code_type: u64,
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
    /// The interpreter that is mapped `bias` above its file's addresses; `None` when its version
    /// is not known or the process has ended.
    pub fn new(pid: u32, found: Interpreter, bias: u64) -> Option<Self> {
        let version = Version::of(found.minor)?;
        Some(Self {
            memory: File::open(format!("/proc/{pid}/mem")).ok()?,
            version,
            layout: version.layout(found.runtime.wrapping_add(bias)),
            code_type: found.code_type.wrapping_add(bias),
            code: Cache::new(CACHED_CODE),
        })
    }

    /// What the kernel side needs to copy frames.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Names the frames, and says why the outer end is missing.
    pub fn frames(&mut self, raw: &[[u8; FRAME_BYTES]], end: u32) -> (Vec<Frame>, Option<String>) {
        let frames = raw.iter().filter_map(|frame| self.frame(frame)).collect();
        let reason = match end {
            END_TOO_DEEP => Some(format!("more than {MAX_FRAMES} Python frames")),
            END_UNREADABLE => Some("a Python frame could not be read".to_owned()),
            END_NO_THREAD => Some("the thread is not known to the Python interpreter".to_owned()),
            _ => None,
        };
        (frames, reason)
    }

    /// `None` for a frame that is no function's.
    fn frame(&mut self, raw: &[u8; FRAME_BYTES]) -> Option<Frame> {
        let version = self.version;
        if version.owner.is_some_and(|at| raw.get(at) == Some(&OWNED_BY_C)) {
            return None;
        }
        let address = word(raw, version.code)?;
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
        self.code.insert(address, Rc::clone(&code));
        Some(code)
    }

    /// A `PyUnicodeObject` in its compact form, which names and paths have.
    fn string(&self, address: u64) -> Option<String> {
        const STATE: usize = 32;
        let mut object = [0; 40];
        self.read(address, &mut object)?;
        let length = usize::try_from(word(&object, 16)?).ok()?.min(MAX_CHARACTERS);
        let state = word(&object, STATE)? as u32;
        // Bits of `PyASCIIObject.state`, as in 3.9 to 3.13: interned 2, kind 3, compact, ascii.
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
        self.memory.read_exact_at(into, address).ok()
    }
}

/// One stack of both: the native frames down to where the interpreter runs, then Python's.
pub(super) fn merge(native: Vec<Frame>, python: Vec<Frame>) -> Vec<Frame> {
    let is_evaluation = |frame: &Frame| {
        let symbol = frame.symbol.as_ref();
        symbol.is_some_and(|symbol| symbol.function.starts_with(EVALUATION))
    };
    let mut frames: Vec<Frame> =
        native.into_iter().take_while(|frame| !is_evaluation(frame)).collect();
    frames.extend(python);
    frames
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u64::from_le_bytes(*bytes))
}
