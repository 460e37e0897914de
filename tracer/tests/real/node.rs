//! node-postgres: no probe sees its pool, so its leaks are inferred from the wire. Node runs as it is
//! started, without flags; what becomes of harder stacks is in `node_frames`.

use crate::common::client::{Kind, NODE, leak_line_in};
use crate::{Expected, is_found, stays_silent, watch};

/// Idle connections stay for good.
const NO_IDLE_TIMEOUT: Kind = Kind::Node(r#"{"idleTimeoutMillis":0}"#);

/// The function of this shape, and the line of its last query.
fn leak<'a>(function: &'a str, shape: &str, count: u64, connections: usize) -> Expected<'a> {
    let source = "node/leaks.js";
    Expected {
        verdict: "leak",
        certainty: "strong",
        count,
        function: Some(function),
        file: Some((source, Some(leak_line_in(source, shape)))),
        connections,
    }
}

#[test]
fn a_forgotten_release_is_found_by_its_function() {
    is_found(NODE, &["leak forgotten 7"], &leak("forgottenRelease", "forgotten", 7, 8));
}

#[test]
fn an_early_return_before_release_is_found_by_its_function() {
    is_found(NODE, &["leak early_return 5"], &leak("earlyReturn", "early_return", 5, 6));
}

#[test]
fn a_throw_before_release_is_found_by_its_function() {
    is_found(NODE, &["leak throw 7"], &leak("throwBeforeRelease", "throw", 7, 8));
}

#[test]
fn the_last_leaks_of_a_path_count_though_nothing_opens_a_connection_after_them() {
    is_found(NODE, &["leak_alone forgotten 17"], &leak("forgottenRelease", "forgotten", 17, 17));
}

#[test]
fn leaks_are_found_in_a_pool_that_keeps_idle_connections_for_good() {
    is_found(
        NO_IDLE_TIMEOUT,
        &["burst 11", "leak forgotten 17"],
        // The burst left eleven idle ones, which the first leaks and requests took.
        &leak("forgottenRelease", "forgotten", 17, 18),
    );
}

#[test]
fn a_transaction_left_open_is_found_by_its_function() {
    is_found(
        NODE,
        &["leak idle_in_transaction 7"],
        &Expected {
            verdict: "idle in transaction",
            certainty: "proven",
            count: 7,
            function: Some("idleInTransaction"),
            file: Some((
                "node/leaks.js",
                Some(leak_line_in("node/leaks.js", "idle_in_transaction")),
            )),
            connections: 8,
        },
    );
}

#[test]
fn clients_taken_and_never_used_are_found() {
    is_found(
        NODE,
        &["leak_alone never_used 7", "healthy 1"],
        &Expected {
            verdict: "never used",
            certainty: "strong",
            count: 7,
            // A connect runs from the event loop: the application is not on its stack.
            function: None,
            file: None,
            connections: 8,
        },
    );
}

#[test]
fn a_transaction_given_back_open_names_who_began_it_and_not_who_came_after() {
    is_found(
        NODE,
        // After each a healthy request runs inside the same transaction.
        &["leak returned_in_transaction 5"],
        &Expected {
            // That it went back leaves no trace on the wire.
            verdict: "idle in transaction",
            certainty: "proven",
            count: 1,
            function: Some("returnedInTransaction"),
            file: Some((
                "node/leaks.js",
                Some(leak_line_in("node/leaks.js", "returned_in_transaction")),
            )),
            connections: 1,
        },
    );
}

#[test]
fn a_pool_for_each_request_is_suspected_where_the_driver_sent_the_query_itself() {
    is_found(
        NO_IDLE_TIMEOUT,
        &["new_pool 17"],
        &Expected {
            verdict: "abandoned pool",
            certainty: "suspected",
            count: 17,
            // Node connects and sends a first query from its event loop.
            function: None,
            file: None,
            connections: 17,
        },
    );
}

#[test]
fn a_pool_for_each_request_whose_clients_are_given_back_looks_like_a_leak_and_the_report_says_so() {
    let seen = watch(NO_IDLE_TIMEOUT, &["new_pool_client 17"]);
    let finding = seen.report.only_accusation();
    assert_eq!((finding.verdict(), finding.count()), ("leak", 17), "{:#}", seen.report.0);
    let said = finding.0["evidence"].to_string();
    assert!(said.contains("create that pool once instead"), "{said}");
}

#[test]
fn several_pools_made_at_the_start_are_not_reported() {
    stays_silent(NO_IDLE_TIMEOUT, &["several_pools 7"], 7);
}

#[test]
fn clients_released_in_finally_are_not_reported() {
    stays_silent(NODE, &["healthy 7"], 1);
}

#[test]
fn ended_transactions_are_not_reported() {
    stays_silent(NODE, &["transaction 7"], 1);
}

#[test]
fn queries_of_the_pool_itself_are_not_reported() {
    stays_silent(NODE, &["pool_query 7"], 1);
}

#[test]
fn a_burst_followed_by_calm_is_not_reported() {
    stays_silent(NODE, &["burst 11"], 11);
}

#[test]
fn a_burst_that_never_ends_idle_is_not_reported() {
    stays_silent(NO_IDLE_TIMEOUT, &["burst 11", "healthy 5", "burst 13"], 13);
}

#[test]
fn a_listening_client_is_not_reported() {
    stays_silent(NODE, &["listen", "healthy 5"], 2);
}

#[test]
fn the_holder_of_an_advisory_lock_is_not_reported() {
    stays_silent(NODE, &["advisory_lock 7", "healthy 5"], 2);
}

#[test]
fn a_copy_that_waits_for_data_is_not_reported() {
    stays_silent(NODE, &["copy", "healthy 5"], 2);
}

#[test]
fn a_long_query_is_not_reported_as_a_leak() {
    stays_silent(NODE, &["hold_query 60", "healthy 5"], 2);
}

#[test]
fn two_pools_with_one_data_source_are_not_reported() {
    stays_silent(NODE, &["two_pools 5"], 2);
}
