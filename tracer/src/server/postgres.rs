//! Asking PostgreSQL: `pg_stat_activity`, in a transaction of our own that reads only.
//!
//! May import its neighbours, the model's types and `sql`. What is set is set for the transaction,
//! so it stays in no session that a pooler hands on. Any answer in, sessions out: what does not
//! parse is not known.

use std::net::IpAddr;

use super::wire::{Failure, Row, Table};
use super::{Answer, Connected, Place, Session, now};
use crate::model::{ServerUse, SessionState, Statement};
use crate::sql;

/// Characters of a statement that are asked for.
const STATEMENT: usize = 500;

const BEGIN: &str = "begin isolation level read committed read only;
    set local statement_timeout = '3s'; set local lock_timeout = '1s';
    set local search_path = pg_catalog;";

/// Microseconds on the server's clock, so that ours need not agree with it. Of sessions that a role
/// may not see even the type is not told.
const SESSIONS: &str = "
    select a.pid, a.usename, a.datname, a.application_name, host(a.client_addr) as addr,
      a.client_port as port, a.state, a.wait_event_type, a.wait_event, a.backend_type,
      left(a.query, 500) as query, a.pid = pg_backend_pid() as own,
      (extract(epoch from clock_timestamp() - a.state_change) * 1000000)::bigint as state_for,
      (extract(epoch from clock_timestamp() - a.xact_start) * 1000000)::bigint as xact_for
    from pg_stat_activity a where a.backend_type in ('client backend', 'walsender')
      or (a.backend_type is null and a.usename is not null and a.datname is not null);";

const SERVER: &str = "
    select host(inet_server_addr()) as addr, inet_server_port() as port,
      current_setting('port') as set_port, current_setting('max_connections') as max_connections,
      current_setting('superuser_reserved_connections') as superuser_reserved,
      current_setting('reserved_connections', true) as reserved;";

const LOCKS: &str = "
    select distinct l.pid as locker from pg_locks l where l.locktype = 'advisory' and l.granted;";

/// Asks once; advisory locks too where there is somewhere to keep who has them.
pub(super) fn ask(
    connected: &mut Connected,
    name: String,
    locks: Option<&mut Vec<u32>>,
    role: &str,
) -> Result<Answer, Failure> {
    let mut text = String::from(BEGIN) + SESSIONS + SERVER;
    if locks.is_some() {
        text += LOCKS;
    }
    text += " commit";
    let at = now();
    let tables = connected.wire.query(&text)?;
    let mut tables = tables.into_iter();
    let (sessions, server) = (tables.next().unwrap_or_default(), tables.next().unwrap_or_default());
    if let Some(locks) = locks {
        let lockers = tables.next().unwrap_or_default();
        *locks = lockers.rows().filter_map(|row| row.number("locker")).collect();
    }
    let version = connected.wire.version().split(' ').next().unwrap_or_default();
    let version = format!("PostgreSQL {version}");
    let mut place = connected.place.clone();
    let used = server_use(&server, &sessions, name, version, &mut place);
    let note = hidden(&sessions, role);
    Ok(Answer { at, place, sessions: sessions.rows().filter_map(session).collect(), used, note })
}

fn server_use(
    server: &Table,
    sessions: &Table,
    server_name: String,
    version: String,
    place: &mut Place,
) -> ServerUse {
    let row = server.rows().next();
    let number = |name: &str| row.and_then(|row| row.number::<u64>(name));
    place.addrs.extend(row.and_then(|row| address(row.get("addr")?)));
    for port in ["port", "set_port"] {
        place.ports.extend(row.and_then(|row| row.number::<u16>(port)));
    }
    let reserved = number("superuser_reserved")
        .map(|superusers| superusers.saturating_add(number("reserved").unwrap_or(0)));
    let is_client =
        |row: &Row| row.get("backend_type") != Some("walsender") && row.get("own") != Some("t");
    ServerUse {
        server: server_name,
        version,
        sessions: sessions.rows().filter(is_client).count() as u64,
        max_sessions: number("max_connections"),
        reserved,
    }
}

fn session(row: Row<'_>) -> Option<Session> {
    if row.get("own") == Some("t") {
        return None;
    }
    let addr = row.get("addr").and_then(address);
    // Over a Unix socket there is no address and the port is -1; where it may not be seen, neither.
    let port = row.number::<u16>("port");
    let nanos = |name| row.number::<u64>(name).and_then(|micros| micros.checked_mul(1_000));
    let state = match row.get("state")? {
        "active" | "fastpath function call" => SessionState::Active,
        "idle" => SessionState::Idle,
        "idle in transaction" => SessionState::InTransaction,
        "idle in transaction (aborted)" => SessionState::FailedTransaction,
        _ => return None,
    };
    let wait = row.get("wait_event_type").zip(row.get("wait_event"));
    Some(Session {
        client: addr.zip(port),
        pid: row.number("pid"),
        user: row.text("usename"),
        database: row.text("datname"),
        application_name: row.text("application_name"),
        state: Some(state),
        state_for: nanos("state_for"),
        xact_for: nanos("xact_for"),
        wait: wait.map(|(kind, event)| format!("{kind}: {event}")),
        statement: row.get("query").and_then(statement),
        replication: row.get("backend_type") == Some("walsender"),
        advisory_lock: false,
        linked: None,
    })
}

/// Without literals.
fn statement(text: &str) -> Option<Statement> {
    let cut = text.chars().count() >= STATEMENT;
    let text = sql::redact(text.as_bytes(), cut);
    (!text.is_empty()).then_some(Statement::Sql { text, cut })
}

pub(super) fn address(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>().ok().map(|addr| addr.to_canonical())
}

/// Sessions whose state the role may not see.
fn hidden(sessions: &Table, role: &str) -> Option<String> {
    let hidden = |row: &Row| row.get("own") != Some("t") && row.get("state").is_none();
    let hidden = sessions.rows().filter(hidden).count();
    (hidden > 0).then(|| {
        format!(
            "{role} may not see {hidden} of its {} sessions: grant it pg_monitor",
            sessions.rows.len()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rows: &[&[(&str, &str)]]) -> Table {
        let columns = rows[0].iter().map(|(name, _)| (*name).to_owned()).collect();
        let rows = rows
            .iter()
            .map(|row| row.iter().map(|(_, value)| Some((*value).to_owned())).collect())
            .collect();
        Table { columns, rows }
    }

    #[test]
    fn absurd_values_are_not_known() {
        let rows = table(&[&[
            ("pid", "-1"),
            ("addr", "not an address"),
            ("port", "99999"),
            ("state", "idle in transaction"),
            ("state_for", "-5"),
            ("xact_for", "18446744073709551615"),
            ("usename", "a\u{1b}[31m\nb"),
            ("query", "select 'hunter2', 42"),
        ]]);
        let found = session(rows.rows().next().unwrap()).unwrap();
        assert_eq!((found.client, found.pid), (None, None));
        assert_eq!((found.state_for, found.xact_for), (None, None));
        assert_eq!(found.state, Some(SessionState::InTransaction));
        // As it came: whoever prints it escapes it.
        assert_eq!(found.user.as_deref(), Some("a\u{1b}[31m\nb"));
        let Some(Statement::Sql { text, .. }) = found.statement else { panic!("no statement") };
        assert_eq!(text, "select ?, ?");
    }

    #[test]
    fn a_state_that_is_not_known_says_nothing() {
        for state in ["", "disabled", "anything"] {
            let rows = table(&[&[("pid", "1"), ("state", state)]]);
            assert_eq!(session(rows.rows().next().unwrap()), None);
        }
    }

    #[test]
    fn what_a_role_may_not_see_is_told() {
        let mut rows = table(&[&[("pid", "1"), ("state", "idle")], &[("pid", "2"), ("state", "")]]);
        assert_eq!(hidden(&rows, "me"), None);
        rows.rows[1][1] = None;
        let note = hidden(&rows, "me").unwrap();
        assert!(note.contains("1 of its 2 sessions"), "{note}");
    }
}
