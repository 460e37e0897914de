//! From the tracker to a [`Report`].
//!
//! May import `model`. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    BlameRow, Capture, CaptureHeader, ConnectionRow, ConnectionState, CostsRow, Ending, FindingRow,
    FrameRow, HolderRow, Host, Millis, NowRow, PoolRow, ProcessRow, Report, SCHEMA, SaidRow,
    ServerRow, StackRow, Tool, WaitsRow, inference, standing,
};
use crate::model::{
    ConnId, Connection, Finding, Frame, Holder, MonoNanos, Peer, PoolSeen, Process, ServerUse,
    SessionState, Span, Stack, StackEvent, Statement, Tracker, TxStatus, WaitTotals, WirePhase,
};

const MILLI: u64 = 1_000_000;

impl Report {
    /// The report of everything a tracker knows at the end of a capture.
    #[must_use]
    pub fn build(tracker: &Tracker, header: &CaptureHeader, ending: &Ending) -> Self {
        let at = ending.at.max(tracker.now());
        let findings = tracker.findings(at);
        let totals = tracker.totals();
        let coverage = header.coverage.iter().chain(&ending.coverage).cloned().collect();
        let row = |conn: &Connection, seen: MonoNanos, ended: bool| {
            connection_row(tracker, header, conn, seen, ended)
        };
        let mut connections: Vec<_> = tracker
            .live()
            .filter(|conn| conn.is_session() || conn.phase() == WirePhase::Connecting)
            .map(|conn| row(conn, at, false))
            .chain(tracker.ended().map(|(conn, seen)| row(conn, seen, true)))
            .collect();
        connections.sort_by_key(|row| row.id);
        Self {
            schema: SCHEMA,
            tool: Tool { name: "connleak", version: header.tool_version.clone() },
            host: Host { hostname: header.hostname.clone(), kernel: header.kernel.clone() },
            capture: Capture {
                started_at: timestamp(header.started_unix_ms),
                duration_ms: at.since(header.started_at) / MILLI,
                threshold_ms: header.threshold / MILLI,
                target: header.target.clone(),
                connections_seen: totals.opened,
                connections_found_at_start: totals.existing,
                connections_closed: totals.closed,
                lost: tracker
                    .lost()
                    .iter()
                    .filter(|(_, count)| **count > 0)
                    .map(|(reason, count)| (reason.clone(), *count))
                    .collect(),
                anomalies: tracker
                    .anomalies()
                    .iter()
                    .map(|(anomaly, count)| (anomaly.name().to_owned(), *count))
                    .collect(),
                coverage,
                incomplete: ending.incomplete.clone(),
                servers: tracker.servers().map(server_row).collect(),
                costs: tracker.costs().map(CostsRow::of),
            },
            processes: processes(tracker, &findings, at),
            findings: (1..)
                .zip(&findings)
                .map(|(id, finding)| finding_row(tracker, id, finding))
                .collect(),
            connections,
        }
    }
}

/// Processes that have connections or findings, by pid.
fn processes(tracker: &Tracker, findings: &[Finding], at: MonoNanos) -> Vec<ProcessRow> {
    let mut live = BTreeMap::new();
    for conn in tracker.live() {
        *live.entry(conn.owner).or_insert(0u64) += 1;
    }
    let found: BTreeSet<_> = findings.iter().map(|finding| finding.process).collect();
    let mut rows: Vec<_> = tracker
        .processes()
        .filter_map(|process| {
            let live = live.get(&process.id).copied().unwrap_or(0);
            (live > 0 || found.contains(&process.id)).then(|| process_row(process, live, at))
        })
        .collect();
    rows.sort_by_key(|row| row.pid);
    rows
}

fn process_row(process: &Process, connections: u64, at: MonoNanos) -> ProcessRow {
    let seen = process.seen.as_ref();
    ProcessRow {
        pid: process.pid.0,
        start_time: seen.and_then(|seen| seen.start_time),
        comm: seen.map(|seen| seen.comm.clone()),
        exe: seen.and_then(|seen| seen.exe.clone()),
        runtime: process.runtime(),
        container: seen.and_then(|seen| seen.container.clone()),
        ns_pid: seen.and_then(|seen| seen.ns_pid),
        pools: seen.map_or_else(Vec::new, |seen| {
            seen.pools
                .iter()
                .map(|pool| PoolSeen {
                    observed: pool.observed || process.marks(&pool.name),
                    ..pool.clone()
                })
                .map(|pool| PoolRow {
                    name: pool.name.clone(),
                    observed: pool.observed,
                    note: pool.note.clone(),
                    waits: waits_row(WaitTotals::of(
                        process.waits.iter().filter(|waits| waits.told.pool == pool.name),
                        at,
                    )),
                    presence: pool.presence,
                    how: pool.how.clone(),
                    inference: inference(&pool),
                    standing: standing(&pool),
                })
                .collect()
        }),
        connections,
        ended: process.ended_at.is_some(),
    }
}

fn waits_row(totals: Option<WaitTotals>) -> Option<WaitsRow> {
    let totals = totals?;
    Some(WaitsRow {
        waiting: totals.waiting,
        longest_waiting_ms: totals.longest_waiting.map(|nanos| nanos / MILLI),
        served: totals.served,
        failed: totals.failed,
        waited_ms: totals.nanos / MILLI,
        longest_waited_ms: totals.longest / MILLI,
        most_out: totals.most_out,
    })
}

fn finding_row(tracker: &Tracker, id: u32, finding: &Finding) -> FindingRow {
    let process = tracker.process(finding.process);
    let seen = process.and_then(|process| process.seen.as_ref());
    let members: Vec<&Connection> =
        finding.connections.iter().filter_map(|id| connection(tracker, *id)).collect();
    FindingRow {
        id,
        verdict: finding.verdict,
        certainty: finding.certainty,
        count: finding.connections.len() as u64,
        pid: process.map_or(0, |process| process.pid.0),
        process: seen.map(|seen| seen.comm.clone()),
        container: seen.and_then(|seen| seen.container.clone()),
        pool: finding.pool.clone(),
        blame: finding.blame.as_ref().and_then(|(event, frame)| {
            let symbol = frame.symbol.as_ref()?;
            Some(BlameRow {
                event: *event,
                function: symbol.function.clone(),
                file: symbol.file.clone(),
                line: symbol.line,
                column: symbol.column,
                definition: symbol.definition,
                generated: symbol.generated.clone(),
                module: frame.module.clone(),
            })
        }),
        stacks: finding.stacks.iter().map(|(event, stack)| stack_row(*event, stack)).collect(),
        holders: finding.holders.iter().map(holder_row).collect(),
        held_ms: finding.held.map(millis),
        silent_ms: millis(finding.silent),
        growth_per_minute: finding.growth_per_minute,
        pool_max: finding.pool_max,
        exhausted_in_ms: finding.exhausted_in.map(|nanos| nanos / MILLI),
        server_exhausted_in_ms: server_exhausted_in(tracker, finding, &members),
        ended_by_exit: finding.ended_by_exit as u64,
        from_before: finding.from_before as u64,
        waits: waits_row(finding.waits),
        peer: agreed(&members, |conn| Some(peer(&conn.opened.peer))),
        database: agreed(&members, |conn| conn.database().map(ToOwned::to_owned)),
        user: agreed(&members, |conn| conn.user().map(ToOwned::to_owned)),
        last_statement: members.iter().find_map(|conn| last_statement(conn)),
        evidence: finding.evidence.clone(),
        hint: finding.hint.clone(),
        connections: finding.connections.iter().map(|id| id.0).collect(),
    }
}

fn connection(tracker: &Tracker, id: ConnId) -> Option<&Connection> {
    let ended = || tracker.ended().map(|(conn, _)| conn).find(|conn| conn.id == id);
    tracker.connection(id).or_else(ended)
}

/// What all members say, if they say the same.
fn agreed(members: &[&Connection], of: impl Fn(&Connection) -> Option<String>) -> Option<String> {
    let (first, rest) = members.split_first()?;
    let said = of(first)?;
    rest.iter().all(|conn| of(conn).as_ref() == Some(&said)).then_some(said)
}

fn stack_row(event: StackEvent, stack: &Stack) -> StackRow {
    StackRow { event, truncated: stack.truncated.clone(), frames: frame_rows(stack) }
}

fn frame_rows(stack: &Stack) -> Vec<FrameRow> {
    let row = |frame: &Frame| {
        let symbol = frame.symbol.as_ref();
        FrameRow {
            function: symbol.map(|symbol| symbol.function.clone()),
            file: symbol.and_then(|symbol| symbol.file.clone()),
            line: symbol.and_then(|symbol| symbol.line),
            column: symbol.and_then(|symbol| symbol.column),
            definition: symbol.is_some_and(|symbol| symbol.definition),
            generated: symbol.and_then(|symbol| symbol.generated.clone()),
            module: frame.module.clone(),
            kind: frame.kind,
            inlined: frame.inlined,
        }
    };
    stack.frames.iter().map(row).collect()
}

fn holder_row(holder: &Holder) -> HolderRow {
    HolderRow {
        connection: holder.conn.0,
        tid: holder.tid,
        goroutine: holder.goroutine,
        place: holder.place,
        call: holder.call.clone(),
        stack: holder
            .stack
            .as_ref()
            .map(|stack| NowRow { truncated: stack.truncated.clone(), frames: frame_rows(stack) }),
    }
}

fn connection_row(
    tracker: &Tracker,
    header: &CaptureHeader,
    conn: &Connection,
    at: MonoNanos,
    ended: bool,
) -> ConnectionRow {
    let wire = conn.wire.as_ref();
    let readable = matches!(conn.phase(), WirePhase::Ready | WirePhase::Mysql);
    let opened = conn.opened.existing.is_none().then_some(conn.opened.at);
    ConnectionRow {
        id: conn.id.0,
        pid: tracker.process(conn.owner).map_or(conn.opened.pid, |process| process.pid).0,
        fd: conn.opened.fd.0,
        peer: peer(&conn.opened.peer),
        local_port: conn.local_port,
        user: conn.user().map(ToOwned::to_owned),
        database: conn.database().map(ToOwned::to_owned),
        application_name: conn.application_name().map(ToOwned::to_owned),
        backend_pid: conn.backend_pid(),
        tls: match conn.phase() {
            WirePhase::Ready | WirePhase::Mysql => Some(false),
            WirePhase::Encrypted => Some(true),
            _ => None,
        },
        opened_at: opened.map(|opened| wall(header, opened)),
        state: state(conn, ended),
        silent_ms: conn.silence(at) / MILLI,
        statements: wire.filter(|_| readable).map(|wire| wire.statements),
        last_statement: last_statement(conn),
        checked_out: conn.pool_checkout().map(|checkout| checkout.held),
        server: conn.said_now().map(|said| SaidRow {
            server: said.server.clone(),
            state: said.state.map(said_state),
            state_ms: said.state_since.map(|since| at.since(since) / MILLI),
            transaction_ms: said.xact_since.map(|since| at.since(since) / MILLI),
            wait: said.wait.clone(),
        }),
    }
}

fn state(conn: &Connection, ended: bool) -> Option<ConnectionState> {
    if ended || conn.peer_closed() {
        return Some(ConnectionState::Closed);
    }
    if conn.phase() == WirePhase::Connecting {
        return Some(ConnectionState::Connecting);
    }
    Some(match (conn.active()?, conn.in_transaction()) {
        (true, _) => ConnectionState::Active,
        (false, Some(TxStatus::Failed)) => ConnectionState::IdleInTransactionAborted,
        (false, Some(_)) => ConnectionState::IdleInTransaction,
        (false, None) => ConnectionState::Idle,
    })
}

fn said_state(state: SessionState) -> ConnectionState {
    match state {
        SessionState::Active => ConnectionState::Active,
        SessionState::Idle => ConnectionState::Idle,
        SessionState::InTransaction => ConnectionState::IdleInTransaction,
        SessionState::FailedTransaction => ConnectionState::IdleInTransactionAborted,
    }
}

fn server_row(used: &ServerUse) -> ServerRow {
    ServerRow {
        server: used.server.clone(),
        version: used.version.clone(),
        sessions: used.sessions,
        max_sessions: used.max_sessions,
        reserved_sessions: used.reserved,
    }
}

/// Milliseconds until a finding that goes on growing has taken the last of its server's sessions.
fn server_exhausted_in(
    tracker: &Tracker,
    finding: &Finding,
    members: &[&Connection],
) -> Option<u64> {
    let per_minute = finding.growth_per_minute.filter(|growth| *growth > 0.0)?;
    let name = agreed(members, |conn| conn.said().map(|said| said.server.clone()))?;
    let used = tracker.server(&name)?;
    let usable = used.max_sessions?.saturating_sub(used.reserved.unwrap_or(0));
    let free = usable.saturating_sub(used.sessions);
    // A cast from f64 saturates.
    Some((free as f64 * 60_000.0 / per_minute) as u64)
}

fn last_statement(conn: &Connection) -> Option<String> {
    match conn.statement()? {
        Statement::Sql { text, cut: false } => Some(text.clone()),
        Statement::Sql { text, cut: true } => Some(format!("{text} …")),
        Statement::Prepared { name } => {
            Some(format!("(prepared before the watch began as {name:?})"))
        }
    }
}

fn peer(peer: &Peer) -> String {
    match peer {
        Peer::Tcp { addr, port } if addr.contains(':') => format!("[{addr}]:{port}"),
        Peer::Tcp { addr, port } => format!("{addr}:{port}"),
        Peer::Unix { path: Some(path), .. } => path.clone(),
        Peer::Unix { path: None, port } => format!("unix socket .s.PGSQL.{port}"),
    }
}

fn millis(span: Span) -> Millis {
    Millis { min: span.min / MILLI, max: span.max / MILLI }
}

/// The wall-clock time of a moment on the clock of the events.
fn wall(header: &CaptureHeader, at: MonoNanos) -> String {
    let after = at.since(header.started_at) / MILLI;
    let before = header.started_at.since(at) / MILLI;
    timestamp(header.started_unix_ms.saturating_add(after).saturating_sub(before))
}

/// RFC 3339 in UTC with milliseconds.
fn timestamp(unix_ms: u64) -> String {
    let time =
        i64::try_from(unix_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    format!("{:.3}", time.unwrap_or(jiff::Timestamp::MAX))
}
