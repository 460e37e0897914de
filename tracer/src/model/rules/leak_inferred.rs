//! `leak`, inferred: silent past the threshold although the same pool opened new connections.
//!
//! May import the model only. See [`bypass`](super::bypass) for the evidence; here it is weighed
//! for a group that one path left.

use super::{Bypass, Case, Grounds, Rule, Scene};
use crate::model::{
    connection::Connection,
    event::MonoNanos,
    finding::{Certainty, Verdict},
    tracker::Settings,
    words::{count, duration},
};

/// An outside call that keeps a connection silent and then gives it back takes less than this: a
/// connection shown to be out for longer did not go back unnoticed. Not asked of Node's pools,
/// which close by themselves what stays idle in them (pg-pool and sequelize-pool after 10 s, tarn
/// after 30 s).
const LONG_CALL: u64 = 5_000_000_000;

/// The rule.
pub(super) struct LeakInferred;

/// Sums of a group's evidence.
struct Weight {
    bypassed: usize,
    joined: usize,
    opens: usize,
    kin: usize,
    shown_held: u64,
    identified: bool,
    grew: Option<bool>,
    refuted: bool,
    left_out: usize,
    named: bool,
    on_demand: bool,
}

impl Weight {
    fn of(group: &[Case]) -> Self {
        let bypasses: Vec<&Bypass> = group
            .iter()
            .filter_map(|case| match &case.grounds {
                Grounds::Bypass(bypass) => Some(bypass),
                _ => None,
            })
            .collect();
        let direct = || bypasses.iter().filter(|bypass| !bypass.joined);
        let grew = if direct().any(|bypass| bypass.grew == Some(true)) {
            Some(true)
        } else {
            direct().filter_map(|bypass| bypass.grew).next()
        };
        Self {
            bypassed: direct().count(),
            joined: bypasses.len() - direct().count(),
            opens: direct().map(|bypass| bypass.opens).max().unwrap_or(0),
            kin: direct().map(|bypass| bypass.kin).max().unwrap_or(0),
            shown_held: direct().map(|bypass| bypass.shown_held).max().unwrap_or(0),
            identified: direct().any(|bypass| bypass.identified),
            grew,
            refuted: direct().any(|bypass| bypass.refuted),
            left_out: direct().map(|bypass| bypass.left_out).max().unwrap_or(0),
            on_demand: bypasses.iter().any(|bypass| bypass.on_demand),
            named: group.iter().any(|case| case.conn.use_path().is_some()),
        }
    }

    /// The healthy explanations that remain, in words.
    fn doubts(&self, settings: Settings) -> Vec<String> {
        let mut doubts = Vec::new();
        let mut doubt = |remains: bool, words: &str| {
            if remains {
                doubts.push(words.to_owned());
            }
        };
        doubt(
            !self.identified,
            "User and database could not be read (encrypted, or opened before the watch began), so \
             the new connections may belong to another pool, or this one may listen.",
        );
        doubt(
            self.identified && !self.named && self.kin < 2,
            "No stack shows which code used them last, so they may belong to another pool of the \
             same process.",
        );
        doubt(
            self.identified && self.named && self.kin == 0,
            "None of the new connections was seen used by the same code, so these may belong to \
             another pool of the same process, or be kept on purpose.",
        );
        doubt(
            self.kin > 0 && self.bypassed < 2 && self.kin < 2,
            "It happened once: one silent connection is a suspect, not yet a pattern.",
        );
        doubt(
            self.grew == Some(false),
            "Other connections were closed in the meantime, so the pool may only have replaced \
             them.",
        );
        doubt(
            self.grew.is_none(),
            "How many connections the pool had meanwhile is not known, so it may only have \
             replaced closed ones.",
        );
        doubt(
            self.refuted,
            "Others that looked the same were used again later, so this code may only be slow.",
        );
        doubt(
            !self.on_demand && self.shown_held < settings.threshold.min(LONG_CALL),
            "That it was out until then is shown, that it still is, is not: it may have been given \
             back without a byte.",
        );
        doubts
    }
}

impl Rule for LeakInferred {
    fn verdict(&self) -> Verdict {
        Verdict::Leak
    }

    fn check(&self, scene: &Scene, conn: &Connection) -> Option<Grounds> {
        let bypass = scene.bypassed.get(&conn.id)?;
        // One that is not known to be the pool's and that spoke after such a silence before has an
        // explanation: a client of its own that speaks rarely.
        let rare_speaker = bypass.refuted && bypass.kin == 0;
        // One that nothing relates to what was opened may be a program's second connection, each
        // kept for a purpose of its own; only pools that open on demand have none of those.
        let unrelated = !bypass.on_demand && bypass.kin == 0 && !bypass.repeated && !bypass.joined;
        let used = conn.used() != Some(false) || (bypass.on_demand && conn.only_made_ready());
        (used && !rare_speaker && !unrelated).then(|| Grounds::Bypass(bypass.clone()))
    }

    fn held_since(&self, _conn: &Connection) -> Option<MonoNanos> {
        None
    }

    fn certainty(&self, settings: Settings, group: &[Case]) -> Certainty {
        if Weight::of(group).doubts(settings).is_empty() {
            Certainty::Strong
        } else {
            Certainty::Suspected
        }
    }

    fn evidence(&self, settings: Settings, group: &[Case]) -> Vec<String> {
        let weight = Weight::of(group);
        let mut evidence = vec![format!(
            "While {} sat idle, the process opened {} to the same server{}; a pool takes an idle \
             connection before it opens a new one, so {} not in the pool.",
            count(weight.bypassed, "connection", "connections"),
            count(weight.opens, "new one", "new ones"),
            if weight.identified { ", user and database" } else { "" },
            if weight.bypassed == 1 { "it was" } else { "they were" },
        )];
        evidence.push(format!(
            "The last of them came {} after the last byte.",
            duration(weight.shown_held)
        ));
        if weight.joined > 0 {
            evidence.push(format!(
                "{} more last used by the same line {} counted too: no connection was ever used \
                 again after that line.",
                weight.joined,
                if weight.joined == 1 { "is" } else { "are" },
            ));
        }
        if weight.left_out > 0 {
            evidence.push(format!(
                "{} more {} last used by the same line and may be idle in the pool: after that \
                 line connections are sometimes used again.",
                weight.left_out,
                if weight.left_out == 1 { "was" } else { "were" },
            ));
        }
        evidence.extend(weight.doubts(settings));
        evidence
    }

    fn hint(&self) -> &'static str {
        "Give the connection back on every path out of this function, early returns and errors \
         included (release in finally, using, or with)."
    }
}
