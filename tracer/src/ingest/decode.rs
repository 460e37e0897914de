//! Bytes of the kernel side to model values. Pure and total.
//!
//! May import the contract, the model's types, `sql` and the layouts of pools. Invariants: unknown constants become
//! "unknown", never an error; literals leave SQL here, so nothing behind this module holds any;
//! numbers that mean "none" in the contract become `None`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tracer_ebpf::{
    conn::{AF_INET, AF_INET6, Conn, FLAG_CONNECTING, FLAG_DRIVER, FLAG_EOF},
    limits::{STARTUP_BYTES, STATEMENT_BYTES},
    statement::{MARK_ADVISORY_LOCK, MARK_LISTEN},
    wire::{
        MARK_COPY, MARK_COPY_BOTH, PHASE_CANCEL, PHASE_ENCRYPTED, PHASE_FOREIGN, PHASE_GREETED,
        PHASE_MYSQL, PHASE_READY, PHASE_UNKNOWN, STATEMENT_NAME, STATEMENT_SQL,
        mysql::{STMT_CLOSE, STMT_SEND_LONG_DATA},
    },
};

use crate::{
    model::{Begun, Checkout, MonoNanos, Peer, Statement, TxStatus, WirePhase, WireState},
    pools::size::SizeLayout,
    sql,
};

/// A pool of the catalogue, as connections refer to it by index.
#[derive(Clone, Debug)]
pub struct PoolName {
    /// Name in reports.
    pub name: String,
    /// False for a driver without a pool.
    pub is_pool: bool,
    /// Its checkouts are joined by the key of the server's backend.
    pub joins_by_key: bool,
    /// Where its object says how many connections it may have.
    pub sizes: Vec<SizeLayout>,
}

/// The peer of a connection.
#[must_use]
pub fn peer(conn: &Conn) -> Peer {
    let port = conn.peer_port;
    let addr = match conn.family {
        AF_INET => {
            let [a, b, c, d, ..] = conn.peer_addr;
            IpAddr::V4(Ipv4Addr::new(a, b, c, d))
        }
        AF_INET6 => IpAddr::V6(Ipv6Addr::from(conn.peer_addr)).to_canonical(),
        _ => return Peer::Unix { path: None, port },
    };
    Peer::Tcp { addr: addr.to_string(), port }
}

/// The state of a connection; `pools` is the catalogue by index. Which of several pools of the same
/// kind it is, is not known here.
#[must_use]
pub fn wire_state(conn: &Conn, pools: &[PoolName]) -> WireState {
    let wire = &conn.wire;
    let phase = match wire.phase {
        PHASE_READY => WirePhase::Ready,
        PHASE_ENCRYPTED => WirePhase::Encrypted,
        PHASE_CANCEL => WirePhase::Cancel,
        PHASE_UNKNOWN => WirePhase::Unknown,
        PHASE_GREETED | PHASE_MYSQL => WirePhase::Mysql,
        PHASE_FOREIGN => WirePhase::Foreign,
        _ => WirePhase::Connecting,
    };
    let startup = match phase {
        WirePhase::Mysql => Startup::parse_mysql(&conn.startup, conn.startup_len),
        _ => Startup::parse(&conn.startup, conn.startup_len),
    };
    let active = match phase {
        WirePhase::Ready => Some(wire.pending() > 0),
        // The last word is the client's, and nothing is owed.
        WirePhase::Mysql if matches!(wire.last_frontend, STMT_CLOSE | STMT_SEND_LONG_DATA) => {
            Some(false)
        }
        _ => None,
    };
    WireState {
        phase,
        last_send: time(wire.last_send),
        last_recv: time(wire.last_recv),
        bytes_sent: wire.bytes_sent,
        bytes_received: wire.bytes_received,
        statements: u64::from(wire.statements),
        active,
        status: match wire.status {
            b'I' => Some(TxStatus::Idle),
            b'T' => Some(TxStatus::InTransaction),
            b'E' => Some(TxStatus::Failed),
            _ => None,
        },
        uses: u64::from(wire.uses),
        begun: wire
            .begun()
            .map(|(number, at, _)| Begun { at: MonoNanos(at), number: number.into() }),
        // Where its strings begin and end is not known, so they could not be removed from it.
        last_statement: statement(conn).filter(|_| phase != WirePhase::Mysql),
        listening: wire.marks & MARK_LISTEN != 0,
        advisory_lock: wire.marks & MARK_ADVISORY_LOCK != 0
            || (phase == WirePhase::Mysql && takes_mysql_lock(conn)),
        copy: wire.marks & MARK_COPY != 0,
        replication: startup.replication || wire.marks & MARK_COPY_BOTH != 0,
        // A server takes the user's name where no database is named (PostgreSQL documentation,
        // "StartupMessage").
        database: startup
            .database
            .or_else(|| startup.user.clone().filter(|_| phase != WirePhase::Mysql)),
        user: startup.user,
        application_name: startup.application_name,
        backend_pid: (wire.backend_pid != 0).then_some(wire.backend_pid),
        peer_closed: conn.flags & FLAG_EOF != 0,
        checkout: checkout(conn, pools),
    }
}

/// True while `connect` has not finished and nothing has moved.
#[must_use]
pub fn is_connecting(conn: &Conn) -> bool {
    conn.flags & FLAG_CONNECTING != 0
}

fn time(nanos: u64) -> Option<MonoNanos> {
    (nanos != 0).then_some(MonoNanos(nanos))
}

fn statement(conn: &Conn) -> Option<Statement> {
    let len = (conn.statement_len as usize).min(STATEMENT_BYTES);
    let text = conn.statement.get(..len)?;
    match conn.wire.statement_kind {
        STATEMENT_SQL => {
            // The kernel side copies at most one byte less than the field and ends it with NUL.
            let cut = len + 2 > STATEMENT_BYTES;
            Some(Statement::Sql { text: sql::redact(text, cut), cut })
        }
        STATEMENT_NAME if len > 0 => {
            Some(Statement::Prepared { name: String::from_utf8_lossy(text).into_owned() })
        }
        _ => None,
    }
}

/// The last statement takes a lock of MySQL that the session keeps.
fn takes_mysql_lock(conn: &Conn) -> bool {
    let len = (conn.statement_len as usize).min(STATEMENT_BYTES);
    let text = conn.statement.get(..len).unwrap_or_default().to_ascii_lowercase();
    let has = |words: &[u8]| text.windows(words.len()).any(|part| part == words);
    conn.wire.statement_kind == STATEMENT_SQL
        && (has(b"get_lock(") && !has(b"release_lock(") || has(b"lock tables ") && !has(b"unlock"))
}

fn checkout(conn: &Conn, pools: &[PoolName]) -> Option<Checkout> {
    if conn.checkouts == 0 {
        return None;
    }
    let pool = pools.get(conn.pool as usize)?;
    Some(Checkout {
        pool: pool.name.clone(),
        instance: None,
        is_pool: pool.is_pool && conn.flags & FLAG_DRIVER == 0,
        held: conn.held != 0,
        acquired_at: time(conn.acquired_at),
        released_at: time(conn.released_at),
        count: conn.checkouts,
    })
}

/// Parameters of a startup packet that matter here.
#[derive(Debug, Default, PartialEq, Eq)]
struct Startup {
    user: Option<String>,
    database: Option<String>,
    application_name: Option<String>,
    replication: bool,
}

impl Startup {
    /// Names and values, each ended by NUL, the list by an empty name. A value that was cut off is
    /// not known.
    fn parse(bytes: &[u8; STARTUP_BYTES], len: u32) -> Self {
        let bytes = bytes.get(..len as usize).unwrap_or(bytes);
        let mut startup = Self::default();
        let mut rest = bytes;
        while let Some((name, after)) = split_nul(rest) {
            if name.is_empty() {
                break;
            }
            let Some((value, after)) = split_nul(after) else { break };
            let text = || Some(String::from_utf8_lossy(value).into_owned());
            match name {
                b"user" => startup.user = text(),
                b"database" => startup.database = text(),
                b"application_name" => startup.application_name = text(),
                // PostgreSQL takes `database` and the words for true.
                b"replication" => {
                    startup.replication = !matches!(
                        value.to_ascii_lowercase().as_slice(),
                        b"false" | b"off" | b"no" | b"0" | b""
                    );
                }
                _ => {}
            }
            rest = after;
        }
        startup
    }
}

/// Flags of MySQL's login that tell where its parts are ("Capabilities Flags").
const CONNECT_WITH_DB: u32 = 1 << 3;
const SECURE_CONNECTION: u32 = 1 << 15;
const PLUGIN_AUTH_LENENC: u32 = 1 << 21;
/// Bytes before the user's name: flags, longest packet, character set, filler.
const BEFORE_USER: usize = 32;

impl Startup {
    /// A login of MySQL ("HandshakeResponse41"). What stands between user and database is the
    /// answer to the server's challenge, which goes nowhere.
    fn parse_mysql(bytes: &[u8; STARTUP_BYTES], len: u32) -> Self {
        let mut startup = Self::default();
        let bytes = bytes.get(..len as usize).unwrap_or(bytes);
        let [f0, f1, f2, f3, ..] = *bytes else { return startup };
        let flags = u32::from_le_bytes([f0, f1, f2, f3]);
        let text = |value| Some(String::from_utf8_lossy(value).into_owned());
        let Some((user, rest)) = bytes.get(BEFORE_USER..).and_then(split_nul) else {
            return startup;
        };
        startup.user = text(user);
        if flags & CONNECT_WITH_DB == 0 {
            return startup;
        }
        let behind = if flags & (PLUGIN_AUTH_LENENC | SECURE_CONNECTION) == 0 {
            split_nul(rest).map(|(_, behind)| behind)
        } else {
            // Longer ones than a byte can tell do not fit the field either.
            let (len, behind) = rest.split_first().unwrap_or((&0, &[]));
            behind.get(usize::from(*len)..)
        };
        if let Some((database, _)) = behind.and_then(split_nul) {
            startup.database = text(database);
        }
        startup
    }
}

fn split_nul(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|byte| *byte == 0)?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn startup(text: &[u8]) -> Startup {
        let mut bytes = [0xff; STARTUP_BYTES];
        bytes[..text.len()].copy_from_slice(text);
        Startup::parse(&bytes, text.len() as u32)
    }

    #[test]
    fn startup_parameters_are_found_by_name() {
        let found = startup(b"user\0app\0database\0shop\0application_name\0web 1\0\0");
        assert_eq!(found.user.as_deref(), Some("app"));
        assert_eq!(found.database.as_deref(), Some("shop"));
        assert_eq!(found.application_name.as_deref(), Some("web 1"));
        assert!(!found.replication);
        assert!(startup(b"replication\0database\0\0").replication);
        assert!(!startup(b"replication\0off\0\0").replication);
    }

    #[test]
    fn a_value_that_was_cut_is_unknown() {
        let found = startup(b"user\0app\0database\0sho");
        assert_eq!(found.user.as_deref(), Some("app"));
        assert_eq!(found.database, None);
    }

    #[test]
    fn a_login_of_mysql_names_user_and_database() {
        let login = |flags: u32, tail: &[u8]| {
            let mut bytes = [0; STARTUP_BYTES];
            bytes[..4].copy_from_slice(&flags.to_le_bytes());
            bytes[BEFORE_USER..BEFORE_USER + tail.len()].copy_from_slice(tail);
            let found = Startup::parse_mysql(&bytes, (BEFORE_USER + tail.len()) as u32);
            (found.user, found.database)
        };
        let known = |text: &str| Some(text.to_owned());
        let both = (known("app"), known("shop"));
        assert_eq!(login(CONNECT_WITH_DB | SECURE_CONNECTION, b"app\0\x03abcshop\0"), both);
        assert_eq!(login(CONNECT_WITH_DB, b"app\0abc\0shop\0"), both);
        assert_eq!(login(SECURE_CONNECTION, b"app\0\x03abcplugin\0"), (known("app"), None));
        assert_eq!(login(CONNECT_WITH_DB, b"app\0abc\0sho"), (known("app"), None));
        assert_eq!(login(0, b"ap"), (None, None));
    }

    proptest::proptest! {
        #[test]
        fn any_login_of_mysql_is_taken(bytes: Vec<u8>, len: u32) {
            let mut field = [0; STARTUP_BYTES];
            let take = bytes.len().min(STARTUP_BYTES);
            field[..take].copy_from_slice(&bytes[..take]);
            let _ = Startup::parse_mysql(&field, len);
        }

        #[test]
        fn any_startup_bytes_are_taken(bytes: Vec<u8>, len: u32) {
            let mut field = [0; STARTUP_BYTES];
            let take = bytes.len().min(STARTUP_BYTES);
            field[..take].copy_from_slice(&bytes[..take]);
            let _ = Startup::parse(&field, len);
        }
    }
}
