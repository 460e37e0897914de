//! psycopg2: libpq in an extension module, pools in Python.

use crate::common::client::Kind;
use crate::{Expected, is_found, stays_silent};

/// Python's frames are not named yet: no function is expected.
fn leak<'a>(verdict: &'a str, certainty: &'a str, count: u64, connections: usize) -> Expected<'a> {
    Expected { verdict, certainty, count, function: None, file: None, connections }
}

#[test]
fn a_forgotten_putconn_is_found() {
    is_found(
        Kind::Python,
        &["prefill 2", "leak forgotten 7", "overlap 2"],
        &leak("leak", "strong", 7, 9),
    );
}

#[test]
fn an_exception_before_putconn_is_found() {
    is_found(
        Kind::Python,
        &["prefill 2", "leak raise 7", "overlap 2"],
        &leak("leak", "strong", 7, 9),
    );
}

#[test]
fn a_transaction_left_open_is_found() {
    is_found(
        Kind::Python,
        &["leak idle_in_transaction 7"],
        &leak("idle in transaction", "proven", 7, 8),
    );
}

#[test]
fn connections_that_are_never_used_are_found() {
    is_found(
        Kind::Python,
        // One that is opened later and used says that the others were no spares.
        &["leak never_used 7", "overlap 1"],
        &leak("never used", "suspected", 7, 8),
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
