//! SQLAlchemy's pools, over psycopg2 and over asyncpg.

use super::Library;
use crate::common::client::Kind;
use crate::scenario::{Accusation, Scenario};

const PSYCOPG2: Library = Library {
    client: "SQLAlchemy, psycopg2",
    start: || Kind::PythonWith("sqlalchemy", &[]).command(),
};

const ASYNCPG: Library = Library {
    client: "SQLAlchemy, asyncpg",
    start: || Kind::PythonWith("sqlalchemy_asyncpg", &[]).command(),
};

/// Every scenario of the client.
pub fn scenarios() -> Vec<Scenario> {
    let both = [PSYCOPG2, ASYNCPG]
        .into_iter()
        .flat_map(|library| [library.leaks(), library.right()].into_iter().flatten());
    both.chain(PSYCOPG2.copies()).chain(psycopg2()).chain(asyncpg()).collect()
}

fn psycopg2() -> Vec<Scenario> {
    vec![
        // Only the server's word says so: where the pool has it is not seen.
        PSYCOPG2.in_transaction("given back inside a transaction", &["leak_alone begin 1"], 1),
        PSYCOPG2.leaky(
            "never used",
            &["keep lock", "leak_alone unused 7", "overlap 1"],
            Accusation::never_used("suspected", 7).own(),
        ),
        PSYCOPG2.healthy("sessions", &["request 7 session", "overlap 2"]),
        PSYCOPG2.healthy("rolled back", &["request 7 rollback", "overlap 2"]),
        PSYCOPG2.healthy("autocommit", &["request 7 autocommit", "overlap 2"]),
        PSYCOPG2.healthy("cursor drained", &["request 5 stream", "overlap 2"]),
        PSYCOPG2.healthy(
            "checked before use",
            &["pool pool_pre_ping=true", "request 5", "overlap 4", "request 3"],
        ),
        PSYCOPG2.healthy(
            "checked before use, after all were ended",
            &["pool pool_pre_ping=true", "burst 5", "terminate", "request 3", "overlap 3"],
        ),
        PSYCOPG2.healthy(
            "replaced at the end of their lifetime",
            &[
                "pool pool_recycle=1",
                "burst 4",
                "later",
                "request 3",
                "later",
                "request 3",
                "overlap 3",
                "request 2",
            ],
        ),
        PSYCOPG2.healthy(
            "last in, first out",
            &["pool pool_use_lifo=true", "burst 5", "overlap 2", "request 3", "overlap 5"],
        ),
        PSYCOPG2.healthy(
            "beyond the pool's size",
            &["pool pool_size=2", "burst 5", "overlap 5", "request 3", "overlap 5"],
        ),
        PSYCOPG2.leak(
            "forgotten release, without a pool",
            &["pool null=true", "leak forgotten 3", "later", "leak forgotten 4"],
            7,
        ),
        PSYCOPG2.healthy("without a pool", &["pool null=true", "request 5", "overlap 3"]),
        PSYCOPG2.healthy("requests in threads", &["request 5 thread", "overlap 3", "overlap 4"]),
        PSYCOPG2.healthy(
            "one given up",
            &["burst 3", "later", "request 1 invalidate", "request 5", "overlap 3"],
        ),
    ]
}

fn asyncpg() -> Vec<Scenario> {
    vec![
        ASYNCPG.in_transaction("given back inside a transaction", &["leak_alone begin 1"], 1),
        // A pool of asyncpg's own, which may be in use as well, opens some that nobody asked for.
        ASYNCPG.untold("never used", &["keep lock", "leak_alone unused 7", "overlap 2"]),
        ASYNCPG.leak("cancelled before release", &["leak cancel 7", "overlap 2"], 7),
        ASYNCPG
            .healthy("cancelled, given back all the same", &["request 5 cancelled", "overlap 2"]),
    ]
}
