//! Rust: pools whose objects give themselves back when they are dropped. What leaks is what is
//! forgotten, kept, or held by a task that never ends.

use std::process::Command;

use crate::common::client::{Kind, Profile};
use crate::scenario::{Accusation, Scenario};

type Steps = &'static [&'static str];

/// Every scenario of the family.
pub fn scenarios() -> Vec<Scenario> {
    [sqlx(), deadpool(), bb8(), r2d2()].into_iter().flatten().collect()
}

/// sqlx: acquire is a poll function, so leaks are inferred; the task that takes a connection sends
/// on it, so its stack names the code.
fn sqlx() -> Vec<Scenario> {
    let start: fn() -> Command = || Kind::Rust("sqlx", Profile::Release).command();
    vec![
        Scenario::leaky(
            "sqlx",
            "forgotten (mem::forget)",
            start,
            &["healthy 2", "leak forgotten 7", "overlap 3"],
            Accusation::leak("strong", 7, Some("sqlx_client::forgotten::{{closure}}")),
        ),
        Scenario::healthy("sqlx", "burst, then calm", start, &["burst 11", "healthy 5"]),
        Scenario::healthy("sqlx", "min_connections", start, &["prefill 7", "healthy 3"]),
    ]
}

/// deadpool: observed. Its driver sends from a task of its own, so only the acquire names the code.
fn deadpool() -> Vec<Scenario> {
    let release: fn() -> Command = || Kind::Rust("deadpool", Profile::Release).command();
    let stripped: fn() -> Command = || Kind::Rust("deadpool", Profile::Stripped).command();
    let leaky = |name, steps, must| Scenario::leaky("deadpool", name, release, steps, must);
    let healthy = |name, steps| Scenario::healthy("deadpool", name, release, steps);
    let leak = |function| Accusation::leak("proven", 7, Some(function));
    let forgotten: Steps = &["healthy 3", "leak forgotten 7"];
    let inferred: Steps = &["healthy 3", "leak forgotten 7", "overlap 3"];
    vec![
        leaky(
            "forgotten (mem::forget)",
            forgotten,
            leak("deadpool_client::forgotten::{{closure}}"),
        )
        .fast(),
        leaky(
            "kept in a static",
            &["healthy 3", "leak kept 7"],
            leak("deadpool_client::kept::{{closure}}"),
        ),
        leaky(
            "task that never ends, waiting for an outside call",
            &["healthy 3", "leak task 7"],
            leak("deadpool_client::task_never_ends::{{closure}}::{{closure}}"),
        ),
        leaky(
            "transaction never ended",
            &["healthy 3", "leak transaction 7"],
            leak("deadpool_client::transaction_not_ended::{{closure}}"),
        ),
        leaky(
            "never used",
            &["healthy 3", "leak_alone never_used 7"],
            leak("deadpool_client::never_used::{{closure}}"),
        ),
        healthy("dropped", &["healthy 7", "burst 5", "healthy 5"]).fast(),
        healthy("early return", &["early_return 7"]),
        healthy("transactions committed and dropped", &["transactions 8"]),
        healthy("cancelled tasks", &["cancelled 7", "healthy 3"]),
        healthy("burst, then calm", &["burst 11", "healthy 5"]),
        healthy("taken out of the pool", &["healthy 3", "taken", "overlap 3"]),
        healthy("LISTEN", &["healthy 3", "listen", "healthy 5"]),
        healthy("COPY", &["healthy 3", "copy", "healthy 5"]),
        healthy("long query", &["hold_query 60", "healthy 5"]).informs("long query"),
        healthy("idle from before the watch", &["healthy 3"]).before(&["burst 3"]),
        Scenario::leaky(
            "deadpool, stripped",
            "forgotten (mem::forget)",
            stripped,
            inferred,
            Accusation::leak("strong", 7, None),
        ),
    ]
}

fn bb8() -> Vec<Scenario> {
    let start: fn() -> Command = || Kind::Rust("bb8", Profile::Release).command();
    let leaky = |name, steps, must| Scenario::leaky("bb8", name, start, steps, must);
    let healthy = |name, steps| Scenario::healthy("bb8", name, start, steps);
    let leak = |function| Accusation::leak("proven", 7, Some(function));
    vec![
        leaky(
            "forgotten (mem::forget)",
            &["healthy 3", "leak forgotten 7"],
            leak("bb8_client::forgotten::{{closure}}"),
        ),
        leaky(
            "task that never ends, waiting for an outside call",
            &["healthy 3", "leak task 7"],
            leak("bb8_client::task_never_ends::{{closure}}::{{closure}}"),
        ),
        leaky(
            "transaction never ended",
            &["healthy 3", "leak transaction 7"],
            leak("bb8_client::transaction_not_ended::{{closure}}"),
        ),
        healthy("dropped", &["healthy 7"]),
        healthy("cancelled tasks", &["cancelled 7", "healthy 3"]),
        healthy("burst, then calm", &["burst 11", "healthy 5"]),
        healthy("min_idle", &["prefill 7", "healthy 3"]),
        healthy("dedicated connection", &["healthy 3", "dedicated", "overlap 3"]),
    ]
}

fn r2d2() -> Vec<Scenario> {
    let start: fn() -> Command = || Kind::Rust("r2d2", Profile::Release).command();
    let leaky = |name, steps, must| Scenario::leaky("r2d2, postgres", name, start, steps, must);
    let healthy = |name, steps| Scenario::healthy("r2d2, postgres", name, start, steps);
    let leak = |function| Accusation::leak("proven", 7, Some(function));
    vec![
        leaky(
            "forgotten (mem::forget)",
            &["healthy 3", "leak forgotten 7"],
            leak("r2d2_client::forgotten"),
        ),
        leaky("kept in a static", &["healthy 3", "leak kept 7"], leak("r2d2_client::kept")),
        leaky(
            "transaction never ended",
            &["healthy 3", "leak transaction 7"],
            leak("r2d2_client::transaction_not_ended"),
        ),
        healthy("dropped", &["healthy 7"]),
        healthy("burst, then calm", &["burst 11", "healthy 5"]),
        healthy("threads", &["threads 7", "healthy 5"]),
        healthy("pre-filled", &["prefill 7", "healthy 3"]),
    ]
}
