//! Callers that wait for a connection: is it a leak, or is the pool too small? The remedies are
//! opposite. Under load, from workers that run until the client ends.

use crate::common::client::{Build, Client, GO, Kind, leak_line, leak_line_in};
use crate::common::server;
use crate::common::tracer::Tracer;
use crate::{FOUND, NOTHING_FOUND, Seen, watch};

const SQL: &str = "database/sql";
const PGXPOOL: &str = "pgxpool v4";
const R2D2: &str = "r2d2";

/// Connections at most.
const fn of(flags: &'static [&'static str]) -> Kind {
    Kind::Go(Build::Plain, flags)
}

const TWO: Kind = of(&["-max-open", "2"]);
const THREE: Kind = of(&["-max-open", "3"]);
const TWENTY: Kind = of(&["-max-open", "20", "-max-idle", "20"]);

/// Only that this pool is too small, and that so many callers wait for its two connections.
fn is_too_small(seen: &Seen, pool: &str) {
    let whole = &seen.report.0;
    let all = seen.report.findings();
    let [small] = all[..] else { panic!("{whole:#}") };
    assert_eq!((small.verdict(), small.certainty()), ("pool too small", "strong"), "{whole:#}");
    assert_eq!((small.pid(), small.count()), (u64::from(seen.pid), 2), "{whole:#}");
    assert_eq!(small.0["pool"], pool, "{whole:#}");
    assert_eq!(small.0["waits"]["most_out"], 2, "{whole:#}");
    assert_eq!(seen.exit, NOTHING_FOUND);
    let waits = seen.report.waits(seen.pid, pool);
    // database/sql serves its callers in turn. In a pgxpool of puddle v1 and in r2d2 who gives back
    // may take again before any of those that wait wakes up: hardly any wait ends.
    let served = if pool == SQL { Some(10) } else { None };
    assert!(waits["served"].as_u64() > served, "{whole:#}");
    // Seven workers, of which two have a connection; a moment is one of those when it is handed over.
    assert!((3..=7).contains(&waits["waiting"].as_u64().expect("a count")), "{whole:#}");
}

#[test]
fn a_pool_with_less_connections_than_its_callers_keep_busy_is_too_small() {
    is_too_small(&watch(TWO, &["load 7"]), SQL);
}

#[test]
fn a_pgxpool_with_less_connections_than_its_callers_keep_busy_is_too_small() {
    is_too_small(&watch(TWO, &["load 7 pgxpool"]), PGXPOOL);
}

#[test]
fn a_pool_of_r2d2_with_less_connections_than_its_callers_keep_busy_is_too_small() {
    is_too_small(&watch(Kind::R2d2("2"), &["load 7"]), R2D2);
}

#[test]
fn the_same_traffic_in_a_pool_of_r2d2_with_room_is_not_reported() {
    let seen = watch(Kind::R2d2("20"), &["load 7"]);
    assert!(seen.report.findings().is_empty(), "{:#}", seen.report.0);
    assert_eq!(seen.exit, NOTHING_FOUND);
    let waits = seen.report.waits(seen.pid, R2D2);
    assert!((2..=7).contains(&waits["most_out"].as_u64().expect("a count")), "{waits:#}");
    // An acquire that ends without one does not show.
    assert!(waits["failed"].is_null(), "{waits:#}");
}

#[test]
fn the_same_traffic_in_a_pool_with_room_is_not_reported() {
    let seen = watch(TWENTY, &["load 7", "load 7 pgxpool"]);
    assert!(seen.report.findings().is_empty(), "{:#}", seen.report.0);
    assert_eq!(seen.exit, NOTHING_FOUND);
    for pool in [SQL, PGXPOOL] {
        // Seen, and nobody waits. What a busy machine does to seven goroutines is no wait for long.
        assert_eq!(seen.report.waits(seen.pid, pool)["failed"], 0, "{:#}", seen.report.0);
    }
}

/// The leak of this line and nothing else, with so many connections; who waits for them is told with
/// it.
fn is_a_leak(kind: Kind, commands: &[&str], line: u64, pool: &str, count: u64, waiting: u64) {
    let seen = watch(kind, commands);
    let whole = &seen.report.0;
    let all = seen.report.findings();
    let [leak] = all[..] else { panic!("{whole:#}") };
    assert_eq!((leak.verdict(), leak.certainty()), ("leak", "proven"), "{whole:#}");
    assert_eq!((leak.count(), leak.line()), (count, Some(line)), "{whole:#}");
    assert_eq!(seen.exit, FOUND);
    assert!(leak.0["waits"]["waiting"].as_u64() >= Some(waiting), "{whole:#}");
    assert!(leak.0["waits"]["longest_waiting_ms"].is_u64(), "{whole:#}");
    let why = leak.0["evidence"].as_array().expect("sentences");
    let waits = |why: &&serde_json::Value| {
        why.as_str().is_some_and(|why| why.contains("wait for a connection of this pool"))
    };
    assert_eq!(why.iter().filter(waits).count(), 1, "{whole:#}");
    assert!(seen.report.waits(seen.pid, pool)["waiting"].as_u64() >= Some(waiting), "{whole:#}");
}

#[test]
fn a_pool_that_leaked_dry_is_a_leak_and_its_callers_wait() {
    is_a_leak(TWENTY, &["load 5", "leak rows 20"], leak_line("rows"), SQL, 20, 5);
}

#[test]
fn a_pgxpool_that_leaked_dry_is_a_leak_and_its_callers_wait() {
    let commands = ["load 5 pgxpool", "leak pgxpool 20"];
    is_a_leak(TWENTY, &commands, leak_line("pgxpool"), PGXPOOL, 20, 5);
}

/// The line of r2d2's client that forgets.
fn forgotten() -> u64 {
    leak_line_in("rust/r2d2/src/main.rs", "forgotten")
}

#[test]
fn a_pool_of_r2d2_that_leaked_dry_is_a_leak_and_its_callers_wait() {
    let commands = ["load 5", "leak_alone forgotten 20"];
    is_a_leak(Kind::R2d2("20"), &commands, forgotten(), R2D2, 20, 5);
}

#[test]
fn one_leaking_path_in_a_pool_of_r2d2_with_room_is_the_leak() {
    let commands = ["load 5", "leak_alone forgotten 3"];
    let seen = watch(Kind::R2d2("20"), &commands);
    let finding = seen.report.only_accusation();
    let said = (finding.verdict(), finding.certainty(), finding.count(), finding.line());
    assert_eq!(said, ("leak", "proven", 3, Some(forgotten())), "{:#}", seen.report.0);
    assert_eq!(seen.report.with_verdict("pool too small").len(), 0, "{:#}", seen.report.0);
}

#[test]
fn a_leak_in_a_pool_of_r2d2_that_is_too_small_as_well_is_the_leak() {
    let commands = ["load 7", "leak_alone forgotten 1"];
    is_a_leak(Kind::R2d2("3"), &commands, forgotten(), R2D2, 1, 3);
}

#[test]
fn a_leak_in_a_pool_that_is_too_small_as_well_is_the_leak() {
    is_a_leak(THREE, &["load 7", "leak rows 1"], leak_line("rows"), SQL, 1, 3);
}

#[test]
fn a_leak_from_before_the_watch_keeps_the_pool_from_being_called_too_small() {
    let server = server();
    let mut client = Client::start(THREE, &server);
    client.run("leak rows 1");
    let tracer = Tracer::watch(&server);
    client.run("load 7");
    let output = tracer.finish_after_silence();
    let report = output.report();
    assert_eq!(report.with_verdict("pool too small").len(), 0, "{:#}", report.0);
    assert!(report.waits(client.pid(), SQL)["waiting"].as_u64() >= Some(3), "{:#}", report.0);
}

#[test]
fn a_leak_of_r2d2_from_before_the_watch_keeps_its_pool_from_being_called_too_small() {
    let server = server();
    let mut client = Client::start(Kind::R2d2("3"), &server);
    client.run("leak_alone forgotten 1");
    let tracer = Tracer::watch(&server);
    client.run("load 7");
    let report = tracer.finish_after_silence().report();
    assert_eq!(report.with_verdict("pool too small").len(), 0, "{:#}", report.0);
    assert!(report.waits(client.pid(), R2D2)["waiting"].as_u64() >= Some(3), "{:#}", report.0);
}

#[test]
fn threads_that_wait_for_long_queries_are_told_with_them() {
    let steps = ["healthy 1", "hold_query 60", "hold_query 60", "load 3"];
    let seen = watch(Kind::R2d2("2"), &steps);
    let whole = &seen.report.0;
    let all = seen.report.findings();
    let [query] = all[..] else { panic!("{whole:#}") };
    assert_eq!((query.verdict(), query.count()), ("long query", 2), "{whole:#}");
    assert_eq!(query.0["waits"]["waiting"], 3, "{whole:#}");
    assert_eq!(seen.exit, NOTHING_FOUND);
}

#[test]
fn callers_that_wait_for_long_queries_are_told_with_them() {
    // Acquires before the process's first connection are not seen.
    let steps = ["healthy driver_rows 1", "hold_query 60", "hold_query 60", "load 3"];
    let seen = watch(TWO, &steps);
    let whole = &seen.report.0;
    let all = seen.report.findings();
    let [query] = all[..] else { panic!("{whole:#}") };
    assert_eq!((query.verdict(), query.count()), ("long query", 2), "{whole:#}");
    assert_eq!(query.0["waits"]["waiting"], 3, "{whole:#}");
    assert_eq!(seen.exit, NOTHING_FOUND);
}

#[test]
fn nobody_waits_after_a_thousand_goroutines_on_growing_stacks() {
    for shape in ["rows", "pgxpool"] {
        let hammer = format!("hammer 1000 3 {shape}");
        let seen = watch(of(&["-max-open", "5", "-max-idle", "5"]), &[&hammer]);
        let pool = if shape == "rows" { SQL } else { PGXPOOL };
        let waits = seen.report.waits(seen.pid, pool);
        assert_eq!((&waits["waiting"], &waits["failed"]), (&0.into(), &0.into()), "{waits:#}");
        assert!(waits["longest_waiting_ms"].is_null(), "{waits:#}");
        assert!(waits["served"].as_u64() > Some(100), "{waits:#}");
        // On a slow machine it was too small for long enough to be told.
        assert!(seen.report.accusations().is_empty(), "{:#}", seen.report.0);
    }
}

#[test]
fn where_the_entry_of_acquires_is_not_seen_waits_are_unknown() {
    let seen = watch(GO, &["healthy driver_rows 1"]);
    assert!(seen.report.waits(seen.pid, SQL).is_null(), "{:#}", seen.report.0);
}
