//! What is silent on purpose, and what says that a connection is back in its pool.
//!
//! May import the model only.

use super::super::{
    connection::Connection,
    event::{FrameKind, StackEvent, Statement},
    process::Process,
};

/// The process holds server connections for its own clients: their silence is the clients'.
pub(super) fn is_pooler(process: &Process) -> bool {
    process.seen.as_ref().is_some_and(|seen| seen.pools.iter().any(|pool| pool.pooler))
}

/// Nobody expects this connection to speak: it listens, keeps a lock, or streams.
pub(in crate::model) fn is_silent_on_purpose(conn: &Connection) -> bool {
    let seen = conn
        .wire
        .as_ref()
        .is_some_and(|wire| wire.listening || wire.advisory_lock || wire.copy || wire.replication);
    let said = || conn.said_now().is_some_and(|said| said.replication || said.advisory_lock);
    seen || said() || took_lock(conn) || listened(conn)
}

/// The server's word on the last statement is that it was a LISTEN; where the wire is read, the
/// kernel side has kept that.
fn listened(conn: &Connection) -> bool {
    let said = conn.said_now().and_then(|said| said.statement.as_ref());
    let Some(Statement::Sql { text, .. }) = said else { return false };
    text.get(..7).is_some_and(|word| word.eq_ignore_ascii_case("listen "))
}

/// The last statement takes a session-level advisory lock somewhere in its text, where the kernel
/// side does not look.
fn took_lock(conn: &Connection) -> bool {
    let Some(Statement::Sql { text, .. }) = statement(conn) else { return false };
    let text = text.to_ascii_lowercase();
    text.contains("advisory_lock")
}

/// The last statement is one that pools send when a connection comes back and nobody else sends
/// last: asyncpg's reset (`asyncpg/connection.py`, `get_reset_query`) and `DISCARD ALL`
/// (PgBouncer's `server_reset_query`, Npgsql).
pub(super) fn is_back_in_pool(process: &Process, conn: &Connection) -> bool {
    is_written_by_return(process, conn) || is_reset(conn)
}

/// The last to write to it was its pool's own code that takes a connection back: sqlx's tests it by
/// a Sync, from a task of its own.
pub(super) fn is_written_by_return(process: &Process, conn: &Connection) -> bool {
    let pools = process.seen.iter().flat_map(|seen| &seen.pools);
    let mut known = pools
        .filter_map(|pool| pool.behaviour.as_ref())
        .filter(|behaviour| behaviour.return_function.is_some());
    known.any(|behaviour| {
        let frames = conn.stack(StackEvent::LastUse).map_or(&[][..], |stack| &stack.frames);
        let mut functions = frames
            .iter()
            .filter(|frame| frame.kind == FrameKind::Driver)
            .filter_map(|frame| Some(frame.symbol.as_ref()?.function.as_str()));
        functions.any(|function| behaviour.returns_in(function))
    })
}

/// See [`is_back_in_pool`].
fn is_reset(conn: &Connection) -> bool {
    let Some(Statement::Sql { text, .. }) = statement(conn) else { return false };
    let text = text.trim_end_matches([';', ' ']).to_ascii_lowercase();
    text == "discard all" || text.contains("pg_advisory_unlock_all()") || text == "reset all"
}

/// What was said last on it is known.
pub(super) fn has_spoken(conn: &Connection) -> bool {
    statement(conn).is_some()
}

fn statement(conn: &Connection) -> Option<&Statement> {
    conn.statement()
}
