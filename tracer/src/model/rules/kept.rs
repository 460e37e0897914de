//! Kept: what an idle connection of this pool would have gone through, and this one did not.
//!
//! May import the model only. Asked only where the pools of the process are known, and only with
//! what the process itself was seen to do, because any default may be configured away:
//!
//! - rotation: a pool that hands out the longest idle one first used the others in turn, again and
//!   again, and never this one;
//! - time is over: the pool was seen to close connections that sat idle for its idle timeout, or
//!   that reached its lifetime, and this one is past both the time and the pool's grace.
//!
//! What could else explain it is excluded here:
//!
//! - another pool of the same process: connections that this pool took or closed were used by the
//!   code that used this one last;
//! - a minimum that the pool keeps: more connections are over their time than were ever left;
//! - workers that keep a connection each and take turns by a common clock or signal: the rounds
//!   differ in length, and not always the same one begins after a pause.

use std::collections::{BTreeMap, BTreeSet};

use super::bypass::is_candidate;
use crate::model::{
    behaviour::Assumed,
    connection::Connection,
    event::{ConnId, MonoNanos},
    habits::{EndOfLife, Turn},
    process::Process,
    settings::Settings,
};

/// The longest round takes at least half as long again as the shortest.
const IRREGULAR: (u64, u64) = (3, 2);
/// Connections of a process among which rotation is looked for: in more, too few turns of each are
/// remembered.
const MAX_ROTATION: usize = 256;
/// Each of the others was used so many times at least.
const ROUNDS: usize = 3;

/// Why a connection cannot be in its pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// The others of the pool took so many turns.
    PassedOver { others: usize, turns: usize },
    /// Others were closed after this long without a byte, in nanoseconds.
    NotClosedIdle { after: u64 },
    /// Others were closed at this age, in nanoseconds.
    NotClosedAged { after: u64 },
}

/// What speaks against one connection.
#[derive(Clone, Debug)]
pub(in crate::model) struct Kept {
    pub(super) why: Why,
    /// Every pool that the process may use is loaded.
    pub(super) loaded: bool,
}

/// Connections silent past the threshold that are not in their pool.
pub(super) fn survey(
    settings: Settings,
    now: MonoNanos,
    process: &Process,
    alive: &[&Connection],
) -> BTreeMap<ConnId, Kept> {
    let assumed = process.assumed();
    let mut kept = BTreeMap::new();
    if !assumed.known {
        return kept;
    }
    let suspects: Vec<_> = alive
        .iter()
        .copied()
        .filter(|conn| conn.silence(now) >= settings.threshold)
        .filter(|conn| conn.used() == Some(true) && is_candidate(process, &assumed, conn))
        .filter(|conn| {
            conn.use_path().is_some_and(|path| !conn.refuted && process.path(&path).refuted == 0)
        })
        .collect();
    let mut keep = |id: ConnId, why: Why| {
        kept.entry(id).or_insert(Kept { why, loaded: assumed.loaded });
    };
    if assumed.fifo && alive.len() <= MAX_ROTATION {
        for conn in &suspects {
            if let Some(why) = passed_over(settings, now, process, &assumed, alive, conn) {
                keep(conn.id, why);
            }
        }
    }
    for end in [EndOfLife::Idle, EndOfLife::Age] {
        for (id, why) in over_time(end, now, process, &assumed, &suspects) {
            keep(id, why);
        }
    }
    kept
}

/// The other connections of a pool were used in turn, and this one was not.
fn passed_over(
    settings: Settings,
    now: MonoNanos,
    process: &Process,
    assumed: &Assumed,
    alive: &[&Connection],
    conn: &Connection,
) -> Option<Why> {
    let identity = conn.identity()?;
    let path = process.use_place(conn)?;
    let pool: Vec<_> = alive
        .iter()
        .copied()
        .filter(|other| {
            other.opened.peer == conn.opened.peer && other.identity().as_ref() == Some(&identity)
        })
        .collect();
    let (silent, others): (Vec<_>, Vec<_>) =
        pool.iter().copied().partition(|other| other.silence(now) >= settings.threshold);
    // From when on the pool has been the same.
    let begin = silent
        .iter()
        .map(|silent| MonoNanos(silent.last_byte().0.saturating_add(assumed.margin)))
        .chain(others.iter().map(|other| other.opened.at))
        .max()?;
    let related = others.iter().any(|other| process.places(&other.paths).contains(&&path));
    let members: BTreeSet<ConnId> = others.iter().map(|other| other.id).collect();
    let turns: Vec<&Turn> = process
        .habits
        .turns()
        .filter(|turn| turn.from > begin && members.contains(&turn.conn))
        .collect();
    let size = (pool.len() as u64).max(assumed.max_open);
    let enough = others.len() >= 2
        && turns.len() >= others.len().saturating_mul(ROUNDS)
        && turns.len() as u64 >= size;
    (related && enough && is_rotation(&turns, others.len(), assumed.margin))
        .then_some(Why::PassedOver { others: others.len(), turns: turns.len() })
}

/// Each of `members` connections in its turn, not by a common clock and not by a common signal.
fn is_rotation(turns: &[&Turn], members: usize, pause: u64) -> bool {
    let round: BTreeSet<ConnId> = turns.iter().take(members).map(|turn| turn.conn).collect();
    let again = || turns.iter().skip(members).zip(turns);
    let in_turn = round.len() == members && again().all(|(turn, before)| turn.conn == before.conn);
    let rounds = || again().map(|(turn, before)| turn.from.since(before.from));
    let (shortest, longest) = (rounds().min().unwrap_or(0), rounds().max().unwrap_or(0));
    let irregular = longest.saturating_mul(IRREGULAR.1) >= shortest.saturating_mul(IRREGULAR.0);
    let begins: BTreeSet<ConnId> = turns
        .iter()
        .skip(1)
        .zip(turns)
        .filter(|(turn, before)| turn.from.since(before.until) >= pause)
        .map(|(turn, _)| turn.conn)
        .collect();
    in_turn && irregular && begins.len() >= 2
}

/// Connections that the pool would have closed: it closes what is over its time, and more is over
/// its time than the pool ever kept.
fn over_time(
    end: EndOfLife,
    now: MonoNanos,
    process: &Process,
    assumed: &Assumed,
    suspects: &[&Connection],
) -> Vec<(ConnId, Why)> {
    let time = match end {
        EndOfLife::Idle => assumed.idle_timeout,
        EndOfLife::Age => assumed.max_lifetime,
    };
    let Some((after, until)) = time else { return Vec::new() };
    let why = match end {
        EndOfLife::Idle => Why::NotClosedIdle { after },
        EndOfLife::Age => Why::NotClosedAged { after },
    };
    let mut pools: BTreeMap<_, (usize, Vec<ConnId>)> = BTreeMap::new();
    for conn in suspects {
        let passed = match end {
            EndOfLife::Idle => conn.silence(now),
            EndOfLife::Age => now.since(conn.opened.at),
        };
        let Some(retired) = process.habits.retired(end, conn).filter(|_| passed > until) else {
            continue;
        };
        let used_by = |place| retired.paths.iter().any(|path| *process.place(path) == place);
        if process.use_place(conn).is_some_and(used_by) {
            let pool = pools.entry((&conn.opened.peer, conn.identity())).or_default();
            pool.0 = match end {
                EndOfLife::Idle => retired.lowest,
                // Those of the minimum are replaced too.
                EndOfLife::Age => 0,
            };
            pool.1.push(conn.id);
        }
    }
    pools
        .into_values()
        .filter(|(kept, over)| over.len() > *kept)
        .flat_map(|(_, over)| over)
        .map(|id| (id, why))
        .collect()
}
