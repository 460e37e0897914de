//! What the real-kernel tests stand on: clients that do what they are told, beside the servers of
//! `xtask`, and the built `connleak` watching them.
//!
//! May import `std`, `serde_json` and `xtask`. Invariants: nothing waits for a fixed time; every
//! wait is for a line of output or the server's word and has a deadline; whatever was started ends
//! with its value, by process id.

#![allow(dead_code, reason = "each target that shares it uses its part")]

pub mod client;
pub mod pooler;
pub mod process;
pub mod report;
pub mod tracer;

use std::time::Duration;

use xtask::postgres::{Config, EMULATED, Server};

/// How long anything that is not the passing of a threshold may take: much longer in an emulated
/// guest.
pub fn deadline() -> Duration {
    let slowness = if std::env::var_os(EMULATED).is_some() { 30 } else { 1 };
    Duration::from_secs(60) * slowness
}

/// A server of the test's own.
pub fn server() -> Server {
    server_with(&Config::default())
}

pub fn server_with(config: &Config) -> Server {
    Server::start_with(config).expect("PostgreSQL starts")
}

/// Returns when the server has exactly so many client sessions for which this SQL condition
/// holds. Panics when it does not get there: a backend notices the end of its client by itself,
/// and some time later, so the server is asked until it has.
pub fn until_sessions(server: &Server, condition: &str, count: u64) {
    let sql = format!(
        "set statement_timeout = {};
         do $$ begin
           while {count} <> (select count(*) from pg_stat_activity where ({condition})
             and backend_type = 'client backend' and pid <> pg_backend_pid())
           loop
             perform pg_sleep(0.01);
             perform pg_stat_clear_snapshot();
           end loop;
         end $$",
        deadline().as_millis()
    );
    let result = server.psql(&sql);
    assert!(result.is_ok(), "not {count} sessions with {condition}: {result:?}");
}
