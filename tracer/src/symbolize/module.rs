//! Files that code is mapped from: opened once, kept for as long as a stack may point into them.
//!
//! May import `std`, `libc`, `memmap2` and `object`. Invariants: a file is known by what `fstat`
//! says of it (device, inode, size, times), never by the device in `/proc/PID/maps`, which is
//! another one on overlayfs; only regular files are opened; nothing in a file is trusted; a file
//! that was changed or cut after it was opened is not read again.

use std::cell::{Cell, OnceCell};
use std::fs::{File, OpenOptions};
use std::ops::{Deref, Range};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;

use object::Endianness;
use object::elf::{
    EM_X86_64, FileHeader64, PF_X, PT_LOAD, ProgramHeader64, SHF_COMPRESSED, SectionHeader64,
};
use object::read::elf::{FileHeader as _, ProgramHeader as _, SectionHeader as _, SectionTable};

use super::cfi;

/// An `.eh_frame` without an index is indexed by walking it; larger ones are left to frame
/// pointers.
const MAX_UNINDEXED_BYTES: usize = 64 << 20;

const PAGE_BYTES: u64 = 4096;

/// A file's identity, for as long as this program holds it open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl FileId {
    fn of(file: &File) -> Option<Self> {
        let metadata = file.metadata().ok().filter(std::fs::Metadata::is_file)?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        })
    }
}

/// Bytes of a mapped file.
#[derive(Clone)]
pub(super) struct Bytes {
    map: Arc<Mmap>,
    range: Range<usize>,
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.map.get(self.range.clone()).unwrap_or_default()
    }
}

/// A section: where it is in the program's own addresses, and its bytes.
#[derive(Clone)]
pub(super) struct Section<B = Bytes> {
    pub addresses: Range<u64>,
    pub bytes: B,
}

/// A loadable, executable part of an ELF file.
#[derive(Clone, Copy, Debug)]
struct Segment {
    offset: u64,
    len: u64,
    address: u64,
}

/// What unwinding and symbols need of an ELF file.
#[derive(Default)]
pub(super) struct Elf {
    segments: Vec<Segment>,
    pub text: Option<Range<u64>>,
    pub got: Option<Range<u64>>,
    pub eh_frame: Option<Section>,
    pub eh_frame_hdr: Option<Section>,
    /// Refers to a file with the debug information.
    has_debug_link: bool,
    pub is_go: bool,
}

impl Elf {
    /// The program's own address of what is mapped from `offset` of the file, a multiple of the
    /// page size. A mapping begins up to a page before its segment.
    pub fn address_of(&self, offset: u64) -> Option<u64> {
        let segment = self.segments.iter().find(|segment| {
            let first = segment.offset & !(PAGE_BYTES - 1);
            (first..segment.offset.saturating_add(segment.len)).contains(&offset)
        })?;
        segment.address.checked_add(offset)?.checked_sub(segment.offset)
    }
}

/// An opened file.
pub(super) struct Module {
    /// Unique among all modules ever opened by one [`Symbolizer`](super::Symbolizer).
    pub serial: u64,
    file: File,
    id: FileId,
    bytes: Bytes,
    /// `None`: not an x86-64 ELF file, so the code in it was made at run time (JIT compilers map
    /// `memfd` files).
    pub elf: Option<Elf>,
    /// The file belongs to root, so a link in it to another file may be followed.
    trusted: bool,
    changed: Cell<bool>,
    unwind_bounded: OnceCell<bool>,
}

impl Module {
    /// Opens the file at `path`. `None` when it is not a regular file, cannot be opened, or, with
    /// `inode` given, is another file.
    pub fn open(path: &Path, inode: Option<u64>, serial: u64) -> Option<Self> {
        // Looked at before it is opened: opening a device can do things.
        if !std::fs::metadata(path).ok()?.is_file() {
            return None;
        }
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path)
            .ok()?;
        let id = FileId::of(&file)?;
        if inode.is_some_and(|inode| inode != id.inode) {
            return None;
        }
        let trusted = file.metadata().is_ok_and(|m| m.uid() == 0 && m.mode() & 0o022 == 0);
        let map = Arc::new(map(&file)?);
        let bytes = Bytes { range: 0..map.len(), map };
        let elf = parse(&bytes);
        Some(Self {
            serial,
            file,
            id,
            bytes,
            elf,
            trusted,
            changed: Cell::new(false),
            unwind_bounded: OnceCell::new(),
        })
    }

    pub fn id(&self) -> FileId {
        self.id
    }

    /// A path that opens this very file for as long as the module lives, also when its name is
    /// gone.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }

    /// The whole file.
    #[expect(dead_code, reason = "read by the table of Go functions")]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether debug information may be looked for: always in the file itself, in files it
    /// refers to only when root vouches for the reference.
    pub fn may_use_debug_information(&self) -> bool {
        self.trusted || !self.elf.as_ref().is_some_and(|elf| elf.has_debug_link)
    }

    /// Whether following the unwind information takes bounded time. Looked at once.
    pub fn is_unwind_bounded(&self) -> bool {
        *self.unwind_bounded.get_or_init(|| {
            let Some(elf) = &self.elf else { return false };
            let Some(eh_frame) = &elf.eh_frame else { return false };
            cfi::is_bounded(eh_frame, elf.eh_frame_hdr.as_ref())
        })
    }

    /// Whether the bytes are still those that were mapped. To be asked before they are read:
    /// reading beyond the end of a file that became shorter is a fatal signal.
    pub fn is_intact(&self) -> bool {
        if !self.changed.get() && FileId::of(&self.file) != Some(self.id) {
            self.changed.set(true);
        }
        !self.changed.get()
    }
}

#[expect(unsafe_code, reason = "mapping a file is unsafe: others can write to it")]
fn map(file: &File) -> Option<Mmap> {
    // SAFETY: the bytes are only ever read as untrusted bytes, so their changing under us gives
    // wrong names at worst; a file that became shorter is noticed by `is_intact` before each use.
    unsafe { Mmap::map(file) }.ok()
}

fn parse(bytes: &Bytes) -> Option<Elf> {
    let data: &[u8] = bytes;
    let header = FileHeader64::<Endianness>::parse(data).ok()?;
    let endian = header.endian().ok()?;
    if header.e_machine(endian) != EM_X86_64 {
        return None;
    }
    let mut elf = Elf::default();
    let programs = header.program_headers(endian, data).unwrap_or_default();
    elf.segments = programs.iter().filter_map(|p| segment(p, endian)).collect();
    let Ok(sections) = header.sections(endian, data) else { return Some(elf) };
    let section = |name: &str| find(&sections, name, endian);
    let loaded = |name: &str| {
        let (addresses, header) = section(name)?;
        let (offset, size) = header.file_range(endian)?;
        let start = usize::try_from(offset).ok()?;
        let end = start.checked_add(usize::try_from(size).ok()?)?;
        if end > data.len() || header.sh_flags(endian) & u64::from(SHF_COMPRESSED) != 0 {
            return None;
        }
        Some(Section { addresses, bytes: Bytes { map: Arc::clone(&bytes.map), range: start..end } })
    };
    elf.text = section(".text").map(|(range, _)| range);
    elf.got = section(".got").map(|(range, _)| range);
    elf.eh_frame_hdr = loaded(".eh_frame_hdr");
    elf.eh_frame = loaded(".eh_frame")
        .filter(|section| elf.eh_frame_hdr.is_some() || section.bytes.len() <= MAX_UNINDEXED_BYTES);
    elf.has_debug_link = [".gnu_debuglink", ".gnu_debugaltlink", ".debug_sup"]
        .iter()
        .any(|name| section(name).is_some());
    elf.is_go = [".gopclntab", ".data.rel.ro.gopclntab", ".go.buildinfo"]
        .iter()
        .any(|name| section(name).is_some());
    Some(elf)
}

fn segment(header: &ProgramHeader64<Endianness>, endian: Endianness) -> Option<Segment> {
    (header.p_type(endian) == PT_LOAD && header.p_flags(endian) & PF_X != 0).then(|| Segment {
        offset: header.p_offset(endian),
        len: header.p_filesz(endian),
        address: header.p_vaddr(endian),
    })
}

fn find<'data>(
    sections: &SectionTable<'data, FileHeader64<Endianness>>,
    name: &str,
    endian: Endianness,
) -> Option<(Range<u64>, &'data SectionHeader64<Endianness>)> {
    let (_, header) = sections.section_by_name(endian, name.as_bytes())?;
    let start = header.sh_addr(endian);
    Some((start..start.checked_add(header.sh_size(endian))?, header))
}
