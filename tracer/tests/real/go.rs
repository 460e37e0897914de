//! Go: `database/sql` with lib/pq and pgxpool. Probes see both ends of a checkout, so a leak is
//! proven, and its line exact.

use serde_json::Value;

use crate::common::client::{Build, GO, Kind, leak_line, leak_line_in};
use crate::{Expected, NOTHING_FOUND, is_found, stays_silent, watch};

fn found(kind: Kind, shape: &str, function: &str, count: u64) {
    is_found(
        kind,
        &[
            // A healthy request first: its connection is one of the leaked ones afterwards.
            &format!("healthy {shape} 3"),
            &format!("leak {shape} {count}"),
        ],
        &Expected {
            verdict: "leak",
            certainty: "proven",
            count,
            function: Some(function),
            file: Some(("go/leaks.go", Some(leak_line(shape)))),
            connections: usize::try_from(count).expect("small"),
        },
    );
}

#[test]
fn rows_not_closed_on_an_error_path_are_found_by_line() {
    found(GO, "rows", "main.leakRows", 7);
}

#[test]
fn rows_are_found_by_line_in_a_stripped_binary() {
    found(Kind::Go(Build::Stripped, &[]), "rows", "main.leakRows", 5);
}

#[test]
fn rows_are_found_by_line_in_a_position_independent_binary() {
    found(Kind::Go(Build::Pie, &[]), "rows", "main.leakRows", 5);
}

#[test]
fn rows_left_while_the_server_still_sends_are_found_by_line() {
    found(GO, "rows_unread", "main.leakRowsUnread", 7);
}

#[test]
fn rows_left_without_a_pool_are_suspected_by_line() {
    let expected = Expected {
        verdict: "leak",
        certainty: "suspected",
        count: 5,
        function: Some("main.leakDriverRows"),
        file: Some(("go/leaks.go", Some(leak_line("driver_rows")))),
        connections: 8,
    };
    is_found(GO, &["healthy driver_rows 3", "leak driver_rows 5"], &expected);
}

#[test]
fn a_transaction_neither_committed_nor_rolled_back_is_found_by_line() {
    found(GO, "tx", "main.leakTx", 7);
}

#[test]
fn a_pinned_connection_not_closed_is_found_by_line() {
    found(GO, "conn", "main.leakConn", 7);
}

#[test]
fn a_connection_not_given_back_to_pgxpool_is_found_by_line() {
    found(GO, "pgxpool", "main.leakPgxpool", 7);
}

#[test]
fn a_connection_not_given_back_to_pgxpool_is_found_in_a_stripped_binary() {
    found(Kind::Go(Build::Stripped, &[]), "pgxpool", "main.leakPgxpool", 5);
}

#[test]
fn rows_of_pgxpool_not_closed_are_found_by_line() {
    found(GO, "pgxpool_rows", "main.leakPgxpoolRows", 7);
}

#[test]
fn connections_given_back_inside_a_transaction_are_found_by_line() {
    is_found(
        Kind::Go(Build::Plain, &["-max-idle", "13"]),
        &["returned_in_transaction 5"],
        &Expected {
            verdict: "returned in transaction",
            certainty: "proven",
            count: 5,
            function: Some("main.returnInTransaction"),
            file: Some(("go/leaks.go", Some(leak_line("returned_in_transaction")))),
            connections: 5,
        },
    );
}

#[test]
fn transactions_ended_by_hand_before_the_return_are_not_reported() {
    stays_silent(Kind::Go(Build::Plain, &["-max-idle", "13"]), &["ended_in_time 5"], 5);
}

fn abandoned(command: &str, shape: &str, function: &str, count: u64) {
    is_found(
        GO,
        &["healthy rows 3", command],
        &Expected {
            verdict: "abandoned pool",
            certainty: "strong",
            count,
            function: Some(function),
            file: Some(("go/leaks.go", Some(leak_line(shape)))),
            connections: usize::try_from(count).expect("small") + 1,
        },
    );
}

#[test]
fn a_pool_for_each_request_is_found_by_the_line_that_opens_its_connection() {
    abandoned("new_pool 17", "new_pool", "main.newPool", 17);
}

#[test]
fn a_pgxpool_for_each_request_is_found_by_the_line_that_opens_its_connection() {
    abandoned("new_pgxpool 17", "new_pgxpool", "main.newPgxpool", 17);
}

#[test]
fn a_pool_for_each_request_that_is_closed_is_not_reported() {
    stays_silent(GO, &["healthy rows 3", "closed_pool 17"], 1);
}

#[test]
fn several_pools_made_at_the_start_are_not_reported() {
    stays_silent(GO, &["several_pools 7", "healthy rows 3"], 8);
}

#[test]
fn closed_rows_are_not_reported() {
    stays_silent(GO, &["healthy rows 11"], 1);
}

#[test]
fn ended_transactions_are_not_reported() {
    stays_silent(GO, &["healthy tx 11"], 1);
}

#[test]
fn closed_connections_are_not_reported() {
    stays_silent(GO, &["healthy conn 11"], 1);
}

#[test]
fn released_pgxpool_connections_are_not_reported() {
    stays_silent(GO, &["healthy pgxpool 11", "healthy pgxpool_rows 11"], 1);
}

#[test]
fn the_healthy_twin_in_a_stripped_binary_is_not_reported() {
    let stripped = Kind::Go(Build::Stripped, &[]);
    stays_silent(stripped, &["healthy rows 11", "healthy tx 11"], 1);
}

#[test]
fn idle_connections_after_a_burst_are_not_reported() {
    stays_silent(Kind::Go(Build::Plain, &["-max-idle", "13"]), &["burst 17"], 13);
}

#[test]
fn rows_closed_early_are_not_reported() {
    stays_silent(GO, &["healthy rows_unread 11"], 1);
    stays_silent(GO, &["healthy driver_rows 3"], 3);
}

#[test]
fn rows_that_are_read_slowly_are_not_reported() {
    let seen = watch(GO, &["slow_rows 80", "healthy rows 5"]);
    // Not as a long query either: the server is ahead of the client.
    assert!(seen.report.findings().is_empty(), "{:#}", seen.report.0);
    assert_eq!(seen.exit, NOTHING_FOUND);
    assert_eq!(seen.report.connections_of(seen.pid).len(), 2, "{:#}", seen.report.0);
}

#[test]
fn a_long_query_is_information_and_no_leak() {
    let seen = watch(GO, &["hold_query 60", "healthy rows 5"]);
    let all = seen.report.findings();
    let [query] = all[..] else { panic!("{:#}", seen.report.0) };
    assert_eq!((query.verdict(), query.count()), ("long query", 1), "{:#}", seen.report.0);
    assert_eq!(seen.exit, NOTHING_FOUND);
    assert_eq!(seen.report.connections_of(seen.pid).len(), 2, "{:#}", seen.report.0);
}

#[test]
fn a_thousand_goroutines_on_growing_stacks_are_neither_harmed_nor_reported() {
    let seen = watch(
        Kind::Go(Build::Plain, &["-max-idle", "11", "-max-open", "11"]),
        &["burst 11", "hammer 1000 5 rows", "hammer 1000 5 tx"],
    );
    assert!(seen.report.accusations().is_empty(), "{:#}", seen.report.0);
    assert_eq!(seen.exit, NOTHING_FOUND);
    // Now and then database/sql opens one more than its limit: the server knows how many there are.
    assert!(seen.sessions >= 11);
    assert_eq!(seen.report.connections_of(seen.pid).len(), seen.sessions, "{:#}", seen.report.0);
}

/// What is lost over ten seconds has a pace.
const LATER: &str = "later 9";

/// A leak of five in a pool of so many, and when that has none left.
fn is_of_a_pool_of(kind: Kind, commands: &[&str], size: u64) -> Value {
    let report = watch(kind, commands).report;
    let all = report.findings();
    let [leak] = all[..] else { panic!("{:#}", report.0) };
    let said = (leak.verdict(), leak.certainty(), leak.count());
    assert_eq!(said, ("leak", "proven", 5), "{:#}", report.0);
    assert_eq!(leak.0["pool_max"], size, "{kind:?}: {:#}", report.0);
    let growth = leak.0["growth_per_minute"].as_f64().expect("five are a growth");
    let left = ((size - 5) as f64 * 60e3 / growth) as u64;
    assert_eq!(leak.0["exhausted_in_ms"], left, "{:#}", report.0);
    leak.0.clone()
}

#[test]
fn the_size_of_a_pgxpool_is_told_with_its_leak() {
    for build in [Build::Plain, Build::Stripped, Build::Pie] {
        let of_23 = Kind::Go(build, &["-max-open", "23"]);
        is_of_a_pool_of(of_23, &["healthy pgxpool 3", "leak pgxpool 5", LATER], 23);
    }
    let of_7 = Kind::Go(Build::Plain, &["-max-open", "7"]);
    is_of_a_pool_of(of_7, &["leak pgxpool_rows 5", LATER], 7);
}

#[test]
fn the_size_of_a_pgxpool_v5_is_told_with_its_leak() {
    for (flags, size) in [(&["-max-open", "23"], 23), (&["-max-open", "7"], 7)] {
        let leak = is_of_a_pool_of(Kind::Go5(flags), &["healthy 3", "leak 5", LATER], size);
        assert_eq!(leak["pool"], "pgxpool v5", "{leak:#}");
        let line = leak_line_in("go5/main.go", "leak");
        assert_eq!(leak["blame"]["line"], line, "{leak:#}");
    }
}

#[test]
fn released_connections_of_a_pgxpool_v5_are_not_reported() {
    stays_silent(Kind::Go5(&[]), &["healthy 11"], 1);
}

/// Read from the pool's own memory, in programs of every build.
#[test]
fn the_size_of_the_pool_is_told_with_its_leak() {
    for build in [Build::Plain, Build::Stripped, Build::Pie] {
        for (flags, size) in [(&["-max-open", "23"][..], Some(23)), (&["-max-open", "0"][..], None)]
        {
            let report = watch(Kind::Go(build, flags), &["healthy rows 3", "leak rows 5"]).report;
            let all = report.findings();
            let [leak] = all[..] else { panic!("{:#}", report.0) };
            assert_eq!((leak.verdict(), leak.count()), ("leak", 5), "{:#}", report.0);
            assert_eq!(leak.0["pool_max"].as_u64(), size, "{build:?} {flags:?}: {:#}", report.0);
        }
    }
}
