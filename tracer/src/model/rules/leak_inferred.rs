//! `leak`, inferred: silent past the threshold although the same pool opened new connections, used
//! the others in turn, or closed those that idled.
//!
//! May import the model only. See [`bypass`](super::bypass) and [`kept`](super::kept) for the
//! evidence; here it is weighed for a group that one path left.

use super::{Bypass, Case, Grounds, Kept, Rule, Scene, abandoned_pool, kept::Why};
use crate::model::{
    connection::Connection,
    event::{MonoNanos, Stack, StackEvent},
    finding::{Certainty, Verdict},
    settings::Settings,
    words::{count, duration},
};

/// An outside call that keeps a connection silent and then gives it back takes less than this: a
/// connection shown to be out for longer did not go back unnoticed. Not asked of pools that close by
/// themselves what stays idle in them.
const LONG_CALL: u64 = 5_000_000_000;

/// A request that opens a connection has done its first work with it within this time.
const ONE_GO: u64 = 1_000_000_000;

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
    /// Opened before the pool was observed.
    unobserved: bool,
    /// Each was opened for the code that used it, at once, and nothing else used it.
    own: bool,
    /// Idle in the pool, they would be closed by now.
    closed_by_now: bool,
    /// Another pool may have taken over from theirs.
    succeeded: bool,
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
            closed_by_now: group.iter().all(|case| {
                matches!(&case.grounds, Grounds::Bypass(bypass)
                    if bypass.is_overdue(case.conn.silence(case.at)))
            }),
            succeeded: direct().any(|bypass| bypass.succeeded),
            named: group.iter().any(|case| case.conn.use_path().is_some()),
            unobserved: group.iter().any(|case| case.before && case.conn.opened.existing.is_none()),
            own: group.iter().all(|case| used_in_one_go(&case.conn)),
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
            self.unobserved,
            "They were opened before the pool's probes were attached, so whether they were given \
             back meanwhile was not seen.",
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
            self.kin > 0 && self.succeeded,
            "All of them fell silent before the first of the new ones was opened, so another pool \
             for the same user and database may have taken over.",
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
            !self.closed_by_now && self.shown_held < settings.threshold.min(LONG_CALL),
            "That it was out until then is shown, that it still is, is not: it may have been given \
             back without a byte.",
        );
        doubts
    }
}

/// Opened while watched, used soon by one path, and by no other later.
fn used_in_one_go(conn: &Connection) -> bool {
    conn.opened.existing.is_none()
        && conn.paths.len() <= 1
        && conn.last_byte().since(conn.opened.at) <= ONE_GO
}

fn all_kept(group: &[Case]) -> Vec<&Kept> {
    group
        .iter()
        .filter_map(|case| match &case.grounds {
            Grounds::Kept(kept) => Some(kept),
            _ => None,
        })
        .collect()
}

/// Why the pool cannot have had them, in sentences.
fn kept_words(kept: &[&Kept]) -> Vec<String> {
    let mut passed_over = None;
    let mut over = [(0, 0), (0, 0)];
    for kept in kept {
        let (which, after) = match kept.why {
            Why::PassedOver { others, turns } => {
                let (count, ..) = passed_over.unwrap_or((0, 0, 0));
                passed_over = Some((count + 1, others, turns));
                continue;
            }
            Why::NotClosedIdle { after } => (0, after),
            Why::NotClosedAged { after } => (1, after),
        };
        over[which] = (over[which].0 + 1, after);
    }
    let mut words = Vec::new();
    if let Some((n, others, turns)) = passed_over {
        words.push(format!(
            "While {} sat idle, the other {others} of the pool were used in turn {turns} times; \
             the pool hands out first what has been idle for longest, so {} not in it.",
            count(n, "connection", "connections"),
            if n == 1 { "it was" } else { "they were" },
        ));
    }
    let what = ["sat idle for", "were open for"];
    for ((n, after), what) in over.into_iter().zip(what).filter(|((n, _), _)| *n > 0) {
        words.push(format!(
            "The pool closed connections of the same code that {what} {}; {} {} past that time, \
             so {} not in it.",
            duration(after),
            count(n, "connection", "connections"),
            if n == 1 { "is" } else { "are" },
            if n == 1 { "it was" } else { "they were" },
        ));
    }
    words
}

impl Rule for LeakInferred {
    fn verdict(&self) -> Verdict {
        Verdict::Leak
    }

    fn check(&self, scene: &Scene, conn: &Connection) -> Option<Grounds> {
        if let Some(kept) = scene.kept.get(&conn.id) {
            return Some(Grounds::Kept(kept.clone()));
        }
        let bypass = scene.bypassed.get(&conn.id)?;
        // One that is not known to be the pool's and that spoke after such a silence before has an
        // explanation: a client of its own that speaks rarely.
        let rare_speaker = bypass.refuted && bypass.kin == 0;
        // A pool's own query function gives back by itself.
        let back = abandoned_pool::is_own_query(scene.process, conn);
        // One that nothing relates to what was opened may be a program's second connection, each
        // kept for a purpose of its own; only pools that open on demand have none of those.
        let unrelated = !bypass.on_demand && bypass.kin == 0 && !bypass.repeated && !bypass.joined;
        let used = conn.used() != Some(false) || (bypass.on_demand && conn.only_made_ready());
        (used && !rare_speaker && !unrelated && !back).then(|| Grounds::Bypass(bypass.clone()))
    }

    fn held_since(&self, _conn: &Connection) -> Option<MonoNanos> {
        None
    }

    fn stacks<'c>(&self, conn: &'c Connection) -> Vec<(StackEvent, &'c Stack)> {
        conn.stacks_of_use()
    }

    fn certainty(&self, settings: Settings, group: &[Case]) -> Certainty {
        let kept = all_kept(group);
        let weight = Weight::of(group);
        if kept.iter().any(|kept| kept.loaded)
            || (weight.bypassed > 0 && weight.doubts(settings).is_empty())
        {
            Certainty::Strong
        } else {
            Certainty::Suspected
        }
    }

    fn evidence(&self, settings: Settings, group: &[Case]) -> Vec<String> {
        let weight = Weight::of(group);
        let kept = all_kept(group);
        let mut evidence = kept_words(&kept);
        if kept.iter().any(|kept| !kept.loaded) {
            evidence.push(
                "Which pool the process uses is not certain: one that it may use does so by \
                 default."
                    .to_owned(),
            );
        }
        if weight.bypassed == 0 {
            return evidence;
        }
        evidence.push(format!(
            "While {} sat idle, the process opened {} to the same server{}; a pool takes an idle \
             connection before it opens a new one, so {} not in the pool.",
            count(weight.bypassed, "connection", "connections"),
            count(weight.opens, "new one", "new ones"),
            if weight.identified { ", user and database" } else { "" },
            if weight.bypassed == 1 { "it was" } else { "they were" },
        ));
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
        if weight.on_demand && weight.own && group.len() > 1 {
            evidence.push(
                "Each was opened for this code and used by nothing else: if this code makes a \
                 pool of its own each time, create that pool once instead."
                    .to_owned(),
            );
        }
        if kept.is_empty() {
            evidence.extend(weight.doubts(settings));
        }
        evidence
    }

    fn hint(&self) -> &'static str {
        "Give the connection back on every path out of this function, early returns and errors \
         included (release in finally, using, or with)."
    }
}
