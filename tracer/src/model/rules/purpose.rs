//! What is silent on purpose, and what says that a connection is back in its pool.
//!
//! May import the model only.

use super::super::{connection::Connection, event::Statement, process::Process};

/// The process holds server connections for its own clients: their silence is the clients'.
pub(super) fn is_pooler(process: &Process) -> bool {
    process.seen.as_ref().is_some_and(|seen| seen.pools.iter().any(|pool| pool.pooler))
}

/// Nobody expects this connection to speak: it listens, keeps a lock, or streams.
pub(in crate::model) fn is_silent_on_purpose(conn: &Connection) -> bool {
    let Some(wire) = &conn.wire else { return false };
    wire.listening || wire.advisory_lock || wire.copy || wire.replication || took_lock(conn)
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
pub(super) fn is_back_in_pool(conn: &Connection) -> bool {
    let Some(Statement::Sql { text, .. }) = statement(conn) else { return false };
    let text = text.trim_end_matches([';', ' ']).to_ascii_lowercase();
    text == "discard all" || text.contains("pg_advisory_unlock_all()") || text == "reset all"
}

/// What was said last on it is known.
pub(super) fn has_spoken(conn: &Connection) -> bool {
    statement(conn).is_some()
}

fn statement(conn: &Connection) -> Option<&Statement> {
    conn.wire.as_ref()?.last_statement.as_ref()
}
