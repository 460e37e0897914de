//! psycopg 3: its pools, and connections without one.

use super::Library;
use crate::common::client::Kind;
use crate::scenario::{Accusation, OWN, Scenario};

const POOL: Library =
    Library { client: "psycopg_pool", start: || Kind::PythonWith("psycopg_pool", &[]).command() };

const ASYNC: Library = Library {
    client: "psycopg_pool, async",
    start: || Kind::PythonWith("psycopg_async", &[]).command(),
};

const PLAIN: Library =
    Library { client: "psycopg 3", start: || Kind::PythonWith("psycopg", &[]).command() };

/// Every scenario of the client.
pub fn scenarios() -> Vec<Scenario> {
    [POOL.leaks(), POOL.right(), POOL.copies(), pool(), asynchronous(), plain()]
        .into_iter()
        .flatten()
        .collect()
}

fn pool() -> Vec<Scenario> {
    vec![
        POOL.leak(
            "forgotten release, filled beforehand",
            &["pool min_size=4", "later", "leak forgotten 7", "overlap 2"],
            7,
        )
        .fast(),
        POOL.leaky(
            "never used",
            &["pool min_size=0", "leak_alone unused 7", "overlap 1"],
            // A thread of the pool opens them.
            Accusation::never_used("suspected", 7),
        ),
        POOL.leaky(
            "stream not drained",
            // The second one is used while the stack of its opener's last use is named.
            &["leak unread 3", "overlap 2"],
            Accusation::leak("suspected", 3, OWN),
        )
        .fast(),
        POOL.leaky(
            "a new pool for each request",
            &["leak_alone pool 7", "later", "leak_alone pool 1"],
            Accusation {
                verdict: "abandoned pool",
                // Threads of each pool open its connections.
                certainty: "suspected",
                count: 16,
                function: OWN,
            },
        )
        .before(&["request 1"]),
        POOL.healthy("rolled back", &["request 7 rollback", "overlap 2"]),
        POOL.healthy("autocommit", &["pool autocommit=true", "request 5", "overlap 3"]),
        POOL.healthy("stream drained", &["request 5 stream", "overlap 2"]),
        POOL.healthy("drains a stream slowly", &["keep stream", "request 3", "overlap 3"]),
        POOL.healthy("pipeline", &["request 5 pipeline", "overlap 2"]),
        POOL.healthy("COPY both ways", &["request 5 copy", "overlap 2"]),
        POOL.healthy("BEGIN by hand, ended", &["request 5 begin", "overlap 2"]),
        POOL.healthy("filled beforehand", &["pool min_size=7", "request 3", "later", "request 3"]),
        POOL.healthy(
            "filled beforehand, then grows",
            &["pool min_size=4", "request 2", "overlap 6", "overlap 8"],
        )
        .fast(),
        POOL.healthy(
            "refilled after all were ended",
            &["pool min_size=5 check=true", "terminate", "retry 3", "overlap 7", "request 3"],
        ),
        POOL.healthy(
            "checked before use",
            &["pool min_size=2 check=true", "request 5", "overlap 4", "request 3"],
        ),
        POOL.healthy(
            "replaced at the end of their lifetime",
            &[
                "pool min_size=4 max_lifetime=1",
                "request 5",
                "later",
                "request 5",
                "overlap 3",
                "request 5",
                "later",
                "request 3",
            ],
        ),
        POOL.healthy(
            "shrinks when idle",
            &["pool min_size=1 max_idle=1", "burst 6", "later", "later", "later", "overlap 3"],
        ),
    ]
}

fn asynchronous() -> Vec<Scenario> {
    vec![
        ASYNC.leak("forgotten release", &["leak forgotten 7", "overlap 2"], 7),
        ASYNC.leak(
            "forgotten release, filled beforehand",
            &["pool min_size=4", "later", "leak forgotten 7", "overlap 2"],
            7,
        ),
        ASYNC.in_transaction("transaction never ended", &["leak transaction 7"], 7),
        ASYNC.healthy("one request after the other", &["request 7", "overlap 2"]),
        ASYNC.healthy("bursts", &["burst 11", "overlap 5", "overlap 7"]),
        ASYNC.healthy("rolled back", &["request 7 rollback", "overlap 2"]),
        ASYNC.healthy("stream drained", &["request 5 stream", "overlap 2"]),
        ASYNC.healthy("cancelled, given back all the same", &["request 5 cancelled", "overlap 2"]),
        ASYNC.healthy("LISTEN and a lock kept", &["keep listen", "keep lock", "request 3"]),
        ASYNC.healthy(
            "filled beforehand, then grows",
            &["pool min_size=4", "request 2", "overlap 6", "overlap 8"],
        ),
        ASYNC.healthy(
            "checked before use",
            &["pool min_size=2 check=true", "request 5", "overlap 4", "request 3"],
        ),
        ASYNC.healthy(
            "shrinks when idle",
            &["pool min_size=1 max_idle=1", "burst 6", "later", "later", "later", "overlap 3"],
        ),
    ]
}

fn plain() -> Vec<Scenario> {
    vec![
        PLAIN.leak("forgotten close", &["leak forgotten 3", "later", "leak forgotten 4"], 7),
        PLAIN.leak("exception before close", &["leak raise 3", "later", "leak raise 4"], 7),
        PLAIN.leaky(
            "never used",
            // The last is used, and kept.
            &["leak_alone unused 7", "later", "leak_alone forgotten 1"],
            Accusation::never_used("suspected", 7).own(),
        ),
        PLAIN.in_transaction("transaction never ended", &["leak transaction 7"], 7),
        PLAIN.in_transaction("transaction failed and never ended", &["leak failed 7"], 7),
        PLAIN.healthy("closed", &["request 7", "overlap 3"]),
        PLAIN.healthy("one kept for good", &["request 3 kept", "request 3", "overlap 3"]),
    ]
}
