//! Go's own function table: names, addresses, files, lines and inlining, as the Go runtime reads
//! them. It is in every Go executable, stripped or not.
//!
//! May import [`super::elf`] only. Layouts are those of the Go sources: `runtime/symtab.go`
//! (`pcHeader`, `moduledata`, `pcvalue`), `runtime/runtime2.go` (`_func`),
//! `runtime/symtabinl.go` (`inlinedCall`), at Go 1.16 to 1.27 on amd64. Invariants: addresses are
//! those of the file, before any load bias; a lookup allocates only what it returns; the table is
//! checked by value, not by the version of Go that wrote it.

mod locate;

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{
    elf::{Elf, ElfError, Segment, file_offset},
    u32_at, u64_at,
};

/// Functions inlined into one another at one address; deeper ones are not listed.
const MAX_INLINE_DEPTH: usize = 128;
/// Bytes of a function's or file's name; a longer one is cut.
const MAX_NAME: usize = 2048;

/// Index of the inline tree in a function's `pcdata` (`abi.PCDATA_InlTreeIndex`).
const PCDATA_INLINE_INDEX: u32 = 2;
/// Index of the inline tree in a function's `funcdata` (`abi.FUNCDATA_InlTree`).
const FUNCDATA_INLINE_TREE: u32 = 3;

/// Why there is no usable function table.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Error {
    #[error(transparent)]
    Elf(#[from] ElfError),
    #[error("no Go function table")]
    NoTable,
    #[error("the Go function table is of an unknown version (magic {0:#x})")]
    Magic(u32),
    #[error("the Go function table is cut or inconsistent")]
    Malformed,
    #[error("the address of the Go code is not known: no runtime module data was found")]
    NoTextBase,
}

/// Version of the table's layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Version {
    /// Go 1.16 and 1.17.
    Go116,
    /// Go 1.18 and 1.19.
    Go118,
    /// Go 1.20 and later.
    Go120,
}

/// Byte offsets within `_func` and the inline tree's entries.
struct Fields {
    name: u64,
    pcsp: u64,
    pcfile: u64,
    pcln: u64,
    npcdata: u64,
    cu: u64,
    start_line: Option<u64>,
    nfuncdata: u64,
    size: u64,
    inline_size: u64,
    inline_name: u64,
    inline_parent_pc: u64,
    inline_start_line: Option<u64>,
}

const FIELDS_116: Fields = Fields {
    name: 8,
    pcsp: 20,
    pcfile: 24,
    pcln: 28,
    npcdata: 32,
    cu: 36,
    start_line: None,
    nfuncdata: 43,
    size: 44,
    inline_size: 20,
    inline_name: 12,
    inline_parent_pc: 16,
    inline_start_line: None,
};
const FIELDS_118: Fields = Fields {
    name: 4,
    pcsp: 16,
    pcfile: 20,
    pcln: 24,
    npcdata: 28,
    cu: 32,
    nfuncdata: 39,
    size: 40,
    ..FIELDS_116
};
const FIELDS_120: Fields = Fields {
    start_line: Some(36),
    nfuncdata: 43,
    size: 44,
    inline_size: 16,
    inline_name: 4,
    inline_parent_pc: 8,
    inline_start_line: Some(12),
    ..FIELDS_118
};

impl Version {
    fn fields(self) -> &'static Fields {
        match self {
            Self::Go116 => &FIELDS_116,
            Self::Go118 => &FIELDS_118,
            Self::Go120 => &FIELDS_120,
        }
    }
}

/// A function of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoFunction<'a> {
    /// Full name with its package path, for example `database/sql.(*DB).conn`.
    pub name: Cow<'a, str>,
    /// First address.
    pub start: u64,
    /// Address after the last one, padding included.
    pub end: u64,
}

/// One logical frame at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoFrame {
    /// As Go's own tracebacks print it: type arguments shortened to `[...]`.
    pub function: String,
    /// As the compiler recorded it; absolute unless built with `-trimpath`.
    pub file: Option<String>,
    pub line: Option<u32>,
    /// Line of the function's `func` keyword; recorded since Go 1.20.
    pub start_line: Option<u32>,
    /// The function's code is inlined into the next frame's.
    pub inlined: bool,
}

/// The function table of a Go executable over the file's bytes.
///
/// `D` is whatever keeps the file: `&[u8]` for a look, `Mmap` or `Arc<[u8]>` for a cached module.
#[derive(Clone, Debug)]
pub struct GoTable<D> {
    data: D,
    layout: Layout,
}

/// Where everything is; offsets are file offsets.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Layout {
    version: Version,
    functions: u64,
    names: u64,
    units: u64,
    files: u64,
    pctab: u64,
    /// Start of the function table proper; `_func` offsets count from here.
    pcln: u64,
    end: u64,
    /// Address that function offsets count from.
    text: u64,
    /// Address of the functions' data (`go:func.*`), from Go 1.18.
    gofunc: Option<u64>,
    segments: Vec<Segment>,
}

impl<D: AsRef<[u8]>> GoTable<D> {
    /// Finds and checks the table of the executable `data`.
    ///
    /// # Errors
    /// When `data` is no x86-64 ELF file, has no Go function table, or one that cannot be trusted.
    pub fn parse(data: D) -> Result<Self, Error> {
        let elf = Elf::parse(data.as_ref())?;
        let layout = Layout::find(&elf)?;
        drop(elf);
        Ok(Self { data, layout })
    }

    /// A table whose place is known, over bytes that nobody has checked.
    #[cfg(any(test, feature = "recording"))]
    pub fn at(layout: Layout, data: D) -> Self {
        Self { data, layout }
    }

    /// Where the table is, and the file.
    #[cfg(any(test, feature = "recording"))]
    pub fn parts(&self) -> (&Layout, &[u8]) {
        (&self.layout, self.data.as_ref())
    }

    /// The layout's version.
    pub fn version(&self) -> Version {
        self.layout.version
    }

    /// Address that the functions' offsets count from (`runtime.text`).
    pub fn text(&self) -> u64 {
        self.layout.text
    }

    /// Number of functions.
    pub fn len(&self) -> u64 {
        self.layout.functions
    }

    /// Whether there is no function; never so in a table that was accepted.
    pub fn is_empty(&self) -> bool {
        self.layout.functions == 0
    }

    fn view(&self) -> View<'_> {
        View { data: self.data.as_ref(), layout: &self.layout }
    }

    /// All functions by address.
    pub fn functions(&self) -> impl Iterator<Item = GoFunction<'_>> {
        let view = self.view();
        (0..self.layout.functions).filter_map(move |index| view.function(index))
    }

    /// All functions with exactly this name; generic and assembly wrappers may share one.
    pub fn find<'a>(&'a self, name: &'a str) -> impl Iterator<Item = GoFunction<'a>> {
        let view = self.view();
        (0..self.layout.functions)
            .filter(move |&index| {
                view.record(index).is_some_and(|record| view.is_named(record.name, name))
            })
            .filter_map(move |index| view.function(index))
    }

    /// The function whose code is at `vaddr`.
    pub fn function_at(&self, vaddr: u64) -> Option<GoFunction<'_>> {
        let view = self.view();
        view.function(view.index_at(vaddr)?)
    }

    /// The logical frames at the instruction at `vaddr`, innermost first; empty when it is in no
    /// Go function. For a return address ask for the byte before it.
    pub fn resolve(&self, vaddr: u64) -> Vec<GoFrame> {
        self.view().resolve(vaddr).unwrap_or_default()
    }

    /// So many bytes above the stack pointer is the return address, at the instruction at `vaddr`.
    pub fn frame_bytes(&self, vaddr: u64) -> Option<u32> {
        let view = self.view();
        let record = view.record(view.index_at(vaddr)?)?;
        view.value_at(record, view.field(record, view.fields().pcsp)?, vaddr)
    }

    /// The functions into which the function `name` is inlined.
    pub fn inlined_into<'a>(&'a self, name: &'a str) -> impl Iterator<Item = GoFunction<'a>> {
        let view = self.view();
        (0..self.layout.functions)
            .filter(move |&index| view.inlines(index, name).unwrap_or(false))
            .filter_map(move |index| view.function(index))
    }
}

/// A function's record (`_func`).
#[derive(Clone, Copy)]
struct Record {
    /// File offset of the record.
    at: u64,
    start: u64,
    end: u64,
    /// Offset of the name in the name table.
    name: Option<u32>,
}

#[derive(Clone, Copy)]
struct View<'a> {
    data: &'a [u8],
    layout: &'a Layout,
}

impl<'a> View<'a> {
    fn fields(self) -> &'static Fields {
        self.layout.version.fields()
    }

    /// Address at which function `index` begins; for the last index + 1 where all end.
    fn entry(self, index: u64) -> Option<u64> {
        if self.layout.version == Version::Go116 {
            return u64_at(self.data, self.layout.pcln + 16 * index);
        }
        let offset = u32_at(self.data, self.layout.pcln + 8 * index)?;
        self.layout.text.checked_add(offset.into())
    }

    fn record(self, index: u64) -> Option<Record> {
        let offset = if self.layout.version == Version::Go116 {
            u64_at(self.data, self.layout.pcln + 16 * index + 8)?
        } else {
            u32_at(self.data, self.layout.pcln + 8 * index + 4)?.into()
        };
        let at = self.layout.pcln.checked_add(offset).filter(|&at| at < self.layout.end)?;
        let (start, end) = (self.entry(index)?, self.entry(index + 1)?);
        (start < end).then(|| Record {
            at,
            start,
            end,
            name: u32_at(self.data, at + self.fields().name),
        })
    }

    fn field(self, record: Record, offset: u64) -> Option<u32> {
        u32_at(self.data, record.at.checked_add(offset)?)
    }

    fn function(self, index: u64) -> Option<GoFunction<'a>> {
        let record = self.record(index)?;
        let name = String::from_utf8_lossy(self.name(record.name?)?);
        Some(GoFunction { name, start: record.start, end: record.end })
    }

    fn index_at(self, vaddr: u64) -> Option<u64> {
        let (mut low, mut high) = (0, self.layout.functions);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.entry(middle)? <= vaddr {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let index = low.checked_sub(1)?;
        (vaddr < self.entry(index + 1)?).then_some(index)
    }

    fn name(self, offset: u32) -> Option<&'a [u8]> {
        self.string(self.layout.names.checked_add(offset.into())?)
    }

    /// A NUL-terminated string of the table.
    fn string(self, offset: u64) -> Option<&'a [u8]> {
        let bytes = slice(self.data, offset, self.layout.end)?;
        let bytes = &bytes[..bytes.len().min(MAX_NAME)];
        Some(bytes.split(|&byte| byte == 0).next().unwrap_or(bytes))
    }

    /// The steps of a value table (`pcvalue`) as (value, address at which it ends).
    fn values(self, record: Record, offset: u32) -> Values<'a> {
        let table = if offset == 0 {
            None
        } else {
            self.layout
                .pctab
                .checked_add(offset.into())
                .and_then(|start| slice(self.data, start, self.layout.end))
        };
        Values {
            bytes: table.unwrap_or_default(),
            pc: record.start,
            end: record.end,
            value: -1,
            first: true,
        }
    }

    fn value_at(self, record: Record, offset: u32, vaddr: u64) -> Option<u32> {
        let (value, _) = self.values(record, offset).find(|&(_, end)| vaddr < end)?;
        u32::try_from(value).ok()
    }

    fn file_line(self, record: Record, vaddr: u64) -> (Option<String>, Option<u32>) {
        let fields = self.fields();
        let line =
            self.field(record, fields.pcln).and_then(|table| self.value_at(record, table, vaddr));
        let file = || {
            let number = self.value_at(record, self.field(record, fields.pcfile)?, vaddr)?;
            let unit = self.field(record, fields.cu)?;
            let index = u64::from(unit).checked_add(number.into())?;
            let offset = u32_at(self.data, self.layout.units.checked_add(4 * index)?)?;
            if offset == u32::MAX {
                return None;
            }
            let name = self.string(self.layout.files.checked_add(offset.into())?)?;
            Some(String::from_utf8_lossy(name).into_owned())
        };
        (file(), line.filter(|&line| line != 0))
    }

    /// Offset in the value tables of the function's inline indexes.
    fn inline_indexes(self, record: Record) -> Option<u32> {
        let count = self.field(record, self.fields().npcdata)?;
        if count <= PCDATA_INLINE_INDEX {
            return None;
        }
        self.field(record, self.fields().size + 4 * u64::from(PCDATA_INLINE_INDEX))
    }

    /// File offset of the function's inline tree.
    fn inline_tree(self, record: Record) -> Option<u64> {
        let fields = self.fields();
        let count = *self.data.get(usize::try_from(record.at + fields.nfuncdata).ok()?)?;
        if u32::from(count) <= FUNCDATA_INLINE_TREE {
            return None;
        }
        let pcdata = 4 * u64::from(self.field(record, fields.npcdata)?);
        let array = record.at + fields.size + pcdata;
        let vaddr = if self.layout.version == Version::Go116 {
            let pointer = array.next_multiple_of(8) + 8 * u64::from(FUNCDATA_INLINE_TREE);
            u64_at(self.data, pointer).filter(|&vaddr| vaddr != 0)?
        } else {
            let offset = u32_at(self.data, array + 4 * u64::from(FUNCDATA_INLINE_TREE))?;
            if offset == u32::MAX {
                return None;
            }
            self.layout.gofunc?.checked_add(offset.into())?
        };
        file_offset(&self.layout.segments, vaddr)
    }

    /// Entry `index` of an inline tree: offset of the name, of the call site from the function's
    /// start, and the function's first line.
    fn inlined(self, tree: u64, index: u32) -> Option<(u32, u32, Option<u32>)> {
        let fields = self.fields();
        let entry = tree.checked_add(fields.inline_size * u64::from(index))?;
        let field = |offset| u32_at(self.data, entry.checked_add(offset)?);
        Some((
            field(fields.inline_name)?,
            field(fields.inline_parent_pc)?,
            fields.inline_start_line.and_then(field),
        ))
    }

    fn resolve(self, vaddr: u64) -> Option<Vec<GoFrame>> {
        let record = self.record(self.index_at(vaddr)?)?;
        let mut frames = Vec::new();
        let mut pc = vaddr;
        if let (Some(indexes), Some(tree)) = (self.inline_indexes(record), self.inline_tree(record))
        {
            while frames.len() < MAX_INLINE_DEPTH
                && let Some(index) = self.value_at(record, indexes, pc)
                && let Some((name, parent, start_line)) = self.inlined(tree, index)
                && let Some(function) = self.name(name)
            {
                let (file, line) = self.file_line(record, pc);
                frames.push(GoFrame {
                    function: printed(function),
                    file,
                    line,
                    start_line: start_line.filter(|&line| line != 0),
                    inlined: true,
                });
                match record.start.checked_add(parent.into()) {
                    Some(next) if next < record.end => pc = next,
                    _ => break,
                }
            }
        }
        let (file, line) = self.file_line(record, pc);
        let start_line = self.fields().start_line.and_then(|field| self.field(record, field));
        frames.push(GoFrame {
            function: printed(self.name(record.name?)?),
            file,
            line,
            start_line: start_line.filter(|&line| line != 0),
            inlined: false,
        });
        Some(frames)
    }

    /// Whether the name at `offset` of the name table is `name`.
    fn is_named(self, offset: Option<u32>, name: &str) -> bool {
        let start = offset.and_then(|offset| self.layout.names.checked_add(offset.into()));
        start
            .and_then(|start| slice(self.data, start, self.layout.end))
            .and_then(|bytes| bytes.strip_prefix(name.as_bytes()))
            .is_some_and(|rest| rest.first() == Some(&0))
    }

    fn inlines(self, index: u64, name: &str) -> Option<bool> {
        let record = self.record(index)?;
        let tree = self.inline_tree(record)?;
        let last = self
            .values(record, self.inline_indexes(record)?)
            .filter_map(|(value, _)| u32::try_from(value).ok())
            .max()?;
        // Each entry has at least one byte of code, here or where an inner one was called.
        let size = u32::try_from(record.end - record.start).unwrap_or(u32::MAX);
        Some((0..=last.min(size)).any(|index| {
            self.inlined(tree, index).is_some_and(|(offset, ..)| self.is_named(Some(offset), name))
        }))
    }

    /// Whether the functions' inline trees read as inline trees; they do only when
    /// [`Layout::gofunc`] is right.
    fn inline_trees_are_sound(self) -> bool {
        let mut seen = 0;
        for index in 0..self.layout.functions {
            let Some(record) = self.record(index) else { return false };
            if self.inline_indexes(record).is_none_or(|table| table == 0) {
                continue;
            }
            let Some(tree) = self.inline_tree(record) else { continue };
            let sound = self.inlined(tree, 0).is_some_and(|(name, parent, _)| {
                // Names follow one another, so the byte before one ends another.
                let before = (self.layout.names + u64::from(name)).checked_sub(1);
                u64::from(parent) < record.end - record.start
                    && u64::from(name) < self.layout.units.saturating_sub(self.layout.names)
                    && before.and_then(|offset| super::array(self.data, offset)) == Some([0])
            });
            if !sound {
                return false;
            }
            seen += 1;
            if seen == 64 {
                break;
            }
        }
        seen > 0
    }
}

/// Steps of a value table: pairs of varints, value delta (zig-zag) and address delta.
struct Values<'a> {
    bytes: &'a [u8],
    pc: u64,
    /// Where the function ends, and so the table.
    end: u64,
    value: i32,
    first: bool,
}

impl Values<'_> {
    fn varint(&mut self) -> Option<u32> {
        let mut value = 0u32;
        for shift in (0..35).step_by(7) {
            let (&byte, rest) = self.bytes.split_first()?;
            self.bytes = rest;
            value |= u32::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}

impl Iterator for Values<'_> {
    type Item = (i32, u64);

    fn next(&mut self) -> Option<Self::Item> {
        if self.pc >= self.end {
            return None;
        }
        let delta = self.varint()?;
        if delta == 0 && !self.first {
            return None;
        }
        self.first = false;
        self.value = self.value.wrapping_add((delta >> 1) as i32 ^ -((delta & 1) as i32));
        let step = self.varint().filter(|&step| step != 0)?;
        self.pc = self.pc.checked_add(step.into())?;
        Some((self.value, self.pc))
    }
}

/// A name as Go's tracebacks print it (`funcNameForPrint` in `runtime/traceback.go`); before Go 1.21
/// the table itself has only that form.
fn printed(name: &[u8]) -> String {
    let name = String::from_utf8_lossy(name);
    match (name.find('['), name.rfind(']')) {
        (Some(open), Some(close)) if open < close => {
            format!("{}[...]{}", &name[..open], &name[close + 1..])
        }
        _ => name.into_owned(),
    }
}

fn slice(data: &[u8], start: u64, end: u64) -> Option<&[u8]> {
    let end = end.min(data.len() as u64);
    data.get(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
}
