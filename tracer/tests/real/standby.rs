//! Which hooks are attached: those on sockets where they suffice, and that on system calls only while there
//! is something to watch.

use std::collections::BTreeSet;
use std::net::TcpStream;
use std::process::Command;
use std::time::Instant;

use xtask::clients;
use xtask::postgres::{self, Config};

use crate::FOUND;
use crate::common::client::{Client, GO, Kind, leak_line};
use crate::common::report::Report;
use crate::common::tracer::{Tracer, connleak};
use crate::common::{deadline, server_with};

/// A capture of everything that talks to a port that nobody serves.
fn capture(port: u16, more: &[&str]) -> Tracer {
    let port = port.to_string();
    let usual = ["capture", "--port", &port, "--threshold", "1s", "--duration", "600s"];
    Tracer::start(connleak().args(usual).args(["--format", "json", "-v"]).args(more))
}

/// The same where the kernel has no hooks on sockets.
fn standing_by(port: u16) -> Tracer {
    capture(port, &["--by-calls"])
}

/// The tracepoints that a capture has attached programs to.
fn tracepoints(tracer: &Tracer) -> BTreeSet<String> {
    let named = |text: &str| {
        let name = text.lines().find_map(|line| line.strip_prefix("tp_name:"));
        name.map(|name| name.trim().to_owned())
    };
    tracer.descriptors().iter().filter_map(|text| named(text)).collect()
}

/// Of a capture that watches by the hooks on sockets.
fn assert_by_sockets(tracer: &Tracer) {
    let attached = tracepoints(tracer);
    for hook in ["inet_sock_set_state", "sock_send_length", "sock_recv_length"] {
        assert!(attached.contains(hook), "{attached:?}");
    }
    assert!(!attached.contains("sys_exit"), "{attached:?}");
}

/// What a capture of these leaks must say.
fn assert_found(report: &Report, count: u64) {
    let finding = report.only_accusation();
    assert_eq!((finding.verdict(), finding.certainty()), ("leak", "proven"), "{:#}", report.0);
    assert_eq!(
        (finding.count(), finding.function()),
        (count, Some("main.leakRows")),
        "{:#}",
        report.0
    );
    assert_eq!(finding.line(), Some(leak_line("rows")), "{:#}", report.0);
}

fn until_it_watches(tracer: &Tracer) {
    let end = Instant::now() + deadline();
    while !tracepoints(tracer).contains("sys_exit") {
        assert!(Instant::now() < end, "{:?} are attached", tracepoints(tracer));
        std::thread::yield_now();
    }
}

#[test]
fn the_first_attempt_to_connect_ends_standing_by() {
    let port = postgres::free_port().expect("a port");
    let tracer = standing_by(port);
    let attached = tracepoints(&tracer);
    assert!(attached.contains("inet_sock_set_state"), "{attached:?}");
    assert!(!attached.contains("sys_exit"), "{attached:?}");
    TcpStream::connect(("127.0.0.1", port)).expect_err("nobody listens");
    until_it_watches(&tracer);
    tracer.interrupt();
    let report = tracer.finish().report();
    let coverage = report.0["capture"]["coverage"].to_string();
    assert!(coverage.contains("have no stack of their opening"), "{:#}", report.0);
    assert!(report.accusations().is_empty(), "{:#}", report.0);
}

#[test]
fn leaks_after_standing_by_are_found_by_line() {
    let port = postgres::free_port().expect("a port");
    let mut tracer = standing_by(port);
    let server = server_with(&Config { port: Some(port), ..Config::default() });
    until_it_watches(&tracer);
    let mut client = Client::start(GO, &server);
    client.run("healthy rows 3");
    // The probes are attached when the first connection is seen.
    tracer.until_said(&format!("process {} has connections; observed", client.pid()));
    client.run("leak rows 7");
    let output = tracer.finish_after_silence();
    assert_found(&output.report(), 7);
    assert_eq!(output.exit, FOUND);
}

#[test]
fn over_tcp_no_system_call_is_watched_from_the_first_connection_on() {
    let port = postgres::free_port().expect("a port");
    let mut tracer = capture(port, &[]);
    assert_by_sockets(&tracer);
    let server = server_with(&Config { port: Some(port), ..Config::default() });
    let mut client = Client::start(GO, &server);
    client.run("leak rows 1");
    tracer.until_said(&format!("process {} has connections; observed", client.pid()));
    client.run("leak rows 5");
    assert_by_sockets(&tracer);
    let report = tracer.finish_after_silence().report();
    let opened = report.connections_of(client.pid());
    assert_eq!(opened.len(), 6, "{:#}", report.0);
    let coverage = report.0["capture"]["coverage"].to_string();
    assert!(!coverage.contains("no stack of their opening"), "{:#}", report.0);
    assert!(opened.iter().all(|conn| conn["local_port"].as_u64() > Some(0)), "{:#}", report.0);
}

#[test]
fn a_server_on_a_unix_socket_has_system_calls_watched_instead() {
    let port = postgres::free_port().expect("a port");
    let mut tracer = capture(port, &[]);
    assert_by_sockets(&tracer);
    let server = server_with(&Config { port: Some(port), unix: true, ..Config::default() });
    // The clients of both are followed, those over TCP from before that as well.
    let mut before = Client::start(GO, &server);
    before.run("healthy rows 3");
    tracer.until_said(&format!("process {} has connections; observed", before.pid()));
    until_it_watches(&tracer);
    assert!(!tracepoints(&tracer).contains("sock_send_length"), "{:?}", tracepoints(&tracer));
    let mut client = Client::spawn(GO.command().envs(server.unix_environment()));
    client.run("healthy rows 3");
    tracer.until_said(&format!("process {} has connections; observed", client.pid()));
    client.run("leak rows 7");
    before.run("healthy rows 3");
    let output = tracer.finish_after_silence();
    assert_found(&output.report(), 7);
    assert_eq!(output.exit, FOUND);
}

#[test]
fn over_tcp_the_end_of_a_connection_is_seen_when_it_comes() {
    let server = server_with(&Config::default());
    let record = tempfile::NamedTempFile::new().expect("a file");
    let mut client = Client::start(Kind::Descriptors, &server);
    let path = record.path().display().to_string();
    let tracer = Tracer::watch_with(&server, &["--format", "json", "--record", &path]);
    assert_by_sockets(&tracer);
    for command in ["hold 7", "close_all", "hold 2", "close_range", "hold 3"] {
        client.run(command);
    }
    let report = tracer.finish_after_silence().report();
    assert_eq!(report.connections_of(client.pid()).len(), 3, "{:#}", report.0);
    // Whatever was missed would have been noticed at the end only.
    let stream = std::fs::read_to_string(record.path()).expect("a recording");
    let kinds = stream.lines().filter_map(|line| {
        let event: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let kind = event["event"].as_str()?.to_owned();
        ["open", "close"].contains(&kind.as_str()).then_some(kind)
    });
    let expected = [("open", 7), ("close", 7), ("open", 2), ("close", 2), ("open", 3)];
    let expected: Vec<&str> =
        expected.into_iter().flat_map(|(kind, count)| vec![kind; count]).collect();
    assert_eq!(kinds.collect::<Vec<_>>(), expected);
}

#[test]
fn where_ports_are_rewritten_system_calls_are_watched_instead() {
    let server = server_with(&Config::default());
    let port = postgres::free_port().expect("a port");
    let tracer = capture(port, &[]);
    assert_by_sockets(&tracer);
    let inner = Kind::Descriptors.command();
    let mut command = Command::new("unshare");
    command.args(["--mount", "python3"]).arg(clients::sources().join("python/rewriting.py"));
    command.args([port.to_string(), server.port().to_string()]);
    command.arg(inner.get_program()).args(inner.get_args());
    let mut client =
        Client::spawn(command.envs(server.environment()).env("PGPORT", port.to_string()));
    // The first one leads to the others.
    client.run("hold 1");
    client.run("close_all");
    until_it_watches(&tracer);
    client.run("hold 3");
    let output = tracer.finish_after_silence();
    let report = output.report();
    let found = report.with_verdict("idle in transaction");
    let counted: u64 = found.iter().map(|finding| finding.count()).sum();
    assert_eq!(counted, 3, "{:#}", report.0);
    assert_eq!(report.connections_of(client.pid()).len(), 3, "{:#}", report.0);
}
