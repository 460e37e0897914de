//! `never used`: opened and authenticated, then nothing, where no pool's pre-fill explains it.
//!
//! May import the model only. Some pools never open before somebody asks; then an unused connection
//! is evidence when the process opened another one since, or when the pool would have closed it.
//! Elsewhere it is only when that other one came in a separate burst and was used.

use super::{Case, Grounds, Rule, Scene};
use crate::model::{
    connection::Connection,
    event::{MonoNanos, WirePhase},
    finding::{Certainty, Verdict},
    settings::Settings,
    words::{count, duration},
};

/// The rule.
pub(super) struct NeverUsed;

impl Rule for NeverUsed {
    fn verdict(&self) -> Verdict {
        Verdict::NeverUsed
    }

    fn check(&self, scene: &Scene, conn: &Connection) -> Option<Grounds> {
        let authenticated = match conn.phase() {
            WirePhase::Ready => conn.wire.as_ref().is_some_and(|wire| wire.status.is_some()),
            // The server had the last word of the login.
            WirePhase::Mysql => conn.active() == Some(false),
            _ => false,
        };
        let observed = conn.pool_checkout().is_some()
            || (scene.process.is_observed()
                && !scene.process.opened_before_observed(conn.opened.at));
        if conn.used() != Some(false)
            || !authenticated
            || observed
            || conn.peer_closed()
            || !scene.is_silent(conn)
        {
            return None;
        }
        let bypass = scene.bypassed.get(&conn.id);
        let assumed = scene.process.assumed();
        // Where only callers open, the settings are theirs, and what they asked between two of
        // them may have been missed.
        if assumed.on_demand && conn.only_made_ready() {
            return None;
        }
        let overdue = assumed.closes_idle()
            && assumed.idle_timeout.is_some_and(|(_, until)| conn.silence(scene.now) > until);
        let counts = (assumed.on_demand && (overdue || bypass.is_some()))
            || bypass.is_some_and(|bypass| bypass.later_burst);
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
