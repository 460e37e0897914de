//! Asking PgBouncer's console: its clients, and which server session each of them has.
//!
//! May import its neighbours and the model's types. The console takes one command at a time and
//! lists columns in another order with each version, so they are found by name.

use std::collections::BTreeMap;

use super::postgres::address;
use super::wire::{Failure, Row, Table};
use super::{Answer, Connected, Endpoint, Linked, Session, now};
use crate::model::ServerUse;

/// Asks once.
pub(super) fn ask(connected: &mut Connected, name: String) -> Result<Answer, Failure> {
    let mut show = |what: &str| -> Result<Table, Failure> {
        Ok(connected.wire.query(what)?.into_iter().next().unwrap_or_default())
    };
    let at = now();
    let (clients, servers) = (show("SHOW CLIENTS")?, show("SHOW SERVERS")?);
    let max_clients = match connected.max_clients {
        Some(most) => Some(most),
        None => most_clients(&show("SHOW CONFIG")?),
    };
    connected.max_clients = max_clients;
    let linked = linked(&servers);
    let is_client = |row: &Row| row.get("database") != Some("pgbouncer");
    let rows = || clients.rows().filter(is_client);
    let used = ServerUse {
        server: name,
        version: format!("PgBouncer {}", connected.wire.version().trim_end_matches("/bouncer")),
        sessions: rows().count() as u64,
        max_sessions: max_clients,
        reserved: None,
    };
    let sessions = rows().map(|row| session(row, &linked)).collect();
    Ok(Answer { at, place: connected.place.clone(), sessions, used, note: None })
}

fn most_clients(config: &Table) -> Option<u64> {
    config.rows().find(|row| row.get("key") == Some("max_client_conn"))?.number("value")
}

/// The pooler's connections by their name in `link`.
fn linked(servers: &Table) -> BTreeMap<String, Linked> {
    let linked = |row: Row<'_>| {
        let pid = row.number::<u32>("remote_pid").filter(|pid| *pid > 0)?;
        Some((row.text("ptr")?, Linked { client: endpoint(row, "local_addr", "local_port"), pid }))
    };
    servers.rows().filter_map(linked).collect()
}

fn session(row: Row<'_>, linked: &BTreeMap<String, Linked>) -> Session {
    Session {
        client: endpoint(row, "addr", "port"),
        user: row.text("user"),
        database: row.text("database"),
        application_name: row.text("application_name"),
        linked: row.get("link").and_then(|link| linked.get(link)).copied(),
        ..Session::default()
    }
}

fn endpoint(row: Row<'_>, addr: &str, port: &str) -> Option<Endpoint> {
    row.get(addr).and_then(address).zip(row.number(port))
}
