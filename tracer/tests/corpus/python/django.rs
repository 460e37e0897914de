//! Django: a connection for each thread, kept for as long as it is told, or its pool.

use super::Library;
use crate::common::client::Kind;
use crate::scenario::Scenario;

const PSYCOPG: Library =
    Library { client: "Django, psycopg 3", start: || Kind::PythonWith("django", &[]).command() };

const PSYCOPG2: Library = Library {
    client: "Django, psycopg2",
    start: || Kind::PythonWith("django", &["--psycopg2"]).command(),
};

/// Every scenario of the client.
pub fn scenarios() -> Vec<Scenario> {
    let both = [PSYCOPG, PSYCOPG2].into_iter().flat_map(either);
    both.chain(psycopg(PSYCOPG)).chain(pool()).collect()
}

/// What is the same for both drivers.
fn either(library: Library) -> Vec<Scenario> {
    vec![
        library.leak(
            "own connection never closed",
            &["pool threads=2", "leak forgotten 7", "later", "leak forgotten 1"],
            8,
        ),
        library.in_transaction("transaction never ended", &["leak transaction 7"], 7),
        library.in_transaction("BEGIN by hand, never ended", &["leak_alone begin 4"], 4),
        library.healthy("a connection for each thread", &["request 8", "overlap 2"]),
        library.healthy("transactions", &["request 8 atomic", "overlap 2"]),
        library
            .healthy("more threads later", &["request 4", "overlap 3", "overlap 3", "request 4"]),
        library.healthy(
            "two databases in each thread",
            &["request 4 two_databases", "overlap 3", "request 4 two_databases", "overlap 3"],
        ),
    ]
}

/// What the driver has no part in.
fn psycopg(library: Library) -> Vec<Scenario> {
    vec![
        library.in_transaction("server-side cursor left open", &["leak cursor 7"], 7),
        library.in_transaction("timed out inside a transaction", &["leak timeout 7"], 7),
        library.in_transaction(
            "transaction held across an outside call",
            &["keep outside_in_transaction", "keep outside_in_transaction", "request 2"],
            2,
        ),
        library.healthy("closed after each request", &["pool age=0", "request 8", "overlap 3"]),
        library.healthy(
            "replaced at the end of their age",
            &["pool age=1", "request 4", "later", "request 5", "later", "request 4", "overlap 2"],
        ),
        library.healthy(
            "checked before use, after all were ended",
            &["pool checks=true", "request 4", "terminate", "retry 8", "overlap 2"],
        ),
        library.healthy("threads that end", &["request 7 thread", "request 4", "overlap 2"]),
        library.healthy("cursor drained", &["request 4 iterator", "overlap 2"]),
        library.healthy("listens", &["keep listen", "request 3", "overlap 3"]),
        library.healthy("holds an advisory lock", &["keep lock", "request 3", "overlap 3"]),
        library.healthy("drains a cursor slowly", &["keep drain", "request 3", "overlap 3"]),
        library.healthy("pool over fork", &["request 4", "fork 2"]),
    ]
}

fn pool() -> Vec<Scenario> {
    vec![
        PSYCOPG.healthy("its own pool", &["pool pool=10", "request 8", "overlap 4", "request 4"]),
        PSYCOPG.healthy(
            "its own pool, burst, then calm",
            &["pool pool=10", "burst 6", "later", "request 4", "overlap 7"],
        ),
    ]
}
