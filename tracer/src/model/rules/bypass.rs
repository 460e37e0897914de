//! Bypass: the process opened a new connection while this one sat idle.
//!
//! May import the model only. A pool that takes idle connections before it opens new ones never
//! does that, so the connection was not in the pool. What else could explain it is excluded here,
//! or kept as a doubt in [`Bypass`] for the rule to weigh:
//!
//! - the return and the open raced: the connection must have been idle for the pool's margin before;
//! - pre-fill and background refill, unless the pool opens on demand only: the new one must have
//!   been used soon after it was opened, must be kept, and must not replace one that was closed just
//!   before;
//! - a pool that opens although others idle (asyncpg): what it gave back must be told by the wire;
//! - one connection for each thread (Django): the same thread must have opened both, or some
//!   thread several at a time;
//! - another pool or another database: endpoint, user, database and application name must agree,
//!   and the code that uses them, where it is known, unless the pool closes what idles;
//! - the server ended connections since: what the pool has idle is broken, and it opens others;
//! - it was out at that time but went back without a byte later: [`Bypass::shown_held`] is how
//!   long it was out at least.

use std::collections::{BTreeMap, BTreeSet};

use super::purpose;
use crate::model::{
    behaviour::Assumed,
    connection::Connection,
    event::{ConnId, MonoNanos, Peer, Runtime, WirePhase},
    process::{Identity, PathKey, Process},
    settings::Settings,
};

const SECOND: u64 = 1_000_000_000;

/// Connections that a path left are judged only when one of them was out and silent for so long:
/// code that pauses between two queries and then gives the connection back takes less.
const SHOWN_AT_LEAST: u64 = SECOND / 4;
/// A connection opened for somebody who waits is used this soon, handshake and tick included.
const USED_WITHIN: u64 = 2 * SECOND;
/// A connection closed sooner than this was never pooled.
const KEPT_FOR: u64 = 5 * SECOND;
/// An open this soon after a close replaces what was closed: by background maintenance, or in
/// pools that only open on demand.
const REPLACES_WITHIN: u64 = 5 * SECOND;
const REPLACES_WITHIN_ON_DEMAND: u64 = SECOND / 10;
/// Closer opens belong to one burst: a pre-fill.
const BURST_GAP: u64 = SECOND;
/// Opened so long after the last byte of another, it was not for work done at the same time.
const KIN_AFTER: u64 = SECOND;

/// What the opens after a connection fell silent say about it.
#[derive(Clone, Debug)]
pub(in crate::model) struct Bypass {
    /// New connections opened since.
    pub(super) opens: usize,
    /// Of these, connections known to share its pool: a path that used it used them too; or, where
    /// no stack names a path, those that were passed over in their turn.
    pub(super) kin: usize,
    /// The first of those opens.
    first: MonoNanos,
    /// From its last byte to the last of those opens, in nanoseconds.
    pub(super) shown_held: u64,
    /// User and database of both sides are known.
    pub(super) identified: bool,
    /// The pool had grown by then; `None` when closed connections were forgotten.
    pub(super) grew: Option<bool>,
    /// An open came in a later burst than its own.
    pub(super) later_burst: bool,
    /// The pools of the process open only when somebody asks.
    pub(super) on_demand: bool,
    /// They close what stays idle in them.
    pub(super) closes_idle: bool,
    /// After so long without a byte the pool has closed what is idle in it, in nanoseconds.
    closed_when_idle: Option<u64>,
    /// The code that used the new connections is known, and none of it used this one.
    strangers: bool,
    /// A connection that this path left in the same way was used again after all.
    pub(super) refuted: bool,
    /// Another connection of its pool, as far as can be told, was left in the same way.
    pub(super) repeated: bool,
    /// No open bypassed it: it belongs to the others by its path.
    pub(super) joined: bool,
    /// All that this path left were silent before the first open, and of what else was open then,
    /// nothing is known to be of their pool: another one may have taken over.
    pub(super) succeeded: bool,
    /// Connections last used by the same path that were left out, because this path's
    /// connections are sometimes used again.
    pub(super) left_out: usize,
}

impl Bypass {
    /// Silent for so long, in nanoseconds, it would be closed by now if it were idle in the pool.
    pub(super) fn is_overdue(&self, silence: u64) -> bool {
        self.closed_when_idle.is_some_and(|until| silence > until)
    }
}

/// A connection as evidence about others.
struct Member<'a> {
    peer: &'a Peer,
    identity: Option<Identity>,
    /// `None`: before the start.
    opened_at: Option<MonoNanos>,
    closed_at: Option<MonoNanos>,
    tid: Option<u32>,
    /// The code that used it, as far as it was sampled.
    places: Vec<&'a PathKey>,
    /// The server ended it.
    peer_closed: bool,
    /// The stack of its open shows the application's code, which asked for it.
    asked: bool,
    /// Its open can be evidence.
    counts: bool,
    /// `None` when it is closed.
    id: Option<ConnId>,
}

impl Member<'_> {
    /// Its owner closed it too soon for a pool that retires what it has.
    fn was_short(&self) -> bool {
        let lived = |at: MonoNanos| self.closed_at.map(|closed_at| closed_at.since(at));
        !self.peer_closed && self.opened_at.and_then(lived).is_some_and(|lived| lived < KEPT_FOR)
    }
}

/// What holds for all connections of a process.
struct Pools<'a> {
    assumed: Assumed,
    runtime: Option<Runtime>,
    /// In order of opening.
    members: Vec<Member<'a>>,
    forgotten_until: Option<MonoNanos>,
}

/// Whether a pool may have known this connection and passed it over.
pub(super) fn is_candidate(process: &Process, assumed: &Assumed, conn: &Connection) -> bool {
    // Where the pool opens although others idle, only its last words tell that one is out; or that
    // it never had one, which somebody asked for.
    let told = !assumed.opens_while_idle
        || purpose::has_spoken(conn)
        || (assumed.on_demand && conn.used() == Some(false));
    told && conn.opener == process.id
        && conn.owner == process.id
        && conn.is_session()
        && !conn.peer_closed()
        && conn.pool_checkout().is_none()
        // Where a pool is observed, what its probes did not see is not the pool's, unless it was
        // taken before the watch began or before the probes were there.
        && (!process.is_observed()
            || conn.opened.existing.is_some()
            || process.opened_before_observed(conn.opened.at)
            || is_hidden(process, conn))
        && conn.active() == Some(false)
        && !purpose::is_silent_on_purpose(conn)
        && !purpose::is_back_in_pool(process, conn)
}

/// Pools of native code are observed by what the wire tells of the connection, which encryption
/// hides; those of Go are not.
fn is_hidden(process: &Process, conn: &Connection) -> bool {
    conn.phase() == WirePhase::Encrypted && process.runtime() != Some(Runtime::Go)
}

impl<'a> Pools<'a> {
    fn new(process: &'a Process, alive: &[&'a Connection]) -> Self {
        let assumed = process.assumed();
        let on_demand = assumed.on_demand;
        let past = process.past().map(|past| {
            let lived = past.opened_at.map_or(u64::MAX, |at| past.closed_at.since(at));
            Member {
                peer: &past.peer,
                identity: past.identity.clone(),
                opened_at: past.opened_at,
                closed_at: Some(past.closed_at),
                tid: past.tid,
                places: process.places(&past.paths),
                peer_closed: past.peer_closed,
                asked: false,
                id: None,
                counts: lived >= KEPT_FOR
                    && past.used_at.is_some()
                    && (on_demand || used_soon(past.opened_at, past.used_at)),
            }
        });
        let alive = alive.iter().filter(|conn| conn.is_session()).map(|conn| {
            let opened_at = conn.opened.existing.is_none().then_some(conn.opened.at);
            Member {
                peer: &conn.opened.peer,
                identity: conn.identity(),
                opened_at,
                closed_at: None,
                tid: conn.opened.tid,
                places: process.places(&conn.paths),
                peer_closed: false,
                asked: conn.open_path().is_some(),
                id: Some(conn.id),
                counts: match conn.used() {
                    Some(true) => on_demand || used_soon(opened_at, conn.used_at),
                    // Somebody asked for it all the same, where pools open on demand.
                    Some(false) => on_demand,
                    // Encrypted: only that it is a session is known.
                    None => opened_at.is_some(),
                },
            }
        });
        let mut members: Vec<_> = past.chain(alive).collect();
        members.sort_by_key(|member| member.opened_at);
        let mut pools = Self {
            assumed,
            runtime: process.runtime(),
            members,
            forgotten_until: process.forgotten_until,
        };
        pools.discount_replacements();
        pools
    }

    /// An open soon after a close replaces what was closed: each close explains one open. Where
    /// somebody asked for the new one, it does not replace what was opened, used and closed just
    /// before: that is code with a connection for each request.
    fn discount_replacements(&mut self) {
        let within =
            if self.assumed.on_demand { REPLACES_WITHIN_ON_DEMAND } else { REPLACES_WITHIN };
        let on_demand = self.assumed.on_demand;
        let mut closes: Vec<_> = self
            .members
            .iter()
            .filter_map(|member| Some((member.closed_at?, member.peer, member.was_short())))
            .collect();
        closes.sort();
        for member in &mut self.members {
            let Some(opened_at) = member.opened_at.filter(|_| member.counts) else { continue };
            let explained = closes.iter().position(|(closed_at, peer, was_short)| {
                *peer == member.peer
                    && !(*was_short && (on_demand || member.asked))
                    && *closed_at <= opened_at
                    && opened_at.since(*closed_at) <= within
            });
            if let Some(index) = explained {
                closes.remove(index);
                member.counts = false;
            }
        }
    }

    /// Some thread had several connections of one kind to this peer at a time, so threads do not
    /// keep one each. One to each of several databases is one each.
    fn threads_share(&self, peer: &Peer) -> bool {
        let mut open_until: BTreeMap<_, Option<MonoNanos>> = BTreeMap::new();
        self.members.iter().filter(|member| member.peer == peer).any(|member| {
            let (Some(tid), Some(opened_at)) = (member.tid, member.opened_at) else { return false };
            let before = open_until.insert((tid, &member.identity), member.closed_at);
            before.is_some_and(|closed_at| closed_at.is_none_or(|closed_at| closed_at > opened_at))
        })
    }

    /// Whether an open by this thread may have been for the same pool.
    fn is_possible(&self, conn: &Connection, tid: Option<u32>, shared: &mut Option<bool>) -> bool {
        let same_thread = match (conn.opened.tid, tid) {
            (Some(one), Some(other)) => one == other,
            _ => true,
        };
        match self.runtime {
            // Each thread is an event loop with pools of its own.
            Some(Runtime::Node) => same_thread,
            // Goroutines have no threads of their own.
            Some(Runtime::Go) => true,
            _ => {
                same_thread || *shared.get_or_insert_with(|| self.threads_share(&conn.opened.peer))
            }
        }
    }

    /// When the server first ended a connection to this peer after that moment.
    fn broken_after(&self, peer: &Peer, at: MonoNanos) -> Option<MonoNanos> {
        let ended = self.members.iter().filter(|member| member.peer_closed && member.peer == peer);
        ended.filter_map(|member| member.closed_at).filter(|closed_at| *closed_at >= at).min()
    }

    /// Sessions of the same pool open at a moment.
    fn open_at(&self, peer: &Peer, identity: &Identity, at: MonoNanos) -> usize {
        self.members
            .iter()
            .filter(|member| {
                member.peer == peer
                    && member.identity.as_ref() == Some(identity)
                    && member.opened_at.is_none_or(|opened_at| opened_at <= at)
                    && member.closed_at.is_none_or(|closed_at| closed_at > at)
            })
            .count()
    }

    /// The evidence about one connection: `None` when no open speaks against it.
    fn about(&self, process: &Process, conn: &Connection) -> Option<Bypass> {
        let silent_since = conn.last_byte();
        let earliest = MonoNanos(silent_since.0.saturating_add(self.assumed.margin));
        let from = self.members.partition_point(|member| {
            member.opened_at.is_none_or(|opened_at| opened_at < earliest)
        });
        let identity = conn.identity();
        let places = process.places(&conn.paths);
        let broken = self.broken_after(&conn.opened.peer, silent_since);
        let mut threads_share = None;
        let (mut opens, mut kin, mut strangers, mut identified) = (0, 0, 0, false);
        let (mut first, mut last) = (MonoNanos(u64::MAX), silent_since);
        for member in self.members.iter().skip(from) {
            if !member.counts || *member.peer != conn.opened.peer {
                continue;
            }
            let known = match (&identity, &member.identity) {
                (Some(one), Some(other)) if one != other => continue,
                (one, other) => one.is_some() && other.is_some(),
            };
            if broken.is_some_and(|broken| member.opened_at >= Some(broken))
                || !self.is_possible(conn, member.tid, &mut threads_share)
            {
                continue;
            }
            opens += 1;
            identified |= known;
            if known && member.places.iter().any(|place| places.contains(place)) {
                kin += 1;
            } else if !member.places.is_empty() && !places.is_empty() {
                strangers += 1;
            }
            first = first.min(member.opened_at.unwrap_or(first));
            last = last.max(member.opened_at.unwrap_or(last));
        }
        if opens == 0 {
            return None;
        }
        let remembered = self.forgotten_until.is_none_or(|until| until < silent_since);
        let grew = if self.assumed.on_demand {
            Some(true)
        } else {
            identity.filter(|_| remembered).map(|identity| {
                self.open_at(&conn.opened.peer, &identity, last)
                    > self.open_at(&conn.opened.peer, &identity, silent_since)
            })
        };
        let path_refuted = conn.use_path().is_some_and(|path| process.path(&path).refuted > 0);
        Some(Bypass {
            opens,
            kin,
            first,
            shown_held: last.since(silent_since),
            identified,
            grew,
            later_burst: last > self.burst_end(conn.opened.at),
            on_demand: self.assumed.on_demand,
            closes_idle: self.assumed.closes_idle(),
            closed_when_idle: self.assumed.idle_timeout.map(|(_, until)| until),
            strangers: strangers == opens,
            refuted: conn.refuted || path_refuted,
            repeated: false,
            joined: false,
            succeeded: false,
            left_out: 0,
        })
    }

    /// The end of the burst of opens that an open at this time belongs to.
    fn burst_end(&self, opened_at: MonoNanos) -> MonoNanos {
        let mut end = opened_at;
        for at in self.members.iter().filter_map(|member| member.opened_at) {
            if at > end {
                if at.since(end) > BURST_GAP {
                    break;
                }
                end = at;
            }
        }
        end
    }
}

fn used_soon(opened_at: Option<MonoNanos>, used_at: Option<MonoNanos>) -> bool {
    let (Some(opened_at), Some(used_at)) = (opened_at, used_at) else { return false };
    used_at.since(opened_at) <= USED_WITHIN
}

/// Whether an open speaks against one connection; for a connection that is about to be used again.
pub(in crate::model) fn is_bypassed(
    process: &Process,
    conn: &Connection,
    alive: &[&Connection],
) -> bool {
    is_candidate(process, &process.assumed(), conn)
        && Pools::new(process, alive).about(process, conn).is_some()
}

/// Connections silent past the threshold that opens of the same process speak against, and those
/// that belong to them by their path.
pub(super) fn survey(
    settings: Settings,
    now: MonoNanos,
    process: &Process,
    alive: &[&Connection],
) -> BTreeMap<ConnId, Bypass> {
    let assumed = process.assumed();
    let candidates: Vec<_> = alive
        .iter()
        .copied()
        .filter(|conn| {
            conn.silence(now) >= settings.threshold && is_candidate(process, &assumed, conn)
        })
        .collect();
    if candidates.is_empty() {
        return BTreeMap::new();
    }
    let pools = Pools::new(process, alive);
    let mut bypassed: BTreeMap<ConnId, Bypass> =
        candidates.iter().filter_map(|conn| Some((conn.id, pools.about(process, conn)?))).collect();
    forgive_pauses(process, &candidates, &mut bypassed);
    forgive_strangers(process, &candidates, &mut bypassed);
    relate_nameless(&pools, &candidates, &mut bypassed);
    mark_repeated(&candidates, &mut bypassed);
    extend(process, &candidates, &mut bypassed);
    forgive_successors(process, now, alive, &candidates, &mut bypassed);
    bypassed
}

/// Drops what was only shown to be silent for a short while, a path at a time.
fn forgive_pauses(
    process: &Process,
    candidates: &[&Connection],
    bypassed: &mut BTreeMap<ConnId, Bypass>,
) {
    let path = |conn: &Connection| {
        let place = process.use_place(conn);
        (place, conn.opened.peer.clone(), conn.identity(), conn.used() == Some(false))
    };
    let mut shown = BTreeMap::new();
    for conn in candidates {
        if let Some(bypass) = bypassed.get(&conn.id) {
            let longest = shown.entry(path(conn)).or_insert(0);
            *longest = bypass.shown_held.max(*longest);
        }
    }
    for conn in candidates {
        if shown.get(&path(conn)).is_some_and(|longest| *longest < SHOWN_AT_LEAST) {
            bypassed.remove(&conn.id);
        }
    }
}

/// Drops paths that share no connection with the code for which the new ones were opened: that is
/// another pool. One that closes what idles would have closed these.
fn forgive_strangers(
    process: &Process,
    candidates: &[&Connection],
    bypassed: &mut BTreeMap<ConnId, Bypass>,
) {
    let related: BTreeSet<_> = candidates
        .iter()
        .filter(|conn| {
            let bypass = bypassed.get(&conn.id);
            bypass.is_some_and(|bypass| !bypass.strangers || bypass.closes_idle)
        })
        .filter_map(|conn| place_in_pool(process, conn))
        .collect();
    for conn in candidates.iter().filter(|conn| conn.used() == Some(true)) {
        if place_in_pool(process, conn).is_some_and(|path| !related.contains(&path)) {
            bypassed.remove(&conn.id);
        }
    }
}

/// Where no stack names a path: a connection that was opened because another was out, and that
/// went the same way itself, is of the same pool. An unrelated pool beside this one grows without
/// passing its own over; where that is all that was seen, nothing is said.
fn relate_nameless(
    pools: &Pools,
    candidates: &[&Connection],
    bypassed: &mut BTreeMap<ConnId, Bypass>,
) {
    let lost: BTreeSet<ConnId> = bypassed.keys().copied().collect();
    let mut alone: BTreeMap<_, Vec<ConnId>> = BTreeMap::new();
    let mut related = BTreeSet::new();
    for conn in candidates.iter().filter(|conn| conn.use_path().is_none()) {
        let (Some(bypass), Some(identity)) = (bypassed.get_mut(&conn.id), conn.identity()) else {
            continue;
        };
        let since = MonoNanos(conn.last_byte().0.saturating_add(KIN_AFTER));
        bypass.kin = pools
            .members
            .iter()
            .filter(|member| {
                member.counts
                    && *member.peer == conn.opened.peer
                    && member.identity.as_ref() == Some(&identity)
                    && member.opened_at.is_some_and(|opened_at| opened_at > since)
                    && member.id.is_some_and(|id| lost.contains(&id))
            })
            .count();
        let pool = (&conn.opened.peer, identity);
        if bypass.kin > 0 {
            related.insert(pool);
        } else if conn.used() != Some(false) {
            alone.entry(pool).or_default().push(conn.id);
        }
    }
    for id in alone.iter().filter(|(pool, _)| !related.contains(pool)).flat_map(|(_, ids)| ids) {
        bypassed.remove(id);
    }
}

/// Drops what another pool may have taken over from: all that a path left were silent before the
/// first open, and nothing that was open then was used later. Where something was, but not known to
/// be by that path, it stays as a doubt. A single connection is one anyway, and how those from before
/// the start fell silent was not seen.
fn forgive_successors(
    process: &Process,
    now: MonoNanos,
    alive: &[&Connection],
    candidates: &[&Connection],
    bypassed: &mut BTreeMap<ConnId, Bypass>,
) {
    let mut groups: BTreeMap<_, Vec<&Connection>> = BTreeMap::new();
    let used = candidates.iter().filter(|conn| conn.used() != Some(false));
    for conn in used.filter(|conn| bypassed.contains_key(&conn.id)) {
        let group = (conn.opened.peer.clone(), conn.identity(), process.use_place(conn));
        groups.entry(group).or_default().push(conn);
    }
    for ((peer, identity, place), group) in groups {
        let of = |conn: &&&Connection| bypassed.get(&conn.id);
        let direct = group.iter().filter_map(|conn| of(&conn)).filter(|one| !one.joined);
        let Some(first) = direct.map(|one| one.first).min() else {
            continue;
        };
        let closed_by_now = |conn: &&Connection| {
            of(&conn).is_some_and(|bypass| bypass.is_overdue(conn.silence(now)))
        };
        if group.len() < 2
            || group.iter().any(|conn| conn.opened.existing.is_some() || conn.last_byte() >= first)
            || group.iter().all(closed_by_now)
        {
            continue;
        }
        let silent = group.iter().map(|conn| conn.last_byte()).max();
        let mut survivors = alive.iter().filter(|conn| {
            conn.is_session()
                && conn.opened.peer == peer
                && conn.identity() == identity
                && Some(conn.opened.at) < silent
                && conn.last_byte() > first
        });
        let kin = |conn: &&Connection| {
            place.as_ref().is_some_and(|place| process.places(&conn.paths).contains(&place))
        };
        let is_survived = survivors.clone().next().is_some();
        if survivors.any(kin) {
            continue;
        }
        for conn in group {
            if !is_survived {
                bypassed.remove(&conn.id);
            } else if let Some(bypass) = bypassed.get_mut(&conn.id) {
                bypass.succeeded = true;
            }
        }
    }
}

/// Marks those of which there are others with the same server, user and database.
fn mark_repeated(candidates: &[&Connection], bypassed: &mut BTreeMap<ConnId, Bypass>) {
    let source = |conn: &Connection| (conn.opened.peer.clone(), conn.identity());
    let mut lost = BTreeMap::new();
    for conn in candidates.iter().filter(|conn| bypassed.contains_key(&conn.id)) {
        *lost.entry(source(conn)).or_insert(0) += 1;
    }
    for conn in candidates {
        if let Some(bypass) = bypassed.get_mut(&conn.id) {
            bypass.repeated = lost.get(&source(conn)).is_some_and(|others| *others > 1);
        }
    }
}

/// The place of the present use and the pool it belongs to.
fn place_in_pool<'c>(
    process: &Process,
    conn: &'c Connection,
) -> Option<(PathKey, &'c Peer, Identity)> {
    Some((process.use_place(conn)?, &conn.opened.peer, conn.identity()?))
}

/// Path statistics extend the inference, never make one: where two connections or more were left
/// by one path and bypassed, the silent ones that the same path used last belong to them, if no
/// use by that path was ever followed by another.
fn extend(process: &Process, candidates: &[&Connection], bypassed: &mut BTreeMap<ConnId, Bypass>) {
    let mut pools: BTreeMap<_, (Vec<ConnId>, Vec<ConnId>)> = BTreeMap::new();
    let callers: BTreeSet<_> = candidates
        .iter()
        .filter(|conn| bypassed.contains_key(&conn.id))
        .map(|conn| process.use_callers(conn))
        .collect();
    for conn in candidates {
        if let Some(key) = place_in_pool(process, conn).filter(|_| conn.used() != Some(false)) {
            let (yes, no) = pools.entry(key).or_default();
            if bypassed.contains_key(&conn.id) {
                yes.push(conn.id);
            } else if callers.contains(&process.use_callers(conn)) {
                // A line that many call is not theirs alone: some give back after it.
                no.push(conn.id);
            }
        }
    }
    for ((path, ..), (yes, no)) in pools {
        let Some(first) = yes.first().and_then(|id| bypassed.get(id)).cloned() else { continue };
        let uses = process.path(&path);
        if yes.len() >= 2 && uses.followed == 0 && uses.refuted == 0 {
            for id in no {
                let joined =
                    Bypass { opens: 0, kin: 0, shown_held: 0, joined: true, ..first.clone() };
                bypassed.insert(id, joined);
            }
        } else {
            for id in yes.iter().collect::<BTreeSet<_>>() {
                if let Some(bypass) = bypassed.get_mut(id) {
                    bypass.left_out = no.len();
                }
            }
        }
    }
}
