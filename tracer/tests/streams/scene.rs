//! Small words to write event streams with: processes, connections, what they do and when.
//!
//! May import the public model and the catalogue only. Times are milliseconds after [`START`].

use tracer::model::{
    Begun, Checkout, ConnId, Event, Existing, Fd, Frame, FrameKind, MonoNanos, Peer, Pid, PoolSeen,
    PoolWaits, Presence, ProcessSeen, Runtime, Stack, StackEvent, Statement, Symbol, ThreadNow,
    TxStatus, WirePhase, WireState,
};
use tracer::pools::Catalogue;
use tracer::report::CaptureHeader;

/// Clock of the events at the start, in nanoseconds.
pub const START: u64 = 1_000_000_000_000;
/// Held and silent for this long in milliseconds is a finding.
pub const THRESHOLD: u64 = 30_000;

pub fn ms(at: u64) -> MonoNanos {
    MonoNanos(START + at * 1_000_000)
}

pub fn header() -> CaptureHeader {
    CaptureHeader {
        tool_version: "0.1.0".to_owned(),
        hostname: Some("db-client-7".to_owned()),
        kernel: Some("6.1.0-18-amd64".to_owned()),
        started_unix_ms: 1_767_225_600_000,
        started_at: ms(0),
        threshold: THRESHOLD * 1_000_000,
        target: "everything that talks to PostgreSQL".to_owned(),
        coverage: Vec::new(),
    }
}

/// A connection while a stream is written.
#[derive(Clone)]
pub struct Conn {
    pub id: u16,
    pub pid: u32,
    pub fd: i32,
    pub state: WireState,
}

/// A stream being written.
#[derive(Default)]
pub struct Scene {
    pub events: Vec<Event>,
    next: u16,
}

pub fn seen(comm: &str, runtime: Runtime, pools: &[(&str, bool)]) -> ProcessSeen {
    ProcessSeen {
        start_time: Some(4_711),
        comm: comm.to_owned(),
        exe: Some(format!("/usr/bin/{comm}")),
        runtime: Some(runtime),
        container: None,
        ns_pid: None,
        pools: pools.iter().map(|(name, observed)| pool(name, *observed)).collect(),
    }
}

/// A loaded pool, which behaves as the catalogue says.
pub fn pool(name: &str, observed: bool) -> PoolSeen {
    let catalogue = Catalogue::embedded().unwrap();
    let known = catalogue.pool(name);
    PoolSeen {
        name: name.to_owned(),
        observed,
        note: None,
        presence: Presence::Loaded,
        how: None,
        pooler: known.is_some_and(|pool| pool.pooler),
        behaviour: known.and_then(|pool| pool.behaviour.clone()),
    }
}

/// The same process, whose pools may or may not be used.
pub fn installed(mut process: ProcessSeen) -> ProcessSeen {
    for pool in &mut process.pools {
        pool.presence = Presence::Installed;
    }
    process
}

/// State right after the login.
pub fn fresh(at: u64) -> WireState {
    WireState {
        phase: WirePhase::Ready,
        last_send: Some(ms(at)),
        last_recv: Some(ms(at)),
        bytes_sent: 87,
        bytes_received: 412,
        statements: 0,
        active: Some(false),
        status: Some(TxStatus::Idle),
        uses: 0,
        begun: None,
        last_statement: None,
        listening: false,
        advisory_lock: false,
        copy: false,
        replication: false,
        user: Some("shop".to_owned()),
        database: Some("orders".to_owned()),
        application_name: None,
        backend_pid: None,
        peer_closed: false,
        checkout: None,
    }
}

pub fn frame(function: &str, file: &str, line: u32, kind: FrameKind) -> Frame {
    Frame {
        symbol: Some(Symbol {
            function: function.to_owned(),
            file: Some(file.to_owned()),
            line: Some(line),
            column: None,
            definition: false,
            generated: None,
        }),
        module: None,
        kind,
        inlined: false,
    }
}

/// A stack whose innermost application frame is the one given, below a driver's.
pub fn stack(function: &str, file: &str, line: u32) -> Stack {
    Stack {
        frames: vec![
            frame(
                "Client.query",
                "/srv/shop/node_modules/pg/lib/client.js",
                563,
                FrameKind::Driver,
            ),
            frame(function, file, line, FrameKind::App),
            frame("handle", "/srv/shop/server.js", 12, FrameKind::App),
            frame("processTicksAndRejections", "node:internal", 95, FrameKind::Runtime),
        ],
        truncated: None,
    }
}

impl Scene {
    pub fn process(&mut self, at: u64, pid: u32, process: ProcessSeen) {
        self.events.push(Event::Process { at: ms(at), pid: Pid(pid), process });
    }

    /// A connection opened and logged in within 10 ms.
    pub fn open(&mut self, at: u64, pid: u32) -> Conn {
        self.open_by(at, pid, Some(pid))
    }

    pub fn open_by(&mut self, at: u64, pid: u32, tid: Option<u32>) -> Conn {
        let mut conn = self.bare(at, pid, tid, None);
        self.tell(at + 10, &mut conn, |state| *state = fresh(at + 10));
        conn
    }

    /// A connection of which only the socket is known.
    pub fn bare(
        &mut self,
        at: u64,
        pid: u32,
        tid: Option<u32>,
        existing: Option<Existing>,
    ) -> Conn {
        self.next += 1;
        let fd = 20 + i32::from(self.next);
        let conn = Conn { id: self.next, pid, fd, state: fresh(at) };
        self.events.push(Event::Open {
            at: ms(at),
            conn: ConnId(u64::from(conn.id)),
            pid: Pid(pid),
            fd: Fd(fd),
            tid,
            peer: Peer::Tcp { addr: "10.0.0.5".to_owned(), port: 5432 },
            existing,
        });
        conn
    }

    /// The state changes.
    pub fn tell(&mut self, at: u64, conn: &mut Conn, change: impl FnOnce(&mut WireState)) {
        change(&mut conn.state);
        self.events.push(Event::Wire {
            at: ms(at),
            conn: ConnId(u64::from(conn.id)),
            local_port: Some(40_000 + conn.id),
            state: conn.state.clone(),
        });
    }

    /// A statement, answered within 2 ms.
    pub fn query(&mut self, at: u64, conn: &mut Conn, sql: &str) {
        self.tell(at + 2, conn, |state| {
            state.last_send = Some(ms(at));
            state.last_recv = Some(ms(at + 2));
            state.active = Some(false);
            state.statements += 1;
            state.uses += 1;
            state.last_statement = Some(Statement::Sql { text: sql.to_owned(), cut: false });
        });
    }

    /// A use under TLS: direction and time.
    pub fn encrypted_use(&mut self, at: u64, conn: &mut Conn) {
        self.tell(at + 2, conn, |state| {
            state.phase = WirePhase::Encrypted;
            state.active = None;
            state.status = None;
            state.user = None;
            state.database = None;
            state.last_send = Some(ms(at));
            state.last_recv = Some(ms(at + 2));
            state.uses += 1;
        });
    }

    /// A statement whose answer is not whole yet.
    pub fn ask(&mut self, at: u64, conn: &mut Conn, sql: &str) {
        self.tell(at, conn, |state| {
            state.last_send = Some(ms(at));
            state.active = Some(true);
            state.statements += 1;
            state.uses += 1;
            state.last_statement = Some(Statement::Sql { text: sql.to_owned(), cut: false });
        });
    }

    /// A part of the answer is read.
    pub fn read(&mut self, at: u64, conn: &mut Conn, bytes: u64) {
        self.tell(at, conn, |state| {
            state.last_recv = Some(ms(at));
            state.bytes_received += bytes;
        });
    }

    /// So many bytes wait unread.
    pub fn unread(&mut self, at: u64, conn: &Conn, bytes: u64) {
        let conn = ConnId(u64::from(conn.id));
        self.events.push(Event::Unread { at: ms(at), conn, bytes });
    }

    /// A statement that begins a transaction.
    pub fn begin(&mut self, at: u64, conn: &mut Conn) {
        self.query(at, conn, "BEGIN");
        self.tell(at + 3, conn, |state| {
            state.status = Some(TxStatus::InTransaction);
            state.begun = Some(Begun { at: ms(at), number: state.uses });
        });
    }

    /// The stack of the present use, resolved.
    pub fn used_by(&mut self, at: u64, conn: &Conn, stack: Stack) {
        self.stack(at, conn, StackEvent::LastUse, conn.state.uses, stack);
    }

    pub fn stack(&mut self, at: u64, conn: &Conn, of: StackEvent, uses: u64, stack: Stack) {
        self.events.push(Event::Stack {
            at: ms(at),
            conn: ConnId(u64::from(conn.id)),
            of,
            uses,
            stack,
        });
    }

    /// What the thread does that the present use was made on.
    pub fn holder(&mut self, at: u64, conn: &Conn, tid: u32, now: ThreadNow) {
        let (conn, uses) = (ConnId(u64::from(conn.id)), conn.state.uses);
        let (of, goroutine) = (StackEvent::LastUse, None);
        self.events.push(Event::Holder { at: ms(at), conn, of, uses, tid, goroutine, now });
    }

    /// What the goroutine does that the present checkout was made by.
    pub fn goroutine(&mut self, at: u64, conn: &Conn, goroutine: u64, now: ThreadNow) {
        let (of, tid) = (StackEvent::Acquire, conn.pid + 1);
        let uses = conn.state.checkout.as_ref().map_or(0, |checkout| checkout.count);
        let (conn, goroutine) = (ConnId(u64::from(conn.id)), Some(goroutine));
        self.events.push(Event::Holder { at: ms(at), conn, of, uses, tid, goroutine, now });
    }

    /// An observed pool gives the connection out.
    pub fn acquire(&mut self, at: u64, conn: &mut Conn, pool: &str) {
        self.tell(at, conn, |state| {
            let count = state.checkout.as_ref().map_or(0, |checkout| checkout.count) + 1;
            state.checkout = Some(Checkout {
                pool: pool.to_owned(),
                instance: None,
                is_pool: true,
                held: true,
                acquired_at: Some(ms(at)),
                released_at: None,
                count,
            });
        });
    }

    /// The same where the acquire's entry is seen too, so that the pool is known.
    pub fn acquire_from(&mut self, at: u64, conn: &mut Conn, pool: &str, instance: u32) {
        self.acquire(at, conn, pool);
        if let Some(Event::Wire { state, .. }) = self.events.last_mut() {
            for state in [state, &mut conn.state] {
                if let Some(checkout) = &mut state.checkout {
                    checkout.instance = Some(instance);
                }
            }
        }
    }

    /// How many connections a pool may have, by name and instance.
    pub fn pool_size(&mut self, at: u64, pid: u32, pool: (&str, u32), max_open: Option<u32>) {
        let (pool, instance) = (pool.0.to_owned(), pool.1);
        self.events.push(Event::PoolSize { at: ms(at), pid: Pid(pid), pool, instance, max_open });
    }

    /// Callers wait since these times, and so many waits of this many milliseconds have ended.
    pub fn waits(&mut self, at: u64, pid: u32, pool: (&str, u32), since: &[u64], over: (u64, u64)) {
        let (served, each) = over;
        let waits = PoolWaits {
            waiting: since.len() as u64,
            since: since.iter().map(|since| ms(*since)).collect(),
            served,
            nanos: served * each * 1_000_000,
            longest: each.min(served * each) * 1_000_000,
            ..PoolWaits::none(pool.0.to_owned(), pool.1)
        };
        self.events.push(Event::Waits { at: ms(at), pid: Pid(pid), waits });
    }

    pub fn release(&mut self, at: u64, conn: &mut Conn) {
        self.tell(at, conn, |state| {
            if let Some(checkout) = &mut state.checkout {
                checkout.held = false;
                checkout.released_at = Some(ms(at));
            }
        });
    }

    pub fn close(&mut self, at: u64, conn: &Conn) {
        self.events.push(Event::Close {
            at: ms(at),
            conn: ConnId(u64::from(conn.id)),
            pid: Pid(conn.pid),
            fd: Fd(conn.fd),
        });
    }

    pub fn exit(&mut self, at: u64, pid: u32) {
        self.events.push(Event::Exit { at: ms(at), pid: Pid(pid) });
    }

    pub fn lost(&mut self, at: u64, reason: &str, total: u64) {
        self.events.push(Event::Lost { at: ms(at), reason: reason.to_owned(), total });
    }

    pub fn tick(&mut self, at: u64) {
        self.events.push(Event::Tick { at: ms(at) });
    }

    /// The events in order of time.
    pub fn sorted(mut self) -> Vec<Event> {
        self.events.sort_by_key(Event::at);
        self.events
    }
}
