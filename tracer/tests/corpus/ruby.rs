//! Ruby: the pg gem on libpq, with the pool of the `connection_pool` gem.

use std::process::Command;

use crate::common::client::Kind;
use crate::scenario::{Accusation, Scenario};

/// Every scenario of the family.
pub fn scenarios() -> Vec<Scenario> {
    let ruby: fn() -> Command = || Kind::Ruby.command();
    let pool = "Ruby pg, connection_pool";
    let leaky = |name, steps, accusation| Scenario::leaky(pool, name, ruby, steps, accusation);
    let healthy = |name, steps| Scenario::healthy(pool, name, ruby, steps);
    let leak = |certainty| Accusation::leak(certainty, 7, None);
    vec![
        leaky(
            "forgotten checkin",
            &["leak forgotten 3", "later", "leak forgotten 4", "overlap 2"],
            leak("strong"),
        ),
        leaky("early return", &["leak early_return 7", "overlap 2"], leak("strong")),
        leaky("exception before checkin", &["leak raise 7", "overlap 2"], leak("strong")),
        leaky("timed-out task", &["leak timeout 7", "overlap 2"], leak("strong")),
        leaky(
            "transaction never ended",
            &["leak transaction 7"],
            Accusation::idle_in_transaction(7, None),
        ),
        leaky(
            "result not read to its end",
            &["leak_alone rows 7", "later", "later", "later", "later"],
            leak("suspected"),
        ),
        leaky(
            "never used",
            &["leak_alone never_used 7", "overlap 2"],
            Accusation::never_used("suspected", 7),
        ),
        healthy("with a block", &["healthy 7"]),
        healthy("transactions ended", &["transaction 7"]),
        healthy("rows one by one", &["single_rows 7"]),
        healthy("burst, then calm", &["burst 11", "healthy 15"]),
        healthy("a connection for each thread", &["threads 7", "later", "threads 3"]),
        healthy("reconnected", &["burst 5", "reset 15"]),
        healthy("LISTEN", &["listen", "healthy 5", "overlap 2"]),
        healthy("advisory locks", &["advisory_lock 7", "advisory_lock 8", "overlap 2"]),
        healthy("COPY", &["copy", "healthy 5", "overlap 2"]),
        healthy("long query", &["hold_query 60", "healthy 5"]).informs("long query"),
    ]
}
