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
    let on_mysql = "Go database/sql, go-sql-driver";
    let mysql: fn() -> Command = || Kind::Go(Build::Plain, &["-mysql"]).command();
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
        healthy("rows closed", &["healthy rows 11"]).fast(),
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
