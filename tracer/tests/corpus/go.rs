//! Go: `database/sql` and pgxpool, whose checkouts are observed by probes.

use std::process::Command;

use xtask::postgres::Config;

use crate::common::client::{Build, GO, Kind};
use crate::scenario::{Accusation, Scenario};

/// Every scenario of the family.
pub fn scenarios() -> Vec<Scenario> {
    let go: fn() -> Command = || GO.command();
    let proven = |function| Accusation::leak("proven", 7, Some(function));
    let sql = "Go database/sql, lib/pq";
    let pgxpool = "Go pgxpool v4";
    let leaky = |name, steps, function| Scenario::leaky(sql, name, go, steps, proven(function));
    let healthy = |name, steps| Scenario::healthy(sql, name, go, steps);
    let kept: fn() -> Command = || Kind::Go(Build::Plain, &["-max-idle", "13"]).command();
    let new_pool = |client, steps: &'static [&'static str], function| {
        let accusation = Accusation {
            verdict: "abandoned pool",
            certainty: "strong",
            count: 17,
            ..proven(function)
        };
        Scenario::leaky(client, "a pool for each request", go, steps, accusation)
    };
    let stdlib = "Go database/sql, pgx";
    let pgx: fn() -> Command = || Kind::Go(Build::Plain, &["-driver", "pgx"]).command();
    let on_mysql = "Go database/sql, go-sql-driver";
    let mysql: fn() -> Command = || Kind::Go(Build::Plain, &["-driver", "mysql"]).command();
    let leaky_mysql = |name, steps, function| {
        Scenario::leaky(on_mysql, name, mysql, steps, proven(function)).mysql()
    };
    let healthy_mysql = |name, steps| Scenario::healthy(on_mysql, name, mysql, steps).mysql();
    let tls: fn() -> Config = || Config { tls: true, ..Config::default() };
    vec![
        leaky("result set not closed", &["healthy rows 3", "leak rows 7"], "main.leakRows").fast(),
        leaky(
            "result set not read to its end",
            &["healthy rows_unread 3", "leak rows_unread 7"],
            "main.leakRowsUnread",
        ),
        leaky("transaction never ended", &["healthy tx 3", "leak tx 7"], "main.leakTx"),
        leaky("forgotten close", &["healthy conn 3", "leak conn 7"], "main.leakConn"),
        Scenario::leaky(
            sql,
            "given back inside a transaction",
            kept,
            &["returned_in_transaction 5"],
            Accusation {
                verdict: "returned in transaction",
                count: 5,
                ..proven("main.returnInTransaction")
            },
        ),
        leaky("never used", &["healthy conn 3", "leak unused 7"], "main.leakUnused"),
        leaky(
            "held by a task given up, in an outside call",
            &["healthy conn 3", "leak outside 7"],
            "main.leakOutside.func1",
        ),
        new_pool(sql, &["healthy rows 3", "new_pool 17"], "main.newPool"),
        new_pool(pgxpool, &["healthy rows 3", "new_pgxpool 17"], "main.newPgxpool"),
        healthy("rows closed", &["healthy rows 11"]).fast(),
        healthy("contexts cancelled", &["cancelled 7", "healthy rows 5"]),
        healthy("a pool for each request, closed", &["healthy rows 3", "closed_pool 17"]),
        healthy("several pools", &["several_pools 7", "healthy rows 3"]),
        Scenario::healthy(
            sql,
            "transactions ended by hand before the return",
            kept,
            &["ended_in_time 5"],
        ),
        healthy("rows closed before their end", &["healthy rows_unread 11"]),
        healthy("transactions ended", &["healthy tx 11"]),
        healthy("connections closed", &["healthy conn 11"]),
        Scenario::healthy(sql, "burst, then calm", kept, &["burst 17"]),
        healthy("long query", &["hold_query 60", "healthy rows 5"]).informs("long query"),
        healthy("rows read slowly", &["slow_rows 80", "healthy rows 5"]),
        leaky("result set not closed, TLS", &["healthy rows 3", "leak rows 7"], "main.leakRows")
            .server(tls),
        healthy("rows and transactions, TLS", &["healthy rows 7", "healthy tx 7"]).server(tls),
        healthy("idle from before the watch", &["healthy rows 3"]).before(&["burst 3"]),
        Scenario::leaky(
            pgxpool,
            "forgotten release",
            go,
            &["healthy pgxpool 3", "leak pgxpool 7"],
            proven("main.leakPgxpool"),
        ),
        Scenario::leaky(
            pgxpool,
            "result set not closed",
            go,
            &["healthy pgxpool_rows 3", "leak pgxpool_rows 7"],
            proven("main.leakPgxpoolRows"),
        ),
        Scenario::healthy(
            pgxpool,
            "released",
            go,
            &["healthy pgxpool 11", "healthy pgxpool_rows 11"],
        ),
        Scenario::leaky(
            stdlib,
            "result set not closed",
            pgx,
            &["healthy rows 3", "leak rows 7"],
            proven("main.leakRows"),
        ),
        Scenario::leaky(
            stdlib,
            "transaction never ended",
            pgx,
            &["healthy tx 3", "leak tx 7"],
            proven("main.leakTx"),
        ),
        Scenario::healthy(
            stdlib,
            "rows, transactions and connections closed",
            pgx,
            &["healthy rows 7", "healthy tx 7", "healthy conn 7"],
        ),
        leaky_mysql("result set not closed", &["healthy rows 3", "leak rows 7"], "main.leakRows"),
        leaky_mysql("transaction never ended", &["healthy tx 3", "leak tx 7"], "main.leakTx"),
        leaky_mysql("forgotten close", &["healthy conn 3", "leak conn 7"], "main.leakConn"),
        healthy_mysql("rows closed", &["healthy rows 11"]),
        healthy_mysql("transactions ended", &["healthy tx 11"]),
        healthy_mysql("connections closed", &["healthy conn 11"]),
        healthy_mysql("burst, then calm", &["burst 17"]),
        healthy_mysql("long query", &["hold_query 60", "healthy rows 5"]).informs("long query"),
        healthy_mysql("idle from before the watch", &["healthy rows 3"]).before(&["burst 3"]),
    ]
}
