//! `never used`: opened and authenticated, then nothing, where no pool's pre-fill explains it.
//!
//! May import the model only. Pools of Node never open before somebody asks (pg-pool, tarn,
//! sequelize-pool, mysql2); elsewhere an unused connection is evidence only when the same process
//! later opened another one in a separate burst and used that.

use super::{Case, Grounds, Rule, Scene};
use crate::model::{
    connection::Connection,
    event::{MonoNanos, Runtime, WirePhase},
    finding::{Certainty, Verdict},
    tracker::Settings,
    words::{count, duration},
};

/// The rule.
pub(super) struct NeverUsed;

impl Rule for NeverUsed {
    fn verdict(&self) -> Verdict {
        Verdict::NeverUsed
    }

    fn check(&self, scene: &Scene, conn: &Connection) -> Option<Grounds> {
        let authenticated = conn.phase() == WirePhase::Ready
            && conn.wire.as_ref().is_some_and(|wire| wire.status.is_some());
        let observed = conn.pool_checkout().is_some() || scene.process.is_observed();
        if conn.used() != Some(false)
            || !authenticated
            || observed
            || conn.peer_closed()
            || !scene.is_silent(conn)
        {
            return None;
        }
        let bypass = scene.bypassed.get(&conn.id);
        let on_demand = scene.process.runtime() == Some(Runtime::Node);
        // Where only callers open, the settings are theirs, and what they asked between two of
        // them may have been missed.
        if on_demand && conn.only_made_ready() {
            return None;
        }
        let counts = on_demand || bypass.is_some_and(|bypass| bypass.later_burst);
        counts.then(|| Grounds::Unused(bypass.cloned()))
    }

    fn held_since(&self, conn: &Connection) -> Option<MonoNanos> {
        Some(conn.opened.at)
    }

    fn certainty(&self, _settings: Settings, group: &[Case]) -> Certainty {
        let strong = group.iter().any(|case| {
            matches!(&case.grounds, Grounds::Unused(Some(bypass))
                if bypass.on_demand && bypass.identified)
        });
        if strong { Certainty::Strong } else { Certainty::Suspected }
    }

    fn evidence(&self, settings: Settings, group: &[Case]) -> Vec<String> {
        let made_ready = group.iter().any(|case| case.conn.only_made_ready());
        let mut evidence = vec![format!(
            "{} logged in and sent {} for more than the threshold of {}.",
            count(group.len(), "connection", "connections"),
            if made_ready { "nothing but settings or pings" } else { "no statement" },
            duration(settings.threshold),
        )];
        let opens = group
            .iter()
            .filter_map(|case| match &case.grounds {
                Grounds::Unused(Some(bypass)) => Some(bypass.opens),
                _ => None,
            })
            .max();
        if let Some(opens) = opens {
            evidence.push(format!(
                "Meanwhile the process opened {} to the same database and used {}.",
                count(opens, "more", "more"),
                if opens == 1 { "it" } else { "them" },
            ));
        }
        if self.certainty(settings, group) == Certainty::Suspected {
            evidence.push(
                "It may be a spare connection that the pool opened and keeps; then this is \
                 healthy."
                    .to_owned(),
            );
        }
        evidence
    }

    fn hint(&self) -> &'static str {
        "Take a connection only when there is something to ask, and release or close it when the \
         caller gives up waiting for it."
    }
}
