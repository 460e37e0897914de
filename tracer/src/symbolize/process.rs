//! A process as it was when it was looked at: its mappings and the files behind its code.
//!
//! May import `std` and this module's files. Invariants: what was read stays usable after the
//! process has ended; a refresh never mixes two processes that had the same pid.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::cfi;
use super::frame_pointer::{CALL_BYTES, PROLOGUE_BYTES, above_stack_pointer, ends_in_call};
use super::hotspot::Hotspot;
use super::maps::{Backing, CodeMap, Maps};
use super::module::Module;
use super::node::Node;
use super::owner::{self, NativeModule, Role};
use super::perf_map::PerfMap;
use super::php::Php;
use super::python::Python;
use super::runtime::Runtime;
use super::unwind::{End, Stepper, Unwinder, Walk};
use super::{Losses, RawStack, unread};

/// Bytes read of `/proc/PID/maps`: some 100 per mapping.
const MAX_MAPS_BYTES: u64 = 16 << 20;
/// Bytes read of `/proc/PID/status` and `stat`.
const MAX_STATUS_BYTES: u64 = 64 << 10;
/// Bytes read of `/proc/PID/cmdline`.
const MAX_CMDLINE_BYTES: u64 = 64 << 10;

/// Files that code is mapped from, kept open per process.
const MAX_MODULES: usize = 1024;

/// The code of one mapping.
#[derive(Clone)]
pub(super) struct Code {
    pub module: Rc<Module>,
    /// What the mapping adds to the file's own addresses; `None` when the file has none for it.
    pub bias: Option<u64>,
    pub owner: NativeModule,
}

/// A snapshot of a process.
pub(super) struct Process {
    pid: u32,
    start_time: u64,
    pub maps: Maps,
    /// One per entry of `maps.code`; `None` when no file is behind it or it could not be opened.
    pub code: Vec<Option<Code>>,
    unwinder: Option<Unwinder>,
    perf_map: Option<PerfMap>,
    /// There was none when it was looked for at the present stack.
    no_perf_map: bool,
    pub runtime: Option<Runtime>,
    /// Files that could not be opened.
    unopened: u64,
}

impl Process {
    /// Looks at process `pid`. `open` opens a file or finds it among those already open.
    ///
    /// # Errors
    ///
    /// When the process is gone or may not be looked at.
    pub fn observe(pid: u32, open: &mut Open<'_>) -> io::Result<Self> {
        let start_time = start_time(pid)?;
        let maps = Maps::parse(&read(&format!("/proc/{pid}/maps"), MAX_MAPS_BYTES)?);
        let mut process = Self {
            pid,
            start_time,
            maps: Maps::default(),
            code: Vec::new(),
            unwinder: None,
            perf_map: None,
            no_perf_map: false,
            runtime: None,
            unopened: 0,
        };
        process.set_maps(maps, open);
        process.perf_map = PerfMap::open(pid, &identity(pid)?);
        Ok(process)
    }

    /// Looks again, because an address is not where code was known. `false` when nothing new was
    /// learned: the process has ended.
    pub fn refresh(&mut self, open: &mut Open<'_>) -> bool {
        let Ok(text) = read(&format!("/proc/{}/maps", self.pid), MAX_MAPS_BYTES) else {
            return false;
        };
        if start_time(self.pid).ok() != Some(self.start_time) {
            return false;
        }
        let mut maps = Maps::parse(&text);
        maps.keep_from(&self.maps);
        if maps == self.maps {
            return false;
        }
        self.set_maps(maps, open);
        true
    }

    fn set_maps(&mut self, maps: Maps, open: &mut Open<'_>) {
        let executable = std::fs::read_link(format!("/proc/{}/exe", self.pid)).ok();
        let executable = executable.as_ref().map(|path| path.as_os_str().as_bytes());
        let executable = executable.map(|path| path.strip_suffix(b" (deleted)").unwrap_or(path));
        let paths = maps.code.iter().filter_map(|map| match &map.backing {
            Backing::File { path, .. } => Some(path.as_slice()),
            _ => None,
        });
        let interpreted = owner::runs_an_interpreter(executable.into_iter().chain(paths));
        let mut old: Vec<_> = std::mem::take(&mut self.maps.code)
            .into_iter()
            .zip(std::mem::take(&mut self.code))
            .collect();
        let mut opened = 0;
        let code = maps
            .code
            .iter()
            .map(|map| {
                if let Some(index) = old.iter().position(|(old, _)| old == map) {
                    return old.swap_remove(index).1;
                }
                let Backing::File { inode, path } = &map.backing else { return None };
                opened += 1;
                let module = if opened > MAX_MODULES {
                    None
                } else {
                    self.open_module(map, *inode, path, open)
                };
                let Some(module) = module else {
                    self.unopened += 1;
                    return None;
                };
                let bias = module
                    .elf
                    .as_ref()
                    .and_then(|elf| map.start.checked_sub(elf.address_of(map.offset)?));
                let is_executable = executable == Some(path.as_slice());
                Some(Code {
                    module,
                    bias,
                    owner: NativeModule::new(path, is_executable, interpreted),
                })
            })
            .collect();
        self.code = code;
        self.maps = maps;
        self.unwinder = None;
        if self.runtime.is_none() {
            self.runtime = self.find_runtime();
        }
    }

    /// The runtime among the files.
    fn find_runtime(&self) -> Option<Runtime> {
        let arguments =
            || read(&format!("/proc/{}/cmdline", self.pid), MAX_CMDLINE_BYTES).unwrap_or_default();
        let unread = |language, why: &str| {
            Some(Runtime::Unknown(unread::words(self.pid, &arguments(), language, why)))
        };
        let found = self.code.iter().flatten().find_map(|code| {
            // Of its own, or within a program that embeds it.
            if !matches!(code.owner.role(), Role::Runtime | Role::Program) {
                return None;
            }
            match code.module.python(&code.owner.name) {
                Some(Ok(found)) => {
                    let module = &code.owner.name;
                    return Python::new(self.pid, *found, code.bias?, module).map(Runtime::Python);
                }
                Some(Err(reason)) => return unread("Python", reason),
                None => {}
            }
            match code.module.php() {
                Some(Ok(found)) => return Php::new(self.pid, *found, code.bias?).map(Runtime::Php),
                Some(Err(reason)) => return unread("PHP", reason),
                None => {}
            }
            if let Some(machine) = code.module.java() {
                return Hotspot::new(self.pid, machine, code.bias?).map(Runtime::Java);
            }
            match code.module.node()? {
                Ok(engine) => Node::new(self.pid, Rc::clone(engine), code.bias?)
                    .map(|node| Runtime::Node(Box::new(node))),
                Err(reason) => Some(Runtime::Unknown(format!("no JavaScript frames: {reason}"))),
            }
        });
        found.or_else(|| {
            let files = self.code.iter().flatten().map(|code| code.owner.name.as_str());
            unread::reason(self.pid, &arguments(), files).map(Runtime::Unknown)
        })
    }

    fn open_module(
        &self,
        map: &CodeMap,
        inode: u64,
        path: &[u8],
        open: &mut Open<'_>,
    ) -> Option<Rc<Module>> {
        // By the mapping itself: right also for a file that was deleted or replaced, and in
        // another mount namespace. It needs a capability, so there is a second way.
        let by_mapping = format!("/proc/{}/map_files/{:x}-{:x}", self.pid, map.start, map.end);
        open(Path::new(&by_mapping), None).or_else(|| {
            let mut by_name = PathBuf::from(format!("/proc/{}/root", self.pid));
            by_name.push(Path::new(OsStr::from_bytes(path)).strip_prefix("/").ok()?);
            open(&by_name, Some(inode))
        })
    }

    /// The unwind information of all code that has some.
    fn unwinder(&mut self) -> (&Unwinder, &Maps) {
        let unwinder = self.unwinder.get_or_insert_with(|| {
            let mut unwinder = Unwinder::default();
            for (map, code) in self.maps.code.iter().zip(&self.code) {
                if let Some(Code { module, bias: Some(bias), .. }) = code
                    && let Some(elf) = &module.elf
                    && module.is_unwind_bounded()
                {
                    unwinder.add(map.start..map.end, *bias, elf);
                }
            }
            unwinder
        });
        (unwinder, &self.maps)
    }

    /// Makes the unwind information ready.
    pub fn index(&mut self) {
        self.unwinder();
    }

    /// An address in the code of a runtime that moves what its frames refer to.
    pub fn runtime_code(&self) -> Option<u64> {
        let Some(Runtime::Node(_)) = &self.runtime else { return None };
        let is_engine = |code: &Option<Code>| {
            code.as_ref().is_some_and(|code| code.bias.is_some() && code.module.node().is_some())
        };
        let index = self.code.iter().position(is_engine)?;
        Some(self.maps.code.get(index)?.start)
    }

    /// Walks a stack of this process.
    pub fn walk(&mut self, raw: &RawStack) -> Walk {
        let mut runtime = self.runtime.take();
        self.no_perf_map = false;
        let (unwinder, maps) = self.unwinder();
        let walk = walked(unwinder, raw, maps, runtime.as_mut());
        self.runtime = runtime;
        walk
    }

    /// The frame pointer that a stack began with of which it is not known: where the walk
    /// ended for want of it, nothing had changed it yet. `read` reads the process's memory.
    pub fn frame_pointer(
        &self,
        walk: &Walk,
        read: &dyn Fn(u64, &mut [u8]) -> Option<()>,
    ) -> Option<u64> {
        let address = walk.addresses.last()?.lookup();
        let (index, _) = self.maps.code_at(address)?;
        let Code { module, bias, .. } = self.code.get(index)?.as_ref()?;
        let (elf, bias) = (module.elf.as_ref()?, (*bias)?);
        if !module.is_unwind_bounded() {
            return None;
        }
        let (eh_frame, hdr) = (elf.eh_frame.as_ref()?, elf.eh_frame_hdr.as_ref()?);
        let start = cfi::function_at(eh_frame, hdr, address.wrapping_sub(bias))?;
        let start = start.wrapping_add(bias);
        let length = usize::try_from(address.checked_sub(start)?).ok()?;
        let mut prologue = vec![0; length.min(PROLOGUE_BYTES)];
        read(start, &mut prologue)?;
        let found = walk.sp.checked_add(above_stack_pointer(&prologue)?)?;
        // What is above it must be where a call returns to.
        let mut word = [0; 8];
        read(found.checked_add(8)?, &mut word)?;
        let caller = u64::from_le_bytes(word);
        self.maps.code_at(caller.checked_sub(1)?)?;
        let mut call = [0; CALL_BYTES];
        read(caller.checked_sub(CALL_BYTES as u64)?, &mut call)?;
        ends_in_call(&call).then_some(found)
    }

    /// Whether `address` is in a program whose functions cannot be named.
    pub fn is_nameless_at(&self, address: u64) -> bool {
        let code = self.maps.code_at(address).and_then(|(index, _)| self.code.get(index)?.as_ref());
        code.is_some_and(|code| code.owner.role() == Role::Program && code.module.is_nameless())
    }

    /// Whether everything that `walk` met was code when the process was looked at.
    pub fn knows(&self, raw: &RawStack, walk: &Walk) -> bool {
        self.maps.code_at(raw.ip).is_some() && !matches!(walk.end, End::NotCode(_))
    }

    /// What could not be read.
    pub fn losses(&self) -> Losses {
        let perf_map_lines = self.perf_map.as_ref().map_or(0, PerfMap::skipped);
        Losses { perf_map_lines, files: self.unopened }
    }

    /// Forgets the code of files that were changed after they were opened: their bytes are no
    /// longer those that run.
    pub fn drop_changed(&mut self) {
        for code in &mut self.code {
            if code.as_ref().is_some_and(|code| !code.module.is_intact()) {
                *code = None;
                self.unwinder = None;
            }
        }
    }

    /// The paths of the scripts that its runtime has loaded, where that can be known by now.
    pub fn scripts(&self) -> Option<BTreeSet<String>> {
        let Some(Runtime::Node(node)) = &self.runtime else { return None };
        let text = read(&format!("/proc/{}/maps", self.pid), MAX_MAPS_BYTES).ok()?;
        node.scripts(Maps::parse(&text).writable())
    }

    /// The names that the process wrote down for the code it made.
    pub fn perf_map(&mut self) -> Option<&mut PerfMap> {
        if self.perf_map.is_none() && !self.no_perf_map {
            // Else it would be looked for at every frame of generated code.
            self.no_perf_map = true;
            let identity = identity(self.pid).ok()?;
            if start_time(self.pid).ok() != Some(self.start_time) {
                return None;
            }
            self.perf_map = PerfMap::open(self.pid, &identity);
        }
        self.perf_map.as_mut()
    }
}

/// Walks a stack of a process with this runtime.
pub(super) fn walked(
    unwinder: &Unwinder,
    raw: &RawStack,
    maps: &Maps,
    runtime: Option<&mut Runtime>,
) -> Walk {
    match runtime {
        Some(Runtime::Java(java)) => {
            let stepper: &mut Stepper<'_> = &mut |at, read| java.step(at, read);
            unwinder.walk(raw, maps, Some(stepper))
        }
        _ => unwinder.walk(raw, maps, None),
    }
}

/// Opens the file at a path, which must have the inode when one is given.
pub(super) type Open<'a> = dyn FnMut(&Path, Option<u64>) -> Option<Rc<Module>> + 'a;

/// Who a process is, from `/proc/PID/status`.
pub(super) struct Identity {
    /// Real, effective, saved and file system user ids.
    pub users: Vec<u32>,
    /// The pid in the process's own pid namespace.
    pub own_pid: u32,
}

fn identity(pid: u32) -> io::Result<Identity> {
    let status = read(&format!("/proc/{pid}/status"), MAX_STATUS_BYTES)?;
    let field = |name: &[u8]| -> Vec<u32> {
        status
            .split(|&b| b == b'\n')
            .find_map(|line| line.strip_prefix(name))
            .map(|line| String::from_utf8_lossy(line))
            .map(|line| line.split_whitespace().filter_map(|word| word.parse().ok()).collect())
            .unwrap_or_default()
    };
    let own_pid = field(b"NSpid:").last().copied().unwrap_or(pid);
    Ok(Identity { users: field(b"Uid:"), own_pid })
}

/// Field 22 of `/proc/PID/stat`, in clock ticks after boot.
fn start_time(pid: u32) -> io::Result<u64> {
    start_time_of(&format!("/proc/{pid}/stat"))
}

/// The same of a process or thread whose `stat` is this.
pub(super) fn start_time_of(stat: &str) -> io::Result<u64> {
    let stat = read(stat, MAX_STATUS_BYTES)?;
    // The command, in parentheses, can hold anything.
    let after = stat.iter().rposition(|&b| b == b')').map_or(0, |index| index + 1);
    String::from_utf8_lossy(&stat[after..])
        .split_whitespace()
        .nth(19)
        .and_then(|word| word.parse().ok())
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

pub(super) fn read(path: &str, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}
