//! Where HotSpot keeps what a stack needs: read from the tables that `libjvm` exports.
//!
//! May import `binary` and this module's memory. The tables (`gHotSpotVMStructs` and
//! `gHotSpotVMTypes`, `share/runtime/vmStructs.cpp`) name every field by its class; they are filled
//! when the library is loaded, so they are read from the process. Invariants: what is not in them is
//! not guessed; a class is never larger than [`MAX_CLASS`].

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::compressed::Numbers;
use super::memory::{Memory, Pages};
use crate::binary::elf::Elf;

/// The versions whose frames are understood: between them the tables tell the differences, and the
/// interpreter's frames, which they do not tell, are the same.
const VERSIONS: std::ops::RangeInclusive<u32> = 11..=25;
/// From here on numbers are written without zero bytes.
const WITHOUT_ZERO: u32 = 20;

/// Bytes of a class, all larger than the largest that is known.
const MAX_CLASS: u64 = 4096;
/// Entries of a table: twice what is known.
const MAX_ENTRIES: usize = 8192;
/// Bytes of a name in the tables.
const MAX_NAME: usize = 256;
/// Pages read for the tables: their entries and the names they refer to.
const MAX_PAGES: usize = 4096;

/// Addresses of the tables, and of what says how to read them, in the library's file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tables {
    pub fields: u64,
    /// stride, class, name, type, whether static, offset, address
    pub field_entry: [u64; 7],
    pub classes: u64,
    /// stride, name, size
    pub class_entry: [u64; 3],
}

impl Tables {
    pub fn find(elf: &Elf<'_>) -> Option<Self> {
        let fields = elf.exported("gHotSpotVMStructs")?;
        let field = |part: &str| elf.exported(&format!("gHotSpotVMStructEntry{part}"));
        let class = |part: &str| elf.exported(&format!("gHotSpotVMTypeEntry{part}"));
        Some(Self {
            fields,
            field_entry: [
                field("ArrayStride")?,
                field("TypeNameOffset")?,
                field("FieldNameOffset")?,
                field("TypeStringOffset")?,
                field("IsStaticOffset")?,
                field("OffsetOffset")?,
                field("AddressOffset")?,
            ],
            classes: elf.exported("gHotSpotVMTypes")?,
            class_entry: [class("ArrayStride")?, class("TypeNameOffset")?, class("SizeOffset")?],
        })
    }
}

/// A field of a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Field {
    pub at: usize,
    width: usize,
}

impl Field {
    /// The number in it, of an object that `bytes` begin with.
    pub fn of(self, bytes: &[u8]) -> Option<u64> {
        let bytes = bytes.get(self.at..)?.get(..self.width)?;
        Some(bytes.iter().rev().fold(0, |number, byte| (number << 8) | u64::from(*byte)))
    }
}

/// A place in or beside a piece of code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Place {
    Pointer(Field),
    /// From the beginning of what describes the code.
    Offset(Field),
}

impl Place {
    /// Its address, of a piece of code at `blob` that `bytes` begin with.
    pub fn of(self, blob: u64, bytes: &[u8]) -> Option<u64> {
        match self {
            Self::Pointer(field) => field.of(bytes),
            Self::Offset(field) => blob.checked_add(field.of(bytes)?),
        }
    }
}

/// Where compiled code says which methods and instructions its calls are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Debug {
    /// Up to 22: behind the code.
    Behind { metadata: Place, data: Place, calls: Place, end: Place },
    /// From 23: elsewhere, with offsets from its beginning.
    Elsewhere { memory: Field, size: Field, data: Field, calls: Field, metadata: Metadata },
}

/// Where the methods are that compiled code refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Metadata {
    /// From 25: elsewhere, behind relocations.
    Mutable { memory: Field, size: Field, relocations: Field },
    /// Before: at an offset from the data behind the code.
    Data { data: Place, offset: Field, size: Field },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum SourceFile {
    OfPool(Field),
    OfClass(Field),
}

/// Everything that is read of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Layout {
    pub major: u32,
    pub numbers: Numbers,
    /// Addresses of the variables that hold all code's lowest and highest address.
    pub bounds: [u64; 2],
    /// Address of the pointer to the array of heaps.
    pub heaps: u64,
    pub array_len: Field,
    pub array_data: Field,
    /// Offsets in a heap: where its memory and its segment map begin and end.
    pub heap_memory: [usize; 2],
    pub heap_map: [usize; 2],
    pub heap_shift: Field,
    pub heap_size: usize,
    /// What is in front of each piece of code.
    pub block_size: usize,
    pub block_used: Field,
    pub blob_size: usize,
    pub blob_name: Field,
    pub blob_frame: Field,
    pub code_begin: Place,
    pub code_end: Place,
    pub compiled_method: Field,
    pub compiled_original_pc: Field,
    pub compiled_deoptimized: [Option<Place>; 2],
    pub debug: Debug,
    pub call_size: usize,
    pub call_pc: Field,
    pub call_scope: Field,
    pub method_const: Field,
    pub const_size: usize,
    pub const_pool: Field,
    pub const_words: Field,
    pub const_flags: Field,
    pub const_code: Field,
    pub const_name: Field,
    pub pool_size: usize,
    pub pool_class: Field,
    pub pool_len: Field,
    pub class_name: Field,
    pub class_pool: Field,
    pub class_size: usize,
    pub source_file: SourceFile,
    pub symbol_len: Field,
    pub symbol_body: usize,
}

/// Why there is no layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// Not yet: the library is still being loaded, or the process has ended.
    NotYet,
    /// It will not be understood.
    Never(String),
}

impl Layout {
    /// Reads the tables of a library that is mapped `bias` above its file's addresses.
    pub fn read(memory: &impl Memory, tables: &Tables, bias: u64) -> Result<Self, Missing> {
        let memory = Pages::new(memory, MAX_PAGES);
        let names = Names::read(&memory, tables, bias).ok_or(Missing::NotYet)?;
        let major = names.address("Abstract_VM_Version", "_vm_major_version");
        let major = major.and_then(|at| memory.half(at)).ok_or(Missing::NotYet)?;
        if !VERSIONS.contains(&major) {
            return Err(Missing::Never(format!("Java {major} is not known")));
        }
        names.layout(major).map_err(|what| {
            Missing::Never(format!("this build of Java {major} does not say where {what} is"))
        })
    }
}

/// What the tables say.
#[derive(Default)]
struct Names {
    fields: HashMap<(String, String), Entry>,
    sizes: HashMap<String, u64>,
}

enum Entry {
    Member { at: u64, kind: String },
    Static { address: u64 },
}

impl Names {
    fn read(memory: &impl Memory, tables: &Tables, bias: u64) -> Option<Self> {
        let variable = |at: u64| memory.word(at.wrapping_add(bias));
        let mut names = Self::default();
        let entries = variable(tables.fields)?;
        let mut parts = [0; 7];
        for (part, at) in parts.iter_mut().zip(tables.field_entry) {
            *part = variable(at)?;
        }
        let [stride, class, name, kind, is_static, offset, address] = parts;
        let known = |stride: u64, parts: &[u64]| {
            (16..=MAX_CLASS).contains(&stride) && parts.iter().all(|part| *part < stride)
        };
        if !known(stride, &parts[1..]) {
            return None;
        }
        for index in 0..MAX_ENTRIES as u64 {
            let entry = entries.checked_add(index * stride)?;
            let class = memory.word(entry + class)?;
            if class == 0 {
                break;
            }
            let class = memory.text(class, MAX_NAME)?;
            let name = memory.text(memory.word(entry + name)?, MAX_NAME)?;
            let value = if memory.half(entry + is_static)? != 0 {
                Entry::Static { address: memory.word(entry + address)? }
            } else {
                // Not given for some.
                let kind = memory.text(memory.word(entry + kind)?, MAX_NAME).unwrap_or_default();
                Entry::Member { at: memory.word(entry + offset)?, kind }
            };
            names.fields.insert((class, name), value);
        }
        let entries = variable(tables.classes)?;
        let mut parts = [0; 3];
        for (part, at) in parts.iter_mut().zip(tables.class_entry) {
            *part = variable(at)?;
        }
        let [stride, name, size] = parts;
        if !known(stride, &parts[1..]) {
            return None;
        }
        for index in 0..MAX_ENTRIES as u64 {
            let entry = entries.checked_add(index * stride)?;
            let name = memory.word(entry + name)?;
            if name == 0 {
                break;
            }
            names.sizes.insert(memory.text(name, MAX_NAME)?, memory.word(entry + size)?);
        }
        (!names.fields.is_empty() && !names.sizes.is_empty()).then_some(names)
    }

    fn entry(&self, class: &str, name: &str) -> Option<&Entry> {
        self.fields.get(&(class.to_owned(), name.to_owned()))
    }

    fn address(&self, class: &str, name: &str) -> Option<u64> {
        match self.entry(class, name)? {
            Entry::Static { address } => Some(*address),
            Entry::Member { .. } => None,
        }
    }

    fn offset(&self, class: &str, name: &str) -> Option<usize> {
        match self.entry(class, name)? {
            Entry::Member { at, .. } if *at < MAX_CLASS => usize::try_from(*at).ok(),
            _ => None,
        }
    }

    fn field(&self, class: &str, name: &str) -> Option<Field> {
        let Entry::Member { kind, .. } = self.entry(class, name)? else { return None };
        let width = match kind.as_str() {
            "bool" => 1,
            "u2" | "uint16_t" | "unsigned short" => 2,
            "int" | "u4" | "uint32_t" => 4,
            "address" | "size_t" => 8,
            kind if kind.ends_with('*') => 8,
            _ => return None,
        };
        Some(Field { at: self.offset(class, name)?, width })
    }

    fn size(&self, class: &str) -> Option<usize> {
        let size = *self.sizes.get(class)?;
        usize::try_from(size).ok().filter(|_| size > 0 && size <= MAX_CLASS)
    }

    /// The layout, or what is missing for it.
    fn layout(&self, major: u32) -> Result<Layout, String> {
        let missing = |class: &str, name: &str| format!("{class}::{name}");
        let field =
            |class: &str, name: &str| self.field(class, name).ok_or_else(|| missing(class, name));
        let offset =
            |class: &str, name: &str| self.offset(class, name).ok_or_else(|| missing(class, name));
        let address =
            |class: &str, name: &str| self.address(class, name).ok_or_else(|| missing(class, name));
        let size = |class: &str| self.size(class).ok_or_else(|| class.to_owned());
        let space = |class_offset: usize| {
            let bounds = [offset("VirtualSpace", "_low")?, offset("VirtualSpace", "_high")?];
            Ok::<_, String>(bounds.map(|bound| class_offset + bound))
        };
        // A class of its own up to 22.
        let compiled =
            |name: &str| self.field("CompiledMethod", name).or_else(|| self.field("nmethod", name));
        let debug = match compiled("_scopes_data_begin") {
            Some(data) => Debug::Behind {
                metadata: Place::Offset(field("nmethod", "_metadata_offset")?),
                data: Place::Pointer(data),
                calls: Place::Offset(field("nmethod", "_scopes_pcs_offset")?),
                end: Place::Offset(field("nmethod", "_dependencies_offset")?),
            },
            None => Debug::Elsewhere {
                memory: field("nmethod", "_immutable_data")?,
                size: field("nmethod", "_immutable_data_size")?,
                data: field("nmethod", "_scopes_data_offset")?,
                calls: field("nmethod", "_scopes_pcs_offset")?,
                metadata: match self.field("CodeBlob", "_mutable_data") {
                    Some(memory) => Metadata::Mutable {
                        memory,
                        size: field("CodeBlob", "_mutable_data_size")?,
                        relocations: field("CodeBlob", "_relocation_size")?,
                    },
                    None => Metadata::Data {
                        data: Place::Offset(field("CodeBlob", "_data_offset")?),
                        offset: field("nmethod", "_metadata_offset")?,
                        size: field("CodeBlob", "_size")?,
                    },
                },
            },
        };
        let either =
            |pointer: (&str, &str), offset: (&str, &str)| match self.field(pointer.0, pointer.1) {
                Some(pointer) => Ok(Place::Pointer(pointer)),
                None => field(offset.0, offset.1).map(Place::Offset),
            };
        let deoptimized = |kind: &str| {
            let pointer = compiled(&format!("_deopt_{kind}_begin")).map(Place::Pointer);
            let offset = self.field("nmethod", &format!("_deopt_{kind}_offset"));
            pointer.or_else(|| offset.map(Place::Offset))
        };
        // The array's base class was renamed.
        let array_len = self.field("GrowableArrayBase", "_len");
        let source_file = match self.field("ConstantPool", "_source_file_name_index") {
            Some(of_pool) => SourceFile::OfPool(of_pool),
            None => SourceFile::OfClass(field("InstanceKlass", "_source_file_name_index")?),
        };
        let flags = self.field("ConstMethod", "_flags._flags");
        Ok(Layout {
            major,
            numbers: if major < WITHOUT_ZERO { Numbers::WithZero } else { Numbers::WithoutZero },
            bounds: [address("CodeCache", "_low_bound")?, address("CodeCache", "_high_bound")?],
            heaps: address("CodeCache", "_heaps")?,
            array_len: match array_len {
                Some(array_len) => array_len,
                None => field("GenericGrowableArray", "_len")?,
            },
            array_data: field("GrowableArray<int>", "_data")?,
            heap_memory: space(offset("CodeHeap", "_memory")?)?,
            heap_map: space(offset("CodeHeap", "_segmap")?)?,
            heap_shift: field("CodeHeap", "_log2_segment_size")?,
            heap_size: size("CodeHeap")?,
            block_size: size("HeapBlock")?,
            block_used: field("HeapBlock::Header", "_used")?,
            blob_size: size("nmethod")?,
            blob_name: field("CodeBlob", "_name")?,
            blob_frame: field("CodeBlob", "_frame_size")?,
            code_begin: either(("CodeBlob", "_code_begin"), ("CodeBlob", "_code_offset"))?,
            code_end: either(("CodeBlob", "_code_end"), ("CodeBlob", "_data_offset"))?,
            compiled_method: compiled("_method").ok_or_else(|| missing("nmethod", "_method"))?,
            compiled_original_pc: field("nmethod", "_orig_pc_offset")?,
            compiled_deoptimized: [deoptimized("handler"), deoptimized("mh_handler")],
            debug,
            call_size: size("PcDesc")?,
            call_pc: field("PcDesc", "_pc_offset")?,
            call_scope: field("PcDesc", "_scope_decode_offset")?,
            method_const: field("Method", "_constMethod")?,
            const_size: size("ConstMethod")?,
            const_pool: field("ConstMethod", "_constants")?,
            const_words: field("ConstMethod", "_constMethod_size")?,
            const_flags: match flags {
                Some(flags) => flags,
                None => field("ConstMethod", "_flags")?,
            },
            const_code: field("ConstMethod", "_code_size")?,
            const_name: field("ConstMethod", "_name_index")?,
            pool_size: size("ConstantPool")?,
            pool_class: field("ConstantPool", "_pool_holder")?,
            pool_len: field("ConstantPool", "_length")?,
            class_name: field("Klass", "_name")?,
            class_pool: field("InstanceKlass", "_constants")?,
            class_size: size("InstanceKlass")?,
            source_file,
            symbol_len: field("Symbol", "_length")?,
            symbol_body: offset("Symbol", "_body")?,
        })
    }
}
