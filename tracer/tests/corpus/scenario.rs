//! A scenario: a client, what it does, and what connleak must say of it.
//!
//! May import `std`, `xtask`'s server configuration and the pooler's mode.

use std::process::Command;

use xtask::postgres::Config;

use crate::common::pooler::Pooling;

/// What one program does, and what must be said.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// Short name of the client or pool; what it is exactly, with versions, it says itself.
    pub client: &'static str,
    /// What happens, in the words of the table.
    pub name: &'static str,
    /// Part of every test, not only of the whole corpus.
    pub fast: bool,
    /// The command that starts the client, without the server's variables.
    pub start: fn() -> Command,
    pub server: fn() -> Config,
    /// The server is one of MySQL instead.
    pub mysql: bool,
    /// A pooler between the client and the server.
    pub pooler: Option<Pooling>,
    pub watched: Watched,
    /// What it does before the tracer starts, and after.
    pub before: &'static [&'static str],
    pub steps: &'static [&'static str],
    pub must: Must,
}

/// Whom the tracer watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watched {
    /// The client, by its pid.
    Client,
    /// The pooler, by its pid.
    Pooler,
    /// Whoever talks to the server or the pooler.
    Everybody,
}

/// What must be said.
#[derive(Clone, Copy, Debug)]
pub enum Must {
    /// Exactly one accusation, with these words and this count.
    Accuse(Accusation),
    /// No accusation, and no information either.
    Nothing,
    /// Nothing, although there is a bug: from outside it looks like a healthy program.
    Untold,
    /// No accusation, and one piece of information with this verdict.
    Inform(&'static str),
}

/// As the function to blame: one of the client's own, whichever of those that share the shape.
pub const OWN: Option<&str> = Some("*");

/// An accusation.
#[derive(Clone, Copy, Debug)]
pub struct Accusation {
    pub verdict: &'static str,
    pub certainty: &'static str,
    pub count: u64,
    /// Function to blame; `None`: no function, which is right where none can be known.
    pub function: Option<&'static str>,
}

impl Scenario {
    /// A healthy program.
    pub fn healthy(
        client: &'static str,
        name: &'static str,
        start: fn() -> Command,
        steps: &'static [&'static str],
    ) -> Self {
        Self {
            client,
            name,
            fast: false,
            start,
            server: Config::default,
            mysql: false,
            pooler: None,
            watched: Watched::Client,
            before: &[],
            steps,
            must: Must::Nothing,
        }
    }

    /// A program with a bug.
    pub fn leaky(
        client: &'static str,
        name: &'static str,
        start: fn() -> Command,
        steps: &'static [&'static str],
        accusation: Accusation,
    ) -> Self {
        let must = Must::Accuse(accusation);
        Self { must, ..Self::healthy(client, name, start, steps) }
    }

    /// A program with a bug that cannot be told from outside.
    pub fn untold(
        client: &'static str,
        name: &'static str,
        start: fn() -> Command,
        steps: &'static [&'static str],
    ) -> Self {
        Self { must: Must::Untold, ..Self::healthy(client, name, start, steps) }
    }

    /// Part of every test.
    pub fn fast(self) -> Self {
        Self { fast: true, ..self }
    }

    /// Does this first, before the tracer starts.
    pub fn before(self, before: &'static [&'static str]) -> Self {
        Self { before, ..self }
    }

    /// Against a server like this.
    pub fn server(self, server: fn() -> Config) -> Self {
        Self { server, ..self }
    }

    /// On MySQL.
    pub fn mysql(self) -> Self {
        Self { mysql: true, ..self }
    }

    /// Through a pooler, with one of them or all watched.
    pub fn through(self, pooler: Pooling, watched: Watched) -> Self {
        Self { pooler: Some(pooler), watched, ..self }
    }

    /// With this as information.
    pub fn informs(self, verdict: &'static str) -> Self {
        Self { must: Must::Inform(verdict), ..self }
    }
}

impl Accusation {
    pub fn leak(certainty: &'static str, count: u64, function: Option<&'static str>) -> Self {
        Self { verdict: "leak", certainty, count, function }
    }

    pub fn idle_in_transaction(count: u64, function: Option<&'static str>) -> Self {
        Self { verdict: "idle in transaction", certainty: "proven", count, function }
    }

    pub fn never_used(certainty: &'static str, count: u64) -> Self {
        Self { verdict: "never used", certainty, count, function: None }
    }

    /// The same with one of the client's own functions to blame.
    pub fn own(self) -> Self {
        Self { function: OWN, ..self }
    }
}
