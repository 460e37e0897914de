//! What can happen to a descriptor must neither lose nor invent a connection.
//!
//! Every session of this client is left idle in a transaction: a finding counts the sessions that
//! are still open, and the server confirms the number.

use xtask::postgres::free_port;

use crate::common::client::{Client, Kind};
use crate::common::tracer::Tracer;
use crate::common::{server, until_sessions};

/// Carries out the commands; so many sessions must then be open, to the server and to the tracer.
fn open_after(commands: &[&str], sessions: u64) {
    let server = server();
    let mut client = Client::start(Kind::Descriptors, &server);
    let pid = client.pid().to_string();
    let tracer = Tracer::watch_with(&server, &["--format", "json", "--pid", &pid]);
    for command in commands {
        client.run(command);
    }
    until_sessions(&server, "state = 'idle in transaction'", sessions);
    let output = tracer.finish_after_silence();
    let report = output.report();
    let found = report.with_verdict("idle in transaction");
    let counted: u64 = found.iter().map(|finding| finding.count()).sum();
    assert_eq!(counted, sessions, "{:#}", report.0);
    assert_eq!(report.accusations().len(), found.len(), "{:#}", report.0);
    assert_eq!(report.lost(), 0, "{:#}", report.0);
}

#[test]
fn a_duplicate_keeps_the_session_when_the_first_is_closed() {
    open_after(&["dup_close"], 1);
}

#[test]
fn a_duplicate_put_over_another_session_ends_that_one() {
    open_after(&["dup2_over"], 1);
}

#[test]
fn a_duplicate_made_by_fcntl_keeps_the_session() {
    open_after(&["fcntl_dup"], 1);
}

#[test]
fn a_child_keeps_what_its_parent_closed() {
    open_after(&["fork_keep"], 1);
}

#[test]
fn the_exit_of_a_child_does_not_end_its_parents_session() {
    open_after(&["fork_exit"], 1);
}

#[test]
fn a_session_inherited_over_exec_stays() {
    open_after(&["exec_keep"], 1);
}

#[test]
fn close_on_exec_ends_a_session() {
    open_after(&["hold 3", "exec_cloexec"], 3);
}

#[test]
fn a_descriptor_number_used_again_inherits_nothing() {
    open_after(&["hold 3", "reuse_number"], 3);
}

#[test]
fn a_nonblocking_connect_counts_once() {
    open_after(&["nonblocking"], 1);
}

#[test]
fn refused_connects_are_no_connections() {
    open_after(&["hold 3", &format!("refused {}", free_port().expect("a port"))], 3);
}

#[test]
fn a_cancel_request_is_no_session() {
    open_after(&["hold 3", "cancel"], 3);
}

#[test]
fn sessions_over_multipath_tcp_are_followed_from_the_first_on() {
    open_after(&["multipath 3"], 3);
}

#[test]
fn a_session_that_is_handed_to_another_process_stays() {
    open_after(&["hold 2", "hand_on"], 3);
}

#[test]
fn close_range_closes_all_of_them() {
    open_after(&["hold 7", "close_range", "hold 3"], 3);
}

#[test]
fn everything_closed_leaves_nothing() {
    open_after(&["hold 7", "dup_close", "fork_keep", "exec_keep", "close_all"], 0);
}
