//! psycopg2's own pool, and SQLAlchemy's over psycopg2 in the same program.

use std::process::Command;

use crate::common::client::Kind;
use crate::scenario::{Accusation, Scenario};

/// Every scenario of the client.
pub fn scenarios() -> Vec<Scenario> {
    let psycopg2: fn() -> Command = || Kind::Python.command();
    let pool = "psycopg2 pool";
    let leaky = |name, steps, accusation| Scenario::leaky(pool, name, psycopg2, steps, accusation);
    let healthy = |name, steps| Scenario::healthy(pool, name, psycopg2, steps);
    let alchemy = |name, steps| Scenario::healthy("SQLAlchemy, psycopg2", name, psycopg2, steps);
    vec![
        leaky(
            "forgotten putconn",
            &["prefill 2", "leak forgotten 7", "overlap 2"],
            Accusation::leak("strong", 7, Some("forgotten_putconn")),
        )
        .fast(),
        leaky(
            "exception before putconn",
            &["prefill 2", "leak raise 7", "overlap 2"],
            Accusation::leak("strong", 7, Some("raised_before_putconn")),
        ),
        leaky(
            "transaction never ended",
            &["leak idle_in_transaction 7"],
            Accusation::idle_in_transaction(7, Some("idle_in_transaction")),
        ),
        leaky(
            "never used",
            &["leak never_used 7", "overlap 1"],
            Accusation { function: Some("never_used"), ..Accusation::never_used("suspected", 7) },
        ),
        healthy("put back", &["healthy 7"]).fast(),
        healthy("closed", &["connect_close 7"]),
        healthy("a connection for each thread", &["threads 7"]),
        healthy("filled beforehand", &["prefill 7", "healthy 3"]),
        healthy("long query", &["hold_query 60"]).informs("long query"),
        alchemy("burst, then calm", &["sqlalchemy 3", "sqlalchemy_burst 7"]),
    ]
}
