//! `long query`: the server works on a statement for longer than the threshold.
//!
//! May import the model only. Information, never a fault: the most repeated complaint about leak
//! detectors is the long query reported as a leak.

use super::{Case, Grounds, Rule, Scene};
use crate::model::{
    connection::Connection,
    event::MonoNanos,
    finding::{Certainty, Verdict},
    settings::Settings,
    words::{count, duration},
};

/// The rule.
pub(super) struct LongQuery;

impl Rule for LongQuery {
    fn verdict(&self) -> Verdict {
        Verdict::LongQuery
    }

    fn check(&self, scene: &Scene, conn: &Connection) -> Option<Grounds> {
        // An answer that waits unread is no work, for however short a time it does.
        let running = conn.awaits_answer() && conn.unread().is_none();
        let known = conn.wire.as_ref().is_some_and(|wire| wire.active == Some(true))
            || conn.state_is_said();
        (running && scene.is_silent(conn)).then_some(Grounds::Active { known })
    }

    fn held_since(&self, _conn: &Connection) -> Option<MonoNanos> {
        None
    }

    fn certainty(&self, _settings: Settings, group: &[Case]) -> Certainty {
        let known =
            group.iter().all(|case| matches!(case.grounds, Grounds::Active { known: true }));
        if known { Certainty::Proven } else { Certainty::Suspected }
    }

    fn evidence(&self, settings: Settings, group: &[Case]) -> Vec<String> {
        let mut evidence = vec![format!(
            "The server owes an answer on {} for more than {}: work, or a wait for a lock, not a \
             leak.",
            count(group.len(), "connection", "connections"),
            duration(settings.threshold),
        )];
        let locked = group.iter().filter(|case| {
            let wait = case.conn.said_now().and_then(|said| said.wait.as_deref());
            wait.is_some_and(|wait| wait.starts_with("Lock: "))
        });
        let locked = locked.count();
        if locked > 0 {
            evidence.push(format!(
                "The server says that {locked} of {} {} for a lock.",
                group.len(),
                if locked == 1 { "waits" } else { "wait" },
            ));
        }
        evidence
    }

    fn hint(&self) -> &'static str {
        "Nothing to release. If it is unexpected, look at pg_stat_activity for what it waits for."
    }
}
