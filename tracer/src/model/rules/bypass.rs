//! Bypass: the process opened a new connection while this one sat idle.
//!
//! May import the model only. A pool that takes idle connections before it opens new ones never
//! does that, so the connection was not in the pool. What else could explain it is excluded here,
//! or kept as a doubt in [`Bypass`] for the rule to weigh:
//!
//! - the return and the open raced: the connection must have been idle for a margin before;
//! - pre-fill and background refill (HikariCP, r2d2, psycopg_pool, asyncpg, pgxpool's minimum):
//!   the new one must have been used soon after it was opened, must be kept, and must not replace
//!   one that was closed just before;
//! - one connection for each thread (Django): the same thread must have opened both, or some
//!   thread several at a time;
//! - another pool or another database: endpoint, user, database and application name must agree;
//! - it was out at that time but went back without a byte later: [`Bypass::shown_held`] is how
//!   long it was out at least.

use std::collections::{BTreeMap, BTreeSet};

use super::purpose;
use crate::model::{
    connection::Connection,
    event::{ConnId, MonoNanos, Peer, Runtime, WirePhase},
    process::{Identity, PathKey, Process},
    tracker::Settings,
};

const SECOND: u64 = 1_000_000_000;

/// Idle before the open, where a pool takes a connection back synchronously (Node's pools).
const MARGIN_SYNCHRONOUS: u64 = SECOND / 50;
/// Idle before the open, elsewhere: by another goroutine or task, after a round trip to the server
/// at the most. One number for all of them: the pool of the catalogue that needs less is observed.
const MARGIN: u64 = SECOND;
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

/// What the opens after a connection fell silent say about it.
#[derive(Clone, Debug)]
pub(in crate::model) struct Bypass {
    /// New connections opened since.
    pub(super) opens: usize,
    /// Of these, connections known to share its pool: a path that used it used them too; or, where
    /// no stack names a path, those that were passed over in their turn.
    pub(super) kin: usize,
    /// From its last byte to the last of those opens, in nanoseconds.
    pub(super) shown_held: u64,
    /// User and database of both sides are known.
    pub(super) identified: bool,
    /// The pool had grown by then; `None` when closed connections were forgotten.
    pub(super) grew: Option<bool>,
    /// An open came in a later burst than its own.
    pub(super) later_burst: bool,
    /// Pools of this runtime open only when somebody asks.
    pub(super) on_demand: bool,
    /// A connection that this path left in the same way was used again after all.
    pub(super) refuted: bool,
    /// No open bypassed it: it belongs to the others by its path.
    pub(super) joined: bool,
    /// Connections last used by the same path that were left out, because this path's
    /// connections are sometimes used again.
    pub(super) left_out: usize,
}

/// A connection as evidence about others.
struct Member<'a> {
    peer: &'a Peer,
    identity: Option<Identity>,
    /// `None`: before the start.
    opened_at: Option<MonoNanos>,
    closed_at: Option<MonoNanos>,
    tid: Option<u32>,
    paths: &'a [PathKey],
    /// Its open can be evidence.
    counts: bool,
    /// `None` when it is closed.
    id: Option<ConnId>,
}

/// What holds for all connections of a process.
struct Pools<'a> {
    on_demand: bool,
    go: bool,
    /// In order of opening.
    members: Vec<Member<'a>>,
    forgotten_until: Option<MonoNanos>,
}

/// Whether a pool may have known this connection and passed it over.
fn is_candidate(process: &Process, conn: &Connection) -> bool {
    conn.opener == process.id
        && conn.owner == process.id
        && conn.is_session()
        && !conn.peer_closed()
        && conn.pool_checkout().is_none()
        // Where a pool is observed, what its probes did not see is not the pool's, unless it was
        // taken before the watch began.
        && (!process.is_observed() || conn.opened.existing.is_some() || is_hidden(process, conn))
        && conn.active() == Some(false)
        && !purpose::is_silent_on_purpose(conn)
        && !purpose::is_back_in_pool(conn)
}

/// Pools of native code are observed by what the wire tells of the connection, which encryption
/// hides; those of Go are not.
fn is_hidden(process: &Process, conn: &Connection) -> bool {
    conn.phase() == WirePhase::Encrypted && process.runtime() != Some(Runtime::Go)
}

impl<'a> Pools<'a> {
    fn new(process: &'a Process, alive: &[&'a Connection]) -> Self {
        let on_demand = process.runtime() == Some(Runtime::Node);
        let past = process.past().map(|past| {
            let lived = past.opened_at.map_or(u64::MAX, |at| past.closed_at.since(at));
            Member {
                peer: &past.peer,
                identity: past.identity.clone(),
                opened_at: past.opened_at,
                closed_at: Some(past.closed_at),
                tid: past.tid,
                paths: &past.paths,
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
                paths: &conn.paths,
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
            on_demand,
            go: process.runtime() == Some(Runtime::Go),
            members,
            forgotten_until: process.forgotten_until,
        };
        pools.discount_replacements();
        pools
    }

    /// An open soon after a close replaces what was closed: each close explains one open.
    fn discount_replacements(&mut self) {
        let within = if self.on_demand { REPLACES_WITHIN_ON_DEMAND } else { REPLACES_WITHIN };
        let mut closes: Vec<_> = self
            .members
            .iter()
            .filter_map(|member| Some((member.closed_at?, member.peer)))
            .collect();
        closes.sort();
        for member in &mut self.members {
            let Some(opened_at) = member.opened_at.filter(|_| member.counts) else { continue };
            let explained = closes.iter().position(|(closed_at, peer)| {
                *peer == member.peer
                    && *closed_at <= opened_at
                    && opened_at.since(*closed_at) <= within
            });
            if let Some(index) = explained {
                closes.remove(index);
                member.counts = false;
            }
        }
    }

    /// Some thread had several connections to this peer at a time, so threads do not keep one
    /// each.
    fn threads_share(&self, peer: &Peer) -> bool {
        let mut open_until: BTreeMap<u32, Option<MonoNanos>> = BTreeMap::new();
        self.members.iter().filter(|member| member.peer == peer).any(|member| {
            let (Some(tid), Some(opened_at)) = (member.tid, member.opened_at) else { return false };
            let before = open_until.insert(tid, member.closed_at);
            before.is_some_and(|closed_at| closed_at.is_none_or(|closed_at| closed_at > opened_at))
        })
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
        let margin = if self.on_demand { MARGIN_SYNCHRONOUS } else { MARGIN };
        let earliest = MonoNanos(silent_since.0.saturating_add(margin));
        let from = self.members.partition_point(|member| {
            member.opened_at.is_none_or(|opened_at| opened_at < earliest)
        });
        let identity = conn.identity();
        let mut threads_share = None;
        let (mut opens, mut kin, mut identified) = (0, 0, false);
        let mut last = silent_since;
        for member in self.members.iter().skip(from) {
            if !member.counts || *member.peer != conn.opened.peer {
                continue;
            }
            let known = match (&identity, &member.identity) {
                (Some(one), Some(other)) if one != other => continue,
                (one, other) => one.is_some() && other.is_some(),
            };
            let same_thread = match (conn.opened.tid, member.tid) {
                (Some(one), Some(other)) => one == other,
                _ => true,
            };
            // Goroutines have no threads of their own; Node's loop is one thread.
            let possible = same_thread
                || self.go
                || (!self.on_demand
                    && *threads_share.get_or_insert_with(|| self.threads_share(&conn.opened.peer)));
            if !possible {
                continue;
            }
            opens += 1;
            identified |= known;
            if known && member.paths.iter().any(|path| conn.paths.contains(path)) {
                kin += 1;
            }
            last = last.max(member.opened_at.unwrap_or(last));
        }
        if opens == 0 {
            return None;
        }
        let remembered = self.forgotten_until.is_none_or(|until| until < silent_since);
        let grew = if self.on_demand {
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
            shown_held: last.since(silent_since),
            identified,
            grew,
            later_burst: last > self.burst_end(conn.opened.at),
            on_demand: self.on_demand,
            refuted: conn.refuted || path_refuted,
            joined: false,
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
    is_candidate(process, conn) && Pools::new(process, alive).about(process, conn).is_some()
}

/// Connections silent past the threshold that opens of the same process speak against, and those
/// that belong to them by their path.
pub(super) fn survey(
    settings: Settings,
    now: MonoNanos,
    process: &Process,
    alive: &[&Connection],
) -> BTreeMap<ConnId, Bypass> {
    let candidates: Vec<_> = alive
        .iter()
        .copied()
        .filter(|conn| conn.silence(now) >= settings.threshold && is_candidate(process, conn))
        .collect();
    if candidates.is_empty() {
        return BTreeMap::new();
    }
    let pools = Pools::new(process, alive);
    let mut bypassed: BTreeMap<ConnId, Bypass> =
        candidates.iter().filter_map(|conn| Some((conn.id, pools.about(process, conn)?))).collect();
    forgive_pauses(&candidates, &mut bypassed);
    relate_nameless(&pools, &candidates, &mut bypassed);
    extend(process, &candidates, &mut bypassed);
    bypassed
}

/// Drops what was only shown to be silent for a short while, a path at a time.
fn forgive_pauses(candidates: &[&Connection], bypassed: &mut BTreeMap<ConnId, Bypass>) {
    let path = |conn: &Connection| {
        (conn.use_path(), conn.opened.peer.clone(), conn.identity(), conn.used() == Some(false))
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

/// Where no stack names a path: a connection that was opened because another was out, and that
/// went the same way itself, is of the same pool. An unrelated pool beside this one grows without
/// passing its own over.
fn relate_nameless(
    pools: &Pools,
    candidates: &[&Connection],
    bypassed: &mut BTreeMap<ConnId, Bypass>,
) {
    let lost: BTreeSet<ConnId> = bypassed.keys().copied().collect();
    for conn in candidates.iter().filter(|conn| conn.use_path().is_none()) {
        let (Some(bypass), Some(identity)) = (bypassed.get_mut(&conn.id), conn.identity()) else {
            continue;
        };
        let since = conn.last_byte();
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
    }
}

/// The path of the present use and the pool it belongs to.
fn path_in_pool(conn: &Connection) -> Option<(PathKey, &Peer, Identity)> {
    Some((conn.use_path()?, &conn.opened.peer, conn.identity()?))
}

/// Path statistics extend the inference, never make one: where two connections or more were left
/// by one path and bypassed, the silent ones that the same path used last belong to them, if no
/// use by that path was ever followed by another.
fn extend(process: &Process, candidates: &[&Connection], bypassed: &mut BTreeMap<ConnId, Bypass>) {
    let mut pools: BTreeMap<_, (Vec<ConnId>, Vec<ConnId>)> = BTreeMap::new();
    for conn in candidates {
        if let Some(key) = path_in_pool(conn).filter(|_| conn.used() != Some(false)) {
            let (yes, no) = pools.entry(key).or_default();
            if bypassed.contains_key(&conn.id) { yes.push(conn.id) } else { no.push(conn.id) }
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
