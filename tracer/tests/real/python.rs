//! psycopg2: libpq in an extension module, pools in Python.

use std::fs;
use std::time::Instant;

use serde_json::{Value, json};

use crate::common::client::{Client, Kind, leak_line_in};
use crate::common::tracer::{Output, Tracer};
use crate::common::{deadline, server};
use crate::{Expected, NOTHING_FOUND, is_found, stays_silent};

/// A finding that names this shape's function and line.
fn leak<'a>(
    verdict: &'a str,
    certainty: &'a str,
    shape: &str,
    function: &'a str,
    connections: usize,
) -> Expected<'a> {
    let source = "python/leaks.py";
    Expected {
        verdict,
        certainty,
        count: 7,
        function: Some(function),
        file: Some((source, Some(leak_line_in(source, shape)))),
        connections,
    }
}

#[test]
fn a_forgotten_putconn_is_found() {
    is_found(
        Kind::Python,
        &["prefill 2", "leak forgotten 7", "overlap 2"],
        &leak("leak", "strong", "forgotten", "forgotten_putconn", 9),
    );
}

#[test]
fn an_exception_before_putconn_is_found() {
    is_found(
        Kind::Python,
        &["prefill 2", "leak raise 7", "overlap 2"],
        &leak("leak", "strong", "raise", "raised_before_putconn", 9),
    );
}

#[test]
fn a_transaction_left_open_is_found() {
    is_found(
        Kind::Python,
        &["leak idle_in_transaction 7"],
        &leak("idle in transaction", "proven", "idle_in_transaction", "idle_in_transaction", 8),
    );
}

#[test]
fn connections_that_are_never_used_are_found() {
    is_found(
        Kind::Python,
        // One that is opened later and used says that the others were no spares.
        &["leak never_used 7", "overlap 1"],
        &leak("never used", "suspected", "never_used", "never_used", 8),
    );
}

#[test]
fn connections_put_back_are_not_reported() {
    stays_silent(Kind::Python, &["healthy 7"], 1);
}

#[test]
fn connections_closed_are_not_reported() {
    stays_silent(Kind::Python, &["connect_close 7"], 0);
}

#[test]
fn a_connection_for_each_thread_is_not_reported() {
    stays_silent(Kind::Python, &["threads 7"], 7);
}

#[test]
fn a_pool_filled_beforehand_is_not_reported() {
    stays_silent(Kind::Python, &["prefill 7", "healthy 3"], 7);
}

#[test]
fn a_queue_pool_after_a_burst_is_not_reported() {
    stays_silent(Kind::Python, &["sqlalchemy 3", "sqlalchemy_burst 7"], 7);
}

#[test]
fn a_long_query_is_not_reported_as_a_leak() {
    stays_silent(Kind::Python, &["hold_query 60"], 1);
}

/// What was seen of a process that has no libpq when the capture begins and loads it later.
fn late(commands: &[&str]) -> Output {
    let server = server();
    let mut client = Client::start(Kind::LatePython, &server);
    let maps = format!("/proc/{}/maps", client.pid());
    let has_libpq = || fs::read_to_string(&maps).expect("running").contains("libpq");
    assert!(!has_libpq(), "it is to come later");
    let pid = client.pid().to_string();
    let tracer = Tracer::watch_with(&server, &["--format", "json", "--pid", &pid]);
    let before = tracer.kernel_objects();
    for command in commands {
        client.run(command);
    }
    assert!(has_libpq(), "{commands:?}");
    // Where connections are made, and where they are finished.
    let end = Instant::now() + deadline();
    let is_new_link = |object: &(_, _)| object.0 == "link" && !before.contains(object);
    while tracer.kernel_objects().into_iter().filter(is_new_link).count() < 2 {
        assert!(Instant::now() < end, "no probes after {commands:?}");
    }
    let output = tracer.finish_after_silence();
    let report = output.report();
    let pools = &report.process(client.pid())["pools"];
    assert_eq!(pools[0]["name"], "libpq", "{:#}", report.0);
    assert_eq!(pools[0]["note"], Value::Null, "{:#}", report.0);
    assert_eq!(report.0["capture"]["coverage"], json!([]), "{:#}", report.0);
    output
}

/// The leak is found, with libpq under it.
fn late_leak(commands: &[&str]) {
    let output = late(commands);
    let report = output.report();
    let finding = report.only_accusation();
    assert_eq!((finding.verdict(), finding.count()), ("leak", 7), "{:#}", report.0);
    assert_eq!(finding.certainty(), "strong", "{:#}", report.0);
    assert_eq!(finding.0["pool"], "libpq", "{:#}", report.0);
}

#[test]
fn leaks_on_a_libpq_that_is_loaded_later_are_found() {
    late_leak(&["prefill 2", "leak forgotten 7", "overlap 2"]);
}

#[test]
fn leaks_on_a_libpq_that_is_loaded_after_other_connections_are_found() {
    late_leak(&["bare 3", "prefill 2", "leak forgotten 7", "overlap 2"]);
}

#[test]
fn connections_put_back_on_a_libpq_that_is_loaded_later_are_not_reported() {
    let output = late(&["bare 3", "healthy 3"]);
    assert!(output.report().accusations().is_empty(), "{output:#?}");
    assert_eq!(output.exit, NOTHING_FOUND);
}
