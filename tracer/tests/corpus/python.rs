//! Python: pools in Python over libpq or over bare sockets.
//!
//! One file per library; here is what all of their pools do alike.

mod asyncpg;
mod django;
mod psycopg;
mod psycopg2;
mod sqlalchemy;

use std::process::Command;

use crate::scenario::{Accusation, OWN, Scenario};

/// Every scenario of the family.
pub fn scenarios() -> Vec<Scenario> {
    let libraries = [
        psycopg2::scenarios(),
        psycopg::scenarios(),
        sqlalchemy::scenarios(),
        asyncpg::scenarios(),
        django::scenarios(),
    ];
    libraries.into_iter().flatten().collect()
}

type Steps = &'static [&'static str];

/// A client: its name in the table and how it is started.
#[derive(Clone, Copy)]
struct Library {
    client: &'static str,
    start: fn() -> Command,
}

impl Library {
    fn leaky(self, name: &'static str, steps: Steps, accusation: Accusation) -> Scenario {
        Scenario::leaky(self.client, name, self.start, steps, accusation)
    }

    /// Connections that are out while the pool opens others.
    fn leak(self, name: &'static str, steps: Steps, count: u64) -> Scenario {
        self.leaky(name, steps, Accusation::leak("strong", count, OWN))
    }

    fn in_transaction(self, name: &'static str, steps: Steps, count: u64) -> Scenario {
        self.leaky(name, steps, Accusation::idle_in_transaction(count, OWN))
    }

    fn untold(self, name: &'static str, steps: Steps) -> Scenario {
        Scenario::untold(self.client, name, self.start, steps)
    }

    fn healthy(self, name: &'static str, steps: Steps) -> Scenario {
        Scenario::healthy(self.client, name, self.start, steps)
    }

    /// What every pool of `commands.py` can do wrong.
    fn leaks(self) -> Vec<Scenario> {
        vec![
            self.leak("forgotten release", &["leak forgotten 7", "overlap 2"], 7),
            self.leak("early return before release", &["leak early_return 7", "overlap 2"], 7),
            self.leak("exception before release", &["leak raise 7", "overlap 2"], 7),
            self.leak("timed out before release", &["leak timeout 7", "overlap 2"], 7),
            self.leak(
                "held across an outside call",
                &["keep outside", "later", "keep outside", "later", "keep outside", "overlap 2"],
                3,
            ),
            self.in_transaction("transaction never ended", &["leak transaction 7"], 7),
            self.in_transaction("server-side cursor left open", &["leak cursor 7"], 7),
            self.in_transaction(
                "transaction held across an outside call",
                &["keep outside_in_transaction", "keep outside_in_transaction", "request 3"],
                2,
            ),
        ]
    }

    /// What every pool of `commands.py` does right.
    fn right(self) -> Vec<Scenario> {
        vec![
            self.healthy("given back", &["request 7", "overlap 2"]),
            self.healthy("burst, then calm", &["request 1", "burst 7", "later", "request 1"]),
            self.healthy("grows later and later", &["request 3", "overlap 3", "overlap 5"]),
            self.healthy(
                "given back before an outside call",
                &["keep gave_back_first", "keep gave_back_first", "overlap 2"],
            ),
            self.healthy("listens", &["keep listen", "request 3", "overlap 3"]),
            self.healthy("holds an advisory lock", &["keep lock", "request 3", "overlap 3"]),
            self.healthy("drains a cursor slowly", &["keep drain", "request 3", "overlap 3"]),
            self.healthy("kept awake by a ping", &["keep ping", "request 3", "overlap 3"]),
            self.healthy(
                "reconnects after all were ended",
                &["burst 5", "terminate", "retry 5", "overlap 3", "request 3"],
            ),
            self.healthy("pool over fork", &["request 1", "burst 2", "fork 2"]),
            self.healthy(
                "two pools of one database",
                &["request 1", "burst 2", "pool", "request 3", "overlap 3", "overlap 4"],
            ),
            self.healthy(
                "two pools of one database, in turn",
                &[
                    "request 1",
                    "burst 2",
                    "pool",
                    "request 2",
                    "overlap 3",
                    "swap",
                    "request 3",
                    "swap",
                    "overlap 4",
                    "swap",
                    "burst 2",
                ],
            ),
        ]
    }

    /// COPY that waits for somebody who is slow, in the middle.
    fn copies(self) -> Vec<Scenario> {
        vec![
            self.healthy("copies in, slowly", &["keep copy_in", "request 3", "overlap 3"]),
            self.healthy("copies out, slowly", &["keep copy_out", "request 3", "overlap 3"]),
        ]
    }
}
