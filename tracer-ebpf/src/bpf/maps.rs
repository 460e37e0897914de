//! Every map, with its bound and what a full one means. No logic.
//!
//! May import aya-ebpf and the contract.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, pt_regs},
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, PerCpuHashMap, ProgramArray, Queue, RingBuf},
};
use tracer_ebpf::{
    config::{Config, Process},
    conn::Conn,
    drops::DropReason,
    limits::{
        MAX_CALLERS, MAX_CHECKOUTS, MAX_CONNECTIONS, MAX_DESCRIPTORS, MAX_KEYS, MAX_PROBES,
        MAX_PROCESSES, MAX_PYTHONS, MAX_WAITED_POOLS, NEAR_FDS, PIDS, PIDS_TOGETHER, RING_BYTES,
    },
    parts,
    probe::ProbeSpec,
    python::Layout,
    stack::{CLASS_BYTES, CLASS_SLOTS, StackHeader},
    wait::{Caller, CallerKey, Waits, WaitsKey},
    wire::NAME_BYTES,
};

/// A stack slot of a class.
#[repr(C)]
pub struct StackSlot<const BYTES: usize> {
    pub header: StackHeader,
    pub bytes: [u8; BYTES],
}

/// A pool handle of a process.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct HandleKey {
    pub tgid: u64,
    pub identity: u64,
}

/// Bytes of a call's buffer that are read at once; a mask, one less than a power of two.
pub const WINDOW_BYTES: u64 = 255;

/// The longest of the walker's reads of the window: a name.
pub const LONGEST_READ: usize = NAME_BYTES;

/// Where the stack is taken.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Site {
    /// `CLOCK_MONOTONIC` nanoseconds.
    pub at: u64,
    pub conn: u64,
    pub pid_tgid: u64,
    pub ip: u64,
    pub sp: u64,
    pub bp: u64,
    pub g: u64,
    /// `FLAG_` bits of the contract's `stack` module.
    pub flags: u32,
    pub _pad: u32,
}

impl Site {
    /// The place of the saved registers.
    ///
    /// # Safety
    ///
    /// `regs` is the context of a uprobe or the trusted argument of a tracepoint.
    #[inline(always)]
    pub unsafe fn of(regs: *const pt_regs, at: u64, conn: u64, pid_tgid: u64, flags: u32) -> Self {
        // SAFETY: by this function's contract.
        let (ip, sp, bp, g) = unsafe { ((*regs).rip, (*regs).rsp, (*regs).rbp, (*regs).r14) };
        Self { at, conn, pid_tgid, ip, sp, bp, g, flags, _pad: 0 }
    }
}

/// What the parts of one run hand on: the connection, and the beginning of the buffer that the
/// call sent or received.
#[repr(C)]
pub struct Call {
    pub conn: u64,
    /// Bytes of the send or receive that were passed, and whether the connection was settled then.
    pub passed: u64,
    pub settled: u64,
    /// Bytes of the call, in all of its messages, and times that the walk along them was gone on with.
    pub moved: u64,
    pub rounds: u32,
    /// 1: what several messages of the call say is not followed.
    pub several: u32,
    /// Where the walk along a runtime's frames was left.
    pub pc: u64,
    pub fp: u64,
    /// Frames of the stack that was in the slot before whose functions may be taken over.
    pub known: u32,
    /// The first frame that is not in the copied bytes; zero before.
    pub tail_fp: u64,
    pub tail_pc: u64,
    /// What the statement looked at says.
    pub marks: u32,
    /// The stack to keep: its kind, and where it is.
    pub kind: u32,
    pub site: Site,
    /// The buffer's address in the process.
    pub base: u64,
    /// Bytes of it in `bytes`.
    pub len: u64,
    /// With room for a read that begins at the last byte.
    pub bytes: [u8; WINDOW_BYTES as usize + 1 + LONGEST_READ],
}

impl Call {
    /// The stack is to be kept, as this kind, by the part that the program goes on in. Its registers are
    /// handed on, as a hook on sockets would have to ask for them again.
    #[inline(always)]
    pub fn want(&mut self, kind: usize, site: Site) {
        self.kind = kind as u32;
        self.site = site;
    }
}

/// Written once by user space before anything is attached.
#[map]
pub static CONFIG: Array<Config> = Array::with_max_entries(1, 0);

/// Connections, read by user space through a memory mapping. Slots come from `FREE_CONNS`.
#[map]
pub static CONNS: Array<Conn> = Array::with_max_entries(MAX_CONNECTIONS, BPF_F_MMAPABLE);

/// Free slots of `CONNS`, filled by user space. Empty: `NoConnectionSlot`.
#[map]
pub static FREE_CONNS: Queue<u32> = Queue::with_max_entries(MAX_CONNECTIONS, 0);

/// (tgid << 32 | fd), and the address of a socket in the kernel, which no such key can be, to connection
/// id. Full: `DescriptorMapFull`.
#[map]
pub static FDS: HashMap<u64, u64> = HashMap::with_max_entries(MAX_DESCRIPTORS, 0);

/// Connection ids by the place of their descriptor (see `fd` in the contract).
#[map]
pub static NEAR: Array<u64> = Array::with_max_entries(NEAR_FDS, BPF_F_MMAPABLE);

/// A byte for each process id: not zero while the process may have descriptors in `FDS`. All other
/// processes of the host leave the hook after a look at theirs. Set by whoever fills `FDS`, before that;
/// cleared at the process's end.
#[map]
pub static HOLDERS: Array<[u8; PIDS_TOGETHER as usize]> =
    Array::with_max_entries(PIDS / PIDS_TOGETHER, BPF_F_MMAPABLE);

/// The process's byte in [`HOLDERS`].
#[inline(always)]
pub fn holder(tgid: u32) -> Option<*mut u8> {
    let together = HOLDERS.get_ptr_mut(tgid / PIDS_TOGETHER)?;
    // SAFETY: a live map value, with the place within it.
    Some(unsafe { together.cast::<u8>().add((tgid & (PIDS_TOGETHER - 1)) as usize) })
}

/// Which hooks follow sends and receives (see `socket` in the contract).
#[map]
pub static MODE: Array<u32> = Array::with_max_entries(1, 0);

/// Whether these hooks follow sends and receives.
#[inline(always)]
pub fn is_mode(mode: u32) -> bool {
    MODE.get(0) == Some(&mode)
}

/// Per-process settings by tgid. Full: `ProcessMapFull`.
#[map]
pub static PROCS: HashMap<u32, Process> = HashMap::with_max_entries(MAX_PROCESSES, 0);

/// Pool handles to connection ids. Full: `CheckoutMapFull`.
#[map]
pub static CHECKOUTS: HashMap<HandleKey, u64> = HashMap::with_max_entries(MAX_CHECKOUTS, 0);

/// Callers in an acquire. Full: `CallerMapFull`.
#[map]
pub static CALLERS: HashMap<CallerKey, Caller> = HashMap::with_max_entries(MAX_CALLERS, 0);

/// Waits that are over, by pool. Full: `WaitsMapFull`.
#[map]
pub static WAITS: PerCpuHashMap<WaitsKey, Waits> =
    PerCpuHashMap::with_max_entries(MAX_WAITED_POOLS, 0);

/// Process id and key of server backends, in either order, to connection ids. Full: the one not
/// looked up for longest is forgotten, and that connection's checkouts are not seen. Stays in the
/// kernel: who has such a key can cancel queries.
#[map]
pub static KEYS: LruHashMap<u64, u64> = LruHashMap::with_max_entries(MAX_KEYS, 0);

/// Process and address of a probe to the offset at which its objects hold that key. Full: the least
/// recently used is learned again.
#[map]
pub static KEY_OFFSETS: LruHashMap<HandleKey, u32> = LruHashMap::with_max_entries(MAX_PROCESSES, 0);

/// Stack slots by class, read by user space when it needs them.
#[map]
pub static STACKS_0: Array<StackSlot<{ CLASS_BYTES[0] as usize }>> =
    Array::with_max_entries(CLASS_SLOTS[0], 0);
#[map]
pub static STACKS_1: Array<StackSlot<{ CLASS_BYTES[1] as usize }>> =
    Array::with_max_entries(CLASS_SLOTS[1], 0);
#[map]
pub static STACKS_2: Array<StackSlot<{ CLASS_BYTES[2] as usize }>> =
    Array::with_max_entries(CLASS_SLOTS[2], 0);

#[map]
pub static STACKS_3: Array<StackSlot<{ CLASS_BYTES[3] as usize }>> =
    Array::with_max_entries(CLASS_SLOTS[3], 0);

/// Where Python processes keep their frames, by tgid; written by user space.
#[map]
pub static PYTHONS: HashMap<u32, Layout> = HashMap::with_max_entries(MAX_PYTHONS, 0);

/// Free stack slots by class, filled by user space. Empty: `NoStackSlot`.
#[map]
pub static FREE_STACKS_0: Queue<u32> = Queue::with_max_entries(CLASS_SLOTS[0], 0);
#[map]
pub static FREE_STACKS_1: Queue<u32> = Queue::with_max_entries(CLASS_SLOTS[1], 0);
#[map]
pub static FREE_STACKS_2: Queue<u32> = Queue::with_max_entries(CLASS_SLOTS[2], 0);
#[map]
pub static FREE_STACKS_3: Queue<u32> = Queue::with_max_entries(CLASS_SLOTS[3], 0);

/// Places of [`CALL`]; a power of two.
const CALLS: u32 = 64;

/// Filled and used within one run of the system-call program and its part. Newer kernels let the
/// programs of tracepoints be preempted, by those of another thread on the same CPU too, so threads
/// have places of their own: only two whose numbers agree in the last bits could meet in one.
#[map]
pub static CALL: PerCpuArray<Call> = PerCpuArray::with_max_entries(CALLS, 0);

/// The place of a thread in [`CALL`].
#[inline(always)]
pub fn call_of(pid_tgid: u64) -> Option<*mut Call> {
    CALL.get_ptr_mut(pid_tgid as u32 & (CALLS - 1))
}

/// Rare events. Full: `RingFull`.
#[map]
pub static RING: RingBuf = RingBuf::with_byte_size(RING_BYTES, 0);

/// Counters by `DropReason`.
#[map]
pub static DROPS: PerCpuArray<u64> = PerCpuArray::with_max_entries(DropReason::COUNT, 0);

/// What probe program `n` does.
#[map]
pub static PROBES: Array<ProbeSpec> = Array::with_max_entries(MAX_PROBES as u32, 0);

/// The parts of `on_syscall`. Programs of their own, because the
/// verifier adds up the stack frames of one program and follows all of its paths.
#[map]
pub static PARTS: ProgramArray = ProgramArray::with_max_entries(parts::PARTS.len() as u32, 0);

/// The same for the hooks on sockets that see bytes move, and for the one that sees states change.
#[map]
pub static SOCKET_PARTS: ProgramArray =
    ProgramArray::with_max_entries(parts::SOCKET_PARTS.len() as u32, 0);
#[map]
pub static STATE_PARTS: ProgramArray =
    ProgramArray::with_max_entries(parts::STATE_PARTS.len() as u32, 0);

/// The parts of the probes.
#[map]
pub static PROBE_PARTS: ProgramArray =
    ProgramArray::with_max_entries(parts::PROBE_PARTS.len() as u32, 0);

/// Where a path is read to.
#[repr(C)]
pub struct PathBytes(pub [u8; 112]);

/// Scratch for the path of a Unix socket: too large for a stack frame.
#[map]
pub static PATHS: PerCpuArray<PathBytes> = PerCpuArray::with_max_entries(1, 0);
