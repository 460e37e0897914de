//! C on libpq: no pool, the line of the application's own code.

use std::process::Command;

use crate::common::client::Kind;
use crate::scenario::{Accusation, Scenario};

/// Every scenario of the family.
pub fn scenarios() -> Vec<Scenario> {
    let c: fn() -> Command = || Kind::C.command();
    let leaky = |name, steps, accusation| Scenario::leaky("C libpq", name, c, steps, accusation);
    let healthy = |name, steps| Scenario::healthy("C libpq", name, c, steps);
    vec![
        leaky(
            "forgotten finish",
            &["leak forgotten 3", "later", "leak forgotten 4"],
            Accusation::leak("strong", 7, Some("forget_connection")),
        ),
        leaky(
            "transaction never ended",
            &["leak transaction 7"],
            Accusation::idle_in_transaction(7, Some("forget_transaction")),
        ),
        leaky(
            "result not read to its end",
            &["leak result 7", "later", "later", "later", "later"],
            Accusation::leak("suspected", 7, Some("forget_result")),
        ),
        leaky(
            "never used",
            &["leak never_used 7", "later", "keep"],
            Accusation {
                function: Some("forget_unused"),
                ..Accusation::never_used("suspected", 7)
            },
        ),
        healthy("finished", &["healthy 7", "later", "healthy 3"]),
        healthy("one kept and used", &["keep", "healthy 3", "later", "keep", "healthy 3"]),
        healthy(
            "reconnected over the same handle",
            &["reconnect 7", "later", "reconnect 7", "later", "reconnect 3"],
        )
        .fast(),
        healthy("LISTEN", &["listen", "later", "keep"]),
        healthy("advisory lock", &["advisory_lock", "later", "keep"]),
        healthy("COPY", &["copy", "later", "keep"]),
    ]
}
