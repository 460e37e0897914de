//! System calls are watched while there is something to watch, and not before.

use std::collections::BTreeSet;
use std::net::TcpStream;
use std::time::Instant;

use xtask::postgres::{self, Config};

use crate::FOUND;
use crate::common::client::{Client, GO, leak_line};
use crate::common::tracer::{Tracer, connleak};
use crate::common::{deadline, server_with};

/// A capture of everything that talks to a port that nobody serves.
fn standing_by(port: u16) -> Tracer {
    let port = port.to_string();
    let usual = ["capture", "--port", &port, "--threshold", "1s", "--duration", "600s"];
    Tracer::start(connleak().args(usual).args(["--format", "json", "-v"]))
}

/// The tracepoints that a capture has attached programs to.
fn tracepoints(tracer: &Tracer) -> BTreeSet<String> {
    let named = |text: &str| {
        let name = text.lines().find_map(|line| line.strip_prefix("tp_name:"));
        name.map(|name| name.trim().to_owned())
    };
    tracer.descriptors().iter().filter_map(|text| named(text)).collect()
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
    let report = output.report();
    let finding = report.only_accusation();
    assert_eq!((finding.verdict(), finding.certainty()), ("leak", "proven"), "{:#}", report.0);
    assert_eq!((finding.count(), finding.function()), (7, Some("main.leakRows")), "{:#}", report.0);
    assert_eq!(finding.line(), Some(leak_line("rows")), "{:#}", report.0);
    assert_eq!(output.exit, FOUND);
}
