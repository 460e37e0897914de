//! What a build of V8 says of itself: its version, and where its objects keep what is asked of them.
//!
//! May import `binary` and the contract. V8 exports its layout for debuggers, as numbers behind
//! names that begin with `v8dbg_` (`tools/gen-postmortem-metadata.py`); what some version left out
//! is known here. Invariant: a version that is not known is refused, with the reason.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use tracer_ebpf::node::{FUNCTION_AT, FUNCTION_BYTES};

use crate::binary::elf::{Elf, Symbol};

const PREFIX: &[u8] = b"v8dbg_";
const VERSION: [&[u8]; 2] =
    [b"_ZN2v88internal7Version6major_E", b"_ZN2v88internal7Version6minor_E"];
const DISPATCH_TABLE: &[u8] = b"_ZN2v88internal17ExternalReference25js_dispatch_table_addressEv";
const BYTECODE_SIZES: &[u8] = b"_ZN2v88internal11interpreter9Bytecodes14kBytecodeSizesE";

/// Bytes of the two instructions that lead to the table of code.
const DISPATCH_CODE_BYTES: u64 = 14;

/// Versions whose layout is known: Node.js 16 to 24.
const KNOWN: std::ops::RangeInclusive<u32> = 9..=13;

/// Offsets in bytes from an object's address; types are those in an object's map.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::symbolize) struct Engine {
    pub type_at: u64,
    pub types: Types,
    /// Words of what is copied of a function.
    pub function_shared: usize,
    pub function_code: usize,
    pub shared_name: usize,
    pub shared_data: usize,
    pub shared_script: usize,
    pub script_name: usize,
    pub script_source: usize,
    pub script_line_ends: usize,
    pub bytecode_positions: usize,
    pub bytecode_data: usize,
    /// In words behind a scope's map: the number of its context locals, and what follows the
    /// fixed part.
    pub scope_locals: usize,
    pub scope_first: usize,
    /// Fixed words with the function's start and end; else they follow the name.
    pub scope_position: Option<usize>,
    /// Where compiled code is understood.
    pub code: Option<Code>,
    /// Where functions have a handle of their code.
    pub dispatch: Option<Dispatch>,
}

/// The table of code (`src/sandbox/js-dispatch-table.h`): what a word in the file points to has, at
/// an offset, the address of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::symbolize) struct Dispatch {
    pub group: u64,
    pub table: u64,
}

impl Dispatch {
    /// From the instructions of the function that returns the table: `mov rax, [rip + group]`,
    /// `mov rax, [rax + table]`.
    fn of(function: u64, code: &[u8]) -> Option<Self> {
        let number = |at: usize| Some(i32::from_le_bytes(*code.get(at..)?.first_chunk()?));
        let first = code.strip_prefix(&[0x48, 0x8b, 0x05])?.get(4..)?;
        first.strip_prefix(&[0x48, 0x8b, 0x80])?;
        let group = function.checked_add(7)?.checked_add_signed(i64::from(number(3)?))?;
        Some(Self { group, table: u64::try_from(number(10)?).ok()? })
    }
}

/// Instance types.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::symbolize) struct Types {
    /// All below are strings.
    pub first_non_string: u16,
    pub shared: u16,
    pub script: u16,
    pub scope: u16,
    pub bytecode: u16,
    pub code: u16,
    pub interpreter_data: u16,
    /// Zero, as the following, where a version has none.
    pub baseline_data: u16,
    pub byte_arrays: [u16; 2],
    pub pointer_arrays: [u16; 6],
}

/// Of compiled code.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::symbolize) struct Code {
    /// In optimised code; in baseline code the bytecode is there.
    pub deoptimization: usize,
    pub positions: usize,
    /// Where its instructions are: behind the object's fields, or where a field points to.
    pub start: usize,
    pub is_pointer: bool,
    pub size: usize,
    pub flags: usize,
    /// The kind, in the lowest four bits of the flags; optimised kinds are greater.
    pub baseline: u32,
    /// In the deoptimization data.
    pub inlined_count: usize,
    pub literals: usize,
    pub inlinings: usize,
    /// Bytes of an exit to the deoptimizer, eager and lazy.
    pub exit_bytes: [u64; 2],
    /// Bytes of each bytecode: as it is, wide, and extra wide.
    pub bytecode_sizes: [Vec<u8>; 3],
}

impl Engine {
    /// Looks for V8 in a file. `None` when it is not there, an error in words when it is and is
    /// not understood.
    pub fn find(elf: &Elf<'_>) -> Option<Result<Self, String>> {
        let mut numbers = HashMap::new();
        let mut version = [None; 2];
        let mut sizes = None;
        let number = |symbol: &Symbol<'_>| {
            let bytes = elf.bytes(symbol.vaddr, symbol.vaddr.checked_add(4)?)?;
            Some(i32::from_le_bytes(bytes.try_into().ok()?))
        };
        for symbol in elf.exports() {
            if let Some(name) = symbol.name.strip_prefix(PREFIX) {
                numbers.insert(name, number(&symbol));
            } else if let Some(index) = VERSION.iter().position(|name| *name == symbol.name) {
                version[index] = number(&symbol);
            } else if symbol.name == BYTECODE_SIZES {
                sizes = Some(symbol);
            }
        }
        let [Some(major), Some(minor)] = version.map(|part| u32::try_from(part?).ok()) else {
            return None;
        };
        if !KNOWN.contains(&major) {
            return Some(Err(format!("V8 {major}.{minor} is not known")));
        }
        let mut dispatch = None;
        if sizes.is_none() {
            for symbol in elf.definitions() {
                match symbol.name {
                    BYTECODE_SIZES => sizes = Some(symbol),
                    DISPATCH_TABLE => dispatch = Some(symbol.vaddr),
                    _ => {}
                }
            }
        }
        let sizes = sizes
            .and_then(|symbol| elf.bytes(symbol.vaddr, symbol.vaddr.checked_add(symbol.size)?));
        let dispatch = dispatch
            .and_then(|at| Dispatch::of(at, elf.bytes(at, at.checked_add(DISPATCH_CODE_BYTES)?)?));
        let layout = Numbers { numbers: &numbers, version: (major, minor) };
        let found = layout.engine(sizes.unwrap_or_default(), dispatch);
        Some(found.ok_or_else(|| format!("V8 {major}.{minor} does not say where its objects are")))
    }
}

struct Numbers<'a> {
    numbers: &'a HashMap<&'a [u8], Option<i32>>,
    version: (u32, u32),
}

impl Numbers<'_> {
    fn get<T: TryFrom<i32>>(&self, names: &[&str]) -> Option<T> {
        names.iter().find_map(|name| T::try_from((*self.numbers.get(name.as_bytes())?)?).ok())
    }

    fn or<T: TryFrom<i32>>(&self, names: &[&str], otherwise: T) -> T {
        self.get(names).unwrap_or(otherwise)
    }

    fn engine(&self, bytecode_sizes: &[u8], dispatch: Option<Dispatch>) -> Option<Engine> {
        let word = |names: &[&str]| -> Option<usize> {
            let at = self.get::<usize>(names)?.checked_sub(FUNCTION_AT as usize)?;
            (at.is_multiple_of(8) && at < FUNCTION_BYTES).then_some(at / 8)
        };
        let function_shared = word(&["class_JSFunction__shared__SharedFunctionInfo"])?;
        // V8 11.7 moved the code to the front.
        let function_code = if self.version >= (11, 7) { 0 } else { 3 };
        let shared = "class_SharedFunctionInfo__";
        let field = |class: &str, names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| format!("{class}{name}")).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            self.get::<usize>(&names)
        };
        let positions = if self.version >= (12, 0) { 24 } else { 32 };
        let scope_first = self.get(&["scopeinfo_idx_first_vars"])?;
        Some(Engine {
            type_at: self.get(&["class_Map__instance_type__uint16_t"])?,
            types: self.types()?,
            function_shared,
            function_code,
            shared_name: field(
                shared,
                &[
                    "name_or_scope_info__Object",
                    "name_or_scope_info__Tagged_Object_",
                    "name_or_scope_info__Tagged_NameOrScopeInfoT_",
                ],
            )?,
            shared_data: field(shared, &["function_data__Object"]).unwrap_or(8),
            shared_script: field(
                shared,
                &["script_or_debug_info__HeapObject", "script__Tagged_HeapObject_"],
            )?,
            script_name: field("class_Script__", &["name__Object"])?,
            script_source: field("class_Script__", &["source__Object"]).unwrap_or(8),
            script_line_ends: field("class_Script__", &["line_ends__Object"])?,
            bytecode_positions: positions,
            bytecode_data: field("class_BytecodeArray__", &["data__uintptr_t"]).unwrap_or(54),
            scope_locals: self.get(&["scopeinfo_idx_ncontextlocals"])?,
            scope_first,
            // V8 12.8 moved the positions to the front.
            scope_position: (self.version >= (12, 8)).then_some(scope_first.checked_sub(2)?),
            code: self.code(bytecode_sizes),
            dispatch,
        })
    }

    fn types(&self) -> Option<Types> {
        let or_none = |name: &str| self.or::<u16>(&[name], 0);
        Some(Types {
            first_non_string: self.get(&["FirstNonstringType"])?,
            shared: self.get(&["type_SharedFunctionInfo__SHARED_FUNCTION_INFO_TYPE"])?,
            script: self.get(&["type_Script__SCRIPT_TYPE"])?,
            scope: self.get(&["type_ScopeInfo__SCOPE_INFO_TYPE"])?,
            bytecode: self.get(&["type_BytecodeArray__BYTECODE_ARRAY_TYPE"])?,
            code: self.get(&["type_Code__CODE_TYPE"])?,
            interpreter_data: self.get(&["type_InterpreterData__INTERPRETER_DATA_TYPE"])?,
            baseline_data: or_none("type_BaselineData__BASELINE_DATA_TYPE"),
            byte_arrays: [
                self.get(&["type_ByteArray__BYTE_ARRAY_TYPE"])?,
                or_none("type_TrustedByteArray__TRUSTED_BYTE_ARRAY_TYPE"),
            ],
            pointer_arrays: [
                or_none("type_FixedArray__FIXED_ARRAY_TYPE"),
                or_none("type_WeakFixedArray__WEAK_FIXED_ARRAY_TYPE"),
                or_none("type_TrustedFixedArray__TRUSTED_FIXED_ARRAY_TYPE"),
                or_none("type_TrustedWeakFixedArray__TRUSTED_WEAK_FIXED_ARRAY_TYPE"),
                or_none("type_ProtectedFixedArray__PROTECTED_FIXED_ARRAY_TYPE"),
                or_none("type_ProtectedWeakFixedArray__PROTECTED_WEAK_FIXED_ARRAY_TYPE"),
            ],
        })
    }

    /// The layout of compiled code in the versions that Node.js was released with; in others
    /// functions of such frames are known and lines are not.
    fn code(&self, bytecode_sizes: &[u8]) -> Option<Code> {
        let (deoptimization, start, is_pointer, size, flags) = match self.version {
            (9, 4) => (16, 96, false, 40, 48),
            (10, 2) => (16, 128, false, 40, 48),
            (11, 3) => (16, 40, true, 56, 48),
            (12, 4) => (8, 40, true, 52, 48),
            (13, 6) => (8, 40, true, 56, 52),
            _ => return None,
        };
        // `src/deoptimizer/x64/deoptimizer-x64.cc`
        let exit_bytes = if self.version < (10, 0) { [7, 8] } else { [4, 4] };
        let count = bytecode_sizes.len() / 3;
        let mut sizes = bytecode_sizes.chunks_exact(count.max(1)).map(<[u8]>::to_vec);
        Some(Code {
            deoptimization,
            positions: deoptimization + 8,
            start: self.or(&["class_Code__instruction_start__uintptr_t"], start),
            is_pointer,
            size,
            flags,
            baseline: self.or(&["CodeKindBaseline"], 11),
            inlined_count: self.or(&["DeoptimizationDataInlinedFunctionCountIndex"], 1),
            literals: self.or(&["DeoptimizationDataLiteralArrayIndex"], 2),
            inlinings: self.or(&["DeoptimizationDataInliningPositionsIndex"], 7),
            exit_bytes,
            bytecode_sizes: std::array::from_fn(|_| sizes.next().unwrap_or_default()),
        })
    }
}
