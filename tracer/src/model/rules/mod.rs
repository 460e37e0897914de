//! The rules: each is a value that looks at one connection and says whether its verdict applies,
//! how certain that is for a group, why, and what to do.
//!
//! May import the model only. Invariants: a connection gets at most one verdict, that of the first
//! rule in [`RULES`] that applies; a rule reads no clock and changes nothing; what is silent on
//! purpose reaches no rule that is about silence.

mod abandoned_pool;
mod bypass;
mod group;
mod idle_in_transaction;
mod kept;
mod leak_inferred;
mod leak_observed;
mod leak_unread;
mod long_query;
mod loss;
mod never_used;
mod pool_too_small;
mod purpose;
mod returned_in_transaction;

use std::collections::BTreeMap;

pub(super) use abandoned_pool::Abandoned;
pub(super) use bypass::{Bypass, is_bypassed};
pub(super) use group::findings;
pub(super) use kept::Kept;
pub use loss::lowers_certainty;
pub(super) use pool_too_small::too_small;
pub(super) use purpose::is_silent_on_purpose;

use super::{
    connection::{Connection, LeftOpen, Unread},
    event::{ConnId, MonoNanos, Stack, StackEvent, TxStatus},
    finding::{Certainty, Verdict},
    process::Process,
    settings::Settings,
};

/// Everything a rule may look at besides the connection.
pub(super) struct Scene<'a> {
    pub(super) settings: Settings,
    pub(super) now: MonoNanos,
    pub(super) process: &'a Process,
    /// Connections of the process that a pool would not have passed over, had it had them.
    pub(super) bypassed: BTreeMap<ConnId, Bypass>,
    /// Connections that a pool has, and that nobody will take from it any more.
    abandoned: BTreeMap<ConnId, Abandoned>,
    /// Connections of the process that its pool would have used or closed, had it had them.
    pub(super) kept: BTreeMap<ConnId, Kept>,
}

impl<'a> Scene<'a> {
    /// The scene of one process; `alive` are the connections it opened that are still open.
    pub(super) fn new(
        settings: Settings,
        now: MonoNanos,
        process: &'a Process,
        alive: &[&Connection],
    ) -> Self {
        let bypassed = bypass::survey(settings, now, process, alive);
        let kept = kept::survey(settings, now, process, alive);
        let abandoned = abandoned_pool::survey(settings, now, process, alive);
        Self { settings, now, process, bypassed, kept, abandoned }
    }

    /// Silent past the threshold.
    fn is_silent(&self, conn: &Connection) -> bool {
        conn.silence(self.now) >= self.settings.threshold
    }

    /// An answer that waits unread for longer than the threshold: the process does not read, whatever
    /// the server does. A shorter wait may end with the next look.
    fn left_unread(&self, conn: &Connection) -> Option<Unread> {
        conn.unread().filter(|unread| unread.waited() >= self.settings.threshold)
    }
}

/// Why a rule applies to a connection.
#[derive(Clone, Debug)]
pub(super) enum Grounds {
    /// Of the pool; with what was left unread of an answer.
    Checkout(Option<Unread>),
    /// No checkout is known.
    Unread(Unread),
    Bypass(Bypass),
    Transaction(TxStatus),
    Returned(LeftOpen),
    /// The pool's own code that takes a connection back was the last to write to it.
    WrittenByReturn,
    Abandoned(Abandoned),
    Kept(Kept),
    Unused(Option<Bypass>),
    Active {
        known: bool,
    },
}

/// A connection to which a rule applies.
#[derive(Clone, Debug)]
pub(super) struct Case {
    /// Index in [`RULES`].
    pub(super) rule: usize,
    pub(super) grounds: Grounds,
    pub(super) conn: Connection,
    /// When it was judged.
    pub(super) at: MonoNanos,
    /// Its process ended then.
    pub(super) ended: bool,
    /// It existed before anything was watched or, where its pool is observed, before that.
    pub(super) before: bool,
}

/// A rule.
pub(super) trait Rule: Sync {
    fn verdict(&self) -> Verdict;

    /// Whether the verdict applies.
    fn check(&self, scene: &Scene, conn: &Connection) -> Option<Grounds>;

    /// Since when the connection is held; `None` when that is not known.
    fn held_since(&self, conn: &Connection) -> Option<MonoNanos>;

    /// Since when it is lost, for growth.
    fn lost_since(&self, conn: &Connection) -> MonoNanos {
        self.held_since(conn).unwrap_or_else(|| conn.last_byte())
    }

    /// How certain it is for all of a group, before losses.
    fn certainty(&self, settings: Settings, group: &[Case]) -> Certainty;

    /// The stacks of a connection, the one to blame first at the front.
    fn stacks<'c>(&self, conn: &'c Connection) -> Vec<(StackEvent, &'c Stack)> {
        conn.stacks()
    }

    /// Why we say so, in sentences.
    fn evidence(&self, settings: Settings, group: &[Case]) -> Vec<String>;

    /// What to do, in a sentence.
    fn hint(&self) -> &'static str;
}

/// The rules; the first that applies to a connection decides its verdict.
pub(super) const RULES: [&dyn Rule; 8] = [
    &leak_observed::LeakObserved,
    &returned_in_transaction::ReturnedInTransaction,
    &idle_in_transaction::IdleInTransaction,
    &abandoned_pool::AbandonedPool,
    &leak_inferred::LeakInferred,
    &leak_unread::LeakUnread,
    &never_used::NeverUsed,
    &long_query::LongQuery,
];

/// Judges some connections of a process.
pub(super) fn judge<'c>(
    scene: &Scene,
    connections: impl Iterator<Item = &'c Connection>,
    ended: bool,
) -> Vec<Case> {
    if purpose::is_pooler(scene.process) {
        return Vec::new();
    }
    connections
        .filter(|conn| conn.is_session() && !is_silent_on_purpose(conn))
        .filter_map(|conn| {
            let (rule, grounds) = RULES
                .iter()
                .enumerate()
                .find_map(|(index, rule)| Some((index, rule.check(scene, conn)?)))?;
            let before = conn.opened.existing.is_some()
                || (conn.pool_checkout().is_none()
                    && scene.process.opened_before_observed(conn.opened.at));
            Some(Case { rule, grounds, conn: conn.clone(), at: scene.now, ended, before })
        })
        .collect()
}
