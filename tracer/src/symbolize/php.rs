//! Frames of the Zend engine, as copied at an event, to PHP's functions, files and lines.
//!
//! May import `model`, the contract, `binary` and `owner`. The engine keeps the frame that runs in
//! a global, and each has a pointer to its caller. What a frame refers to, its function, may be
//! freed before it is read (a closure, code that was evaluated): it is believed only if the frame's
//! instruction is one of its own. Invariants: every read is bounded, and a frame that cannot be
//! understood is unknown, never guessed.
//! Sources: `Zend/zend_compile.h`, `Zend/zend_globals.h` and `Zend/zend_types.h` of each version,
//! from whose headers the offsets are computed.

#[cfg(test)]
mod recorded;

use serde::{Deserialize, Serialize};
use tracer_ebpf::python::{Layout, NO_CFRAME, NO_THREADS};
use tracer_ebpf::runtime::{END_TOO_DEEP, END_UNREADABLE, FRAME_BYTES, MAX_FRAMES};

use super::memory::{self, Memory, word};
use super::owner;
use crate::binary::elf::Elf;
use crate::model::{Frame, FrameKind, Symbol};

/// Characters of a name or path; a longer one is cut.
const MAX_BYTES: usize = 4_096;

/// `zend_executor_globals.current_execute_data`, and how far the globals reach at least.
const CURRENT: u64 = 488;
const GLOBALS_BYTES: u64 = 1_500;

/// In `zend_execute_data`.
const OPLINE: usize = 0;
const FUNCTION: usize = 24;
const CALLER: u32 = 48;

/// In `zend_op`, and its size.
const LINE: u64 = 24;
const OP_BYTES: u64 = 32;

/// In `zend_function`: its kind is its first byte.
const INTERNAL: u8 = 1;
const USER: u8 = 2;
const EVALUATED: u8 = 4;
const FUNCTION_NAME: usize = 8;
const SCOPE: usize = 16;
/// Bytes read of one.
const FUNCTION_BYTES: usize = 184;

/// In `zend_class_entry`.
const CLASS_NAME: u64 = 8;

/// Where the versions of PHP keep the rest of a function, `zend_op_array`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Version {
    /// How many instructions, where they are, and the file.
    count: usize,
    instructions: usize,
    file: usize,
}

const V7_4: Version = Version { count: 60, instructions: 64, file: 136 };
const V8_2: Version = Version { count: 80, instructions: 88, file: 152 };
const V8_4: Version = Version { count: 96, instructions: 104, file: 168 };

/// An engine in a file: addresses are the file's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Engine {
    version: Version,
    /// `executor_globals`
    globals: u64,
}

impl Engine {
    /// Looks for it in a file; `Some(Err)` says why its frames are not understood.
    pub fn find(elf: &Elf<'_>) -> Option<Result<Self, String>> {
        elf.exported("zend_execute_ex")?;
        let globals = elf.exported("executor_globals").ok_or("a build for threads (ZTS)");
        Some(globals.map_err(|why| format!("{why} is not understood")).and_then(|globals| {
            let version = match version(elf) {
                Some((7, 4)) => V7_4,
                Some((8, 2)) => V8_2,
                Some((8, 4)) => V8_4,
                Some((major, minor)) => {
                    return Err(format!("PHP {major}.{minor} is not known yet"));
                }
                None => return Err("which version of PHP it is does not show".to_owned()),
            };
            Ok(Self { version, globals })
        }))
    }
}

/// As the engine says it to web servers.
fn version(elf: &Elf<'_>) -> Option<(u8, u8)> {
    const HEADER: &[u8] = b"X-Powered-By: PHP/";
    let section = elf.section(".rodata")?;
    let bytes = elf.bytes(section.vaddr, section.vaddr.checked_add(section.size)?)?;
    let at = bytes.windows(HEADER.len()).position(|window| window == HEADER)? + HEADER.len();
    let text = bytes.get(at..)?;
    let text = std::str::from_utf8(text.get(..text.iter().position(|&byte| byte == 0)?)?).ok()?;
    let mut numbers = text.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

/// The function that runs PHP's functions, one call for all of them.
const EVALUATION: &str = "execute_ex";

/// The engine of a process.
pub(super) struct Php {
    memory: Box<Memory>,
    version: Version,
    globals: u64,
}

impl Php {
    /// The engine that is mapped `bias` above its file's addresses; `None` when the process has
    /// ended.
    pub fn new(pid: u32, found: Engine, bias: u64) -> Option<Self> {
        Some(Self::reading(memory::of(pid)?, found, bias))
    }

    pub fn reading(memory: Box<Memory>, found: Engine, bias: u64) -> Self {
        Self { memory, version: found.version, globals: found.globals.wrapping_add(bias) }
    }

    /// The engine, where it is mapped.
    #[cfg(feature = "recording")]
    pub fn engine(&self) -> Engine {
        Engine { version: self.version, globals: self.globals }
    }

    /// What the kernel side needs to copy frames.
    pub fn layout(&self) -> Layout {
        Layout {
            runtime: self.globals.wrapping_add(CURRENT),
            threads: NO_THREADS,
            cframe: NO_CFRAME,
            back: CALLER,
            ..Layout::default()
        }
    }

    /// Names the frames, and says why the outer end is missing.
    pub fn frames(&self, raw: &[[u8; FRAME_BYTES]], end: u32) -> (Vec<Frame>, Option<String>) {
        let frames = raw.iter().filter_map(|frame| self.frame(frame)).collect();
        let reason = match end {
            END_TOO_DEEP => Some(format!("more than {MAX_FRAMES} PHP frames")),
            END_UNREADABLE => Some("a PHP frame could not be read".to_owned()),
            _ => None,
        };
        (frames, reason)
    }

    /// `None` for a frame that is no function's.
    fn frame(&self, raw: &[u8; FRAME_BYTES]) -> Option<Frame> {
        let address = word(raw, FUNCTION).filter(|&address| address != 0)?;
        let symbol = self.symbol(address, word(raw, OPLINE)?);
        let kind = match &symbol {
            None => FrameKind::Unknown,
            Some(symbol) => owner::php(&symbol.function, symbol.file.as_deref()),
        };
        Some(Frame { symbol, module: None, kind, inlined: false })
    }

    /// The function at an address, while it runs this instruction.
    fn symbol(&self, address: u64, instruction: u64) -> Option<Symbol> {
        let mut function = [0; FUNCTION_BYTES];
        self.read(address, &mut function)?;
        let (file, line) = match function[0] {
            INTERNAL => (None, None),
            USER | EVALUATED => {
                let line = self.line(&function, instruction)?;
                (Some(self.string(word(&function, self.version.file)?)?), line)
            }
            _ => return None,
        };
        let name = match word(&function, FUNCTION_NAME)? {
            0 if file.is_some() => "{main}".to_owned(),
            name => self.string(name)?,
        };
        let function = match word(&function, SCOPE)? {
            0 => name,
            scope => {
                let class = self.pointer(scope.wrapping_add(CLASS_NAME))?;
                format!("{}::{name}", self.string(class)?)
            }
        };
        Some(Symbol {
            function: owner::shortened(&function),
            file: file.as_deref().map(owner::shortened),
            line,
            column: None,
            definition: false,
            generated: None,
        })
    }

    /// The line of an instruction; `None` when it is not one of this function's.
    fn line(&self, function: &[u8], instruction: u64) -> Option<Option<u32>> {
        // While an exception is on its way the instruction is one of the engine's own.
        if instruction.wrapping_sub(self.globals) < GLOBALS_BYTES {
            return Some(None);
        }
        let count = word(function, self.version.count)? & u64::from(u32::MAX);
        let offset = instruction.checked_sub(word(function, self.version.instructions)?)?;
        if offset % OP_BYTES != 0 || offset / OP_BYTES >= count {
            return None;
        }
        let mut line = [0; 4];
        self.read(instruction.wrapping_add(LINE), &mut line)?;
        Some(Some(u32::from_le_bytes(line)).filter(|&line| line > 0))
    }

    /// A `zend_string`.
    fn string(&self, address: u64) -> Option<String> {
        let length = self.pointer(address.wrapping_add(16))?;
        let mut bytes = vec![0; usize::try_from(length).ok()?.min(MAX_BYTES)];
        self.read(address.wrapping_add(24), &mut bytes)?;
        // A class without a name has a place after a zero.
        let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
        Some(String::from_utf8_lossy(&bytes[..end]).into_owned())
    }

    fn pointer(&self, address: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes)?;
        Some(u64::from_le_bytes(bytes))
    }

    fn read(&self, address: u64, into: &mut [u8]) -> Option<()> {
        (self.memory)(address, into)
    }
}

/// One stack of both: the native frames down to where PHP runs, then PHP's.
pub(super) fn merge(native: Vec<Frame>, php: Vec<Frame>) -> Vec<Frame> {
    let is_evaluation =
        |frame: &Frame| frame.symbol.as_ref().is_some_and(|symbol| symbol.function == EVALUATION);
    native.into_iter().take_while(|frame| !is_evaluation(frame)).chain(php).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BASE: u64 = 0x7000_0000;
    const FUNCTION_AT: u64 = BASE;
    const CODE_AT: u64 = BASE + 0x1000;
    const NAME_AT: u64 = BASE + 0x2000;
    const FILE_AT: u64 = BASE + 0x2100;
    const CLASS_AT: u64 = BASE + 0x3000;
    const CLASS_NAME_AT: u64 = BASE + 0x3100;

    fn put(memory: &mut [u8], at: u64, bytes: &[u8]) {
        let at = usize::try_from(at - BASE).expect("in it");
        memory[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn put_string(memory: &mut [u8], at: u64, text: &str) {
        put(memory, at + 16, &(text.len() as u64).to_le_bytes());
        put(memory, at + 24, text.as_bytes());
    }

    /// A method of three instructions, the last of which is on line 42.
    fn method(version: Version) -> Vec<u8> {
        let mut memory = vec![0; 0x4000];
        let field = |at: usize| FUNCTION_AT + at as u64;
        put(&mut memory, FUNCTION_AT, &[USER]);
        put(&mut memory, field(FUNCTION_NAME), &NAME_AT.to_le_bytes());
        put(&mut memory, field(SCOPE), &CLASS_AT.to_le_bytes());
        put(&mut memory, field(version.count), &3u32.to_le_bytes());
        put(&mut memory, field(version.instructions), &CODE_AT.to_le_bytes());
        put(&mut memory, field(version.file), &FILE_AT.to_le_bytes());
        put(&mut memory, CODE_AT + 2 * OP_BYTES + LINE, &42u32.to_le_bytes());
        put(&mut memory, CLASS_AT + CLASS_NAME, &CLASS_NAME_AT.to_le_bytes());
        put_string(&mut memory, NAME_AT, "größe");
        put_string(&mut memory, FILE_AT, "/srv/app/src/Orders.php");
        put_string(&mut memory, CLASS_NAME_AT, "App\\Orders");
        memory
    }

    fn php(version: Version, memory: Vec<u8>) -> Php {
        let read = move |address: u64, into: &mut [u8]| {
            let at = usize::try_from(address.checked_sub(BASE)?).ok()?;
            into.copy_from_slice(memory.get(at..at.checked_add(into.len())?)?);
            Some(())
        };
        Php::reading(Box::new(read), Engine { version, globals: 0x1000 }, 0)
    }

    fn raw(instruction: u64) -> [u8; FRAME_BYTES] {
        let mut raw = [0; FRAME_BYTES];
        raw[..8].copy_from_slice(&instruction.to_le_bytes());
        raw[FUNCTION..FUNCTION + 8].copy_from_slice(&FUNCTION_AT.to_le_bytes());
        raw
    }

    #[test]
    fn a_method_is_named_with_its_class_file_and_line() {
        for version in [V7_4, V8_2, V8_4] {
            let php = php(version, method(version));
            let frame = php.frame(&raw(CODE_AT + 2 * OP_BYTES)).expect("a function's");
            let symbol = frame.symbol.expect("named");
            assert_eq!(symbol.function, "App\\Orders::größe");
            assert_eq!(symbol.file.as_deref(), Some("/srv/app/src/Orders.php"));
            assert_eq!((symbol.line, frame.kind), (Some(42), FrameKind::App));
            // While an exception is on its way.
            let frame = php.frame(&raw(0x1000 + 600)).expect("a function's");
            assert_eq!(frame.symbol.map(|symbol| symbol.line), Some(None));
        }
    }

    #[test]
    fn a_function_that_does_not_have_the_instruction_is_unknown() {
        let php = php(V8_2, method(V8_2));
        for instruction in [0, CODE_AT - OP_BYTES, CODE_AT + 1, CODE_AT + 3 * OP_BYTES] {
            let frame = php.frame(&raw(instruction)).expect("a function's");
            assert_eq!((frame.symbol, frame.kind), (None, FrameKind::Unknown), "{instruction:#x}");
        }
    }

    proptest! {
        #[test]
        fn any_memory_is_read_with_bounds(
            words in prop::collection::vec(prop_oneof![
                4 => 0u64..256,
                3 => (0u64..256).prop_map(|offset| BASE + offset * 8),
                1 => Just(u64::MAX),
                1 => any::<u64>(),
            ], 256),
            kind in 0u8..6,
            frame in prop::collection::vec((0u64..256).prop_map(|offset| BASE + offset * 8), FRAME_BYTES / 8),
            end in 0u32..8,
        ) {
            let mut memory: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            let bytes: Vec<u8> = frame.iter().flat_map(|word| word.to_le_bytes()).collect();
            let raw: [u8; FRAME_BYTES] = bytes.try_into().expect("as many bytes");
            let function = word(&raw, FUNCTION).expect("there") - BASE;
            memory[usize::try_from(function).expect("in it")] = kind;
            for version in [V7_4, V8_2, V8_4] {
                let php = php(version, memory.clone());
                let (frames, _reason) = php.frames(&[raw], end);
                prop_assert!(frames.len() <= 1);
                for address in [0, BASE, u64::MAX] {
                    let string = php.string(address);
                    prop_assert!(string.is_none_or(|string| string.chars().count() <= MAX_BYTES));
                }
            }
        }
    }
}
