//! Loads the eBPF object, attaches it, and hands out its maps. Besides `ingest`, the only module
//! that knows aya.
//!
//! Invariants: everything attached is a link or a perf event owned by this process and gone with
//! it; nothing is pinned. Programs are loaded when they are first attached, so a probe that is
//! never needed is never verified.

mod bounds;
mod error;
mod pod;
mod stacks;
mod waits;

use std::{collections::HashSet, mem::offset_of, path::Path};

use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{Array, HashMap, MapData, PerCpuArray, ProgramArray, Queue, RingBuf},
    programs::{
        BtfTracePoint, ProgramError, ProgramFd, UProbe,
        tp_btf::BtfTracePointLinkId,
        uprobe::{UProbeLink, UProbeLinkId, UProbeScope},
    },
};
use tracer_ebpf::{
    config::{Config, Process},
    conn::{CONN_BYTES, Conn, conn_id, conn_slot},
    drops::DropReason,
    fd::{NEAR_GONE, near_place},
    limits::{MAX_CONNECTIONS, MAX_PROBES, NEAR_FDS, PIDS, PIDS_TOGETHER},
    parts,
    probe::ProbeSpec,
    python::Layout,
    socket,
    stack::{KIND_OPEN, SlotRef},
};

pub use bounds::{Bound, Bounds};
pub use error::LoadError;
use error::shorten;
pub use pod::plain_from_bytes;
use pod::{MappedArray, PodConfig, PodLayout, PodProbeSpec, PodProcess};
pub use stacks::CopiedStack;
use stacks::Stacks;
pub use waits::WaitMaps;

/// The object, embedded at build time.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("CONNLEAK_BPF_OBJECT"));

/// What of the processes' traffic is watched, by which hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watching {
    /// Nothing: a first connection is noticed.
    Nothing,
    /// TCP connections, by the hooks on sockets.
    Sockets,
    /// Everything, by the hook on system calls.
    Calls,
}

/// A program on a typed tracepoint.
pub struct Hook {
    /// Its name in the object.
    program: &'static str,
    pub tracepoint: &'static str,
    /// What is lost without.
    pub gives: &'static str,
    /// When it is attached; `None` is always.
    when: Option<Watching>,
    /// The map of the programs that it goes on in, and their names.
    parts: Option<(&'static str, &'static [&'static str])>,
}

impl Hook {
    const fn new(program: &'static str, tracepoint: &'static str, gives: &'static str) -> Self {
        Self { program, tracepoint, gives, when: None, parts: None }
    }

    const fn when(mut self, watching: Watching) -> Self {
        self.when = Some(watching);
        self
    }

    const fn parts(mut self, map: &'static str, parts: &'static [&'static str]) -> Self {
        self.parts = Some((map, parts));
        self
    }
}

/// The programs on tracepoints. A program array is filled with the first hook that goes on in it.
static HOOKS: [Hook; 8] = [
    Hook::new("on_fork", "sched_process_fork", "connections inherited over fork are followed"),
    Hook::new("on_exec", "sched_process_exec", "programs that start later are found"),
    Hook::new("on_exit", "sched_process_exit", "processes that end are noticed"),
    Hook::new("on_tcp_state", socket::STATES, "a first connection is noticed")
        .when(Watching::Nothing),
    Hook::new("on_socket_state", socket::STATES, "TCP connections are seen")
        .when(Watching::Sockets)
        .parts("STATE_PARTS", &parts::STATE_PARTS),
    Hook::new("on_socket_send", socket::SENDS, "what is sent over TCP is seen")
        .when(Watching::Sockets)
        .parts("SOCKET_PARTS", &parts::SOCKET_PARTS),
    Hook::new("on_socket_receive", socket::RECEIVES, "what is received over TCP is seen")
        .when(Watching::Sockets),
    Hook::new("on_syscall", "sys_exit", "connections and their traffic are seen")
        .when(Watching::Calls)
        .parts("PARTS", &parts::PARTS),
];

/// Those of the hooks that this kernel has use for, by whether it has the hooks on sockets.
pub fn hooks(by_socket: bool) -> impl Iterator<Item = &'static Hook> {
    let unused = if by_socket { Watching::Nothing } else { Watching::Sockets };
    HOOKS.iter().filter(move |hook| hook.when != Some(unused))
}

/// Probes that one thread detaches, one after the other.
const LINKS_PER_THREAD: usize = 4;

/// The loaded kernel side.
pub struct Kernel {
    ebpf: Ebpf,
    /// Until the programs on tracepoints are loaded; it is large.
    btf: Option<Btf>,
    /// What is watched, and the hooks that are attached for that.
    watching: Watching,
    switched: Vec<(&'static Hook, BtfTracePointLinkId)>,
    /// Kept open: programs are loaded later and refer to it.
    _config: Array<MapData, PodConfig>,
    /// Kept open: the kernel empties a program array that no one holds.
    parts: Vec<ProgramArray<MapData>>,
    mode: Array<MapData, u32>,
    probe_parts: ProgramArray<MapData>,
    fds: HashMap<MapData, u64, u64>,
    procs: HashMap<MapData, u32, PodProcess>,
    pythons: HashMap<MapData, u32, PodLayout>,
    drops: PerCpuArray<MapData, u64>,
    probes: Array<MapData, PodProbeSpec>,
    free_conns: Queue<MapData, u32>,
    conns: MappedArray<Conn>,
    holders: MappedArray<u64>,
    near: MappedArray<u64>,
    stacks: Stacks,
    waits: WaitMaps,
    loaded_probes: HashSet<usize>,
    probe_links: Vec<(usize, UProbeLinkId)>,
}

impl Kernel {
    /// Creates maps and writes the configuration; nothing is attached yet. `log_level` is that of
    /// the kernel side's diagnostics: 0 is off, and the verifier then removes their code.
    ///
    /// # Errors
    ///
    /// See [`LoadError`].
    pub fn load(
        config: Config,
        specs: &[ProbeSpec],
        bounds: Bounds,
        log_level: u8,
    ) -> Result<Self, LoadError> {
        if OBJECT.is_empty() {
            return Err(LoadError::NoObject);
        }
        let btf = Btf::from_sys_fs().map_err(|error| LoadError::Btf(shorten(&error)))?;
        let off = &config.off;
        let task_utask = if off.socket_hooks == 0 { 0 } else { off.task_utask };
        let mut ebpf = EbpfLoader::new()
            .btf(Some(&btf))
            .override_global("TASK_UTASK", &task_utask, true)
            .override_global("AYA_LOG_LEVEL", &log_level, false)
            .map_max_entries("FDS", bounds.descriptors)
            .map_max_entries("CHECKOUTS", bounds.checkouts)
            .map_max_entries("RING", bounds.ring)
            .load(OBJECT)
            .map_err(|error| LoadError::Object(shorten(&error)))?;
        let mut config_map: Array<MapData, PodConfig> = take(&mut ebpf, "CONFIG")?;
        config_map
            .set(0, PodConfig(config), 0)
            .map_err(|error| LoadError::Map { map: "CONFIG", reason: shorten(&error) })?;
        let mut free_conns: Queue<_, u32> = take(&mut ebpf, "FREE_CONNS")?;
        fill(&mut free_conns, "FREE_CONNS", 1..bounds.connections + 1)?;
        let conns = mapped(&ebpf, "CONNS", CONN_BYTES, MAX_CONNECTIONS)?;
        let holders = mapped(&ebpf, "HOLDERS", PIDS_TOGETHER as usize, PIDS / PIDS_TOGETHER)?;
        let near = mapped(&ebpf, "NEAR", size_of::<u64>(), NEAR_FDS)?;
        let mut kernel = Self {
            fds: take(&mut ebpf, "FDS")?,
            procs: take(&mut ebpf, "PROCS")?,
            pythons: take(&mut ebpf, "PYTHONS")?,
            drops: take(&mut ebpf, "DROPS")?,
            probes: take(&mut ebpf, "PROBES")?,
            free_conns,
            conns,
            holders,
            near,
            stacks: Stacks::new(&mut ebpf, bounds.stacks)?,
            waits: WaitMaps::new(&mut ebpf)?,
            loaded_probes: HashSet::new(),
            probe_links: Vec::new(),
            _config: config_map,
            parts: Vec::new(),
            mode: take(&mut ebpf, "MODE")?,
            probe_parts: take(&mut ebpf, "PROBE_PARTS")?,
            btf: Some(btf),
            watching: Watching::Nothing,
            switched: Vec::new(),
            ebpf,
        };
        for (index, spec) in specs.iter().enumerate() {
            kernel.set_probe(index, *spec)?;
        }
        Ok(kernel)
    }

    /// Loads the programs of [`hooks`], attaches those that follow processes, and watches sockets where the
    /// kernel has hooks on them.
    ///
    /// # Errors
    ///
    /// [`LoadError::Program`] for the first that the kernel refuses.
    pub fn attach(&mut self, by_socket: bool) -> Result<(), LoadError> {
        for hook in hooks(by_socket) {
            self.load_hook(hook)?;
        }
        self.btf = None;
        give_back_unused_memory();
        for hook in hooks(by_socket).filter(|hook| hook.when.is_none()) {
            self.attach_loaded(hook)?;
        }
        self.switch(if by_socket { Watching::Sockets } else { Watching::Nothing })
    }

    /// What is watched.
    #[must_use]
    pub fn watching(&self) -> Watching {
        self.watching
    }

    /// Attaches the hooks of this and detaches the others.
    ///
    /// # Errors
    ///
    /// [`LoadError::Program`] when the kernel refuses one; then it is as before.
    pub fn switch(&mut self, to: Watching) -> Result<(), LoadError> {
        if self.watching == to && !self.switched.is_empty() {
            return Ok(());
        }
        let mut links = Vec::new();
        for hook in HOOKS.iter().filter(|hook| hook.when == Some(to)) {
            match self.attach_loaded(hook) {
                Ok(link) => links.push((hook, link)),
                Err(error) => {
                    self.detach(links);
                    return Err(error);
                }
            }
        }
        let mode = if to == Watching::Sockets { socket::BY_SOCKET } else { socket::BY_CALL };
        let set = self.mode.set(0, mode, 0);
        if let Err(error) = set {
            self.detach(links);
            return Err(LoadError::Map { map: "MODE", reason: shorten(&error) });
        }
        self.watching = to;
        let others = std::mem::replace(&mut self.switched, links);
        self.detach(others);
        Ok(())
    }

    /// One that cannot be detached costs a little; that is no reason to fail.
    fn detach(&mut self, links: Vec<(&'static Hook, BtfTracePointLinkId)>) {
        for (hook, link) in links {
            let _attached = self.tracepoint(hook.program, hook.tracepoint).and_then(|program| {
                program
                    .detach(link)
                    .map_err(|error| refused(hook.program, hook.tracepoint, &shorten(&error)))
            });
        }
    }

    /// Loads and attaches one of [`hooks`].
    ///
    /// # Errors
    ///
    /// [`LoadError::Program`] when the kernel refuses it.
    pub fn attach_hook(&mut self, hook: &Hook) -> Result<(), LoadError> {
        self.load_hook(hook)?;
        self.attach_loaded(hook)?;
        Ok(())
    }

    fn attach_loaded(&mut self, hook: &Hook) -> Result<BtfTracePointLinkId, LoadError> {
        let Hook { program, tracepoint, .. } = hook;
        self.tracepoint(program, tracepoint)?
            .attach()
            .map_err(|error| refused(program, tracepoint, &shorten(&error)))
    }

    /// Loads a program, and the parts that it goes on in.
    fn load_hook(&mut self, hook: &Hook) -> Result<(), LoadError> {
        let Hook { program, tracepoint, .. } = hook;
        if let Some((map, parts)) = hook.parts {
            let mut array: ProgramArray<_> = take(&mut self.ebpf, map)?;
            for (place, part) in (0..).zip(parts) {
                if part.is_empty() {
                    continue;
                }
                let loaded = self.load_tracepoint(part, tracepoint)?;
                let fd = copied(loaded.fd());
                put(&mut array, place, fd).map_err(|why| refused(part, tracepoint, &why))?;
            }
            self.parts.push(array);
        }
        self.load_tracepoint(program, tracepoint).map(|_| ())
    }

    fn load_tracepoint(
        &mut self,
        program: &str,
        hook: &str,
    ) -> Result<&mut BtfTracePoint, LoadError> {
        let btf = self.btf.take();
        let loaded = self.tracepoint(program, hook).and_then(|tracepoint| {
            let btf = btf.as_ref().ok_or_else(|| refused(program, hook, "loaded too late"))?;
            tracepoint.load(hook, btf).map_err(|error| refused(program, hook, &shorten(&error)))
        });
        self.btf = btf;
        loaded?;
        self.tracepoint(program, hook)
    }

    fn tracepoint(&mut self, program: &str, hook: &str) -> Result<&mut BtfTracePoint, LoadError> {
        self.ebpf
            .program_mut(program)
            .ok_or_else(|| refused(program, hook, "not in the object"))?
            .try_into()
            .map_err(|error: ProgramError| refused(program, hook, &shorten(&error)))
    }

    /// Sets what probe program `index` does.
    ///
    /// # Errors
    ///
    /// [`LoadError::Map`] when there is no such program.
    pub fn set_probe(&mut self, index: usize, spec: ProbeSpec) -> Result<(), LoadError> {
        let failed = |reason| LoadError::Map { map: "PROBES", reason };
        if index >= MAX_PROBES {
            return Err(failed(format!("the catalogue has more than {MAX_PROBES} probes")));
        }
        self.probes
            .set(index as u32, PodProbeSpec(spec), 0)
            .map_err(|error| failed(shorten(&error)))
    }

    /// Loads probe program `index`, unless it is.
    ///
    /// # Errors
    ///
    /// [`LoadError::Program`] when the kernel refuses it.
    pub fn load_probe(&mut self, index: usize) -> Result<&mut UProbe, LoadError> {
        if self.loaded_probes.is_empty() {
            // In place before any that goes on in it.
            for (place, part) in (0..).zip(parts::PROBE_PARTS) {
                let fd = copied(self.loaded_probe(part)?.fd());
                put(&mut self.probe_parts, place, fd)
                    .map_err(|why| refused(part, "uprobe", &why))?;
            }
        }
        let name = format!("probe_{index}");
        if self.loaded_probes.insert(index) { self.loaded_probe(&name) } else { self.probe(&name) }
    }

    fn loaded_probe(&mut self, name: &str) -> Result<&mut UProbe, LoadError> {
        let probe = self.probe(name)?;
        probe.load().map_err(|error| refused(name, "uprobe", &shorten(&error)))?;
        Ok(probe)
    }

    fn probe(&mut self, name: &str) -> Result<&mut UProbe, LoadError> {
        self.ebpf
            .program_mut(name)
            .ok_or_else(|| refused(name, "uprobe", "not in the object"))?
            .try_into()
            .map_err(|error: ProgramError| refused(name, "uprobe", &shorten(&error)))
    }

    /// Attaches probe program `index` to a file, for all processes that map it.
    ///
    /// # Errors
    ///
    /// [`LoadError::Program`] or [`LoadError::Attach`].
    pub fn attach_probe(
        &mut self,
        index: usize,
        path: &Path,
        offset: u64,
    ) -> Result<(), LoadError> {
        let probe = self.load_probe(index)?;
        let link = probe.attach(offset, path, UProbeScope::AllProcesses).map_err(|error| {
            LoadError::Attach { path: path.to_owned(), offset, reason: shorten(&error) }
        })?;
        self.probe_links.push((index, link));
        Ok(())
    }

    /// The ring of rare events. Taken once.
    ///
    /// # Errors
    ///
    /// [`LoadError::Map`] when it was taken before.
    pub fn take_ring(&mut self) -> Result<RingBuf<MapData>, LoadError> {
        take(&mut self.ebpf, "RING")
    }

    /// Sends the kernel side's diagnostics to the `log` crate.
    ///
    /// # Errors
    ///
    /// [`LoadError::Map`] when the object has none.
    pub fn take_log(&mut self) -> Result<aya_log::EbpfLogger<&'static dyn log::Log>, LoadError> {
        aya_log::EbpfLogger::init(&mut self.ebpf)
            .map_err(|error| LoadError::Map { map: "AYA_LOGS", reason: shorten(&error) })
    }

    /// Reads a connection slot.
    #[must_use]
    pub fn conn(&self, slot: u32) -> Option<Conn> {
        self.conns.read(slot)
    }

    /// Puts a connection that existed before into a free slot and returns its id; `None` when there
    /// is no free slot. Generation and epoch of `conn` are set here.
    pub fn adopt(&mut self, conn: &Conn) -> Option<u64> {
        let slot = self.free_conns.pop(0).ok()?;
        let before = self.conns.read(slot)?;
        let epoch = before.epoch.wrapping_add(1).max(1);
        let conn = Conn { generation: epoch, epoch, ..*conn };
        self.conns.write(slot, &conn, true);
        Some(conn_id(slot, epoch))
    }

    /// Marks the slot free and gives it and its stacks back.
    pub fn free_conn(&mut self, id: u64) {
        let slot = conn_slot(id);
        let Some(conn) = self.conns.read(slot) else { return };
        if conn.sock != 0 {
            self.remove_fd(conn.sock, id);
        }
        self.conns.write_u32(slot, offset_of!(Conn, generation), 0);
        for (kind, packed) in conn.stacks.into_iter().enumerate() {
            if let Some(stack) = SlotRef::unpack(packed) {
                self.conns.write_u32(slot, offset_of!(Conn, stacks) + kind * 4, 0);
                self.stacks.retire(stack);
            }
        }
        // Only as many slots as the queue has places are ever out.
        let _full = self.free_conns.push(slot, 0);
    }

    /// Takes a stack that was read from its connection, unless it has changed since.
    pub fn retire_stack(&mut self, slot: u32, copied: &CopiedStack) {
        let Some(conn) = self.conns.read(slot) else { return };
        // Not that of its event: meanwhile that may be in another slot, and this one be of another event.
        let (stack, Some(kind)) = (copied.slot, copied.slot.kind(&conn.stacks)) else { return };
        let place = offset_of!(Conn, stacks) + kind * 4;
        self.conns.write_u32(slot, place, 0);
        if kind == KIND_OPEN {
            // A connection opens once.
            self.stacks.give_back(stack);
            return;
        }
        let taken_anew = self.conns.read(slot).is_none_or(|conn| conn.stacks[kind] != 0);
        if !taken_anew && self.stacks.seq(stack) != Some(copied.header.seq) {
            // A new stack was put there meanwhile.
            self.conns.write_u32(slot, place, stack.pack());
        } else {
            self.stacks.retire(stack);
        }
    }

    /// Time has passed: stacks retired before the last turn are free again.
    pub fn turn(&mut self) {
        self.stacks.turn();
    }

    /// Sets what the connection's next stacks are copied by.
    pub fn set_copied(&mut self, slot: u32, process: Process) {
        let Process { stack_class, runtime, goid, .. } = process;
        // The class last, which has the frames of a runtime copied.
        self.conns.write_u32(slot, offset_of!(Conn, goid), goid);
        self.conns.write_u32(slot, offset_of!(Conn, runtime), runtime);
        self.conns.write_u32(slot, offset_of!(Conn, stack_class), stack_class);
    }

    /// Copies a stack out of its slot; `None` when there is none, or it changed while it was read.
    #[must_use]
    pub fn stack(&self, packed: u32) -> Option<CopiedStack> {
        self.stacks.read(SlotRef::unpack(packed)?)
    }

    /// The connection of a descriptor's or a socket's key.
    #[must_use]
    pub fn fd(&self, key: u64) -> Option<u64> {
        self.fds.get(&key, 0).ok()
    }

    /// Makes a descriptor refer to a connection; false when the map is full.
    pub fn set_fd(&mut self, key: u64, id: u64) -> bool {
        let tgid = (key >> 32) as u32;
        self.holders.write_u8(tgid / PIDS_TOGETHER, (tgid % PIDS_TOGETHER) as usize, 1);
        self.near.write(near_place(key), &id, false);
        self.fds.insert(key, id, 0).is_ok()
    }

    /// Removes a key if it is still that of `id`.
    pub fn remove_fd(&mut self, key: u64, id: u64) {
        if self.fd(key) == Some(id) {
            let place = near_place(key);
            if self.near.read(place) == Some(id) {
                self.near.write(place, &NEAR_GONE, false);
            }
            // Missing is fine: the kernel side may have been first.
            let _missing = self.fds.remove(&key);
        }
    }

    /// Where a Python process keeps its frames; false when there are too many such processes.
    pub fn set_python(&mut self, tgid: u32, layout: Layout) -> bool {
        self.pythons.insert(tgid, PodLayout(layout), 0).is_ok()
    }

    /// A process has ended or replaced its image.
    pub fn remove_python(&mut self, tgid: u32) {
        // Missing is what most are.
        let _missing = self.pythons.remove(&tgid);
    }

    /// Who waits for a connection of a pool.
    pub fn waits(&mut self) -> &mut WaitMaps {
        &mut self.waits
    }

    /// A process's settings.
    #[must_use]
    pub fn process(&self, tgid: u32) -> Option<Process> {
        self.procs.get(&tgid, 0).ok().map(|process| process.0)
    }

    /// Changes a process's settings; false when the map is full.
    pub fn set_process(&mut self, tgid: u32, process: Process) -> bool {
        self.procs.insert(tgid, PodProcess(process), 0).is_ok()
    }

    /// Losses so far, by reason, those of zero left out.
    #[must_use]
    pub fn drops(&self) -> Vec<(DropReason, u64)> {
        DropReason::ALL
            .iter()
            .filter_map(|reason| {
                let values = self.drops.get(&(*reason as u32), 0).ok()?;
                let total: u64 = values.iter().sum();
                (total > 0).then_some((*reason, total))
            })
            .collect()
    }

    /// Run-time statistics of the loaded programs: name, runs, nanoseconds. Zero unless the
    /// kernel's `bpf_stats_enabled` is on.
    #[must_use]
    pub fn statistics(&self) -> Vec<(String, u64, u64)> {
        let mut rows = Vec::new();
        for (name, program) in self.ebpf.programs() {
            if let Ok(info) = program.info() {
                rows.push((
                    name.to_owned(),
                    info.run_count(),
                    u64::try_from(info.run_time().as_nanos()).unwrap_or(u64::MAX),
                ));
            }
        }
        rows.sort();
        rows
    }
}

impl Drop for Kernel {
    /// Detaches the probes side by side: the kernel waits for a grace period of some 100 ms for
    /// each (`perf_uprobe_destroy`), and these pass at the same time.
    fn drop(&mut self) {
        let mut links: Vec<UProbeLink> = Vec::new();
        for (index, id) in std::mem::take(&mut self.probe_links) {
            let Some(program) = self.ebpf.program_mut(&format!("probe_{index}")) else { continue };
            let Ok(probe) = <&mut UProbe>::try_from(program) else { continue };
            // One that is gone is detached.
            links.extend(probe.take_link(id).ok());
        }
        std::thread::scope(|scope| {
            while !links.is_empty() {
                let some = links.split_off(links.len().saturating_sub(LINKS_PER_THREAD));
                scope.spawn(move || drop(some));
            }
        });
    }
}

/// The kernel's type information is many small blocks: the allocator keeps what they leave, some
/// 13 MiB, unless it is told.
#[expect(unsafe_code, reason = "an entry of the C library")]
fn give_back_unused_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it has no precondition (glibc, `malloc_trim(3)`).
    unsafe {
        libc::malloc_trim(0);
    }
}

fn refused(program: &str, hook: &str, reason: &str) -> LoadError {
    LoadError::Program {
        program: program.to_owned(),
        hook: hook.to_owned(),
        reason: reason.to_owned(),
    }
}

fn take<T>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, LoadError>
where
    T: TryFrom<aya::maps::Map, Error = aya::maps::MapError>,
{
    let map = ebpf
        .take_map(name)
        .ok_or_else(|| LoadError::Map { map: name, reason: "not in the object".to_owned() })?;
    T::try_from(map).map_err(|error| LoadError::Map { map: name, reason: shorten(&error) })
}

fn fill(
    queue: &mut Queue<MapData, u32>,
    name: &'static str,
    slots: std::ops::Range<u32>,
) -> Result<(), LoadError> {
    for slot in slots {
        queue
            .push(slot, 0)
            .map_err(|error| LoadError::Map { map: name, reason: shorten(&error) })?;
    }
    Ok(())
}

/// A descriptor of a loaded program of its own.
fn copied(fd: Result<&ProgramFd, ProgramError>) -> Result<ProgramFd, ProgramError> {
    Ok(fd?.try_clone()?)
}

/// Puts a program where others go on in it; else says why not.
fn put(
    parts: &mut ProgramArray<MapData>,
    place: u32,
    program: Result<ProgramFd, ProgramError>,
) -> Result<(), String> {
    let program = program.map_err(|error| shorten(&error))?;
    parts.set(place, &program, 0).map_err(|error| shorten(&error))
}

fn mapped<T: pod::Plain>(
    ebpf: &Ebpf,
    name: &'static str,
    stride: usize,
    len: u32,
) -> Result<MappedArray<T>, LoadError> {
    let failed = |reason| LoadError::Map { map: name, reason };
    let aya::maps::Map::Array(data) =
        ebpf.map(name).ok_or_else(|| failed("not in the object".to_owned()))?
    else {
        return Err(failed("not an array".to_owned()));
    };
    let info = data.info().map_err(|error| failed(shorten(&error)))?;
    if info.value_size() as usize != stride || info.max_entries() != len {
        return Err(failed(format!(
            "has {} values of {} bytes, not {len} of {stride}",
            info.max_entries(),
            info.value_size()
        )));
    }
    MappedArray::new(data.fd(), stride, len).map_err(|error| failed(error.to_string()))
}
