//! What connleak needs of an ELF file: where bytes are mapped, function symbols, relative
//! relocations, the build id.
//!
//! May import [`super`] only. Invariants: x86-64 little-endian only, everything else is refused;
//! an address is a virtual address as written in the file (before any load bias); nothing panics
//! or loops on hostile bytes.

use object::{
    Object as _, ObjectSection as _, ObjectSymbol as _, SymbolKind,
    elf::{
        DT_NULL, DT_RELA, DT_RELASZ, EM_X86_64, ET_DYN, FileHeader64, PF_W, PF_X, PT_DYNAMIC,
        PT_LOAD, R_X86_64_RELATIVE,
    },
    endian::LittleEndian,
    read::elf::{ElfFile, FileHeader as _, ProgramHeader as _},
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::u64_at;

/// Loadable segments kept; real files have fewer than ten.
const MAX_SEGMENTS: usize = 64;

/// Why a file cannot be read as an executable or library of this machine.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ElfError {
    #[error("not a readable ELF file: {0}")]
    Malformed(String),
    #[error("not an x86-64 ELF file")]
    Architecture,
}

/// A loadable segment: `file_size` bytes at `offset` are mapped at `vaddr`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    pub vaddr: u64,
    pub offset: u64,
    /// Bytes that come from the file; already cut to what the file has.
    pub file_size: u64,
    pub executable: bool,
    pub writable: bool,
}

/// A named section's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section {
    pub vaddr: u64,
    pub offset: u64,
    pub size: u64,
}

/// A symbol that is defined in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Symbol<'data> {
    /// As in the string table, without a version.
    pub name: &'data [u8],
    pub vaddr: u64,
    /// Zero when the file does not say.
    pub size: u64,
}

/// An ELF file over bytes that the caller keeps.
#[derive(Debug)]
pub struct Elf<'data> {
    data: &'data [u8],
    file: ElfFile<'data, FileHeader64<LittleEndian>>,
    segments: Vec<Segment>,
    dynamic: Option<(u64, u64)>,
}

impl<'data> Elf<'data> {
    /// Reads the headers of `data`.
    ///
    /// # Errors
    /// When `data` is no ELF file, is cut within its tables, or is of another architecture.
    pub fn parse(data: &'data [u8]) -> Result<Self, ElfError> {
        let malformed = |error: object::Error| ElfError::Malformed(error.to_string());
        let header = FileHeader64::<LittleEndian>::parse(data).map_err(malformed)?;
        let endian = header.endian().map_err(malformed)?;
        if header.e_machine(endian) != EM_X86_64 {
            return Err(ElfError::Architecture);
        }
        let file = ElfFile::parse(data).map_err(malformed)?;
        let mut segments = Vec::new();
        let mut dynamic = None;
        for program in header.program_headers(endian, data).map_err(malformed)? {
            let (offset, size) = program.file_range(endian);
            match program.p_type(endian) {
                PT_LOAD if segments.len() < MAX_SEGMENTS => segments.push(Segment {
                    vaddr: program.p_vaddr(endian),
                    offset,
                    file_size: size.min((data.len() as u64).saturating_sub(offset)),
                    executable: program.p_flags(endian) & PF_X != 0,
                    writable: program.p_flags(endian) & PF_W != 0,
                }),
                PT_DYNAMIC => dynamic = Some((offset, size)),
                _ => {}
            }
        }
        Ok(Self { data, file, segments, dynamic })
    }

    /// The file.
    #[must_use]
    pub fn data(&self) -> &'data [u8] {
        self.data
    }

    /// Loadable segments in the order of the file.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Whether the file is loaded at an address chosen at run time (PIE or shared library).
    #[must_use]
    pub fn is_relocatable(&self) -> bool {
        self.file.elf_header().e_type.get(LittleEndian) == ET_DYN
    }

    /// File offset of the byte that is mapped at `vaddr`.
    #[must_use]
    pub fn file_offset(&self, vaddr: u64) -> Option<u64> {
        file_offset(&self.segments, vaddr)
    }

    /// Address of the byte at file offset `offset`.
    #[must_use]
    pub fn vaddr(&self, offset: u64) -> Option<u64> {
        self.segments.iter().find_map(|segment| {
            let delta = offset.checked_sub(segment.offset)?;
            (delta < segment.file_size).then(|| segment.vaddr.checked_add(delta))?
        })
    }

    /// The file's bytes from `vaddr` to `end`, when one segment has them all.
    #[must_use]
    pub fn bytes(&self, vaddr: u64, end: u64) -> Option<&'data [u8]> {
        let last = self.file_offset(end.checked_sub(1)?)?;
        let first = self.file_offset(vaddr)?;
        if last.checked_sub(first) != end.checked_sub(vaddr)?.checked_sub(1) {
            return None;
        }
        self.data.get(usize::try_from(first).ok()?..=usize::try_from(last).ok()?)
    }

    /// The first section with this name that has bytes in the file.
    #[must_use]
    pub fn section(&self, name: &str) -> Option<Section> {
        let section = self.file.section_by_name(name)?;
        let (offset, size) = section.file_range()?;
        Some(Section { vaddr: section.address(), offset, size })
    }

    /// Whether the file has a section table; `sstrip` and some packers remove it.
    #[must_use]
    pub fn has_sections(&self) -> bool {
        self.file.sections().next().is_some()
    }

    /// Functions defined in `.symtab` and then in `.dynsym`; one name may come several times.
    pub fn functions(&self) -> impl Iterator<Item = Symbol<'data>> + '_ {
        self.file.symbols().chain(self.file.dynamic_symbols()).filter_map(symbol)
    }

    /// Functions defined in `.dynsym`: what a library exports, stripped or not.
    pub fn exported_functions(&self) -> impl Iterator<Item = Symbol<'data>> + '_ {
        self.file.dynamic_symbols().filter_map(symbol)
    }

    /// What the file exports, functions and data.
    pub fn exports(&self) -> impl Iterator<Item = Symbol<'data>> + '_ {
        self.file.dynamic_symbols().filter_map(defined)
    }

    /// What is defined in `.symtab`, functions and data.
    pub fn definitions(&self) -> impl Iterator<Item = Symbol<'data>> + '_ {
        self.file.symbols().filter_map(defined)
    }

    /// The address of an exported name, function or data.
    #[must_use]
    pub fn exported(&self, name: &str) -> Option<u64> {
        let symbol = self
            .file
            .dynamic_symbols()
            .find(|symbol| symbol.name_bytes() == Ok(name.as_bytes()) && !symbol.is_undefined())?;
        Some(symbol.address())
    }

    /// Relative relocations as (address of the word, its value before the load bias), read from
    /// the dynamic section's `DT_RELA` table.
    pub fn relative_relocations(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let table = self.relocation_table().unwrap_or_default();
        table.as_chunks::<24>().0.iter().filter_map(|entry| {
            let word = |at| u64_at(entry, at);
            (word(8)? as u32 == R_X86_64_RELATIVE).then_some((word(0)?, word(16)?))
        })
    }

    fn relocation_table(&self) -> Option<&'data [u8]> {
        let (offset, size) = self.dynamic?;
        let start = usize::try_from(offset).ok()?;
        let end = start.checked_add(usize::try_from(size).ok()?)?.min(self.data.len());
        let (mut address, mut bytes) = (None, None);
        for entry in self.data.get(start..end)?.as_chunks::<16>().0 {
            let value = u64_at(entry, 8)?;
            match u64_at(entry, 0)?.cast_signed() {
                DT_NULL => break,
                DT_RELA => address = Some(value),
                DT_RELASZ => bytes = Some(value),
                _ => {}
            }
        }
        let address = address?;
        self.bytes(address, address.checked_add(bytes?)?)
    }

    /// The GNU build id.
    #[must_use]
    pub fn build_id(&self) -> Option<&'data [u8]> {
        self.file.build_id().ok().flatten()
    }

    /// Whether the Go toolchain linked this file, as far as its sections say.
    #[must_use]
    pub fn is_go(&self) -> bool {
        [".gopclntab", ".go.buildinfo", ".note.go.buildid", ".data.rel.ro.gopclntab"]
            .into_iter()
            .any(|name| self.file.section_by_name(name).is_some())
    }
}

fn defined<'data>(
    symbol: object::read::elf::ElfSymbol<'data, '_, FileHeader64<LittleEndian>>,
) -> Option<Symbol<'data>> {
    if symbol.is_undefined() || symbol.address() == 0 {
        return None;
    }
    Some(Symbol { name: symbol.name_bytes().ok()?, vaddr: symbol.address(), size: symbol.size() })
}

/// [`Elf::file_offset`] over segments kept without the file.
#[must_use]
pub fn file_offset(segments: &[Segment], vaddr: u64) -> Option<u64> {
    segments.iter().find_map(|segment| {
        let delta = vaddr.checked_sub(segment.vaddr)?;
        (delta < segment.file_size).then(|| segment.offset.checked_add(delta))?
    })
}

fn symbol<'data>(
    symbol: object::read::elf::ElfSymbol<'data, '_, FileHeader64<LittleEndian>>,
) -> Option<Symbol<'data>> {
    if symbol.kind() == SymbolKind::Text { defined(symbol) } else { None }
}
