//! The report: what a person, a script or a CI job reads. Built from the model, written as text or
//! JSON.
//!
//! May import `model` and `serde`; no file, no clock. Invariants: the same tracker, header and
//! ending give the same report byte for byte; strings of traced processes are kept as they came
//! and escaped by the writers; durations carry their unit, and unknown is `None`, never zero.

mod build;
mod costs;
mod escape;
mod json;
mod pools;
mod text;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::{Certainty, MonoNanos, Verdict};

pub use json::write_json;
pub use pools::{inference, standing};
pub use text::{TextOptions, write_text};

/// Name and version of the JSON report's format.
pub const SCHEMA: &str = "connleak.report/1";

/// What is known when a capture starts: the head of every recording and of every report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureHeader {
    /// Version of the tool that captured.
    pub tool_version: String,
    pub hostname: Option<String>,
    /// Release of the running kernel, as `uname -r` prints it.
    pub kernel: Option<String>,
    /// Wall clock at the start, in milliseconds since 1970-01-01 UTC.
    pub started_unix_ms: u64,
    /// The same moment on the clock of the events.
    pub started_at: MonoNanos,
    /// Held and silent for this long in nanoseconds is a finding.
    pub threshold: u64,
    /// What is watched, in words: `everything`, `pid 4123`.
    pub target: String,
    /// What can be seen on this host and what cannot, in sentences.
    pub coverage: Vec<String>,
}

/// How a capture ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Time of the end, on the clock of the events.
    pub at: MonoNanos,
    /// What was learned about coverage on the way, in sentences.
    pub coverage: Vec<String>,
    /// Why the events may not be all, in a sentence; `None` when they are.
    pub incomplete: Option<String>,
}

/// A report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    pub schema: &'static str,
    pub tool: Tool,
    pub host: Host,
    pub capture: Capture,
    pub processes: Vec<ProcessRow>,
    pub findings: Vec<FindingRow>,
    pub connections: Vec<ConnectionRow>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Tool {
    pub name: &'static str,
    pub version: String,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Host {
    pub hostname: Option<String>,
    pub kernel: Option<String>,
}

/// What was watched, and what was not seen.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Capture {
    /// RFC 3339, UTC.
    pub started_at: String,
    pub duration_ms: u64,
    pub threshold_ms: u64,
    pub target: String,
    pub connections_seen: u64,
    pub connections_found_at_start: u64,
    pub connections_closed: u64,
    /// Counts by reason.
    pub lost: BTreeMap<String, u64>,
    pub anomalies: BTreeMap<String, u64>,
    pub coverage: Vec<String>,
    pub incomplete: Option<String>,
    /// The servers that were asked and answered.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<ServerRow>,
    /// What the capture itself has cost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub costs: Option<CostsRow>,
}

/// What watching has cost.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CostsRow {
    /// Processor time of the tracer.
    pub processor_ms: u64,
    pub resident_bytes: Option<u64>,
    /// Time that other processes spent in the programs in the kernel, where it counts that.
    pub programs: Option<ProgramsRow>,
    pub stacks_named: Vec<NamedRow>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProgramsRow {
    pub runs: u64,
    pub total_ms: u64,
    pub mean_ns: u64,
}

/// The stacks of one runtime's processes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NamedRow {
    pub runtime: Option<crate::model::Runtime>,
    pub count: u64,
    /// The slowest of those that were the first of their process; `None` when there was none.
    pub first_us: Option<u64>,
    /// Mean and slowest of the others.
    pub mean_us: Option<u64>,
    pub longest_us: Option<u64>,
}

/// How much of a server is in use, by its own word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServerRow {
    pub server: String,
    pub version: String,
    /// Client sessions, ours not counted.
    pub sessions: u64,
    pub max_sessions: Option<u64>,
    /// Of these, kept for superusers and the like.
    pub reserved_sessions: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProcessRow {
    pub pid: u32,
    /// Clock ticks after boot.
    pub start_time: Option<u64>,
    pub comm: Option<String>,
    pub exe: Option<String>,
    pub runtime: Option<crate::model::Runtime>,
    pub container: Option<String>,
    pub ns_pid: Option<u32>,
    pub pools: Vec<PoolRow>,
    /// Live connections it answers for.
    pub connections: u64,
    pub ended: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PoolRow {
    pub name: String,
    pub observed: bool,
    pub note: Option<String>,
    pub presence: crate::model::Presence,
    /// What told it.
    pub how: Option<String>,
    /// What tells a leak in it, and what does not.
    pub inference: Option<String>,
    #[serde(skip)]
    pub standing: &'static str,
    /// `None` where the entry of its acquires is not seen.
    pub waits: Option<WaitsRow>,
}

/// Waits for a connection of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct WaitsRow {
    /// Callers that wait at the end.
    pub waiting: u64,
    /// For how long the longest of them has; `None` of none.
    pub longest_waiting_ms: Option<u64>,
    /// Waits that ended with a connection, and without.
    pub served: u64,
    pub failed: Option<u64>,
    /// Time of all waits that ended, and the longest.
    pub waited_ms: u64,
    pub longest_waited_ms: u64,
    /// Connections that were out at the same time, at most.
    pub most_out: u64,
}

/// Shortest and longest of a group, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Millis {
    pub min: u64,
    pub max: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FindingRow {
    /// Position in this report, from 1.
    pub id: u32,
    pub verdict: Verdict,
    pub certainty: Certainty,
    pub count: u64,
    pub pid: u32,
    pub process: Option<String>,
    pub container: Option<String>,
    pub pool: Option<String>,
    pub blame: Option<BlameRow>,
    pub stacks: Vec<StackRow>,
    /// The threads that took some of the connections, as they are at the end.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub holders: Vec<HolderRow>,
    pub held_ms: Option<Millis>,
    pub silent_ms: Millis,
    pub growth_per_minute: Option<f64>,
    /// How many connections the pool opens at the most; `None` when it is not known.
    pub pool_max: Option<u32>,
    /// Until the pool has no connection left; `None` while its maximum or the pace is unknown.
    pub exhausted_in_ms: Option<u64>,
    /// Until the server has none left; `None` unless it was asked.
    pub server_exhausted_in_ms: Option<u64>,
    pub ended_by_exit: u64,
    /// Connections from before the watch began or before the pool was observed. For text only: the
    /// JSON tells it of each connection.
    #[serde(skip)]
    pub from_before: u64,
    /// Of the pool; `None` where the entry of its acquires is not seen.
    pub waits: Option<WaitsRow>,
    /// Server, database and user of the connections, where they agree.
    pub peer: Option<String>,
    pub database: Option<String>,
    pub user: Option<String>,
    pub last_statement: Option<String>,
    pub evidence: Vec<String>,
    pub hint: String,
    pub connections: Vec<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BlameRow {
    /// Which stack the frame is on.
    pub event: crate::model::StackEvent,
    pub function: String,
    pub file: Option<String>,
    pub line: Option<u32>,
    pub column: Option<u32>,
    /// The place is that of the function's definition, not of its call.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub definition: bool,
    /// Where the code is that runs, when the place is one that it was made from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generated: Option<crate::model::Generated>,
    pub module: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StackRow {
    pub event: crate::model::StackEvent,
    /// Why the outer end is missing.
    pub truncated: Option<String>,
    /// Innermost first.
    pub frames: Vec<FrameRow>,
}

/// The thread or goroutine that took a connection, as it is at the end.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HolderRow {
    pub connection: u64,
    pub tid: u32,
    /// Its number in Go; then the thread is the one that ran it when it took the connection.
    pub goroutine: Option<u64>,
    /// Where it is, seen from the blamed function.
    pub place: crate::model::Whereabouts,
    /// The system call that it is blocked in, or what the goroutine waits for.
    pub call: Option<String>,
    pub stack: Option<NowRow>,
}

/// A stack that is of no event.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NowRow {
    /// Why the outer end is missing.
    pub truncated: Option<String>,
    /// Innermost first.
    pub frames: Vec<FrameRow>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FrameRow {
    pub function: Option<String>,
    pub file: Option<String>,
    pub line: Option<u32>,
    pub column: Option<u32>,
    /// The place is that of the function's definition, not of its call.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub definition: bool,
    /// Where the code is that runs, when the place is one that it was made from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generated: Option<crate::model::Generated>,
    pub module: Option<String>,
    pub kind: crate::model::FrameKind,
    pub inlined: bool,
}

/// State as in `pg_stat_activity`, as far as it can be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionState {
    Connecting,
    Active,
    Idle,
    #[serde(rename = "idle in transaction")]
    IdleInTransaction,
    #[serde(rename = "idle in transaction (aborted)")]
    IdleInTransactionAborted,
    Closed,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ConnectionRow {
    pub id: u64,
    pub pid: u32,
    pub fd: i32,
    pub peer: String,
    pub local_port: Option<u16>,
    pub user: Option<String>,
    pub database: Option<String>,
    pub application_name: Option<String>,
    pub backend_pid: Option<u32>,
    /// `None` while nothing was read of it.
    pub tls: Option<bool>,
    /// RFC 3339, UTC; `None` when it existed before the start.
    pub opened_at: Option<String>,
    pub state: Option<ConnectionState>,
    pub silent_ms: u64,
    /// `None` where the wire cannot be read.
    pub statements: Option<u64>,
    pub last_statement: Option<String>,
    /// Out of an observed pool; `None` where no pool is observed.
    pub checked_out: Option<bool>,
    /// What the server says of its present state; only where one was asked and knows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<SaidRow>,
}

/// A server's word on a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SaidRow {
    /// Which of the servers says so.
    pub server: String,
    pub state: Option<ConnectionState>,
    /// Since it is in that state.
    pub state_ms: Option<u64>,
    /// Since its transaction is open.
    pub transaction_ms: Option<u64>,
    pub wait: Option<String>,
}

/// The command's exit code for a report: 0 nothing found, 1 findings, 2 not everything was seen
/// because the recording is incomplete.
#[must_use]
pub fn exit_code(report: &Report) -> u8 {
    if report.capture.incomplete.is_some() {
        2
    } else {
        u8::from(report.findings.iter().any(|finding| finding.verdict.is_fault()))
    }
}
