//! PHP: a long-running worker on libpq, through PDO and through the pgsql functions.

use std::process::Command;

use crate::common::client::Kind;
use crate::scenario::{Accusation, Scenario};

/// Every scenario of the family.
pub fn scenarios() -> Vec<Scenario> {
    let php: fn() -> Command = || Kind::Php.command();
    let leaky =
        |client, name, steps, accusation| Scenario::leaky(client, name, php, steps, accusation);
    let healthy = |client, name, steps| Scenario::healthy(client, name, php, steps);
    let (pdo, pgsql) = ("PHP PDO", "PHP pgsql");
    let leak = |function| Accusation::leak("strong", 7, Some(function));
    vec![
        leaky(
            pdo,
            "kept in a registry",
            &[
                "leak forgotten 3",
                "later",
                "leak forgotten 3",
                "later",
                "leak forgotten 1",
                "later",
            ],
            leak("forgotten_in_registry"),
        ),
        leaky(
            pdo,
            "early return",
            &[
                "leak early_return 3",
                "later",
                "leak early_return 3",
                "later",
                "leak early_return 1",
                "later",
            ],
            // Its caller: the statement ends with the variables of the function that is left.
            leak("leak"),
        ),
        leaky(
            pdo,
            "kept by a logged exception",
            &["leak throw 3", "later", "leak throw 3", "later", "leak throw 1", "later"],
            leak("parse_document"),
        ),
        leaky(
            pdo,
            "kept by a cycle",
            &["leak cycle 3", "later", "leak cycle 3", "later", "leak cycle 1", "later"],
            leak("cycle"),
        ),
        leaky(
            pdo,
            "transaction never ended",
            &["leak transaction 7"],
            Accusation::idle_in_transaction(7, Some("transaction_not_ended")),
        ),
        leaky(
            pgsql,
            "result never fetched",
            &["healthy 3", "leak result 7", "later", "later", "later", "later", "later", "later"],
            Accusation::leak("suspected", 7, Some("result_not_fetched")),
        ),
        leaky(
            pgsql,
            "never used",
            &[
                "leak never_used 3",
                "later",
                "leak never_used 3",
                "later",
                "leak never_used 1",
                "later",
            ],
            // What was opened last shows only when another is.
            Accusation { function: Some("never_used"), ..Accusation::never_used("strong", 6) },
        ),
        healthy(pdo, "closed at the end of each job", &["healthy 7", "later"]),
        healthy(pdo, "persistent", &["persistent_pdo 7", "later"]),
        healthy(pgsql, "persistent", &["persistent_pgsql 7", "later"]),
        healthy(pdo, "transactions ended", &["transaction 7"]),
        healthy(pdo, "cursor", &["cursor 7"]),
        healthy(pgsql, "LISTEN", &["listen", "later"]),
        healthy(pgsql, "advisory locks", &["advisory_lock 7", "advisory_lock 8", "later"]),
        healthy(pgsql, "COPY", &["copy", "later"]),
        healthy(pgsql, "long query", &["hold_query 60", "later"]).informs("long query"),
    ]
}
