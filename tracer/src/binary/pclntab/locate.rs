//! Finding the table: by section or by its header, and the address that its offsets count from.
//!
//! May import what its parent may. Invariant: a layout that is given out has its functions in order
//! within executable bytes of the file.

use super::{
    super::{
        elf::{Elf, Segment},
        u32_at, u64_at,
    },
    Error, Layout, Version, View, slice,
};

/// Places that look like the module data before they are checked.
const MAX_CANDIDATES: usize = 16;

/// Words of `moduledata` by index; the same from Go 1.16 to 1.27.
const MODULE_MIN_PC: usize = 20;
const MODULE_MAX_PC: usize = 21;
const MODULE_TEXT: usize = 22;
/// Where `moduledata.gofunc` may be: it moved from 38 (1.18) to 40 (1.20) to 43 (1.27).
const MODULE_GOFUNC: std::ops::Range<usize> = 38..48;
const MODULE_WORDS: usize = 48;

impl Layout {
    /// Finds the table of an executable.
    pub(super) fn find(elf: &Elf<'_>) -> Result<Self, Error> {
        let mut error = Error::NoTable;
        for name in [".gopclntab", ".data.rel.ro.gopclntab"] {
            if let Some(section) = elf.section(name) {
                match Self::at(
                    elf,
                    section.offset,
                    section.vaddr,
                    section.offset.saturating_add(section.size),
                ) {
                    Ok(layout) => return Ok(layout),
                    Err(found) => error = found,
                }
            }
        }
        if elf.has_sections() && !elf.is_go() {
            return Err(error);
        }
        // External linkers may merge the section into another one, and strippers may remove the
        // section table: then the header is looked for.
        for segment in elf.segments() {
            let start = segment.offset.checked_next_multiple_of(8).unwrap_or(u64::MAX);
            let end = segment.offset.saturating_add(segment.file_size);
            let Some(bytes) = slice(elf.data(), start, end) else { continue };
            for (index, word) in bytes.as_chunks::<8>().0.iter().enumerate() {
                // Two zero bytes, instruction size 1, pointer size 8.
                if word[4..] != [0, 0, 1, 8] || word[1..4] != [0xff; 3] {
                    continue;
                }
                let offset = start + 8 * index as u64;
                if let Some(vaddr) = elf.vaddr(offset)
                    && let Ok(layout) = Self::at(elf, offset, vaddr, end)
                {
                    return Ok(layout);
                }
            }
        }
        Err(error)
    }

    /// Checks the table whose header is at file offset `start` and address `vaddr`.
    fn at(elf: &Elf<'_>, start: u64, vaddr: u64, end: u64) -> Result<Self, Error> {
        let data = elf.data();
        let magic = u32_at(data, start).ok_or(Error::Malformed)?;
        let version = match magic {
            0xffff_fffa => Version::Go116,
            0xffff_fff0 => Version::Go118,
            0xffff_fff1 => Version::Go120,
            other => return Err(Error::Magic(other)),
        };
        if u32_at(data, start + 4) != Some(0x0801_0000) {
            return Err(Error::Malformed);
        }
        let end = end.min(data.len() as u64);
        let word = |index: u64| u64_at(data, start + 8 + 8 * index).ok_or(Error::Malformed);
        // `textStart` is the third word from Go 1.18 on.
        let first = if version == Version::Go116 { 2 } else { 3 };
        let table = |index: u64| {
            start
                .checked_add(word(first + index)?)
                .filter(|&offset| offset < end)
                .ok_or(Error::Malformed)
        };
        let mut layout = Self {
            version,
            functions: word(0)?,
            names: table(0)?,
            units: table(1)?,
            files: table(2)?,
            pctab: table(3)?,
            pcln: table(4)?,
            end,
            text: 0,
            gofunc: None,
            segments: elf.segments().to_vec(),
        };
        let entry = if version == Version::Go116 { 16 } else { 8 };
        if layout.functions == 0 || layout.functions > (end - layout.pcln) / entry {
            return Err(Error::Malformed);
        }
        if version == Version::Go116 {
            // Entries are addresses; in a position-independent file they are relocations.
            let first = u64_at(data, layout.pcln).ok_or(Error::Malformed)?;
            if first == 0 {
                return Err(Error::NoTextBase);
            }
            layout.text = first;
            return layout.check_order(elf);
        }
        let modules = Modules::find(elf, vaddr, vaddr.wrapping_add(word(first)?));
        let bounds = (
            u32_at(data, layout.pcln).ok_or(Error::Malformed)?,
            u32_at(data, layout.pcln + 8 * layout.functions).ok_or(Error::Malformed)?,
        );
        let module = modules.0.iter().find(|words| {
            // The runtime refuses to start otherwise (`moduledataverify1`).
            let text = words[MODULE_TEXT];
            elf.file_offset(text).is_some()
                && text.checked_add(bounds.0.into()) == Some(words[MODULE_MIN_PC])
                && text.checked_add(bounds.1.into()) == Some(words[MODULE_MAX_PC])
        });
        if let Some(words) = module {
            layout.text = words[MODULE_TEXT];
            layout.gofunc = words[MODULE_GOFUNC].iter().copied().find(|&gofunc| {
                let trial = Self { gofunc: Some(gofunc), ..layout.clone() };
                View { data, layout: &trial }.inline_trees_are_sound()
            });
        } else {
            // `pcHeader.textStart` was the same value until Go 1.26 stopped writing it.
            layout.text = word(2)?;
            if layout.text == 0 {
                return Err(Error::NoTextBase);
            }
        }
        layout.check_order(elf)
    }

    /// Accepts a table whose functions follow one another in executable bytes of the file. The
    /// work of every pass over all functions is then bounded by the file's size.
    fn check_order(self, elf: &Elf<'_>) -> Result<Self, Error> {
        let view = View { data: elf.data(), layout: &self };
        let first = view.entry(0).ok_or(Error::Malformed)?;
        let mut last = first;
        for index in 1..=self.functions {
            let entry = view.entry(index).ok_or(Error::Malformed)?;
            if entry < last {
                return Err(Error::Malformed);
            }
            last = entry;
        }
        let covers = |segment: &&Segment| {
            segment.executable
                && segment.vaddr <= first
                && last - segment.vaddr.min(last) <= segment.file_size
        };
        elf.segments().iter().find(covers).ok_or(Error::NoTextBase)?;
        Ok(self)
    }
}

/// The words of everything that looks like the runtime's `moduledata`.
struct Modules(Vec<[u64; MODULE_WORDS]>);

impl Modules {
    /// Looks for the words `table`, `names`, with which `moduledata` begins: in place, or as
    /// relocations when the file is position-independent.
    fn find(elf: &Elf<'_>, table: u64, names: u64) -> Self {
        let mut places = Vec::new();
        for segment in elf.segments().iter().filter(|segment| segment.writable) {
            let skip = segment.vaddr.wrapping_neg() % 8;
            let start = segment.offset.saturating_add(skip);
            let end = segment.offset.saturating_add(segment.file_size);
            let Some(bytes) = slice(elf.data(), start, end) else { continue };
            let found = bytes
                .as_chunks::<8>()
                .0
                .windows(2)
                .enumerate()
                .filter(|(_, pair)| {
                    u64::from_le_bytes(pair[0]) == table && u64::from_le_bytes(pair[1]) == names
                })
                .map(|(index, _)| segment.vaddr.wrapping_add(skip + 8 * index as u64));
            places.extend(found.take(MAX_CANDIDATES));
        }
        let relocated = elf.relative_relocations().filter(|&(_, value)| value == table);
        places.extend(relocated.map(|(address, _)| address).take(MAX_CANDIDATES));
        places.sort_unstable();
        places.dedup();
        places.truncate(MAX_CANDIDATES);
        let mut modules: Vec<_> = places
            .iter()
            .map(|&place| {
                std::array::from_fn(|index| {
                    elf.file_offset(place.wrapping_add(8 * index as u64))
                        .and_then(|offset| u64_at(elf.data(), offset))
                        .unwrap_or(0)
                })
            })
            .collect();
        for (address, value) in elf.relative_relocations() {
            for (place, words) in places.iter().zip(&mut modules) {
                let delta = address.wrapping_sub(*place);
                if delta < 8 * MODULE_WORDS as u64 && delta.is_multiple_of(8) {
                    let words: &mut [u64; MODULE_WORDS] = words;
                    words[(delta / 8) as usize] = value;
                }
            }
        }
        modules.retain(|words| words[0] == table && words[1] == names);
        Self(modules)
    }
}
