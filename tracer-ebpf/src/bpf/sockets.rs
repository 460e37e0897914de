//! Opening, duplicating and closing: which descriptor is which connection.
//!
//! May import the maps, `count`, `memory` and the contract. Invariant: a descriptor maps
//! to a connection only between an open (or dup) and its close; whether the connection itself is
//! still alive is user space's to say, which sees all holders.

use aya_ebpf::{
    bindings::pt_regs,
    helpers::generated::{bpf_get_current_task, bpf_probe_read_user_str},
};
use tracer_ebpf::{
    config::{Config, PROC_CONNECTED, PROC_WATCHED, Process},
    conn::{
        AF_INET, AF_INET6, AF_UNIX, Conn, FLAG_CONNECTING, conn_generation, conn_id, conn_slot,
    },
    drops::DropReason,
    fd::{NEAR_GONE, fd_key, near_place, sock_key},
    limits::OPENS_PER_WAKE,
    record::{CLOSE, CLOSE_RANGE, CONNECT, DUP, GONE, OPEN, Record},
    socket::SockHead,
    stack::{KIND_OPEN, KINDS},
    wire::Wire,
};

use super::{
    count::{count, emit, now},
    maps::{CONFIG, CONNS, FDS, FREE_CONNS, NEAR, PATHS, PROCS, Site, call_of, holder},
    memory::{kernel, user},
};

const EINPROGRESS: i64 = -115;
const EISCONN: i64 = -106;
const SOCK_STREAM: i16 = 1;

/// The live connection with this id.
#[inline(always)]
pub fn conn_of(id: u64) -> Option<*mut Conn> {
    let conn = CONNS.get_ptr_mut(conn_slot(id))?;
    // SAFETY: a live map value.
    (unsafe { (*conn).generation } == conn_generation(id)).then_some(conn)
}

/// What the kernel knows of a socket.
struct Socket {
    sock: u64,
    stream: bool,
    inode: u64,
    local_port: u16,
    netns: u32,
}

/// current -> files -> fdt -> fd[n] -> file -> socket -> sock.
#[inline(always)]
fn socket(config: &Config, fd: u32) -> Option<Socket> {
    let off = &config.off;
    // SAFETY: the helper has no precondition.
    let task = unsafe { bpf_get_current_task() };
    let files = kernel::<u64>(task + u64::from(off.task_files))?;
    let fdt = kernel::<u64>(files + u64::from(off.files_fdt))?;
    let max = kernel::<u32>(fdt + u64::from(off.fdt_max_fds))?;
    if fd >= max {
        return None;
    }
    let table = kernel::<u64>(fdt + u64::from(off.fdt_fd))?;
    let file = kernel::<u64>(table + u64::from(fd) * 8)?;
    let socket = kernel::<u64>(file + u64::from(off.file_private_data))?;
    let kind = kernel::<i16>(socket + u64::from(off.socket_type))?;
    let inode = kernel::<u64>(file + u64::from(off.file_inode))?;
    let inode = kernel::<u64>(inode + u64::from(off.inode_ino))?;
    let sock = kernel::<u64>(socket + u64::from(off.socket_sk))?;
    let local_port = kernel::<u16>(sock + u64::from(off.sock_num))?;
    let net = kernel::<u64>(sock + u64::from(off.sock_net))?;
    let netns = kernel::<u32>(net + u64::from(off.net_inum))?;
    Some(Socket { sock, stream: kind == SOCK_STREAM, inode, local_port, netns })
}

/// The peer that `connect` named, when it is a watched one.
struct Target {
    family: u16,
    port: u16,
    addr: [u8; 16],
}

/// Whether a TCP port, in host order, is watched.
#[inline(always)]
pub fn is_watched_port(config: &Config, port: u16) -> bool {
    for watched in &config.ports {
        if *watched == 0 {
            // The used ones come first.
            return false;
        }
        if *watched == port {
            return true;
        }
    }
    false
}

#[inline(always)]
fn target(config: &Config, address: u64) -> Option<Target> {
    let family = user::<u16>(address)?;
    let mut addr = [0u8; 16];
    if family == AF_INET {
        let port = u16::from_be(user::<u16>(address + 2)?);
        if !is_watched_port(config, port) {
            return None;
        }
        let v4 = user::<[u8; 4]>(address + 4)?;
        addr[0] = v4[0];
        addr[1] = v4[1];
        addr[2] = v4[2];
        addr[3] = v4[3];
        return Some(Target { family, port, addr });
    }
    if family == AF_INET6 {
        let port = u16::from_be(user::<u16>(address + 2)?);
        if !is_watched_port(config, port) {
            return None;
        }
        return Some(Target { family, port, addr: user::<[u8; 16]>(address + 8)? });
    }
    if family == AF_UNIX {
        let port = unix_port(address + 2)?;
        if config.any_unix_port == 0 && !is_watched_port(config, port) {
            return None;
        }
        return Some(Target { family, port, addr });
    }
    None
}

/// The number in a path that ends with `.s.PGSQL.N`.
#[inline(always)]
fn unix_port(path: u64) -> Option<u16> {
    // `sun_path` has 108 bytes; its length in the address may count what follows the NUL.
    let scratch = PATHS.get_ptr_mut(0)?;
    // SAFETY: at most 108 bytes of a live per-CPU map value of 112 are written; only the length is
    // used.
    let len = unsafe { bpf_probe_read_user_str(scratch.cast(), 108, path as *const _) };
    if !(11..=108).contains(&len) {
        return None;
    }
    // The length counts the NUL.
    let mut end = path + len as u64 - 1;
    // The digits, from the last one; the byte before them is the dot of the name.
    let mut port = 0u32;
    let mut scale = 1u32;
    for _ in 0..5 {
        let digit = user::<u8>(end - 1)?.wrapping_sub(b'0');
        if digit > 9 {
            break;
        }
        port += u32::from(digit) * scale;
        scale *= 10;
        end -= 1;
    }
    let name = user::<[u8; 9]>(end - 9)?;
    (end >= path + 9 && name == *b".s.PGSQL." && port <= 0xffff).then_some(port as u16)
}

/// `connect(fd, address, length)` returned, or, with the socket, it has begun; true where the stack is to be
/// kept.
#[inline(always)]
pub fn on_connect(
    regs: *const pt_regs,
    ret: i64,
    pid_tgid: u64,
    begun: Option<*const SockHead>,
) -> bool {
    if ret != 0 && ret != EINPROGRESS && ret != EISCONN {
        return false;
    }
    let tgid = (pid_tgid >> 32) as u32;
    let Some(config) = CONFIG.get(0) else { return false };
    if tgid == config.own_tgid {
        return false;
    }
    // SAFETY: `regs` is the trusted argument of the tracepoint.
    let (fd, address) = unsafe { ((*regs).rdi as u32, (*regs).rsi) };
    let Some(target) = target(config, address) else { return false };
    // SAFETY: no other reference to this value is held.
    let known = unsafe { PROCS.get(tgid) }.copied();
    let process = known.unwrap_or_default();
    if config.only_marked != 0 && process.flags & PROC_WATCHED == 0 {
        return false;
    }
    let Some(socket) = socket(config, fd) else {
        count(DropReason::KernelReadFailed);
        return false;
    };
    if !socket.stream {
        // Address selection connects datagram sockets to learn a route (RFC 6724).
        return false;
    }
    if let Some(id) = tracked(tgid, fd)
        && let Some(conn) = conn_of(id)
    {
        // SAFETY: a live map value.
        unsafe {
            if (*conn).inode == socket.inode {
                // The client asks again whether its connect is done.
                if ret != EINPROGRESS {
                    (*conn).flags &= !FLAG_CONNECTING;
                }
                return false;
            }
        }
        forget_fd(tgid, fd, id);
    }
    if ret == EISCONN {
        return false;
    }
    let slot = match FREE_CONNS.pop() {
        Ok(Some(slot)) => slot,
        _ => {
            count(DropReason::NoConnectionSlot);
            return false;
        }
    };
    let Some(conn) = CONNS.get_ptr_mut(slot) else {
        count(DropReason::NoConnectionSlot);
        return false;
    };
    let at = now();
    let mut sock = 0;
    if let Some(begun) = begun {
        // SAFETY: the trusted argument of a tracepoint, which begins like this.
        let port = u16::from_be(unsafe { (*begun).dport });
        if port != 0 && !is_watched_port(config, port) {
            // Something rewrote what the process asked for: the hooks on sockets would not know it again.
            emit(Record { kind: CONNECT, tgid, at, ..Record::default() }, true);
        } else if begun as u64 == socket.sock {
            sock = key_of(begun, config);
        }
        // Else that of multipath TCP below the process's socket, which gets its port later.
    }
    // SAFETY: a live map value, owned by this program since the pop.
    let id = unsafe {
        let epoch = (*conn).epoch.wrapping_add(1) | u32::from((*conn).epoch == u32::MAX);
        (*conn).epoch = epoch;
        (*conn).tgid = tgid;
        (*conn).tid = pid_tgid as u32;
        (*conn).fd = fd as i32;
        (*conn).opened_at = at;
        (*conn).inode = socket.inode;
        (*conn).netns = socket.netns;
        (*conn).flags = if ret == EINPROGRESS { FLAG_CONNECTING } else { 0 };
        (*conn).family = target.family;
        (*conn).peer_port = target.port;
        (*conn).local_port = if target.family == AF_UNIX { 0 } else { socket.local_port };
        (*conn).peer_addr = target.addr;
        (*conn).pool = 0;
        (*conn).held = 0;
        (*conn).checkouts = 0;
        (*conn).handle = 0;
        (*conn).pool_instance = 0;
        (*conn).acquired_at = 0;
        (*conn).released_at = 0;
        (*conn).acquire_tid = 0;
        (*conn).stacks = [0; KINDS];
        (*conn).stack_class = process.stack_class;
        (*conn).goid = process.goid;
        (*conn).runtime = process.runtime;
        (*conn).stack_tid = 0;
        (*conn).sock = sock;
        (*conn).wire = Wire::default();
        (*conn).startup_len = 0;
        (*conn).statement_len = 0;
        (*conn).generation = epoch;
        conn_id(slot, epoch)
    };
    track(tgid, fd, id);
    if sock != 0 {
        track_key(sock, id);
    }
    let known = process.flags & PROC_CONNECTED != 0;
    if !known {
        let process = Process { flags: PROC_CONNECTED | process.flags, ..process };
        if PROCS.insert(tgid, process, 0).is_err() {
            count(DropReason::ProcessMapFull);
        }
    }
    let wake = !known || slot & (OPENS_PER_WAKE - 1) == 0;
    emit(Record { kind: OPEN, tgid, at, a: u64::from(fd), b: 0, id }, wake);
    let Some(call) = call_of(pid_tgid) else { return false };
    // SAFETY: a live per-CPU map value of this run alone, and registers that the verifier types.
    unsafe {
        (*call).conn = id;
        (*call).want(KIND_OPEN, Site::of(regs, at, id, pid_tgid, 0));
    }
    true
}

/// The connection that a descriptor refers to.
#[inline(always)]
pub fn tracked(tgid: u32, fd: u32) -> Option<u64> {
    // SAFETY: a live map value.
    find(fd_key(tgid, fd), |conn| unsafe { (*conn).tgid == tgid && (*conn).fd == fd as i32 })
}

/// The key of a socket in the kernel.
#[inline(always)]
pub fn key_of(sock: *const SockHead, config: &Config) -> u64 {
    sock_key(sock as u64, core::ptr::from_ref(config) as u64)
}

/// The connection of a socket in the kernel, by its key.
#[inline(always)]
pub fn of_sock(sock: u64) -> Option<u64> {
    // SAFETY: a live map value.
    find(sock, |conn| unsafe { (*conn).sock == sock })
}

/// The connection with this key, which is at once believed of the one that is at its place if `is_it`.
#[inline(always)]
fn find(key: u64, is_it: impl Fn(*mut Conn) -> bool) -> Option<u64> {
    // SAFETY: a live map value.
    let id = unsafe { *NEAR.get_ptr(near_place(key))? };
    if id == 0 {
        return None;
    }
    if conn_of(id).is_some_and(is_it) {
        return Some(id);
    }
    // SAFETY: no other reference to this value is held.
    unsafe { FDS.get(key) }.copied()
}

/// A descriptor refers to a connection from now on.
#[inline(always)]
fn track(tgid: u32, fd: u32, id: u64) {
    if let Some(holder) = holder(tgid) {
        // SAFETY: a byte of a live map value.
        unsafe { *holder = 1 };
    }
    track_key(fd_key(tgid, fd), id);
}

#[inline(always)]
fn track_key(key: u64, id: u64) {
    // First, so that whoever finds the key and removes it finds this as well.
    if let Some(near) = NEAR.get_ptr_mut(near_place(key)) {
        // SAFETY: a live map value.
        unsafe { *near = id };
    }
    if FDS.insert(key, id, 0).is_err() {
        count(DropReason::DescriptorMapFull);
    }
}

#[inline(always)]
fn forget_key(key: u64, id: u64) {
    if let Some(near) = NEAR.get_ptr_mut(near_place(key)) {
        // SAFETY: a live map value. A store that comes between costs its connection the short way.
        unsafe {
            if *near == id {
                *near = NEAR_GONE;
            }
        }
    }
    // Missing is fine: user space may have removed it with its process.
    let _missing = FDS.remove(key);
}

/// A descriptor no longer refers to its connection.
#[inline(always)]
fn forget_fd(tgid: u32, fd: u32, id: u64) {
    forget_key(fd_key(tgid, fd), id);
    emit(Record { kind: CLOSE, tgid, at: now(), a: u64::from(fd), b: 0, id }, false);
}

/// The connection that existed before the watch, which moves its first bytes since as this descriptor.
#[inline(always)]
pub fn adopted(sock: *const SockHead, tgid: u32, fd: u32) -> Option<u64> {
    let id = tracked(tgid, fd)?;
    let conn = conn_of(id)?;
    let config = CONFIG.get(0)?;
    // SAFETY: a live map value, and one below.
    let inode = unsafe { if (*conn).sock == 0 { (*conn).inode } else { 0 } };
    let socket = socket(config, fd)?;
    if inode == 0 || socket.inode != inode || socket.sock != sock as u64 {
        return None;
    }
    let key = key_of(sock, config);
    unsafe {
        (*conn).sock = key;
        (*conn).local_port = socket.local_port;
    }
    track_key(key, id);
    Some(id)
}

/// The connection is established.
#[inline(always)]
pub fn on_established(sock: u64, local_port: u16) {
    if let Some(id) = of_sock(sock)
        && let Some(conn) = conn_of(id)
    {
        // SAFETY: a live map value.
        unsafe {
            (*conn).local_port = local_port;
            (*conn).flags &= !FLAG_CONNECTING;
        }
    }
}

/// The connection is over, whoever ended it.
#[inline(always)]
pub fn on_gone(sock: u64, id: u64) {
    forget_key(sock, id);
    let Some(conn) = conn_of(id) else { return };
    // SAFETY: a live map value.
    let (tgid, fd) = unsafe { ((*conn).tgid, (*conn).fd as u32) };
    let key = fd_key(tgid, fd);
    // SAFETY: no other reference to this value is held.
    if unsafe { FDS.get(key) } == Some(&id) {
        forget_key(key, id);
    }
    emit(Record { kind: GONE, tgid, at: now(), a: u64::from(fd), b: 0, id }, false);
}

/// `close(fd)` returned. The descriptor is gone even on an error (Linux frees it first), except
/// on EBADF, where there was none.
#[inline(always)]
pub fn on_close(tgid: u32, fd: u32) {
    if let Some(id) = tracked(tgid, fd) {
        forget_fd(tgid, fd, id);
    }
}

/// `dup`, `dup2`, `dup3` or `fcntl(F_DUPFD)` returned the new descriptor `new`.
#[inline(always)]
pub fn on_dup(tgid: u32, old: u32, new: i64) {
    if new < 0 || new as u32 == old {
        return;
    }
    let new = new as u32;
    on_close(tgid, new);
    let Some(id) = tracked(tgid, old) else { return };
    track(tgid, new, id);
    let (a, b) = (u64::from(old), u64::from(new));
    emit(Record { kind: DUP, tgid, at: now(), a, b, id }, false);
}

/// `close_range(first, last, flags)` succeeded. The descriptors are removed by user space, which
/// knows those of the process.
#[inline(always)]
pub fn on_close_range(tgid: u32, first: u64, last: u64, flags: u64) {
    // SAFETY: the value is not used, only its presence.
    if unsafe { PROCS.get(tgid) }.is_some() {
        let record = Record {
            kind: CLOSE_RANGE,
            tgid,
            at: now(),
            a: first & 0xffff_ffff,
            b: last & 0xffff_ffff,
            id: flags & 0xffff_ffff,
        };
        emit(record, true);
    }
}
