//! The shortest whole path, for emulated guests with other kernels: one server, one Go client that
//! leaks, one that does not.

use crate::FOUND;
use crate::common::client::{Client, GO, leak_line};
use crate::common::server;
use crate::common::tracer::Tracer;

#[test]
fn vm_smoke_a_leak_is_found_by_line_and_the_healthy_twin_is_not_reported() {
    let server = server();
    let (mut leaky, mut healthy) = (Client::start(GO, &server), Client::start(GO, &server));
    let tracer = Tracer::watch(&server);
    leaky.run("leak rows 3");
    healthy.run("healthy rows 5");
    let output = tracer.finish_after_silence();
    let report = output.report();
    let finding = report.only_accusation();
    assert_eq!(finding.pid(), u64::from(leaky.pid()), "{:#}", report.0);
    assert_eq!((finding.count(), finding.certainty()), (3, "proven"), "{:#}", report.0);
    assert_eq!(finding.function(), Some("main.leakRows"), "{:#}", report.0);
    assert_eq!(finding.line(), Some(leak_line("rows")), "{:#}", report.0);
    assert_eq!(report.connections_of(healthy.pid()).len(), 1, "{:#}", report.0);
    assert_eq!(output.exit, FOUND);
}
