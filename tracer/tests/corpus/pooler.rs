//! PgBouncer or Pgpool-II between client and server: its own connections are as silent as its clients, and who
//! leaks behind it is found in the client.

use std::process::Command;

use crate::common::client::{GO, NODE};
use crate::common::pooler::Pooling::{Pgpool, Session, Transaction};
use crate::scenario::Watched::{Client, Everybody, Pooler};
use crate::scenario::{Accusation, Scenario};

/// Every scenario of the family.
pub fn scenarios() -> Vec<Scenario> {
    let node: fn() -> Command = || NODE.command();
    let go: fn() -> Command = || GO.command();
    let (js, sql) = ("node-postgres", "Go database/sql, lib/pq");
    let node_leak = || {
        let accusation = Accusation::leak("strong", 7, Some("forgottenRelease"));
        let steps = &["leak forgotten 7"];
        Scenario::leaky(js, "forgotten release, PgBouncer by session", node, steps, accusation)
    };
    let go_leak = |name| {
        let accusation = Accusation::leak("proven", 7, Some("main.leakConn"));
        Scenario::leaky(sql, name, go, &["healthy conn 3", "leak conn 7"], accusation)
    };
    let node_healthy = |name, steps| Scenario::healthy(js, name, node, steps);
    vec![
        node_leak().through(Session, Client),
        Scenario { name: "forgotten release, PgBouncer by session, all watched", ..node_leak() }
            .through(Session, Everybody)
            .fast(),
        Scenario { name: "forgotten release, PgBouncer by transaction", ..node_leak() }
            .through(Transaction, Client),
        Scenario {
            name: "forgotten release, PgBouncer by transaction, all watched",
            ..node_leak()
        }
        .through(Transaction, Everybody),
        Scenario::leaky(
            js,
            "transaction never ended, PgBouncer by transaction, all watched",
            node,
            &["leak idle_in_transaction 7"],
            Accusation::idle_in_transaction(7, Some("idleInTransaction")),
        )
        .through(Transaction, Everybody),
        go_leak("forgotten close, PgBouncer by session").through(Session, Client),
        go_leak("forgotten close, PgBouncer by transaction, all watched")
            .through(Transaction, Everybody),
        // The client's bug is none of PgBouncer's.
        node_healthy("only PgBouncer watched, by session, its client leaks", &["leak forgotten 7"])
            .through(Session, Pooler),
        node_healthy(
            "only PgBouncer watched, by transaction, its client leaks",
            &["leak idle_in_transaction 7"],
        )
        .through(Transaction, Pooler),
        node_healthy("released, PgBouncer by session, all watched", &["burst 7", "healthy 15"])
            .through(Session, Everybody),
        node_healthy(
            "released, PgBouncer by transaction, all watched",
            &["burst 7", "healthy 15", "transaction 5"],
        )
        .through(Transaction, Everybody),
        Scenario { name: "forgotten release, Pgpool-II, all watched", ..node_leak() }
            .through(Pgpool, Everybody),
        go_leak("forgotten close, Pgpool-II").through(Pgpool, Client),
        node_healthy("only Pgpool-II watched, its client leaks", &["leak forgotten 7"])
            .through(Pgpool, Pooler),
        node_healthy("released, Pgpool-II, all watched", &["burst 7", "healthy 15"])
            .through(Pgpool, Everybody),
    ]
}
