//! What happened, as the model hears it: the only input of the model, and what a recording holds.
//!
//! May import `serde`, `model::behaviour` and `model::costs` only. Invariants: every event carries its
//! time; absence is `None`, never zero; strings from traced processes are kept as they came (lossily
//! decoded to UTF-8) and are escaped by whoever prints them; SQL text arrives with its literals already
//! removed.

use serde::{Deserialize, Serialize};

use super::behaviour::{Behaviour, Presence};
use super::costs::Costs;

/// `CLOCK_MONOTONIC` time in nanoseconds.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct MonoNanos(pub u64);

impl MonoNanos {
    /// Time from `earlier` to `self` in nanoseconds; zero when `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// A connection's identity: given out once, never reused within a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ConnId(pub u64);

/// A process id in the initial pid namespace. Reused by the kernel, so it is an identity only
/// between a process's first event and its [`Event::Exit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Pid(pub u32);

/// A file descriptor of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fd(pub i32);

/// The language runtime of a process, as recognised from its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Runtime {
    Go,
    Node,
    Python,
    Java,
    Ruby,
    Php,
    Dotnet,
    /// Rust, C, C++ and others without a runtime that matters here.
    Native,
}

/// A pool or driver recognised in a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolSeen {
    /// Name in the catalogue, for example `database/sql`.
    pub name: String,
    /// Acquire and release are both probed, so checkouts are observed.
    pub observed: bool,
    /// Why not, or what is limited, in words.
    pub note: Option<String>,
    #[serde(default)]
    pub presence: Presence,
    /// What told it, in words; `None` for the process's own code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub how: Option<String>,
    /// The process itself pools connections for its own clients.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pooler: bool,
    /// `None` for a driver without a pool, and in recordings that do not have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behaviour: Option<Behaviour>,
}

/// What is known about a process. Sent when it is first seen and again when more is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessSeen {
    /// Start time in clock ticks after boot (`/proc/PID/stat` field 22).
    pub start_time: Option<u64>,
    pub comm: String,
    pub exe: Option<String>,
    pub runtime: Option<Runtime>,
    /// Container id, shortened, when the process runs in one.
    pub container: Option<String>,
    /// Pid in the process's own pid namespace, where that differs.
    pub ns_pid: Option<u32>,
    pub pools: Vec<PoolSeen>,
}

/// The other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Peer {
    Tcp {
        addr: String,
        port: u16,
    },
    /// Path of the socket when known.
    Unix {
        path: Option<String>,
        port: u16,
    },
}

/// Of a connection that existed before the start: idle times as the kernel keeps them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Existing {
    /// Nanoseconds since the last data sent and received, where the kernel keeps them (TCP).
    pub last_send_ago: Option<u64>,
    pub last_recv_ago: Option<u64>,
}

/// Where a connection is in the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WirePhase {
    /// No byte has moved, or the startup is under way.
    Connecting,
    /// In session and readable.
    Ready,
    /// TLS or GSS: direction and time only.
    Encrypted,
    /// A CancelRequest: not a session.
    Cancel,
    /// Existed before the start and has not spoken since.
    Unknown,
    /// A MySQL session: its commands are counted, the rest is direction and time only.
    Mysql,
    /// Neither PostgreSQL's protocol nor MySQL's.
    Foreign,
}

/// Transaction status of the last ReadyForQuery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TxStatus {
    Idle,
    InTransaction,
    Failed,
}

/// The last statement, without literals.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Statement {
    /// Beginning of the SQL; `cut` when there was more.
    Sql { text: String, cut: bool },
    /// Name of a statement prepared before it was seen.
    Prepared { name: String },
}

/// A pool's handle on the connection, seen by probes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkout {
    /// Name in the catalogue.
    pub pool: String,
    /// Which of the process's pools of this name, from 1; `None` while no entry of an acquire was
    /// seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<u32>,
    /// False for a driver without a pool (libpq): then `held` is the life of the connection
    /// handle, no checkout.
    pub is_pool: bool,
    pub held: bool,
    pub acquired_at: Option<MonoNanos>,
    pub released_at: Option<MonoNanos>,
    /// Acquires seen so far.
    pub count: u64,
}

/// The use that began the open transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    pub at: MonoNanos,
    /// Value of [`WireState::uses`] then.
    pub number: u64,
}

/// The state of a connection as the kernel side keeps it, at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireState {
    pub phase: WirePhase,
    /// `None`: none since it was opened or, for an existing one, since the start.
    pub last_send: Option<MonoNanos>,
    pub last_recv: Option<MonoNanos>,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    /// Statements run.
    pub statements: u64,
    /// The server owes an answer. `None` when it cannot be known (encrypted: judged by direction
    /// and time, by the model).
    pub active: Option<bool>,
    /// `None` until a ReadyForQuery was seen.
    pub status: Option<TxStatus>,
    /// First sends after the server was done: grows with each new use.
    pub uses: u64,
    /// While a transaction is open: what began it, where that was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begun: Option<Begun>,
    pub last_statement: Option<Statement>,
    /// Silent on purpose.
    pub listening: bool,
    pub advisory_lock: bool,
    pub copy: bool,
    pub replication: bool,
    /// From the startup packet.
    pub user: Option<String>,
    pub database: Option<String>,
    pub application_name: Option<String>,
    /// Process id of the server's backend, from BackendKeyData.
    pub backend_pid: Option<u32>,
    /// The peer closed; the process has seen it.
    pub peer_closed: bool,
    pub checkout: Option<Checkout>,
}

/// State of a session by the server's own word (`pg_stat_activity.state`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionState {
    Active,
    Idle,
    InTransaction,
    FailedTransaction,
}

/// What a server, or a pooler's console, says of one of its sessions when asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionSaid {
    /// Who says so, as in the report's list of servers.
    pub server: String,
    pub backend_pid: Option<u32>,
    pub user: Option<String>,
    pub database: Option<String>,
    pub application_name: Option<String>,
    /// `None` where the role that asks may not see it, or a pooler does not know.
    pub state: Option<SessionState>,
    /// Since when it is in this state.
    pub state_since: Option<MonoNanos>,
    /// Since when its transaction is open.
    pub xact_since: Option<MonoNanos>,
    /// `wait_event_type` and `wait_event`: `Lock: relation`.
    pub wait: Option<String>,
    pub statement: Option<Statement>,
    /// A walsender.
    pub replication: bool,
    /// Holds an advisory lock outside of a transaction.
    pub advisory_lock: bool,
}

/// How much of a server or pooler is in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerUse {
    /// Its address as it was asked.
    pub server: String,
    /// Its own words: `PostgreSQL 15.3`.
    pub version: String,
    /// Client sessions, without the one that asks.
    pub sessions: u64,
    pub max_sessions: Option<u64>,
    /// Of these, kept for superusers and the like.
    pub reserved: Option<u64>,
}

/// Callers that wait for a connection of a pool, and those that did; an acquire that takes less
/// than a millisecond is no wait, and neither is the time it takes to open a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolWaits {
    /// Name in the catalogue.
    pub pool: String,
    /// As in [`Checkout::instance`].
    pub instance: u32,
    /// Callers that wait now.
    pub waiting: u64,
    /// Since when, longest first; not all of them, where they are many.
    pub since: Vec<MonoNanos>,
    /// Waits so far that ended with a connection, and without.
    pub served: u64,
    /// `None` where an acquire without a connection does not show.
    pub failed: Option<u64>,
    /// Time of all that ended, and the longest, in nanoseconds.
    pub nanos: u64,
    pub longest: u64,
}

impl PoolWaits {
    /// A pool for which nobody has waited yet.
    #[must_use]
    pub const fn none(pool: String, instance: u32) -> Self {
        Self {
            pool,
            instance,
            waiting: 0,
            since: Vec::new(),
            served: 0,
            failed: Some(0),
            nanos: 0,
            longest: 0,
        }
    }
}

/// Which event of a connection a stack was taken at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StackEvent {
    Acquire,
    Open,
    /// The use that began the transaction which is open.
    Begin,
    LastUse,
}

/// Whose code a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FrameKind {
    /// The application's own: a blame candidate.
    App,
    /// A PostgreSQL driver or a connection pool.
    Driver,
    /// A framework or another library.
    Library,
    /// Language runtime, standard library, libc.
    Runtime,
    /// Not resolved: no name.
    Unknown,
}

/// A resolved code location.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Symbol {
    pub function: String,
    pub file: Option<String>,
    pub line: Option<u32>,
    pub column: Option<u32>,
    /// The place is that of the function's definition, for that of its call is not known.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub definition: bool,
    /// Where the code is that runs, when a source map leads from there to this place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generated: Option<Generated>,
}

/// A place in what a compiler or a bundler wrote.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Generated {
    pub file: String,
    pub line: Option<u32>,
    pub column: Option<u32>,
}

/// One frame, innermost first in a [`Stack`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Frame {
    pub symbol: Option<Symbol>,
    /// File name of the module (executable or library); `None` for generated code.
    pub module: Option<String>,
    pub kind: FrameKind,
    pub inlined: bool,
}

/// A resolved stack.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Stack {
    /// Innermost first.
    pub frames: Vec<Frame>,
    /// Why the outer end is missing, in words; `None` when the stack is complete.
    pub truncated: Option<String>,
}

/// What a thread or a goroutine does at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum ThreadNow {
    Ended,
    /// It is not blocked, or never for long enough to be looked at.
    Running,
    /// Blocked in a system call, or a goroutine in what Go calls its reason to wait.
    Waiting {
        call: String,
        stack: Stack,
    },
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A process is known, or better known than before.
    Process { at: MonoNanos, pid: Pid, process: ProcessSeen },
    /// `child` inherits every descriptor of `parent`.
    Fork { at: MonoNanos, parent: Pid, child: Pid },
    /// The image was replaced; only the descriptors `kept` are still open.
    Exec { at: MonoNanos, pid: Pid, kept: Vec<Fd> },
    /// The process ended; all its descriptors are closed.
    Exit { at: MonoNanos, pid: Pid },
    /// A connection was opened by `pid` at descriptor `fd`, or found at the start (`existing`).
    Open {
        at: MonoNanos,
        conn: ConnId,
        pid: Pid,
        fd: Fd,
        /// Thread that opened it.
        tid: Option<u32>,
        peer: Peer,
        existing: Option<Existing>,
    },
    /// Another descriptor now refers to the connection.
    Duplicate { at: MonoNanos, conn: ConnId, pid: Pid, fd: Fd },
    /// A descriptor of the connection was closed.
    Close { at: MonoNanos, conn: ConnId, pid: Pid, fd: Fd },
    /// The connection's state; sent when it has changed since the last time.
    Wire { at: MonoNanos, conn: ConnId, local_port: Option<u16>, state: WireState },
    /// So many bytes had come from the server and were not read by the process when it was looked
    /// at. Looked at only while the server owes an answer; zero is told only after more than zero.
    Unread { at: MonoNanos, conn: ConnId, bytes: u64 },
    /// A server says this of its end of the connection, or (`None`) that it has no such session
    /// any more. `at` is before it was asked.
    Session { at: MonoNanos, conn: ConnId, said: Option<Box<SessionSaid>> },
    /// How much of a server is in use.
    Server { at: MonoNanos, used: ServerUse },
    /// A stack of the connection, resolved. For [`StackEvent::LastUse`] `uses` is the value of
    /// [`WireState::uses`] it belongs to, for [`StackEvent::Begin`] that of [`Begun::number`], for
    /// [`StackEvent::Acquire`] that of [`Checkout::count`]; zero for [`StackEvent::Open`].
    Stack { at: MonoNanos, conn: ConnId, of: StackEvent, uses: u64, stack: Stack },
    /// What the thread does now that a stack of the connection was taken on, or in Go the goroutine
    /// with this number; `of` and `uses` are those of [`Self::Stack`]. `at` is before it was looked at.
    Holder {
        at: MonoNanos,
        conn: ConnId,
        of: StackEvent,
        uses: u64,
        tid: u32,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        goroutine: Option<u64>,
        now: ThreadNow,
    },
    /// Who waits for a connection of a pool of a process; sent when that has changed.
    Waits { at: MonoNanos, pid: Pid, waits: PoolWaits },
    /// How many connections a pool may have; `None` for no maximum, or none that is known. `pool` and
    /// `instance` as in [`PoolWaits`].
    PoolSize { at: MonoNanos, pid: Pid, pool: String, instance: u32, max_open: Option<u32> },
    /// The kernel side or the user side lost something; `total` is the count so far.
    Lost { at: MonoNanos, reason: String, total: u64 },
    /// What the capture has cost so far; sent at its end.
    Costs { at: MonoNanos, costs: Costs },
    /// Time passed.
    Tick { at: MonoNanos },
}

impl Event {
    /// When it happened.
    #[must_use]
    pub const fn at(&self) -> MonoNanos {
        match self {
            Self::Process { at, .. }
            | Self::Fork { at, .. }
            | Self::Exec { at, .. }
            | Self::Exit { at, .. }
            | Self::Open { at, .. }
            | Self::Duplicate { at, .. }
            | Self::Close { at, .. }
            | Self::Wire { at, .. }
            | Self::Unread { at, .. }
            | Self::Session { at, .. }
            | Self::Server { at, .. }
            | Self::Stack { at, .. }
            | Self::Holder { at, .. }
            | Self::Waits { at, .. }
            | Self::PoolSize { at, .. }
            | Self::Lost { at, .. }
            | Self::Costs { at, .. }
            | Self::Tick { at } => *at,
        }
    }
}
