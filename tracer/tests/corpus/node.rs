//! Node: pools in JavaScript, which no probe sees; leaks are inferred from the wire.

use std::process::Command;

use crate::common::client::NODE;
use crate::scenario::{Accusation, Scenario};

/// Every scenario of the family.
pub fn scenarios() -> Vec<Scenario> {
    let pg: fn() -> Command = || NODE.command();
    let leaky =
        |name, steps, accusation| Scenario::leaky("node-postgres", name, pg, steps, accusation);
    let healthy = |name, steps| Scenario::healthy("node-postgres", name, pg, steps);
    let leak = |function| Accusation::leak("strong", 7, Some(function));
    vec![
        leaky("forgotten release", &["leak forgotten 7"], leak("forgottenRelease")).fast(),
        leaky("early return", &["leak early_return 7"], leak("earlyReturn")),
        leaky("exception before release", &["leak throw 7"], leak("throwBeforeRelease")),
        leaky(
            "transaction never ended",
            &["leak idle_in_transaction 7"],
            Accusation::idle_in_transaction(7, Some("idleInTransaction")),
        ),
        leaky(
            "never used",
            &["leak_alone never_used 7", "healthy 1"],
            Accusation::never_used("strong", 7),
        ),
        healthy("released in finally", &["healthy 7"]).fast(),
        healthy("transaction ended", &["transaction 7"]),
        healthy("queries of the pool", &["pool_query 7"]),
        healthy("burst, then calm", &["burst 11"]),
        healthy("LISTEN", &["listen", "healthy 5"]),
        healthy("advisory lock", &["advisory_lock 7", "healthy 5"]),
        healthy("COPY", &["copy", "healthy 5"]),
        healthy("long query", &["hold_query 60", "healthy 5"]).informs("long query"),
        healthy("two pools on one data source", &["two_pools 5"]),
    ]
}
