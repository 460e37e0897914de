//! Bounds of the kernel side that are reached: what was lost is said, nothing that it touches is
//! called certain, and nobody is accused who gives back.

use crate::common::client::{Build, Client, GO, Kind};
use crate::common::report::Report;
use crate::common::server;
use crate::common::tracer::Tracer;

/// Watches a client with less room than usual. Returns the report.
fn watch(kind: Kind, bound: &str, commands: &[&str]) -> Report {
    let server = server();
    let mut client = Client::start(kind, &server);
    let pid = client.pid().to_string();
    let usual = ["--format", "json", "--pid", &pid, "--bound", bound];
    let tracer = Tracer::watch_with(&server, &usual);
    for command in commands {
        client.run(command);
    }
    tracer.finish_after_silence().report()
}

/// How often something was lost for this reason.
fn lost(report: &Report, reason: &str) -> u64 {
    let lost = &report.0["capture"]["lost"];
    lost[reason].as_u64().unwrap_or_else(|| panic!("{reason} was not lost: {:#}", report.0))
}

/// The leak is found as far as it was seen, and is not certain.
fn is_found_and_not_certain(bound: &str, reason: &str, at_most: u64) {
    let report = watch(GO, bound, &["healthy rows 3", "leak rows 17"]);
    assert!(lost(&report, reason) > 0);
    for finding in report.accusations() {
        assert_eq!(finding.verdict(), "leak", "{:#}", report.0);
        assert_ne!(finding.certainty(), "proven", "{:#}", report.0);
        assert!(finding.count() <= at_most, "{:#}", report.0);
    }
}

/// The healthy twin is not accused.
fn stays_silent(bound: &str, reason: &str) {
    let kept = Kind::Go(Build::Plain, &["-max-idle", "13"]);
    let report = watch(kept, bound, &["burst 17", "healthy tx 5", "burst 17"]);
    assert!(lost(&report, reason) > 0);
    assert!(report.accusations().is_empty(), "{:#}", report.0);
}

#[test]
fn with_more_connections_than_places_a_leak_is_not_certain() {
    is_found_and_not_certain("connections=5", "no_connection_slot", 5);
}

#[test]
fn with_more_connections_than_places_a_healthy_client_is_not_reported() {
    stays_silent("connections=5", "no_connection_slot");
}

#[test]
fn with_more_descriptors_than_places_a_leak_is_not_certain() {
    is_found_and_not_certain("descriptors=5", "descriptor_map_full", 17);
}

#[test]
fn with_more_descriptors_than_places_a_healthy_client_is_not_reported() {
    stays_silent("descriptors=5", "descriptor_map_full");
}

/// Watches Go with a ring that is full of opens and closes while the tracer does not get to run.
fn watch_without_room(commands: &[&str]) -> Report {
    let server = server();
    let mut client = Client::start(GO, &server);
    let pid = client.pid().to_string();
    let usual = ["--format", "json", "--pid", &pid, "--bound", "ring=4096"];
    let tracer = Tracer::watch_with(&server, &usual);
    tracer.pause();
    client.run("burst 53");
    client.run("burst 59");
    tracer.resume();
    for command in commands {
        client.run(command);
    }
    let report = tracer.finish_after_silence().report();
    assert!(lost(&report, "ring_full") > 0);
    report
}

#[test]
fn with_a_ring_too_small_a_leak_is_not_certain() {
    let report = watch_without_room(&["leak rows 7"]);
    let finding = report.only_accusation();
    assert_eq!((finding.verdict(), finding.certainty()), ("leak", "strong"), "{:#}", report.0);
    // One whose opening or acquire was lost is not known.
    assert!((1..=7).contains(&finding.count()), "{:#}", report.0);
    assert_eq!(finding.function(), Some("main.leakRows"), "{:#}", report.0);
}

#[test]
fn with_a_ring_too_small_a_healthy_client_is_not_reported() {
    let report = watch_without_room(&["healthy tx 5", "burst 59"]);
    assert!(report.accusations().is_empty(), "{:#}", report.0);
}

#[test]
fn with_too_few_stacks_a_leak_is_found_and_only_its_line_may_be_missing() {
    let report = watch(GO, "stacks=3", &["healthy rows 3", "leak rows 17"]);
    assert!(lost(&report, "no_stack_slot") > 0);
    // Who took a connection is not known for those without a stack; that they are out is.
    let accusations = report.accusations();
    assert_eq!(accusations.iter().map(|finding| finding.count()).sum::<u64>(), 17);
    for finding in accusations {
        assert_eq!((finding.verdict(), finding.certainty()), ("leak", "proven"), "{:#}", report.0);
        let function = finding.function();
        assert!(function.is_none_or(|name| name == "main.leakRows"), "{:#}", report.0);
    }
}

#[test]
fn with_too_few_stacks_a_healthy_client_is_not_reported() {
    stays_silent("stacks=3", "no_stack_slot");
}

#[test]
fn with_too_few_checkouts_what_was_not_seen_is_not_reported() {
    let report = watch(GO, "checkouts=5", &["healthy rows 3", "leak rows 17"]);
    assert!(lost(&report, "checkout_map_full") > 0);
    let finding = report.only_accusation();
    assert_eq!((finding.verdict(), finding.function()), ("leak", Some("main.leakRows")));
    assert_eq!(finding.count(), 5, "{:#}", report.0);
}

#[test]
fn with_too_few_checkouts_a_healthy_client_is_not_reported() {
    stays_silent("checkouts=5", "checkout_map_full");
}
