//! Raw stack copies to frames with names, files, lines and owners.
//!
//! May import `model`, `binary`, `host::proc::Root`, the contract and the file system; nothing of the loader or the ingest. A process is
//! looked at once ([`Symbolizer::observe`]) and what was seen is kept, so that stacks still
//! resolve when its files are gone or it has ended. Invariants: registers, stack bytes, files and
//! names come from traced processes and are never trusted; every cache is bounded; a stack that
//! does not reach its root says why.
//!
//! Stages: `unwind` (registers and bytes to addresses), then by what is mapped there
//! [`binary::pclntab`](crate::binary::pclntab) (Go), `native` (other ELF) or `perf_map` with `generated` (code made at run time), then
//! `owner`; `runtime` puts in what `python`, `node` and `php` name. Java's frames, which only `hotspot`
//! can step over, are named while the stack is walked.

mod cache;
mod cfi;
mod frame_pointer;
mod generated;
mod goroutine;
mod hotspot;
mod maps;
mod mark;
mod memory;
mod module;
mod native;
mod node;
mod owner;
mod perf_map;
mod php;
mod present;
mod process;
mod python;
#[cfg(any(test, feature = "recording"))]
mod recorded;
mod runtime;
mod unread;
mod unwind;

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::Path;
use std::rc::Rc;

use cache::Cache;
use maps::Backing;
use module::Module;
use native::{Located, NativeSymbols};
use owner::Role;
use process::Process;
use runtime::{Named, Runtime};
use tracer_ebpf::runtime::FRAME_BYTES;
use unwind::{Address, End, Walk};

pub use goroutine::GoroutineNow;
pub use module::map as map_file;
pub use present::{Present, Waiting};
pub use runtime::RuntimeFrames;

use crate::binary::FileId;
use crate::binary::pclntab::{GoFrame, GoTable};
use crate::model::{Frame, FrameKind, Stack, Symbol};

/// Processes remembered; beyond, the one not asked about for longest is forgotten.
const MAX_PROCESSES: usize = 4096;
/// Files held open. Each takes a descriptor, and another once symbols were read from it.
const MAX_MODULES: usize = 1024;
/// Files held open that no remembered process uses: the next process of the same program starts
/// with their symbols already read.
const MAX_IDLE_MODULES: usize = 64;
/// Half the number of resolved addresses remembered.
const CACHED_ADDRESSES: usize = 16 << 10;
/// Frames of a stack, inlined ones included.
const MAX_FRAMES: usize = 1024;

/// Functions that nothing of interest called, by full name: where threads, programs, goroutines
/// and Go's own stacks begin.
const ROOTS: [&str; 18] = [
    "start_thread",
    "clone",
    "clone3",
    "__clone",
    "__clone3",
    "_start",
    "_start_c",
    "__libc_start_main",
    "__libc_start_main_impl",
    "__libc_start_call_main",
    "runtime.goexit",
    "runtime.mcall",
    "runtime.systemstack",
    "runtime.morestack",
    "runtime.mstart",
    "runtime.rt0_go",
    "runtime.asmcgocall",
    "thread_start",
];

/// A copy of a stack as the kernel side took it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawStack {
    /// Process id in the initial pid namespace.
    pub pid: u32,
    pub ip: u64,
    pub sp: u64,
    pub bp: u64,
    /// The registers are those at a function's first instruction or at a RET
    /// ([`FLAG_BOUNDARY`](tracer_ebpf::stack::FLAG_BOUNDARY)).
    pub boundary: bool,
    /// Memory from `sp` up.
    pub bytes: Vec<u8>,
    /// So many bytes are left out behind the first [`CHUNK_BYTES`](tracer_ebpf::stack::CHUNK_BYTES).
    pub gap: u64,
    /// Pending return probes: (address of the stack slot, the return address it held).
    pub fixups: Vec<(u64, u64)>,
    /// Frames of the process's runtime, innermost first, and how they ended.
    pub runtime: Vec<[u8; FRAME_BYTES]>,
    pub runtime_end: u32,
}

/// A resolved stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    pub stack: Stack,
    /// The copied bytes ended before a frame of the application: a larger copy would tell more.
    pub cut: bool,
}

/// What was lost so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Lines of perf maps that were not understood or were too many.
    pub perf_map_lines: u64,
    /// Mapped files that could not be opened.
    pub files: u64,
}

/// Resolves stacks. For one thread; its answers are owned.
pub struct Symbolizer {
    processes: HashMap<u32, Entry>,
    modules: HashMap<FileId, (Rc<Module>, u64)>,
    next_serial: u64,
    /// Counts uses, to tell what was not used for longest.
    clock: u64,
    native: NativeSymbols,
    resolved: Cache<(u64, Role, u64), Rc<[Frame]>>,
    /// Losses of processes that were forgotten.
    past_losses: Losses,
}

struct Entry {
    process: Process,
    used: u64,
}

impl Default for Symbolizer {
    fn default() -> Self {
        Self::new()
    }
}

impl Symbolizer {
    #[must_use]
    pub fn new() -> Self {
        Self {
            processes: HashMap::new(),
            modules: HashMap::new(),
            next_serial: 0,
            clock: 0,
            native: NativeSymbols::new(),
            resolved: Cache::new(CACHED_ADDRESSES),
            past_losses: Losses::default(),
        }
    }

    /// Looks at process `pid` and keeps its mappings and files, if it is not known yet. After an
    /// exec, [`forget`](Self::forget) it first.
    ///
    /// # Errors
    ///
    /// When the process is gone or may not be looked at.
    pub fn observe(&mut self, pid: u32) -> io::Result<()> {
        self.clock += 1;
        if let Some(entry) = self.processes.get_mut(&pid) {
            entry.used = self.clock;
            return Ok(());
        }
        if self.processes.len() >= MAX_PROCESSES
            && let Some(oldest) =
                self.processes.iter().min_by_key(|(_, entry)| entry.used).map(|(&pid, _)| pid)
        {
            self.forget(oldest);
        }
        let process = Process::observe(
            pid,
            &mut opener(&mut self.modules, &mut self.next_serial, self.clock),
        )?;
        self.processes.insert(pid, Entry { process, used: self.clock });
        self.trim();
        Ok(())
    }

    /// Drops what is known of process `pid`: it has ended and no stack of it is of interest any
    /// more, or it has replaced its image.
    pub fn forget(&mut self, pid: u32) {
        if let Some(entry) = self.processes.remove(&pid) {
            add(&mut self.past_losses, entry.process.losses());
            drop(entry);
            self.trim();
        }
    }

    /// What was lost so far.
    #[must_use]
    pub fn losses(&self) -> Losses {
        let mut losses = self.past_losses;
        self.processes.values().for_each(|entry| add(&mut losses, entry.process.losses()));
        losses
    }

    /// Resolves a stack. Never fails: what cannot be known is said in the result.
    pub fn resolve(&mut self, raw: &RawStack) -> Resolved {
        #[cfg(feature = "recording")]
        if recorded::is_asked_for() {
            // Else what is remembered would not be read.
            self.forget(raw.pid);
        }
        if self.observe(raw.pid).is_err() {
            return truncated("the process ended before its code could be looked at".to_owned());
        }
        if raw.bytes.is_empty() {
            return truncated("no stack was copied".to_owned());
        }
        let Some(entry) = self.processes.get_mut(&raw.pid) else {
            return truncated("the process is not known".to_owned());
        };
        let process = &mut entry.process;
        #[cfg(feature = "recording")]
        recorded::begin_with(process);
        let named = process.runtime.as_mut().and_then(|runtime| runtime.name(raw));
        process.drop_changed();
        let mut walk = process.walk(raw);
        // Code may have been loaded or made since.
        if !process.knows(raw, &walk) {
            let mut open = opener(&mut self.modules, &mut self.next_serial, self.clock);
            if process.refresh(&mut open) {
                walk = process.walk(raw);
            }
        }
        let runtime = process.runtime.take();
        let mut resolved = understood(raw, &walk, runtime.as_ref(), named, |address| {
            let found = native_at(&mut self.native, &mut self.resolved, process, address);
            #[cfg(feature = "recording")]
            recorded::note_native(address, &found);
            found
        });
        process.runtime = runtime;
        #[cfg(feature = "recording")]
        recorded::write(raw, process, &walk);
        // The application is there then, and more of its stack would not give it a name.
        let is_nameless = |address: &Address| process.is_nameless_at(address.lookup());
        resolved.cut = resolved.cut && !walk.addresses.iter().any(is_nameless);
        resolved
    }

    /// The stack that the text of a mark names.
    pub fn marked(&mut self, pid: u32, text: &[u8]) -> Stack {
        // One that is gone has said it all the same.
        let _gone = self.observe(pid);
        let process = self.processes.get_mut(&pid).map(|entry| &mut entry.process);
        let frames = match process.and_then(|process| process.runtime.as_mut()) {
            Some(Runtime::Node(node)) => node.marked(text),
            _ => mark::frames(text),
        };
        let truncated = frames.is_empty().then(|| "its mark names no calls".to_owned());
        Stack { frames, truncated }
    }

    /// Reads what the first stack of a process would wait for, where its runtime moves what frames
    /// refer to: the unwind information and the symbols of a large program.
    pub fn prepare(&mut self, pid: u32) {
        let Some(Entry { process, .. }) = self.processes.get_mut(&pid) else { return };
        if let Some(address) = process.runtime_code() {
            process.index();
            native_at(&mut self.native, &mut self.resolved, process, address);
        }
    }

    /// What is to be copied of the frames of a process's runtime, if they are understood.
    #[must_use]
    pub fn runtime_frames(&self, pid: u32) -> Option<RuntimeFrames> {
        self.processes.get(&pid)?.process.runtime.as_ref()?.frames()
    }

    /// The paths of the scripts that a process's runtime has loaded; `None` where that is not
    /// known, or not yet: it takes a stack of the process that was resolved.
    #[must_use]
    pub fn scripts(&self, pid: u32) -> Option<BTreeSet<String>> {
        self.processes.get(&pid)?.process.scripts()
    }

    /// Closes files that no process uses, down to [`MAX_IDLE_MODULES`].
    fn trim(&mut self) {
        let mut idle: Vec<(u64, FileId)> = self
            .modules
            .iter()
            .filter(|(_, (module, _))| Rc::strong_count(module) == 1)
            .map(|(&id, (_, used))| (*used, id))
            .collect();
        idle.sort_unstable_by_key(|(used, _)| *used);
        for (_, id) in idle.iter().take(idle.len().saturating_sub(MAX_IDLE_MODULES)) {
            if let Some((module, _)) = self.modules.remove(id) {
                self.native.forget(&module);
            }
        }
    }
}

/// What a walked stack stands for: `named` are the frames that its runtime keeps apart, `native_at`
/// gives those at an address.
fn understood(
    raw: &RawStack,
    walk: &Walk,
    runtime: Option<&Runtime>,
    named: Option<Named>,
    mut native_at: impl FnMut(u64) -> Rc<[Frame]>,
) -> Resolved {
    let mut frames: Vec<Frame> = Vec::new();
    let mut addresses = Vec::new();
    let mut managed = walk.managed.iter().peekable();
    for (index, address) in walk.addresses.iter().enumerate() {
        match managed.next_if(|(of, _)| *of == index) {
            Some((_, of_runtime)) => frames.extend_from_slice(of_runtime),
            None => frames.extend_from_slice(&native_at(address.lookup())),
        }
        addresses.resize(frames.len(), address.value);
    }
    let resolved = finish(raw, walk, frames);
    let Some(runtime) = runtime else { return resolved };
    let native_at = |address| native_at(address).first().cloned();
    let mut merged = runtime.merge(resolved, &addresses, named, raw, native_at);
    merged.stack.frames.truncate(MAX_FRAMES);
    merged
}

/// Opens files, each only once.
fn opener<'a>(
    modules: &'a mut HashMap<FileId, (Rc<Module>, u64)>,
    next_serial: &'a mut u64,
    clock: u64,
) -> impl FnMut(&Path, Option<u64>) -> Option<Rc<Module>> + 'a {
    move |path, inode| {
        let opened = Module::open(path, inode, *next_serial)?;
        let full = modules.len() >= MAX_MODULES;
        match modules.get_mut(&opened.id()) {
            Some((module, used)) => {
                *used = clock;
                Some(Rc::clone(module))
            }
            None if full => None,
            None => {
                *next_serial += 1;
                let module = Rc::new(opened);
                modules.insert(module.id(), (Rc::clone(&module), clock));
                Some(module)
            }
        }
    }
}

/// The native frames at an address of a process.
fn native_at(
    symbols: &mut NativeSymbols,
    resolved: &mut Cache<(u64, Role, u64), Rc<[Frame]>>,
    process: &mut Process,
    lookup: u64,
) -> Rc<[Frame]> {
    let Some((index, map)) = process.maps.code_at(lookup) else { return [unknown(None)].into() };
    let code = process.code.get(index).and_then(Option::as_ref);
    match (code, &map.backing) {
        (Some(code), _) if code.module.elf.is_some() => {
            let role = code.owner.role();
            let address = code.bias.map(|bias| lookup.wrapping_sub(bias));
            let key = (code.module.serial, role, address.unwrap_or(u64::MAX));
            resolved.get(&key).unwrap_or_else(|| {
                let found = address.map(|at| named(symbols, code, at)).unwrap_or_default();
                let found = if found.is_empty() {
                    [unknown(Some(code.owner.name.clone()))].into()
                } else {
                    Rc::from(found)
                };
                resolved.insert(key, Rc::clone(&found));
                found
            })
        }
        (None, Backing::File { path, .. }) => {
            let module = owner::NativeModule::new(path, false, false).name;
            [unknown(Some(module))].into()
        }
        (None, Backing::Kernel) => [unknown(Some("[vdso]".to_owned()))].into(),
        _ => {
            let named = process.perf_map().and_then(|map| map.frame_at(lookup));
            [named.unwrap_or_else(|| unknown(None))].into()
        }
    }
}

/// The frames at `address` of the addresses of `code`'s file.
fn named(symbols: &mut NativeSymbols, code: &process::Code, address: u64) -> Vec<Frame> {
    let go = code.module.go_table().map(|table| of_go(table, address, &code.owner.name));
    if let Some(frames) = go
        && !frames.is_empty()
    {
        return frames;
    }
    // Nobody is sent to a line of the runtime: its names are enough.
    let role = code.owner.role();
    let located = symbols.at(&code.module, address, role != Role::Runtime);
    located
        .into_iter()
        .map(|Located { symbol, inlined }| {
            let kind = owner::native(role, &symbol.function, symbol.file.as_deref());
            Frame { symbol: Some(symbol), module: Some(code.owner.name.clone()), kind, inlined }
        })
        .collect()
}

/// The frames at `address` of the addresses of a Go program; none where it is no Go function's.
fn of_go<D: AsRef<[u8]>>(table: &GoTable<D>, address: u64, module: &str) -> Vec<Frame> {
    let frame = |at: GoFrame| Frame {
        kind: owner::go(&at.function, at.file.as_deref()),
        symbol: Some(Symbol {
            function: owner::shortened(&at.function),
            file: at.file.as_deref().map(owner::shortened),
            line: at.line,
            column: None,
            definition: false,
            generated: None,
        }),
        module: Some(module.to_owned()),
        inlined: at.inlined,
    };
    table.resolve(address).into_iter().map(frame).collect()
}

fn unknown(module: Option<String>) -> Frame {
    Frame { symbol: None, module, kind: FrameKind::Unknown, inlined: false }
}

fn truncated(reason: String) -> Resolved {
    Resolved { stack: Stack { frames: Vec::new(), truncated: Some(reason) }, cut: false }
}

/// In a program whose own code has debug information, a function that has none was linked in: a
/// static C library, the C `main` that the Rust compiler writes.
fn disown_without_source(frames: &mut [Frame]) {
    let has_source = |frame: &Frame| frame.symbol.as_ref().is_some_and(|s| s.file.is_some());
    let is_own = |frame: &Frame| frame.kind == FrameKind::App && frame.module.is_some();
    if !frames.iter().any(|frame| is_own(frame) && has_source(frame)) {
        return;
    }
    for frame in frames.iter_mut().filter(|frame| is_own(frame) && !has_source(frame)) {
        frame.kind = FrameKind::Library;
    }
}

/// Says how the stack ended.
fn finish(raw: &RawStack, walk: &Walk, mut frames: Vec<Frame>) -> Resolved {
    let ends_in_root = frames
        .last()
        .and_then(|frame| frame.symbol.as_ref())
        .is_some_and(|symbol| ROOTS.contains(&symbol.function.as_str()));
    let ends_in_generated_code = frames.last().is_some_and(|frame| frame.module.is_none());
    let reason = match walk.end {
        _ if frames.len() > MAX_FRAMES => Some(format!("more than {MAX_FRAMES} frames")),
        _ if ends_in_root => None,
        End::Root => None,
        End::ChainEnded if ends_in_generated_code => {
            Some("the chain of frame pointers ends in generated code".to_owned())
        }
        End::ChainEnded => Some("the chain of frame pointers ends here".to_owned()),
        End::CopyTooSmall => Some(format!("only {} bytes of stack were copied", raw.bytes.len())),
        End::OffStack => Some("the next frame is not on the stack".to_owned()),
        End::NotCode(address) => Some(format!("return address {address:#x} is not code")),
        End::HiddenByProbe => Some("a return probe hides the caller".to_owned()),
        End::OfRuntime(reason) => Some(reason.to_owned()),
        End::TooDeep => Some(format!("deeper than {} calls", unwind::MAX_DEPTH)),
    };
    frames.truncate(MAX_FRAMES);
    disown_without_source(&mut frames);
    let has_app = frames.iter().any(|frame| frame.kind == FrameKind::App);
    let cut = reason.is_some() && walk.end == End::CopyTooSmall && !has_app;
    Resolved { stack: Stack { frames, truncated: reason }, cut }
}

fn add(losses: &mut Losses, more: Losses) {
    losses.perf_map_lines += more.perf_map_lines;
    losses.files += more.files;
}
