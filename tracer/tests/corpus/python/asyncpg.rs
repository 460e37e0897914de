//! asyncpg's pool: the present one, and one that opens while others idle.

use super::Library;
use crate::common::client::Kind;
use crate::scenario::{Accusation, OWN, Scenario};

const PRESENT: Library =
    Library { client: "asyncpg pool", start: || Kind::PythonWith("asyncpg", &[]).command() };

const OLDER: Library = Library {
    client: "asyncpg pool before 0.32",
    start: || Kind::OlderPythonWith("asyncpg").command(),
};

/// Every scenario of the client.
pub fn scenarios() -> Vec<Scenario> {
    [
        PRESENT.leaks(),
        PRESENT.right(),
        PRESENT.copies(),
        pool(PRESENT),
        opens_anew(PRESENT),
        older(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn pool(library: Library) -> Vec<Scenario> {
    vec![
        library.leak("cancelled before release", &["leak cancel 7", "overlap 2"], 7),
        library.leak(
            "forgotten release, filled beforehand",
            &["pool min_size=4", "later", "leak forgotten 7", "overlap 2"],
            7,
        ),
        // The pool opens some that nobody asked for.
        library.untold("never used", &["leak_alone unused 7", "overlap 1"]),
        library.leaky(
            "a new pool for each request",
            &["leak_alone pool 7", "later", "leak_alone pool 1"],
            Accusation { verdict: "abandoned pool", certainty: "strong", count: 16, function: OWN },
        ),
        library.healthy("transactions", &["request 7 transaction", "overlap 2"]),
        library.healthy("cursor drained", &["request 5 cursor", "overlap 2"]),
        library.healthy("COPY both ways", &["request 5 copy", "overlap 2"]),
        library.healthy("BEGIN by hand, ended by the reset", &["request 5 begin", "overlap 2"]),
        library
            .healthy("cancelled, given back all the same", &["request 5 cancelled", "overlap 2"]),
        library.healthy("queries cancelled", &["request 3 cancelled_query", "overlap 2"]),
        library
            .healthy("filled beforehand", &["pool min_size=7", "request 3", "later", "request 3"]),
        library.healthy(
            "filled beforehand, then grows",
            &["pool min_size=4", "request 2", "overlap 6", "overlap 8"],
        ),
        library.healthy(
            "closed when idle",
            &[
                "pool max_inactive_connection_lifetime=1",
                "burst 4",
                "later",
                "request 3",
                "overlap 3",
                "later",
            ],
        ),
        library.healthy(
            "refilled after all were ended",
            &["pool min_size=5", "terminate", "retry 3", "overlap 7", "request 3"],
        ),
    ]
}

/// Pools that lost a connection, so that the next of their places may be without one.
fn opens_anew(library: Library) -> Vec<Scenario> {
    vec![
        library.healthy(
            "opened anew while others idle",
            &[
                "burst 4",
                "later",
                "request 1 closed",
                "request 3",
                "later",
                "request 1 closed",
                "overlap 4",
                "request 2",
            ],
        ),
        library.healthy(
            "given up after so many queries",
            &["pool max_queries=4", "burst 4", "later", "request 12", "overlap 5", "request 6"],
        ),
    ]
}

/// What was different.
fn older() -> Vec<Scenario> {
    let usual = vec![
        OLDER.leak("forgotten release", &["leak forgotten 7", "overlap 2"], 7),
        OLDER.in_transaction("transaction never ended", &["leak transaction 7"], 7),
        OLDER.healthy("burst, then calm", &["request 1", "burst 7", "later", "request 1"]),
        OLDER.healthy("grows later and later", &["request 3", "overlap 3", "overlap 5"]),
    ];
    [usual, opens_anew(OLDER)].into_iter().flatten().collect()
}
