//! What a process was seen to do with its idle connections: which it closed because their time was
//! over, and in which order it took them.
//!
//! May import the model only. A default of the catalogue may have been configured away; what was
//! seen here may not. Invariant: bounded by the constants of this module; what does not fit is not
//! kept, which only makes the model know less.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{
    behaviour::Assumed,
    connection::Connection,
    event::{ConnId, MonoNanos, Peer},
    process::{Identity, PathKey},
};

/// Pools of one process whose closes are remembered.
const MAX_POOLS: usize = 64;
/// Paths remembered of the connections that one pool closed.
const MAX_PATHS: usize = 256;
/// Turns remembered of a process.
const MAX_TURNS: usize = 512;
/// A timer that fired this much early was not late, in nanoseconds.
const EARLY: u64 = 250_000_000;
/// Uses of one connection closer than this belong to one turn, in nanoseconds.
const ONE_TURN: u64 = 1_000_000_000;

/// Why a pool closes a connection by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum EndOfLife {
    Idle,
    Age,
}

/// The connections that one pool closed for one reason.
#[derive(Clone, Debug, Default)]
pub(super) struct Retired {
    /// Connections to the same database that were left after such a close, at least: a minimum that
    /// the pool keeps cannot be larger.
    pub(super) lowest: usize,
    /// The code that had used those that were closed.
    pub(super) paths: BTreeSet<PathKey>,
}

/// A use of a connection that follows the use of another, or a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) conn: ConnId,
    pub(super) from: MonoNanos,
    pub(super) until: MonoNanos,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Habits {
    retired: BTreeMap<(EndOfLife, Peer, Identity), Retired>,
    turns: VecDeque<Turn>,
}

/// Whether a pool of this behaviour closed the connection because its time was over.
pub(super) fn end_of_life(
    assumed: &Assumed,
    conn: &Connection,
    closed_at: MonoNanos,
) -> Option<EndOfLife> {
    if conn.peer_closed() || conn.active() != Some(false) || !conn.is_session() {
        return None;
    }
    let within = |span: Option<(u64, u64)>, time: u64| {
        span.is_some_and(|(from, until)| from.saturating_sub(EARLY) <= time && time <= until)
    };
    let age = conn.opened.existing.is_none().then(|| closed_at.since(conn.opened.at));
    if within(assumed.idle_timeout, conn.silence(closed_at)) {
        Some(EndOfLife::Idle)
    } else if age.is_some_and(|age| within(assumed.max_lifetime, age)) {
        Some(EndOfLife::Age)
    } else {
        None
    }
}

impl Habits {
    /// Keeps that a pool closed `conn` by itself; `left` are the connections still open.
    pub(super) fn retire<'c>(
        &mut self,
        end: EndOfLife,
        conn: &Connection,
        left: impl Iterator<Item = &'c Connection>,
    ) {
        let Some(identity) = conn.identity() else { return };
        let left = left
            .filter(|other| {
                other.opened.peer == conn.opened.peer
                    && other.identity().as_ref() == Some(&identity)
            })
            .count();
        let key = (end, conn.opened.peer.clone(), identity);
        if !self.retired.contains_key(&key) && self.retired.len() >= MAX_POOLS {
            return;
        }
        let retired = self
            .retired
            .entry(key)
            .or_insert_with(|| Retired { lowest: usize::MAX, ..Retired::default() });
        retired.lowest = retired.lowest.min(left);
        let room = MAX_PATHS.saturating_sub(retired.paths.len());
        retired.paths.extend(conn.paths.iter().take(room).cloned());
    }

    /// What the pool of `conn` closed for this reason.
    pub(super) fn retired(&self, end: EndOfLife, conn: &Connection) -> Option<&Retired> {
        self.retired.get(&(end, conn.opened.peer.clone(), conn.identity()?))
    }

    /// Keeps that a connection was used.
    pub(super) fn take_turn(&mut self, conn: ConnId, at: MonoNanos) {
        // States are read one connection after the other: a little out of order.
        let index = self.turns.partition_point(|turn| turn.from <= at);
        if let Some(last) = index.checked_sub(1).and_then(|last| self.turns.get_mut(last))
            && last.conn == conn
            && at.since(last.until) < ONE_TURN
        {
            last.until = last.until.max(at);
            return;
        }
        self.turns.insert(index, Turn { conn, from: at, until: at });
        if self.turns.len() > MAX_TURNS {
            self.turns.pop_front();
        }
    }

    /// The turns in order of time.
    pub(super) fn turns(&self) -> impl Iterator<Item = &Turn> {
        self.turns.iter()
    }
}
