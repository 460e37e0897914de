//! Node: pools in JavaScript, which no probe sees; leaks are inferred from the wire.
//!
//! No flags, no restart. Where the library sends before it returns to its caller, the application's
//! function is on the stack and must be blamed. Where it sends later, from the event loop, nobody may be.

use std::process::Command;

use crate::common::client::{Kind, NODE};
use crate::scenario::{Accusation, Scenario};

/// Every scenario of the family.
pub fn scenarios() -> Vec<Scenario> {
    let all = [
        pg(),
        versions(),
        knex(),
        sequelize(),
        typeorm(),
        drizzle(),
        prisma(),
        postgres(),
        mysql2(),
    ];
    all.concat()
}

/// One library: its name in the table, and how its client starts.
#[derive(Clone, Copy)]
struct Library(&'static str, fn() -> Command);

impl Library {
    fn leaky(
        self,
        name: &'static str,
        steps: &'static [&'static str],
        accusation: Accusation,
    ) -> Scenario {
        Scenario::leaky(self.0, name, self.1, steps, accusation)
    }

    fn healthy(self, name: &'static str, steps: &'static [&'static str]) -> Scenario {
        Scenario::healthy(self.0, name, self.1, steps)
    }
}

/// A leak of seven, inferred.
fn leak(function: Option<&'static str>) -> Accusation {
    Accusation::leak("strong", 7, function)
}

/// The same where no stack names anybody: so many that they lie more than a second apart.
fn leak_by_nobody() -> Accusation {
    Accusation::leak("strong", 15, None)
}

/// One connection, taken again and again by users who find a transaction that they did not begin.
/// No probe sees the return, but the code that began the transaction is named, where its stack has it.
fn returned(function: Option<&'static str>) -> Accusation {
    Accusation::idle_in_transaction(1, function)
}

/// Of each pool one connection, sent to by the pool's own function.
fn abandoned() -> Accusation {
    Accusation { verdict: "abandoned pool", certainty: "suspected", count: 15, function: None }
}

/// Mostly the last, which shows only when another is opened.
fn all_but_one() -> Accusation {
    Accusation::leak("strong", 14, None)
}

fn in_transaction(function: Option<&'static str>) -> Accusation {
    Accusation::idle_in_transaction(7, function)
}

fn pg() -> Vec<Scenario> {
    let it = Library("node-postgres", || NODE.command());
    vec![
        it.leaky("forgotten release", &["leak forgotten 7"], leak(Some("forgottenRelease"))).fast(),
        it.leaky("early return", &["leak early_return 7"], leak(Some("earlyReturn"))),
        it.leaky("exception before release", &["leak throw 7"], leak(Some("throwBeforeRelease"))),
        it.leaky("task given up late", &["leak late 7"], leak(Some("heldWhileOutside"))),
        it.leaky("task aborted", &["leak aborted 7"], leak(Some("abortedTask"))),
        it.leaky(
            "held across an outside call",
            &["leak outside 7"],
            leak(Some("heldWhileOutside")),
        ),
        it.leaky("cursor not closed", &["leak cursor 7"], leak(Some("cursorLeftOpen"))),
        it.leaky(
            "transaction never ended",
            &["leak idle_in_transaction 7"],
            in_transaction(Some("idleInTransaction")),
        ),
        it.leaky(
            "failed transaction never ended",
            &["leak failed_transaction 7"],
            in_transaction(Some("failedTransaction")),
        ),
        it.leaky(
            "never used",
            &["leak_alone never_used 7", "healthy 1"],
            Accusation::never_used("strong", 7),
        ),
        it.leaky(
            "returned in a transaction",
            &["leak returned_in_transaction 7"],
            returned(Some("returnedInTransaction")),
        ),
        it.leaky("a pool for each request", &["leak new_pool 15"], abandoned()),
        it.healthy("released in finally", &["healthy 7"]).fast(),
        it.healthy("transaction ended", &["transaction 7"]),
        it.healthy("queries of the pool", &["pool_query 7"]),
        it.healthy("cursor read to its end", &["cursor 7"]),
        it.healthy("several statements at once", &["queued 7"]),
        it.healthy("outside call before the checkout", &["in_time 7"]),
        it.healthy("a pool for each request, ended", &["pool_for_each 7"]),
        it.healthy("burst, then calm", &["burst 11"]),
        it.healthy("held across short outside calls", &["outside_burst 7 200", "healthy 5"]),
        it.healthy("idle from before the watch", &["healthy 5"]).before(&["burst 5"]),
        it.healthy("keepalive", &["keepalive 300", "healthy 5"]),
        it.healthy("LISTEN", &["listen", "healthy 5"]),
        it.healthy("advisory lock", &["advisory_lock 7", "healthy 5"]),
        it.healthy("COPY", &["copy", "healthy 5"]),
        it.healthy("long query", &["hold_query 60", "healthy 5"]).informs("long query"),
        it.healthy("two pools on one data source", &["two_pools 5"]),
    ]
}

/// The other versions of Node.js: their frames are at other places.
fn versions() -> Vec<Scenario> {
    let nodes = [
        Library("node-postgres on Node.js 16", || Kind::NodeAt(16, "frames").command()),
        Library("node-postgres on Node.js 18", || Kind::NodeAt(18, "frames").command()),
        Library("node-postgres on Node.js 22", || Kind::NodeAt(22, "frames").command()),
        Library("node-postgres on Node.js 24", || Kind::NodeAt(24, "frames").command()),
    ];
    let of = |it: Library| {
        vec![
            it.leaky("in a recursion", &["leak recursive 7"], leak(Some("descend"))),
            it.leaky("in compiled code", &["warm 5000", "leak hot 7"], leak(Some("send"))),
            it.leaky("in a closure", &["leak closures 7", "collect 3"], leak(Some("now"))),
            it.leaky("in a module", &["leak module 7"], leak(Some("leakedByModule"))),
            it.leaky("in a worker thread", &["leak worker 7"], leak(Some("leakedByWorker"))),
            it.healthy("compiled code that releases", &["warm 5000", "hot 7"]),
        ]
    };
    nodes.into_iter().flat_map(of).collect()
}

fn knex() -> Vec<Scenario> {
    let it = Library("Knex", || Kind::NodeWith("knex", "{}").command());
    vec![
        it.leaky("forgotten release", &["leak forgotten 15"], leak_by_nobody()),
        it.leaky("early return", &["leak early_return 15"], leak_by_nobody()),
        it.leaky("exception before commit", &["leak throw 7"], in_transaction(None)),
        it.leaky("task given up late", &["leak late 7"], in_transaction(None)),
        it.leaky("held across an outside call", &["leak outside 15"], leak_by_nobody()),
        it.leaky(
            "stream left open",
            &["leak stream 15", "advisory_lock 7", "healthy 1"],
            leak_by_nobody(),
        ),
        it.leaky("transaction never ended", &["leak idle_in_transaction 7"], in_transaction(None)),
        // Of connections that were used before.
        it.leaky(
            "taken and not used",
            &["leak_alone never_used 7", "healthy 1"],
            // One was there already.
            Accusation::never_used("strong", 6),
        ),
        it.leaky("returned in a transaction", &["leak returned_in_transaction 7"], returned(None)),
        // Looks like a leak, whose evidence names this, too.
        it.leaky("a pool for each request", &["leak new_pool 15"], all_but_one()),
        it.healthy("queries of the pool", &["healthy 7"]),
        it.healthy("released in finally", &["released 7"]),
        it.healthy("transaction ended", &["transaction 7"]),
        it.healthy("stream left in its middle", &["stream 7"]),
        it.healthy("burst, then calm", &["burst 11", "healthy 5"]),
        it.healthy("idle from before the watch", &["healthy 5"]).before(&["burst 5"]),
        it.healthy("advisory lock", &["advisory_lock 7", "healthy 5"]),
        it.healthy("long query", &["hold_query 60", "healthy 5"]).informs("long query"),
    ]
}

fn sequelize() -> Vec<Scenario> {
    let it = Library("Sequelize", || Kind::NodeWith("sequelize", "{}").command());
    vec![
        it.leaky("forgotten release", &["leak forgotten 7"], leak(Some("forgottenRelease"))),
        it.leaky("early return", &["leak early_return 7"], in_transaction(None)),
        it.leaky("exception before commit", &["leak throw 7"], in_transaction(None)),
        it.leaky("task given up late", &["leak late 7"], in_transaction(None)),
        it.leaky(
            "held across an outside call",
            &["leak outside 7"],
            leak(Some("heldWhileOutside")),
        ),
        it.leaky("transaction never ended", &["leak idle_in_transaction 7"], in_transaction(None)),
        // Sequelize itself asks for the server's types and sets the time zone on each connection.
        it.leaky("never used", &["leak never_used 15"], all_but_one()),
        it.leaky(
            "returned in a transaction",
            &["leak returned_in_transaction 7"],
            returned(Some("returnedInTransaction")),
        ),
        // What each asks when it connects makes them look used by code that is not known.
        Scenario::untold(it.0, "a pool for each request", it.1, &["leak new_pool 15"]),
        it.healthy("queries of the pool", &["healthy 7"]),
        it.healthy("transaction ended", &["transaction 7"]),
        it.healthy("burst, then calm", &["burst 11", "healthy 5"]),
        it.healthy("idle from before the watch", &["healthy 5"]).before(&["burst 5"]),
        it.healthy("long query", &["hold_query 60", "healthy 5"]).informs("long query"),
    ]
}

fn typeorm() -> Vec<Scenario> {
    let it = Library("TypeORM", || Kind::NodeWith("typeorm", "{}").command());
    vec![
        it.leaky("forgotten release", &["leak forgotten 15"], leak_by_nobody()),
        it.leaky("early return", &["leak early_return 15"], leak_by_nobody()),
        it.leaky("exception before release", &["leak throw 15"], leak_by_nobody()),
        it.leaky("task given up late", &["leak late 7"], in_transaction(None)),
        it.leaky("task aborted", &["leak aborted 15"], leak_by_nobody()),
        it.leaky("held across an outside call", &["leak outside 15"], leak_by_nobody()),
        it.leaky("stream left open", &["leak stream 7", "burst 3"], leak(Some("firstRow"))),
        it.leaky("transaction never ended", &["leak idle_in_transaction 7"], in_transaction(None)),
        it.leaky(
            "taken and not used",
            &["leak_alone never_used 7", "healthy 1"],
            // One was there already.
            Accusation::never_used("strong", 6),
        ),
        it.leaky("returned in a transaction", &["leak returned_in_transaction 7"], returned(None)),
        // Looks like a leak, whose evidence names this, too.
        it.leaky("a pool for each request", &["leak new_pool 15"], all_but_one()),
        it.healthy("queries of the pool", &["healthy 7"]),
        it.healthy("released in finally", &["released 7"]),
        it.healthy("transaction ended", &["transaction 7"]),
        it.healthy("burst, then calm", &["burst 11", "healthy 5"]),
        it.healthy("idle from before the watch", &["healthy 5"]).before(&["burst 5"]),
    ]
}

fn drizzle() -> Vec<Scenario> {
    let it = Library("Drizzle", || Kind::NodeWith("drizzle", "{}").command());
    vec![
        // The first was used once, as by the pool's own query function, which gives back.
        it.leaky("forgotten release", &["leak forgotten 15"], all_but_one()),
        it.leaky("early return", &["leak early_return 15"], leak_by_nobody()),
        it.leaky("exception before release", &["leak throw 15"], leak_by_nobody()),
        it.leaky("task given up late", &["leak late 7"], in_transaction(None)),
        it.healthy("queries of the pool", &["healthy 7"]),
        it.healthy("transaction ended", &["transaction 7"]),
        it.healthy("burst, then calm", &["burst 11", "healthy 5"]),
    ]
}

/// Prisma ends a transaction that takes longer than five seconds, and gives back what it took for a
/// query. What is left are transactions that may last, and a client for each request.
fn prisma() -> Vec<Scenario> {
    let it = Library("Prisma", || Kind::NodeWith("prisma", "{}").command());
    vec![
        it.leaky("task given up late", &["leak late 7"], in_transaction(None)),
        // Node-postgres closes what is idle after ten seconds, which the first may be by then.
        Scenario::leaky(
            it.0,
            "a client for each request",
            || Kind::NodeWith("prisma", r#"{"idleTimeoutMillis":0}"#).command(),
            &["leak_alone new_client 15"],
            abandoned(),
        ),
        it.healthy("queries", &["healthy 7"]),
        it.healthy("transaction ended", &["transaction 7"]),
        it.healthy("transaction rolled back", &["rolled_back 7"]),
        it.healthy("clients disconnected", &["disconnected 7"]),
        it.healthy("held across short outside calls", &["outside_short 7", "healthy 5"]),
        it.healthy("burst, then calm", &["burst 11", "healthy 5"]),
        it.healthy("long query", &["hold_query 60", "healthy 5"]).informs("long query"),
        it.healthy("idle from before the watch", &["healthy 5"]).before(&["burst 5"]),
    ]
}

fn postgres() -> Vec<Scenario> {
    let it = Library("Postgres.js", || Kind::NodeWith("postgres", "{}").command());
    vec![
        it.leaky("forgotten release", &["leak forgotten 15"], leak_by_nobody()).fast(),
        it.leaky("early return", &["leak early_return 15"], leak_by_nobody()),
        it.leaky("exception before release", &["leak throw 15"], leak_by_nobody()),
        it.leaky("task given up late", &["leak late 7"], in_transaction(None)),
        it.leaky("task aborted", &["leak aborted 15"], leak_by_nobody()),
        it.leaky("held across an outside call", &["leak outside 15"], leak_by_nobody()),
        it.leaky(
            "cursor held across an outside call",
            &["leak cursor 15", "burst 3"],
            leak_by_nobody(),
        ),
        it.leaky("transaction never ended", &["leak idle_in_transaction 7"], in_transaction(None)),
        it.leaky("taken and not used", &["leak never_used 15"], all_but_one()),
        it.leaky("returned in a transaction", &["leak returned_in_transaction 7"], returned(None)),
        // Looks like a leak, whose evidence names this, too.
        it.leaky("a pool for each request", &["leak new_pool 15"], all_but_one()),
        it.healthy("queries of the pool", &["healthy 7"]).fast(),
        it.healthy("released in finally", &["released 7"]),
        it.healthy("transaction ended", &["transaction 7"]),
        it.healthy("cursor read to its end", &["cursor 7"]),
        it.healthy("pipelining", &["pipeline 7"]),
        it.healthy("burst, then calm", &["burst 11", "healthy 5"]),
        it.healthy("held across short outside calls", &["outside_burst 7 200", "healthy 5"]),
        it.healthy("idle from before the watch", &["healthy 5"]).before(&["burst 5"]),
        it.healthy("LISTEN", &["listen", "healthy 5"]),
        it.healthy("advisory lock", &["advisory_lock 7", "healthy 5"]),
        it.healthy("COPY", &["copy", "healthy 5"]),
        it.healthy("long query", &["hold_query 60", "healthy 5"]).informs("long query"),
    ]
}

/// Of MySQL the state of transactions is not read: what is open in one is held like any other.
fn mysql2() -> Vec<Scenario> {
    let it = Library("mysql2", || Kind::NodeWith("mysql2", "{}").command());
    let all = vec![
        it.leaky("forgotten release", &["leak forgotten 7"], leak(Some("forgottenRelease"))),
        it.leaky(
            "early return",
            &["leak early_return 15"],
            Accusation::leak("strong", 12, Some("earlyReturn")),
        ),
        it.leaky(
            "exception before release",
            &["leak throw 15"],
            Accusation::leak("strong", 12, Some("throwBeforeRelease")),
        ),
        it.leaky("task given up late", &["leak late 7"], leak(Some("heldWhileOutside"))),
        it.leaky("task aborted", &["leak aborted 7"], leak(Some("abortedTask"))),
        it.leaky(
            "held across an outside call",
            &["leak outside 7"],
            leak(Some("heldWhileOutside")),
        ),
        it.leaky(
            "transaction never ended",
            &["leak transaction 7"],
            leak(Some("transactionNeverEnded")),
        ),
        it.leaky(
            "never used",
            &["leak_alone never_used 7", "later", "healthy 1"],
            Accusation::never_used("suspected", 7),
        ),
        it.leaky("a pool for each request", &["leak_alone new_pool 15"], abandoned()),
        it.healthy("queries of the pool", &["healthy 7"]),
        it.healthy("released in finally", &["released 7"]),
        it.healthy("transaction ended", &["transaction 7"]),
        it.healthy("burst, then calm", &["burst 11", "healthy 5"]),
        it.healthy("idle from before the watch", &["healthy 5"]).before(&["burst 5"]),
        it.healthy("keepalive", &["keepalive 300", "healthy 5"]),
        it.healthy("GET_LOCK", &["advisory_lock 7", "healthy 5"]),
        it.healthy("long query", &["hold_query 60", "healthy 5"]).informs("long query"),
    ];
    all.into_iter().map(Scenario::mysql).collect()
}
