//! What user space tells the kernel side once, before the programs are loaded.
//!
//! May import [`limits`](crate::limits) and [`mark`](crate::mark). Invariant: a zero offset means "this kernel has no such
//! field" and turns the feature off; nothing is guessed.

use crate::limits::MAX_PORTS;
use crate::mark::POOLS;

/// Read-only configuration, the single element of the `CONFIG` array map.
///
/// Offsets are in bytes, from the running kernel's BTF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Config {
    /// Watched TCP ports in host order; zero is an unused entry.
    pub ports: [u16; MAX_PORTS],
    /// 1: only processes marked [`PROC_WATCHED`] in the process map are watched.
    pub only_marked: u32,
    /// 1: Unix sockets `.s.PGSQL.N` are watched for any N, not only for the watched ports.
    pub any_unix_port: u32,
    /// User space's own process id, never watched.
    pub own_tgid: u32,
    pub _pad: u32,
    /// Pools of the catalogue (index) that processes' own [marks](crate::mark) are about, by their byte.
    pub marked_pools: [u32; POOLS],
    pub off: Offsets,
}

/// Offsets of kernel struct members, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Offsets {
    /// `task_struct.files`
    pub task_files: u32,
    /// `task_struct.tgid`
    pub task_tgid: u32,
    /// `task_struct.signal`
    pub task_signal: u32,
    /// `task_struct.utask`; zero where uprobes are not compiled in.
    pub task_utask: u32,
    /// `signal_struct.live` (its counter is at the same place)
    pub signal_live: u32,
    /// `files_struct.fdt`
    pub files_fdt: u32,
    /// `fdtable.fd`
    pub fdt_fd: u32,
    /// `fdtable.max_fds`
    pub fdt_max_fds: u32,
    /// `file.private_data`
    pub file_private_data: u32,
    /// `file.f_inode`
    pub file_inode: u32,
    /// `inode.i_ino`
    pub inode_ino: u32,
    /// `socket.type` (an `i16`)
    pub socket_type: u32,
    /// `socket.sk`
    pub socket_sk: u32,
    /// `sock.__sk_common.skc_num` (the local port, host order)
    pub sock_num: u32,
    /// `sock.__sk_common.skc_net.net`
    pub sock_net: u32,
    /// `net.ns.inum`
    pub net_inum: u32,
    /// `uprobe_task.return_instances`
    pub utask_return_instances: u32,
    /// `return_instance.orig_ret_vaddr`
    pub ri_orig_ret_vaddr: u32,
    /// `return_instance.stack`
    pub ri_stack: u32,
    /// `return_instance.next`
    pub ri_next: u32,
    /// 1 when the four `return_instance` offsets are known.
    pub ri_known: u32,
    /// `sock.__sk_common.skc_dport` (the peer's port, network order)
    pub sock_dport: u32,
    /// `task_struct.thread.fsbase`; zero where it has another name.
    pub task_fsbase: u32,
    /// `task_struct.mm` and, where there is such a member, `mm_struct.start_stack`; else zero both.
    pub task_mm: u32,
    pub mm_start_stack: u32,
    /// 1 where the hooks on sockets can be used (see [`socket`](crate::socket)).
    pub socket_hooks: u32,
}

const _: () = assert!(size_of::<Offsets>() == 26 * 4);
const _: () = assert!(size_of::<Config>() == 2 * MAX_PORTS + 16 + 4 * POOLS + size_of::<Offsets>());

/// Value of the process map, by tgid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Process {
    /// [`PROC_WATCHED`]
    pub flags: u32,
    /// Index into [`CLASS_BYTES`](crate::stack::CLASS_BYTES): bytes copied per stack.
    pub stack_class: u32,
    /// Whose frames are copied with a stack of the runtimes' class, or what is left out of one of
    /// another class: a constant of [`runtime`](crate::runtime).
    pub runtime: u32,
    /// Offset of a goroutine's number in its record (`g`) in the process's version of Go; zero where
    /// it is no Go, or the version is not known.
    pub goid: u32,
}

/// The process is a target: its connections and probes are recorded.
pub const PROC_WATCHED: u32 = 1;
/// The process has, or had, connections: its fork, exec and exit are reported.
pub const PROC_CONNECTED: u32 = 2;
/// A probe that joins by the backend's key saw a release.
pub const PROC_RELEASES: u32 = 4;
/// Such a probe saw the acquire of a connection that was out: a release was missed.
pub const PROC_UNSURE: u32 = 8;
