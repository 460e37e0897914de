//! Rust: pools whose objects give themselves back when they are dropped. What leaks is what is
//! forgotten, kept, or held by a task that never ends.

use std::process::Command;

use xtask::postgres::Config;

use crate::common::client::{Kind, Profile};
use crate::scenario::{Accusation, Scenario};

type Steps = &'static [&'static str];

/// After requests that end as they should.
const FORGOTTEN: Steps = &["healthy 3", "leak forgotten 7"];
/// The same, and later the pool needs more connections than it has left: what an inference goes by.
const FORGOTTEN_AND_LATER: Steps = &["healthy 3", "leak forgotten 7", "overlap 3"];
/// A pool for each request, and again some time later.
const POOLS: Steps = &["leak_alone pool 4", "later", "leak_alone pool 3"];
/// Nothing is ever given back: an inference goes by connections opened later, each after the one
/// before is silent for long enough.
const ONLY_FORGOTTEN: Steps = &[
    "leak_alone forgotten 1",
    "later",
    "leak_alone forgotten 1",
    "later",
    "leak_alone forgotten 1",
    "later",
    "leak_alone forgotten 1",
    "later",
    "leak_alone forgotten 1",
    "later",
    "leak_alone forgotten 1",
    "later",
    "leak_alone forgotten 1",
    "later",
    "leak_alone forgotten 1",
    "later",
];

/// Every scenario of the family.
pub fn scenarios() -> Vec<Scenario> {
    [sqlx(), sqlx_tls(), deadpool(), deadpool_otherwise_built(), bb8(), r2d2(), diesel(), plain()]
        .into_iter()
        .flatten()
        .collect()
}

const fn accusation(
    verdict: &'static str,
    certainty: &'static str,
    function: Option<&'static str>,
) -> Accusation {
    Accusation { verdict, certainty, count: 7, function }
}

/// What the clients of all pools do right.
fn right(pool: &'static str, start: fn() -> Command) -> Vec<Scenario> {
    let healthy = |name, steps| Scenario::healthy(pool, name, start, steps);
    vec![
        healthy("early return", &["early_return 7"]),
        healthy("transactions committed and dropped", &["transactions 8"]),
        healthy("held across an outside call that ends", &["outside_short 7"]),
        healthy("taken and not used", &["unused 7", "healthy 3"]),
        healthy("burst, then calm", &["burst 11", "healthy 5"]),
        healthy("idle from before the watch", &["healthy 3"]).before(&["burst 3"]),
    ]
}

/// sqlx: acquire is a poll function, so leaks are inferred; the task that takes a connection sends
/// on it, so its stack names the code.
fn sqlx() -> Vec<Scenario> {
    let start: fn() -> Command = || Kind::Rust("sqlx", Profile::Release).command();
    let leaky = |name, steps, must| Scenario::leaky("sqlx", name, start, steps, must);
    let healthy = |name, steps| Scenario::healthy("sqlx", name, start, steps);
    let leak = |function| Accusation::leak("strong", 7, Some(function));
    let own = vec![
        leaky(
            "forgotten (mem::forget)",
            FORGOTTEN_AND_LATER,
            leak("sqlx_client::forgotten::{{closure}}"),
        ),
        leaky(
            "kept in a static",
            &["healthy 3", "leak kept 7", "overlap 3"],
            leak("sqlx_client::kept::{{closure}}"),
        ),
        leaky(
            "held by a task given up, in an outside call",
            &["healthy 3", "leak task 7", "overlap 3"],
            leak("sqlx_client::task_never_ends::{{closure}}::{{closure}}"),
        ),
        leaky(
            "transaction never ended",
            &["healthy 3", "leak transaction 7"],
            Accusation::idle_in_transaction(
                7,
                Some("sqlx_client::transaction_not_ended::{{closure}}"),
            ),
        ),
        leaky(
            "never used",
            &["leak_alone never_used 7", "overlap 1"],
            accusation("never used", "suspected", Some("sqlx_client::never_used::{{closure}}")),
        ),
        leaky(
            "given back in a transaction",
            &["healthy 3", "returned 7"],
            accusation(
                "returned in transaction",
                "strong",
                Some("sqlx_client::returned_in_transaction::{{closure}}"),
            ),
        ),
        leaky(
            "a pool for each request",
            POOLS,
            accusation(
                "abandoned pool",
                "strong",
                Some("sqlx_client::pool_for_a_request::{{closure}}"),
            ),
        ),
        healthy("dropped", &["healthy 7"]),
        healthy("cancelled tasks", &["cancelled 7", "healthy 3"]),
        healthy("a pool for each request, closed", &["pool_closed 7"]),
        healthy("min_connections", &["prefill 7", "healthy 3"]),
        healthy("LISTEN", &["listen", "healthy 5"]),
        healthy("COPY", &["copy", "healthy 5"]),
        healthy("one connection without a pool", &["single", "overlap 3"]),
        healthy("long query", &["hold_query 60", "healthy 5"]).informs("long query"),
    ];
    [own, right("sqlx", start)].concat()
}

/// Under TLS direction and time suffice; what the pool sends on return cannot be told from the rest.
fn sqlx_tls() -> Vec<Scenario> {
    let start: fn() -> Command = || Kind::Rust("sqlx", Profile::Release).command();
    let tls: fn() -> Config = || Config { tls: true, ..Config::default() };
    let leaky = |name, steps, must| Scenario::leaky("sqlx, TLS", name, start, steps, must);
    // Who is the user, and of which database, is not known either.
    let leak = |function| Accusation::leak("suspected", 7, Some(function));
    vec![
        leaky(
            "forgotten (mem::forget)",
            FORGOTTEN_AND_LATER,
            leak("sqlx_client::forgotten::{{closure}}"),
        )
        .server(tls),
        leaky(
            "held by a task given up, in an outside call",
            &["healthy 3", "leak task 7", "overlap 3"],
            leak("sqlx_client::task_never_ends::{{closure}}::{{closure}}"),
        )
        .server(tls),
        Scenario::healthy("sqlx, TLS", "dropped", start, &["healthy 7"]).server(tls),
        Scenario::healthy("sqlx, TLS", "cancelled tasks", start, &["cancelled 7", "healthy 3"])
            .server(tls),
        Scenario::healthy("sqlx, TLS", "burst, then calm", start, &["burst 11", "healthy 5"])
            .server(tls),
    ]
}

/// deadpool: observed. Its driver sends from a task of its own, so only the acquire names the code.
fn deadpool() -> Vec<Scenario> {
    let start: fn() -> Command = || Kind::Rust("deadpool", Profile::Release).command();
    let leaky = |name, steps, must| Scenario::leaky("deadpool", name, start, steps, must);
    let healthy = |name, steps| Scenario::healthy("deadpool", name, start, steps);
    let leak = |function| Accusation::leak("proven", 7, Some(function));
    let own = vec![
        leaky(
            "forgotten (mem::forget)",
            FORGOTTEN,
            leak("deadpool_client::forgotten::{{closure}}"),
        )
        .fast(),
        leaky(
            "forgotten, and nothing was ever given back",
            ONLY_FORGOTTEN,
            // No release was joined in the process, so its checkouts are not believed.
            Accusation::leak("strong", 7, Some("deadpool_client::forgotten::{{closure}}")),
        ),
        leaky(
            "kept in a static",
            &["healthy 3", "leak kept 7"],
            leak("deadpool_client::kept::{{closure}}"),
        ),
        leaky(
            "held by a task given up, in an outside call",
            &["healthy 3", "leak task 7"],
            leak("deadpool_client::task_never_ends::{{closure}}::{{closure}}"),
        ),
        leaky(
            "transaction never ended",
            &["healthy 3", "leak transaction 7"],
            leak("deadpool_client::transaction_not_ended::{{closure}}"),
        ),
        leaky(
            "never used",
            &["healthy 3", "leak_alone never_used 7"],
            leak("deadpool_client::never_used::{{closure}}"),
        ),
        leaky(
            "given back in a transaction",
            &["healthy 3", "returned 7"],
            accusation(
                "returned in transaction",
                "proven",
                Some("deadpool_client::returned_in_transaction::{{closure}}"),
            ),
        ),
        leaky(
            "a pool for each request",
            POOLS,
            accusation(
                "abandoned pool",
                "strong",
                Some("deadpool_client::pool_for_a_request::{{closure}}"),
            ),
        ),
        healthy("dropped", &["healthy 7", "burst 5", "healthy 5"]).fast(),
        healthy("cancelled tasks", &["cancelled 7", "healthy 3"]),
        healthy("a pool for each request, dropped", &["pool_dropped 7"]),
        healthy("taken out of the pool", &["healthy 3", "taken", "overlap 3"]),
        healthy("LISTEN", &["healthy 3", "listen", "healthy 5"]),
        healthy("COPY", &["healthy 3", "copy", "healthy 5"]),
        healthy("long query", &["hold_query 60", "healthy 5"]).informs("long query"),
    ];
    [own, right("deadpool", start)].concat()
}

/// What a build leaves to be observed. Where the acquire is inlined or has no name, leaks are
/// inferred, and nobody can be blamed.
fn deadpool_otherwise_built() -> Vec<Scenario> {
    let thin: fn() -> Command = || Kind::Rust("deadpool", Profile::Thin).command();
    let fat: fn() -> Command = || Kind::Rust("deadpool", Profile::Fat).command();
    let stripped: fn() -> Command = || Kind::Rust("deadpool", Profile::Stripped).command();
    let calm: Steps = &["burst 11", "healthy 5"];
    let observed = Accusation::leak("proven", 7, Some("deadpool_client::forgotten::{{closure}}"));
    let inferred = Accusation::leak("strong", 7, None);
    let forgotten = "forgotten (mem::forget)";
    vec![
        Scenario::leaky("deadpool, thin LTO", forgotten, thin, FORGOTTEN, observed),
        Scenario::healthy("deadpool, thin LTO", "burst, then calm", thin, calm),
        Scenario::leaky("deadpool, fat LTO", forgotten, fat, FORGOTTEN_AND_LATER, inferred),
        Scenario::healthy("deadpool, fat LTO", "burst, then calm", fat, calm),
        Scenario::leaky("deadpool, stripped", forgotten, stripped, FORGOTTEN_AND_LATER, inferred),
        Scenario::healthy("deadpool, stripped", "burst, then calm", stripped, calm),
    ]
}

/// bb8: observed. A task of the pool opens its connections.
fn bb8() -> Vec<Scenario> {
    let start: fn() -> Command = || Kind::Rust("bb8", Profile::Release).command();
    let leaky = |name, steps, must| Scenario::leaky("bb8", name, start, steps, must);
    let healthy = |name, steps| Scenario::healthy("bb8", name, start, steps);
    let leak = |function| Accusation::leak("proven", 7, Some(function));
    let own = vec![
        leaky("forgotten (mem::forget)", FORGOTTEN, leak("bb8_client::forgotten::{{closure}}")),
        leaky(
            "held by a task given up, in an outside call",
            &["healthy 3", "leak task 7"],
            leak("bb8_client::task_never_ends::{{closure}}::{{closure}}"),
        ),
        leaky(
            "transaction never ended",
            &["healthy 3", "leak transaction 7"],
            leak("bb8_client::transaction_not_ended::{{closure}}"),
        ),
        leaky(
            "never used",
            &["healthy 3", "leak_alone never_used 7"],
            leak("bb8_client::never_used::{{closure}}"),
        ),
        leaky(
            "given back in a transaction",
            &["healthy 3", "returned 7"],
            accusation(
                "returned in transaction",
                "proven",
                Some("bb8_client::returned_in_transaction::{{closure}}"),
            ),
        ),
        leaky("a pool for each request", POOLS, accusation("abandoned pool", "strong", None))
            .before(&["healthy 1"]),
        healthy("dropped", &["healthy 7"]),
        healthy("cancelled tasks", &["cancelled 7", "healthy 3"]),
        healthy("a pool for each request, dropped", &["pool_dropped 7"]),
        healthy("min_idle", &["prefill 7", "healthy 3"]),
        healthy("dedicated connection", &["healthy 3", "dedicated", "overlap 3"]),
    ];
    [own, right("bb8", start)].concat()
}

/// r2d2: observed. Threads of its own open the connections, and each pool has others: that several
/// pools are one thread's shows only in what each keeps in reserve, as it does by default. The
/// synchronous driver is the other one with a task inside.
fn r2d2() -> Vec<Scenario> {
    let start: fn() -> Command = || Kind::Rust("r2d2", Profile::Release).command();
    let leaky = |name, steps, must| Scenario::leaky("r2d2, postgres", name, start, steps, must);
    let healthy = |name, steps| Scenario::healthy("r2d2, postgres", name, start, steps);
    let leak = |function| Accusation::leak("proven", 7, Some(function));
    let own = vec![
        leaky("forgotten (mem::forget)", FORGOTTEN, leak("r2d2_client::forgotten")),
        leaky("kept in a static", &["healthy 3", "leak kept 7"], leak("r2d2_client::kept")),
        leaky(
            "held by a thread given up, in an outside call",
            &["healthy 3", "leak thread 7"],
            leak("r2d2_client::thread_never_ends::{{closure}}"),
        ),
        leaky(
            "transaction never ended",
            &["healthy 3", "leak transaction 7"],
            leak("r2d2_client::transaction_not_ended"),
        ),
        leaky(
            "never used",
            &["healthy 3", "leak_alone never_used 7"],
            leak("r2d2_client::never_used"),
        ),
        leaky(
            "given back in a transaction",
            &["healthy 3", "returned 7"],
            accusation(
                "returned in transaction",
                "proven",
                Some("r2d2_client::returned_in_transaction"),
            ),
        ),
        leaky(
            "a pool for each request",
            POOLS,
            Accusation {
                count: 14,
                ..accusation("abandoned pool", "suspected", Some("r2d2_client::pool_for_a_request"))
            },
        )
        .before(&["healthy 1"]),
        healthy("dropped", &["healthy 7"]),
        healthy("a pool for each request, dropped", &["pool_dropped 7"]),
        healthy("threads", &["threads 7", "healthy 5"]),
        healthy("pre-filled", &["prefill 7", "healthy 3"]),
    ];
    [own, right("r2d2, postgres", start)].concat()
}

/// Diesel: r2d2 around libpq. An object of the pool has a pointer to libpq's connection, so its
/// checkouts are not joined and leaks are inferred; but the driver sends from the caller's thread.
fn diesel() -> Vec<Scenario> {
    let start: fn() -> Command = || Kind::Rust("diesel", Profile::Release).command();
    let client = "r2d2, Diesel";
    let leaky = |name, steps, must| Scenario::leaky(client, name, start, steps, must);
    let healthy = |name, steps| Scenario::healthy(client, name, start, steps);
    let leak = |function| Accusation::leak("strong", 7, Some(function));
    vec![
        leaky("forgotten (mem::forget)", FORGOTTEN_AND_LATER, leak("diesel_client::forgotten")),
        leaky(
            "kept in a static",
            &["healthy 3", "leak kept 7", "overlap 3"],
            leak("diesel_client::kept"),
        ),
        leaky(
            "held by a thread given up, in an outside call",
            &["healthy 3", "leak thread 7", "overlap 3"],
            leak("diesel_client::thread_never_ends::{{closure}}"),
        ),
        leaky(
            "transaction never ended",
            &["healthy 3", "leak transaction 7"],
            Accusation::idle_in_transaction(7, Some("diesel_client::transaction_not_ended")),
        ),
        healthy("dropped", &["healthy 7"]),
        healthy("transactions committed and rolled back", &["transactions 8"]),
        healthy("threads", &["threads 7", "healthy 5"]),
        healthy("pre-filled", &["prefill 7", "healthy 3"]),
        healthy("burst, then calm", &["burst 11", "healthy 5"]),
        healthy("idle from before the watch", &["healthy 3"]).before(&["burst 3"]),
    ]
}

/// No pool: a connection for each request. The driver sends from a task of its own, so what is
/// blamed is the code that opened the connection.
fn plain() -> Vec<Scenario> {
    let start: fn() -> Command = || Kind::Rust("plain", Profile::Release).command();
    let leaky = |name, steps, must| Scenario::leaky("tokio-postgres", name, start, steps, must);
    let healthy = |name, steps| Scenario::healthy("tokio-postgres", name, start, steps);
    vec![
        leaky(
            "transaction never ended",
            &["leak transaction 7"],
            Accusation::idle_in_transaction(7, Some("plain_client::connect::{{closure}}")),
        ),
        healthy("closed", &["healthy 7"]),
        healthy("pipelining", &["pipeline 7", "later"]),
    ]
}
