//! Kernel maps and ring records to model events.
//!
//! Besides `loader`, the only module that knows aya (the ring). Owns the kernel side and the
//! bookkeeping that only user space can do: slots to give back, descriptors after fork, exec, exit
//! and `close_range`, connections that existed before. Invariants: an event is emitted once; a
//! connection's last state is emitted before its end; its slot is given back after its end.

pub mod decode;
mod descriptors;
mod existing;
mod verify;
mod waits;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use aya::maps::{MapData, RingBuf};
use tracer_ebpf::{
    config::{PROC_RELEASES, PROC_UNSURE, Process},
    conn::{AF_UNIX, Conn, conn_generation, conn_slot},
    limits::OPENS_PER_WAKE,
    record::{self, Record},
    runtime,
    stack::{
        CLASS_SLOTS, FLAG_BOUNDARY, KIND_ACQUIRE, KIND_OPEN, LARGEST_CLASS, RUNTIME_CLASS, SlotRef,
    },
    wire::Wire,
};

use self::{
    decode::PoolName,
    descriptors::{Descriptors, Removed},
    existing::existing_conn,
    waits::Waits,
};
use crate::{
    host::{
        proc::ProcFs,
        sockets::{Known, ListedSocket, Recheck, Unread, recheck},
    },
    loader::{CopiedStack, Kernel, LoadError, plain_from_bytes},
    model::{ConnId, Event, Existing, Fd, MonoNanos, Pid, StackEvent},
    symbolize::{RawStack, RuntimeFrames},
};

/// Flag of `close_range` that marks instead of closing (`linux/close_range.h`).
const CLOSE_RANGE_CLOEXEC: u64 = 4;
/// The stack class of Java, whose frames are all on the stack, and those of frameworks are many.
const JAVA_CLASS: u32 = 1;

/// Something about a process that the caller acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Some process began to connect while system calls were not watched.
    Connecting,
    /// It has a connection, and may be new.
    Connected(u32),
    /// It runs another program now.
    Exec(u32),
    /// It has ended.
    Exit(u32),
}

/// What of a connection tells that it changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fingerprint {
    wire: Wire,
    flags: u32,
    held: u32,
    acquired_at: u64,
    released_at: u64,
}

impl Fingerprint {
    fn of(conn: &Conn) -> Self {
        Self {
            wire: conn.wire,
            flags: conn.flags,
            held: conn.held,
            acquired_at: conn.acquired_at,
            released_at: conn.released_at,
        }
    }
}

/// A connection with an open descriptor.
struct Live {
    pid: u32,
    inode: u64,
    last: Option<Fingerprint>,
    /// Value of `uses` at the last sampled stack.
    sampled: u32,
}

/// The kernel side, read.
pub struct Ingest {
    kernel: Kernel,
    ring: RingBuf<MapData>,
    fds: Descriptors,
    live: BTreeMap<u64, Live>,
    pools: Vec<PoolName>,
    waits: Waits,
    losses: HashMap<&'static str, u64>,
    unsure: BTreeSet<u32>,
    unknown_records: u64,
    /// Connections opened since the last scan.
    opened: u32,
    /// Stack slots of each class that live connections had at the last scan.
    stacks_in_use: [u32; CLASS_SLOTS.len()],
}

impl Ingest {
    /// Takes the loaded kernel side; `pools` is the catalogue by index.
    ///
    /// # Errors
    ///
    /// See [`LoadError::Map`].
    pub fn new(mut kernel: Kernel, pools: Vec<PoolName>) -> Result<Self, LoadError> {
        let ring = kernel.take_ring()?;
        Ok(Self {
            kernel,
            ring,
            fds: Descriptors::default(),
            live: BTreeMap::new(),
            pools,
            waits: Waits::default(),
            losses: HashMap::new(),
            unsure: BTreeSet::new(),
            unknown_records: 0,
            opened: 0,
            stacks_in_use: Default::default(),
        })
    }

    /// The kernel side, to attach and to configure.
    pub fn kernel(&mut self) -> &mut Kernel {
        &mut self.kernel
    }

    /// The descriptor that becomes readable when a record is there.
    #[must_use]
    pub fn ring_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }

    /// Connections with an open descriptor.
    #[must_use]
    pub fn live(&self) -> usize {
        self.live.len()
    }

    /// Takes in what the ring holds.
    pub fn drain(&mut self, proc: &ProcFs, events: &mut Vec<Event>, notices: &mut Vec<Notice>) {
        loop {
            let record = match self.ring.next() {
                None => break,
                Some(item) => plain_from_bytes::<Record>(&item),
            };
            match record {
                Some(record) => self.take(&record, proc, events, notices),
                None => self.unknown_records += 1,
            }
        }
    }

    fn take(
        &mut self,
        record: &Record,
        proc: &ProcFs,
        events: &mut Vec<Event>,
        notices: &mut Vec<Notice>,
    ) {
        let at = MonoNanos(record.at);
        let pid = record.tgid;
        // Descriptors are at most 31 bits; anything else came from a wrong argument.
        let fd = |raw: u64| i32::try_from(raw).unwrap_or(i32::MAX);
        match record.kind {
            record::OPEN => self.open(record.id, pid, fd(record.a), at, events, notices),
            record::CLOSE => {
                if self.fds.get(pid, fd(record.a)) == Some(record.id) {
                    self.close(pid, fd(record.a), at, events);
                }
            }
            record::DUP => {
                if self.live.contains_key(&record.id) {
                    let new = fd(record.b);
                    if let Some(removed) = self.fds.insert(pid, new, record.id) {
                        self.closed(removed, at, events);
                    }
                    let conn = ConnId(record.id);
                    events.push(Event::Duplicate { at, conn, pid: Pid(pid), fd: Fd(new) });
                }
            }
            record::CLOSE_RANGE if record.id & CLOSE_RANGE_CLOEXEC == 0 => {
                for (fd, conn) in self.fds.of(pid, fd(record.a), fd(record.b)) {
                    self.kernel.remove_fd(fd_key(pid, fd), conn);
                    self.close(pid, fd, at, events);
                }
            }
            record::CLOSE_RANGE => {}
            record::FORK => {
                let child = u32::try_from(record.a).unwrap_or(0);
                for (fd, conn) in self.fds.of(pid, 0, i32::MAX) {
                    self.kernel.set_fd(fd_key(child, fd), conn);
                    self.fds.insert(child, fd, conn);
                }
                events.push(Event::Fork { at, parent: Pid(pid), child: Pid(child) });
            }
            record::EXEC => {
                self.exec(pid, at, proc, events);
                self.waits.forget(pid, &mut self.kernel);
                self.unsure.remove(&pid);
                notices.push(Notice::Exec(pid));
            }
            // Our own are those to the servers that are asked for their side.
            record::CONNECT if record.tgid == std::process::id() => {}
            record::CONNECT => notices.push(Notice::Connecting),
            record::GONE => self.gone(record.id, at, events),
            record::EXIT => {
                let fds = self.fds.of(pid, 0, i32::MAX);
                for (_, conn) in &fds {
                    self.emit_state(*conn, at, events);
                }
                events.push(Event::Exit { at, pid: Pid(pid) });
                self.drop_all(pid, &fds);
                self.waits.forget(pid, &mut self.kernel);
                self.unsure.remove(&pid);
                notices.push(Notice::Exit(pid));
            }
            _ => self.unknown_records += 1,
        }
    }

    fn open(
        &mut self,
        id: u64,
        pid: u32,
        fd: i32,
        at: MonoNanos,
        events: &mut Vec<Event>,
        notices: &mut Vec<Notice>,
    ) {
        let Some(conn) = self.conn(id) else { return };
        if let Some(removed) = self.fds.insert(pid, fd, id) {
            self.closed(removed, at, events);
        }
        self.live.insert(id, Live { pid, inode: conn.inode, last: None, sampled: 0 });
        self.opened += 1;
        events.push(Event::Open {
            at,
            conn: ConnId(id),
            pid: Pid(pid),
            fd: Fd(fd),
            tid: Some(conn.tid),
            peer: decode::peer(&conn),
            existing: None,
        });
        notices.push(Notice::Connected(pid));
    }

    /// Its socket is gone.
    fn gone(&mut self, id: u64, at: MonoNanos, events: &mut Vec<Event>) {
        for (pid, fd) in self.fds.holders(id) {
            self.kernel.remove_fd(fd_key(pid, fd), id);
            self.close(pid, fd, at, events);
        }
    }

    fn close(&mut self, pid: u32, fd: i32, at: MonoNanos, events: &mut Vec<Event>) {
        if let Some(removed) = self.fds.remove(pid, fd) {
            self.closed(removed, at, events);
        }
    }

    fn closed(&mut self, removed: Removed, at: MonoNanos, events: &mut Vec<Event>) {
        if removed.last {
            self.emit_state(removed.conn, at, events);
        }
        events.push(Event::Close {
            at,
            conn: ConnId(removed.conn),
            pid: Pid(removed.pid),
            fd: Fd(removed.fd),
        });
        if removed.last {
            self.end(removed.conn);
        }
    }

    fn exec(&mut self, pid: u32, at: MonoNanos, proc: &ProcFs, events: &mut Vec<Event>) {
        let fds = self.fds.of(pid, 0, i32::MAX);
        if fds.is_empty() {
            return;
        }
        let open = proc.socket_fds(Pid(pid));
        let (kept, gone): (Vec<_>, Vec<_>) = fds.into_iter().partition(|(fd, conn)| {
            let inode = self.live.get(conn).map(|live| live.inode);
            open.iter().any(|(open, socket)| open.0 == *fd && Some(*socket) == inode)
        });
        let kept = kept.into_iter().map(|(fd, _)| Fd(fd)).collect();
        events.push(Event::Exec { at, pid: Pid(pid), kept });
        self.drop_all(pid, &gone);
    }

    fn drop_all(&mut self, pid: u32, fds: &[(i32, u64)]) {
        for (fd, conn) in fds {
            self.kernel.remove_fd(fd_key(pid, *fd), *conn);
            if self.fds.remove(pid, *fd).is_some_and(|removed| removed.last) {
                self.end(*conn);
            }
        }
    }

    fn end(&mut self, id: u64) {
        self.live.remove(&id);
        self.kernel.free_conn(id);
    }

    fn conn(&self, id: u64) -> Option<Conn> {
        self.kernel.conn(conn_slot(id)).filter(|conn| conn.generation == conn_generation(id))
    }

    /// Whether what probes saw of its checkouts can be believed. Where the compiler may have
    /// inlined copies of a release, some release must have been seen in the process, and no
    /// connection handed out that was out.
    fn is_sure(&mut self, conn: &Conn) -> bool {
        let by_key = self.pools.get(conn.pool as usize).is_some_and(|pool| pool.joins_by_key);
        if conn.checkouts == 0 || !by_key {
            return true;
        }
        let process = self.kernel.process(conn.tgid).unwrap_or_default();
        if process.flags & PROC_UNSURE != 0 {
            self.unsure.insert(conn.tgid);
        }
        process.flags & (PROC_RELEASES | PROC_UNSURE) == PROC_RELEASES
    }

    /// Processes whose checkouts are not believed, because some release was not seen.
    #[must_use]
    pub fn unsure(&self) -> Vec<u32> {
        self.unsure.iter().copied().collect()
    }

    /// Emits a connection's state when it has changed since the last time.
    fn emit_state(&mut self, id: u64, at: MonoNanos, events: &mut Vec<Event>) {
        let Some(mut conn) = self.conn(id) else { return };
        if !self.is_sure(&conn) {
            conn.checkouts = 0;
        }
        for slot in conn.stacks.into_iter().filter_map(SlotRef::unpack) {
            self.stacks_in_use[slot.class as usize] += 1;
        }
        let Some(live) = self.live.get_mut(&id) else { return };
        let now = Fingerprint::of(&conn);
        if live.last == Some(now) || (live.last.is_none() && decode::is_connecting(&conn)) {
            return;
        }
        live.last = Some(now);
        let mut state = decode::wire_state(&conn, &self.pools);
        if let Some(checkout) = &mut state.checkout {
            checkout.instance = self.waits.number(live.pid, conn.pool, conn.pool_instance);
        }
        events.push(Event::Wire {
            at,
            conn: ConnId(id),
            local_port: (conn.local_port != 0).then_some(conn.local_port),
            state,
        });
    }

    /// Emits what changed since the last scan, and new losses.
    pub fn scan(&mut self, at: MonoNanos, events: &mut Vec<Event>) {
        self.kernel.turn();
        self.opened = 0;
        self.stacks_in_use = Default::default();
        let ids: Vec<u64> = self.live.keys().copied().collect();
        for id in ids {
            self.emit_state(id, at, events);
        }
        self.waits.scan(at, &mut self.kernel, &self.pools, events);
        let mut losses: Vec<(&'static str, u64)> =
            self.kernel.drops().into_iter().map(|(reason, n)| (reason.name(), n)).collect();
        if self.unknown_records > 0 {
            losses.push(("unknown_record", self.unknown_records));
        }
        for (reason, total) in losses {
            if self.losses.insert(reason, total) != Some(total) {
                events.push(Event::Lost { at, reason: reason.to_owned(), total });
            }
        }
    }

    /// Connections whose last use is new since they were last sampled, at most `limit`. Those that
    /// were used least lately come first: they may be silent for good, and what their stacks refer
    /// to, a runtime may soon have moved.
    pub fn sample(&mut self, limit: usize) -> Vec<(ConnId, u64)> {
        let mut found: Vec<(u64, u64, u32)> = self
            .live
            .iter()
            .filter_map(|(id, live)| {
                let wire = &live.last.as_ref()?.wire;
                (wire.uses != live.sampled).then_some((wire.use_at, *id, wire.uses))
            })
            .collect();
        found.sort_unstable();
        found.truncate(limit);
        for (_, id, uses) in &found {
            if let Some(live) = self.live.get_mut(id) {
                live.sampled = *uses;
            }
        }
        found.into_iter().map(|(_, id, uses)| (ConnId(id), u64::from(uses))).collect()
    }

    /// A stack of a connection, if it is still that of the use or acquire numbered `uses`.
    #[must_use]
    pub fn stack(&self, id: ConnId, of: StackEvent, uses: u64) -> Option<CopiedStack> {
        let conn = self.conn(id.0)?;
        let (present, at) = match of {
            StackEvent::Open => (0, conn.opened_at),
            StackEvent::Begin => {
                let (begun, at, _) = conn.wire.begun()?;
                (u64::from(begun), at)
            }
            StackEvent::LastUse => (u64::from(conn.wire.uses), conn.wire.use_at),
            StackEvent::Acquire => (conn.checkouts, conn.acquired_at),
        };
        let copied = self.kernel.stack(conn.stacks[kind_of(&conn, of)?])?;
        (copied.header.conn == id.0 && copied.header.at == at && present == uses).then_some(copied)
    }

    /// How many connections the pool that this one was taken from may have, where that is news.
    pub fn pool_size(&mut self, at: MonoNanos, id: ConnId, proc: &ProcFs) -> Option<Event> {
        let conn = self.conn(id.0).filter(|conn| conn.checkouts > 0)?;
        let pool = (conn.tgid, conn.pool, conn.pool_instance);
        self.waits.size(at, pool, &self.pools, proc)
    }

    /// Whether so many connections were opened since the last scan that the next should not wait.
    #[must_use]
    pub fn is_bursting(&self) -> bool {
        self.opened >= OPENS_PER_WAKE
    }

    /// Whether stack slots may soon be too few.
    #[must_use]
    pub fn is_short_of_stacks(&self) -> bool {
        self.stacks_in_use.iter().zip(CLASS_SLOTS).any(|(used, slots)| *used > slots / 2)
    }

    /// Connections, at most `limit`, whose stack at open waits to be understood.
    #[must_use]
    pub fn with_open_stacks(&self, limit: usize) -> Vec<ConnId> {
        let has = |id: &&u64| self.conn(**id).is_some_and(|conn| conn.stacks[KIND_OPEN] != 0);
        self.live.keys().filter(has).take(limit).map(|id| ConnId(*id)).collect()
    }

    /// Gives the slot of a stack back that was understood.
    pub fn retire_stack(&mut self, id: ConnId, copied: &CopiedStack) {
        if self.conn(id.0).is_some() {
            self.kernel.retire_stack(conn_slot(id.0), copied);
        }
    }

    /// Moves a process to the next larger stack class; false when there is none.
    pub fn raise_stack_class(&mut self, pid: u32) -> bool {
        let present = self.kernel.process(pid).unwrap_or_default().stack_class;
        present < LARGEST_CLASS && self.set_copied(pid, present + 1, self.runtime_of(pid))
    }

    /// Moves a process to this size of stacks, where it has a smaller one; false when it cannot be.
    pub fn need_stack_class(&mut self, pid: u32, class: u32) -> bool {
        let present = self.kernel.process(pid).unwrap_or_default().stack_class;
        // The runtimes' class is no size.
        present >= class || self.set_copied(pid, class.min(LARGEST_CLASS), self.runtime_of(pid))
    }

    fn runtime_of(&self, pid: u32) -> u32 {
        self.kernel.process(pid).unwrap_or_default().runtime
    }

    /// From now on the frames of a process's runtime are copied with its stacks.
    pub fn copy_runtime(&mut self, pid: u32, frames: RuntimeFrames) -> bool {
        let kind = match frames {
            RuntimeFrames::Interpreter(layout) if !self.kernel.set_python(pid, layout) => {
                return false;
            }
            RuntimeFrames::Interpreter(_) => runtime::PYTHON,
            RuntimeFrames::Node => runtime::NODE,
            RuntimeFrames::Java { buffered } => {
                let present = self.kernel.process(pid).unwrap_or_default().stack_class;
                let kind = if buffered { runtime::BUFFERED_JAVA } else { runtime::NONE };
                return self.set_copied(pid, present.max(JAVA_CLASS), kind);
            }
        };
        self.set_copied(pid, RUNTIME_CLASS, kind)
    }

    /// From now on the number of the goroutine is read with a process's stacks, at this offset of its
    /// record; false when there are too many processes.
    pub fn copy_goid(&mut self, pid: u32, goid: u32) -> bool {
        let mut process = self.kernel.process(pid).unwrap_or_default();
        if process.goid == goid {
            return true;
        }
        process.goid = goid;
        self.set_process(pid, process)
    }

    /// A process has ended, or its image is another one.
    pub fn forget_runtime(&mut self, pid: u32) {
        self.kernel.remove_python(pid);
        let mut process = self.kernel.process(pid).unwrap_or_default();
        let has_runtime = process.stack_class == RUNTIME_CLASS || process.runtime != runtime::NONE;
        if has_runtime || process.goid != 0 {
            process.goid = 0;
            if has_runtime {
                process.stack_class = 0;
                process.runtime = runtime::NONE;
            }
            self.set_process(pid, process);
        }
    }

    /// Sets what is copied of a process's next stacks; false when there are too many processes.
    fn set_copied(&mut self, pid: u32, class: u32, runtime: u32) -> bool {
        let mut process = self.kernel.process(pid).unwrap_or_default();
        process.stack_class = class;
        process.runtime = runtime;
        self.set_process(pid, process)
    }

    /// Changes what is known of a process and its connections.
    fn set_process(&mut self, pid: u32, process: Process) -> bool {
        if !self.kernel.set_process(pid, process) {
            return false;
        }
        let slots: Vec<u32> = self
            .live
            .iter()
            .filter(|(_, live)| live.pid == pid)
            .map(|(id, _)| conn_slot(*id))
            .collect();
        for slot in slots {
            self.kernel.set_copied(slot, process);
        }
        true
    }

    /// Takes in connections that existed before, each with the descriptors that hold it.
    pub fn adopt(
        &mut self,
        socket: &ListedSocket,
        holders: &[(u32, i32)],
        at: MonoNanos,
        events: &mut Vec<Event>,
        notices: &mut Vec<Notice>,
    ) {
        let Some(&(pid, fd)) = holders.first() else { return };
        if holders.iter().any(|(pid, fd)| self.kernel.fd(fd_key(*pid, *fd)).is_some()) {
            // Opened after the hooks were attached: its record is in the ring.
            return;
        }
        let conn = existing_conn(socket, pid, fd);
        let Some(id) = self.kernel.adopt(&conn) else {
            *self.losses.entry("no_connection_slot").or_default() += 1;
            return;
        };
        self.live.insert(id, Live { pid, inode: socket.inode, last: None, sampled: 0 });
        let ago = |ms: Option<u32>| ms.map(|ms| u64::from(ms) * 1_000_000);
        events.push(Event::Open {
            at,
            conn: ConnId(id),
            pid: Pid(pid),
            fd: Fd(fd),
            tid: None,
            peer: socket.peer.clone(),
            existing: Some(Existing {
                last_send_ago: ago(socket.status.last_send_ms),
                last_recv_ago: ago(socket.status.last_recv_ms),
            }),
        });
        for (index, (pid, fd)) in holders.iter().enumerate() {
            self.kernel.set_fd(fd_key(*pid, *fd), id);
            self.fds.insert(*pid, *fd, id);
            if index > 0 {
                let conn = ConnId(id);
                events.push(Event::Duplicate { at, conn, pid: Pid(*pid), fd: Fd(*fd) });
            }
            notices.push(Notice::Connected(*pid));
        }
    }

    /// Asks the kernel how many bytes wait unread on these connections, and gives what it knew of
    /// them; with the namespaces that could not be asked.
    pub fn unread(&self, conns: &[ConnId], proc: &ProcFs) -> (Vec<(ConnId, u64)>, Vec<Unread>) {
        let (sockets, Recheck { found, unread }) = self.recheck(conns, proc);
        let queued = sockets.iter().filter_map(|(id, known)| {
            let bytes = found.get(&known.inode)?.queued?;
            Some((*id, u64::from(bytes)))
        });
        (queued.collect(), unread)
    }

    /// The client's end of TCP connections, where the kernel still has them: network namespace and
    /// address.
    pub fn local_ends(&self, conns: &[ConnId], proc: &ProcFs) -> BTreeMap<ConnId, (u32, IpAddr)> {
        let (sockets, Recheck { found, .. }) = self.recheck(conns, proc);
        let end = |(id, known): &(ConnId, Known)| {
            Some((*id, (known.netns, found.get(&known.inode)?.local_addr?)))
        };
        sockets.iter().filter_map(end).collect()
    }

    /// Looks at the sockets of these connections again.
    fn recheck(&self, conns: &[ConnId], proc: &ProcFs) -> (Vec<(ConnId, Known)>, Recheck) {
        let sockets: Vec<(ConnId, Known)> = conns
            .iter()
            .filter_map(|id| {
                let conn = self.conn(id.0)?;
                let (pid, _) = *self.fds.holders(id.0).first()?;
                let known = Known {
                    netns: conn.netns,
                    pid: Pid(pid),
                    inode: conn.inode,
                    peer_port: (conn.family != AF_UNIX).then_some(conn.peer_port),
                };
                Some((*id, known))
            })
            .collect();
        let known: Vec<Known> = sockets.iter().map(|(_, known)| *known).collect();
        let found = recheck(proc, &known);
        (sockets, found)
    }
}

/// Which of the connection's stacks it is, where there is one.
fn kind_of(conn: &Conn, of: StackEvent) -> Option<usize> {
    match of {
        StackEvent::Open => Some(KIND_OPEN),
        StackEvent::Begin => conn.wire.begun().map(|(_, _, kind)| kind),
        StackEvent::LastUse => Some(conn.wire.use_kind()),
        StackEvent::Acquire => Some(KIND_ACQUIRE),
    }
}

/// The symbolizer's view of a copied stack.
#[must_use]
pub fn raw_stack(copied: &CopiedStack) -> RawStack {
    let header = &copied.header;
    let fixups = header.fixups.iter().take(header.fixup_count as usize);
    RawStack {
        pid: header.tgid,
        ip: header.ip,
        sp: header.sp,
        bp: header.bp,
        boundary: header.flags & FLAG_BOUNDARY != 0,
        bytes: copied.bytes.clone(),
        gap: header.gap,
        fixups: fixups.map(|[slot, original]| (*slot, *original)).collect(),
        runtime: copied.runtime.clone(),
        runtime_end: header.runtime_end,
    }
}

fn fd_key(pid: u32, fd: i32) -> u64 {
    tracer_ebpf::fd::fd_key(pid, fd.unsigned_abs())
}
