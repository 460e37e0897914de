//! Java: HikariCP over pgjdbc, which no probe sees. A pool that keeps more idle connections than its
//! callers ask for opens them with no caller, so what an open says of the others is careful here.

use std::process::Command;

use crate::common::client::Kind;
use crate::scenario::{Accusation, Scenario};

/// Every scenario of the family.
pub fn scenarios() -> Vec<Scenario> {
    let pool = "HikariCP, pgjdbc";
    // Opens when somebody asks, and keeps what it has.
    let on_demand: fn() -> Command =
        || Kind::Java(&["minimumIdle=0", "maximumPoolSize=30"]).command();
    // As it is by default: ten, opened at the start and kept.
    let filled: fn() -> Command = || Kind::Java(&[]).command();
    let small: fn() -> Command = || Kind::Java(&["maximumPoolSize=3"]).command();
    let refilled: fn() -> Command =
        || Kind::Java(&["minimumIdle=5", "maximumPoolSize=30"]).command();
    let leaky = |name, steps, accusation| Scenario::leaky(pool, name, on_demand, steps, accusation);
    let healthy = |name, steps| Scenario::healthy(pool, name, on_demand, steps);
    let leak = |function| Accusation::leak("strong", 7, Some(function));
    vec![
        leaky("forgotten close", &["leak forgotten 7", "overlap 2"], leak("Leaks.forgottenClose")),
        leaky("early return", &["leak early_return 7", "overlap 2"], leak("Leaks.earlyReturn")),
        leaky(
            "exception before close",
            &["leak throw 7", "overlap 2"],
            leak("Leaks.throwBeforeClose"),
        ),
        leaky("cancelled task", &["leak cancelled 7", "overlap 2"], leak("Leaks.cancelledTask")),
        leaky(
            "transaction never ended",
            &["leak transaction 7"],
            Accusation::idle_in_transaction(7, Some("Leaks.transactionNotEnded")),
        ),
        leaky(
            "cursor neither read nor closed",
            &["leak rows 7"],
            Accusation::idle_in_transaction(7, Some("Leaks.rowsNotClosed")),
        ),
        leaky(
            "never used",
            &["leak_alone never_used 7", "overlap 2"],
            Accusation::never_used("suspected", 7),
        ),
        leaky(
            "held across an outside call",
            &["healthy 3", "outside 3", "later", "outside 4", "overlap 2"],
            leak("Leaks.outsideCall"),
        ),
        // The next caller goes on in the transaction: on the wire nobody can tell callers apart.
        leaky(
            "returned in a transaction",
            &["leak_alone returned_in_transaction 3"],
            Accusation::idle_in_transaction(1, Some("Leaks.returnedInTransaction")),
        ),
        Scenario::leaky(
            pool,
            "transaction never ended, pool filled at the start",
            filled,
            &["prefill", "leak transaction 7"],
            Accusation::idle_in_transaction(7, Some("Leaks.transactionNotEnded")),
        ),
        // Three connections each, of which one is used.
        Scenario::leaky(
            pool,
            "a new pool for each request",
            small,
            &[
                "leak_alone pool 1",
                "later",
                "leak_alone pool 1",
                "later",
                "leak_alone pool 1",
                "later",
                "leak_alone pool 1",
                "later",
            ],
            Accusation {
                verdict: "abandoned pool",
                certainty: "strong",
                count: 12,
                function: Some("Main.newPool"),
            },
        ),
        // Nobody has to open a connection: the same as after a burst.
        Scenario::untold(
            pool,
            "forgotten close, pool filled at the start",
            filled,
            &["prefill", "leak forgotten 7", "later"],
        ),
        healthy("try with resources", &["healthy 7"]),
        healthy("transactions ended", &["transaction 7"]),
        healthy("closed without commit", &["no_commit 7"]),
        healthy("first row of a cursor", &["first_row 7"]),
        healthy("burst, then calm", &["burst 11", "healthy 3"]),
        healthy("tested by isValid", &["burst 3", "is_valid 15"]),
        healthy("short outside calls", &["burst 3", "outside_short 5"]),
        healthy("a pool for each request, closed", &["pool_closed 5"]),
        healthy("a connection for each thread, no pool", &["threads 7"]),
        healthy("LISTEN", &["listen", "healthy 5", "overlap 2"]),
        healthy("advisory locks", &["advisory_lock 7", "advisory_lock 8", "overlap 2"]),
        healthy("COPY", &["copy", "healthy 5", "overlap 2"]),
        healthy("long query", &["hold_query 60", "healthy 5"]).informs("long query"),
        Scenario::healthy(pool, "filled at the start", filled, &["prefill", "healthy 5"]),
        Scenario::healthy(
            pool,
            "filled at the start, burst, then calm",
            filled,
            &["prefill", "burst 10", "healthy 15"],
        ),
        Scenario::healthy(
            pool,
            "refilled in the background while others are idle",
            refilled,
            &["prefill", "burst 5", "later", "busy", "healthy 15", "busy", "healthy 15"],
        ),
        Scenario::healthy(
            pool,
            "replaced at the end of their lifetime",
            refilled,
            &["prefill", "burst 5", "lifetime 1000", "healthy 25", "burst 5", "healthy 25"],
        ),
        Scenario::healthy(pool, "all filled from before the watch", filled, &["healthy 5"])
            .before(&["prefill", "burst 10"]),
    ]
}
