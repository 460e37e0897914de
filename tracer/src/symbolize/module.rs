//! Files that code is mapped from: opened once, kept for as long as a stack may point into them.
//!
//! May import `libc`, `memmap2` and [`binary`](crate::binary). Invariants: a file is known by its
//! [`FileId`], for as long as it is held open, never by what `/proc/PID/maps` says; only regular files are opened; nothing in a file is trusted; a file
//! that was changed or cut after it was opened is not read again.

use std::cell::{Cell, OnceCell};
use std::fs::{File, OpenOptions};
use std::ops::{Deref, Range};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use memmap2::Mmap;

use super::cfi;
use super::hotspot::Machine;
use super::node::Engine;
use super::php;
use super::python::Interpreter;
use crate::binary::FileId;
use crate::binary::elf::{self, Segment};
use crate::binary::go;
use crate::binary::pclntab::GoTable;

/// An `.eh_frame` without an index is indexed by walking it; larger ones are left to frame
/// pointers.
const MAX_UNINDEXED_BYTES: usize = 64 << 20;

const PAGE_BYTES: u64 = 4096;

/// Bytes of a mapped file.
#[derive(Clone)]
pub(super) struct Bytes {
    map: Arc<Mmap>,
    range: Range<usize>,
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.map.get(self.range.clone()).unwrap_or_default()
    }
}

#[cfg(test)]
impl Bytes {
    /// Bytes of no file.
    pub fn of(bytes: &[u8]) -> Self {
        let mut map = memmap2::MmapMut::map_anon(bytes.len().max(1)).expect("there is memory");
        map[..bytes.len()].copy_from_slice(bytes);
        let map = Arc::new(map.make_read_only().expect("it is ours"));
        Self { range: 0..bytes.len(), map }
    }
}

/// A section: where it is in the program's own addresses, and its bytes.
#[derive(Clone)]
pub(super) struct Section<B = Bytes> {
    pub addresses: Range<u64>,
    pub bytes: B,
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
}

impl Elf {
    /// The program's own address of what is mapped from `offset` of the file, a multiple of the
    /// page size. A mapping begins up to a page before its segment.
    pub fn address_of(&self, offset: u64) -> Option<u64> {
        let segment = self.segments.iter().find(|segment| {
            let first = segment.offset & !(PAGE_BYTES - 1);
            (first..segment.offset.saturating_add(segment.file_size)).contains(&offset)
        })?;
        segment.vaddr.checked_add(offset)?.checked_sub(segment.offset)
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
    go_table: OnceCell<Option<GoTable<Bytes>>>,
    python: OnceCell<Option<Result<Interpreter, String>>>,
    node: OnceCell<Option<Result<Rc<Engine>, String>>>,
    java: OnceCell<Option<Machine>>,
    php: OnceCell<Option<Result<php::Engine, String>>>,
    is_nameless: OnceCell<bool>,
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
        let metadata = file.metadata().ok()?;
        let id = FileId::of(&metadata)?;
        if inode.is_some_and(|inode| inode != id.inode()) {
            return None;
        }
        let trusted = metadata.uid() == 0 && metadata.mode() & 0o022 == 0;
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
            go_table: OnceCell::new(),
            python: OnceCell::new(),
            node: OnceCell::new(),
            java: OnceCell::new(),
            php: OnceCell::new(),
            is_nameless: OnceCell::new(),
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

    /// The table of Go functions, when the file has one. Looked for once.
    pub fn go_table(&self) -> Option<&GoTable<Bytes>> {
        self.go_table.get_or_init(|| GoTable::parse(self.bytes.clone()).ok()).as_ref()
    }

    /// Whether the functions of a program cannot be named by it: stripped, and it exports no more than what
    /// its libraries ask for. Looked for once.
    pub fn is_nameless(&self) -> bool {
        let find = || {
            if self.go_table().is_some() {
                return None;
            }
            let elf = self.is_intact().then(|| elf::Elf::parse(&self.bytes).ok())??;
            let has_names = elf.definitions().next().is_some()
                || elf.section(".debug_info").is_some()
                || elf.exported("main").is_some();
            Some(!has_names)
        };
        *self.is_nameless.get_or_init(|| find().unwrap_or(false))
    }

    /// What the record of a goroutine looks like, when a known version of Go made the file.
    pub fn goroutines(&self) -> Option<&'static go::Layout> {
        let elf = self.is_intact().then(|| elf::Elf::parse(&self.bytes).ok())??;
        go::layout(&elf)
    }

    /// The Python interpreter that this file, of this name, is, or why it is not understood. Looked
    /// for once.
    pub fn python(&self, name: &str) -> Option<&Result<Interpreter, String>> {
        let find = || {
            let elf = elf::Elf::parse(&self.bytes).ok()?;
            Interpreter::find(&elf, name)
        };
        self.python.get_or_init(find).as_ref()
    }

    /// The JavaScript engine in this file, or why it is not understood. Looked for once.
    pub fn node(&self) -> Option<&Result<Rc<Engine>, String>> {
        let find = || {
            let elf = elf::Elf::parse(&self.bytes).ok()?;
            Some(Engine::find(&elf)?.map(Rc::new))
        };
        self.node.get_or_init(find).as_ref()
    }

    /// The Java virtual machine in this file. Looked for once.
    pub fn java(&self) -> Option<Machine> {
        *self.java.get_or_init(|| Machine::find(&elf::Elf::parse(&self.bytes).ok()?))
    }

    /// The engine of PHP in this file, or why it is not understood. Looked for once.
    pub fn php(&self) -> Option<&Result<php::Engine, String>> {
        let find = || php::Engine::find(&elf::Elf::parse(&self.bytes).ok()?);
        self.php.get_or_init(find).as_ref()
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
        if !self.changed.get()
            && self.file.metadata().ok().and_then(|now| FileId::of(&now)) != Some(self.id)
        {
            self.changed.set(true);
        }
        !self.changed.get()
    }
}

/// Maps a file that someone else may change meanwhile; `None` when it cannot be mapped.
#[expect(unsafe_code, reason = "mapping a file is unsafe: others can write to it")]
pub fn map(file: &File) -> Option<Mmap> {
    // SAFETY: the bytes are only ever read as untrusted bytes, so their changing under us gives
    // wrong names at worst; a file that became shorter is noticed by `is_intact` before each use.
    unsafe { Mmap::map(file) }.ok()
}

fn parse(bytes: &Bytes) -> Option<Elf> {
    let file = elf::Elf::parse(bytes).ok()?;
    let addresses = |name: &str| {
        let section = file.section(name)?;
        Some(section.vaddr..section.vaddr.checked_add(section.size)?)
    };
    let section = |name: &str| {
        let section = file.section(name)?;
        let start = usize::try_from(section.offset).ok()?;
        let end = start.checked_add(usize::try_from(section.size).ok()?)?;
        let bytes = Bytes { map: Arc::clone(&bytes.map), range: start..end };
        Some(Section { addresses: addresses(name)?, bytes })
    };
    let eh_frame_hdr = section(".eh_frame_hdr");
    let eh_frame = section(".eh_frame")
        .filter(|section| eh_frame_hdr.is_some() || section.bytes.len() <= MAX_UNINDEXED_BYTES);
    Some(Elf {
        segments: file.segments().iter().filter(|segment| segment.executable).copied().collect(),
        text: addresses(".text"),
        got: addresses(".got"),
        eh_frame,
        eh_frame_hdr,
        has_debug_link: [".gnu_debuglink", ".gnu_debugaltlink", ".debug_sup"]
            .iter()
            .any(|name| file.section(name).is_some()),
    })
}
