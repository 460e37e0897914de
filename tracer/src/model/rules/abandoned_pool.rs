//! `abandoned pool`: pools are made again and again, and nothing uses the earlier ones any more.
//!
//! May import the model only. Invariant: only connections that went back to a pool count, because
//! one that is out is a leak, which has another remedy. That it went back is observed, or said by
//! its last statement, by spare connections opened beside it (code that takes one connection opens
//! no spares), or by the driver having sent the query itself.
//!
//! A pool takes an idle connection before it opens a new one, so an open while another connection
//! of the same place in the code is back in its pool is an open by another pool. What else could
//! explain it:
//!
//! - pre-fill and refill: a group counts only when somebody used it;
//! - several pools that a program makes when it starts: new ones must still be opened after the
//!   first was silent for the threshold;
//! - another database or user: they must agree;
//! - a pool made again after a restart of the server, and the replacement of retired connections:
//!   an open soon after a close is explained by it, and what the peer closed is not looked at;
//! - a pool or a connection for each thread: one thread must have opened several groups;
//! - a pool for each tenant that is rarely used: where one spoke again after such a silence, nothing
//!   is said.

use std::collections::{BTreeMap, BTreeSet};

use super::{Case, Grounds, Rule, Scene, purpose};
use crate::model::{
    connection::Connection,
    event::{ConnId, FrameKind, MonoNanos, Peer, Runtime, Stack, StackEvent},
    finding::{Certainty, Verdict},
    process::{Identity, PathKey, Process},
    settings::Settings,
    words::{count, duration},
};

/// Groups given up for a new one that make a pattern.
const GROUPS_FROM: usize = 3;
/// A pool opens what it keeps in reserve within this time.
const TOGETHER: u64 = 1_000_000_000;
/// A return and an open closer than this may have raced.
const MARGIN: u64 = 20_000_000;
/// An open this soon after a close may replace what was closed, if that was kept for so long.
const REPLACES_WITHIN: u64 = 5_000_000_000;
const KEPT_FOR: u64 = 5_000_000_000;

/// How it is known that a connection is in a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Returned {
    /// By the pool's probes.
    Observed,
    /// By the statement with which pools take a connection back.
    Reset,
    /// By the pool's own code, which wrote to it then.
    Written,
    /// It was opened and never used: to be in reserve.
    Spare,
    /// Used once, and by the driver: the application asked before there was a connection.
    OwnQuery,
    /// Nothing says so.
    Unknown,
}

/// What was seen of the pools that one place in the code makes.
#[derive(Clone, Debug)]
pub(in crate::model) struct Abandoned {
    returned: Returned,
    /// Groups of connections opened together, each given up for a later one.
    groups: usize,
    /// From the end of the first of them to the last open, in nanoseconds.
    went_on: u64,
    /// Each group has connections that nobody used.
    spares: bool,
    /// All groups are of one size.
    alike: bool,
    /// User and database are known.
    identified: bool,
    /// The place in the code that opens them, where known.
    pub(super) place: Option<PathKey>,
    /// Some thread opened connections of several groups.
    one_thread: bool,
}

struct Member<'a> {
    conn: &'a Connection,
    returned: Returned,
    /// Since when it is in the pool.
    until: MonoNanos,
}

type Key<'a> = (&'a Peer, Option<Identity>, Option<PathKey>);

/// Connections of a process that belong to abandoned pools.
pub(super) fn survey(
    settings: Settings,
    now: MonoNanos,
    process: &Process,
    alive: &[&Connection],
) -> BTreeMap<ConnId, Abandoned> {
    let mut places: BTreeMap<Key, Vec<Member>> = BTreeMap::new();
    for conn in alive.iter().copied().filter(|conn| is_candidate(settings, now, process, conn)) {
        let returned = returned(process, conn);
        let released = conn.pool_checkout().and_then(|checkout| checkout.released_at);
        let until = conn.last_byte().max(released.unwrap_or_default());
        let key = (&conn.opened.peer, conn.identity(), process.open_place(conn));
        places.entry(key).or_default().push(Member { conn, returned, until });
    }
    settle_nameless(process, &mut places);
    let mut abandoned = BTreeMap::new();
    for (key, members) in places {
        // Fewer cannot be enough; most programs end here.
        if members.len() >= GROUPS_FROM {
            judge(settings, process, alive, &key, members, &mut abandoned);
        }
    }
    abandoned
}

/// Where the stack of an open ends before the application, the connection belongs to the place whose
/// connections are used by the same path, if one is known; a spare one to the place that opened
/// another just before.
fn settle_nameless(process: &Process, places: &mut BTreeMap<Key, Vec<Member>>) {
    let mut used: BTreeMap<Key, Key> = BTreeMap::new();
    for (key, members) in places.iter().filter(|((_, _, path), _)| path.is_some()) {
        for path in members.iter().filter_map(|member| process.use_place(member.conn)) {
            used.insert((key.0, key.1.clone(), Some(path)), key.clone());
        }
    }
    let mut opened: BTreeMap<_, Vec<(MonoNanos, PathKey)>> = BTreeMap::new();
    for ((peer, identity, path), members) in places.iter() {
        let Some(path) = path else { continue };
        let opens = opened.entry((*peer, identity.clone())).or_default();
        opens.extend(members.iter().map(|member| (member.conn.opened.at, path.clone())));
    }
    let beside = |peer, identity: &Option<Identity>, member: &Member| {
        let at = member.conn.opened.at;
        let opens = opened.get(&(peer, identity.clone()))?;
        let opens = opens.iter().filter(|(before, _)| {
            *before <= at && at.since(*before) <= TOGETHER && member.returned == Returned::Spare
        });
        let (_, path) = opens.max_by_key(|(before, _)| *before)?;
        Some((peer, identity.clone(), Some(path.clone())))
    };
    let nameless: Vec<_> = places.keys().filter(|(_, _, path)| path.is_none()).cloned().collect();
    for (peer, identity, _) in nameless {
        let members = places.remove(&(peer, identity.clone(), None)).unwrap_or_default();
        for member in members {
            let own = (peer, identity.clone(), None);
            let path = process.use_place(member.conn);
            let place = path.and_then(|path| used.get(&(peer, identity.clone(), Some(path))));
            let place = place.cloned().or_else(|| beside(peer, &identity, &member));
            places.entry(place.unwrap_or(own)).or_default().push(member);
        }
    }
}

fn is_candidate(settings: Settings, now: MonoNanos, process: &Process, conn: &Connection) -> bool {
    conn.opener == process.id
        && conn.owner == process.id
        && conn.is_session()
        && !conn.peer_closed()
        && conn.opened.existing.is_none()
        && match conn.pool_checkout() {
            Some(checkout) => !checkout.held,
            None => !process.opened_before_observed(conn.opened.at),
        }
        && conn.active() == Some(false)
        && conn.in_transaction().is_none()
        && conn.silence(now) >= settings.threshold
        && !purpose::is_silent_on_purpose(conn)
}

fn returned(process: &Process, conn: &Connection) -> Returned {
    if conn.pool_checkout().is_some() {
        return Returned::Observed;
    }
    match conn.used() {
        Some(false) => Returned::Spare,
        _ if purpose::is_written_by_return(process, conn) => Returned::Written,
        _ if purpose::is_back_in_pool(process, conn) => Returned::Reset,
        _ if is_own_query(process, conn) => Returned::OwnQuery,
        _ => Returned::Unknown,
    }
}

/// The only query was sent by the driver as soon as the connection was ready, with nobody else's
/// code on the stack: what the query functions of Node's pools do, which take and give back by
/// themselves.
pub(super) fn is_own_query(process: &Process, conn: &Connection) -> bool {
    let node = process.runtime() == Some(Runtime::Node);
    let once = node && conn.wire.as_ref().is_some_and(|wire| wire.uses == 1);
    let Some(stack) = conn.stack(StackEvent::LastUse).filter(|_| once) else { return false };
    // Frames without a name may be the application's; the outermost ones of libc have none either.
    let named = stack.frames.iter().take_while(|frame| frame.symbol.is_some());
    named.clone().any(|frame| frame.kind == FrameKind::Driver)
        && named.last().is_some_and(|outermost| outermost.kind == FrameKind::Runtime)
        && !stack.frames.iter().any(|frame| frame.kind == FrameKind::App)
}

/// Whether the connections of one place are groups that were given up one after the other.
fn judge(
    settings: Settings,
    process: &Process,
    alive: &[&Connection],
    (peer, identity, path): &Key,
    mut members: Vec<Member>,
    abandoned: &mut BTreeMap<ConnId, Abandoned>,
) {
    let same_place = |conn: &&&Connection| {
        conn.is_session()
            && conn.opened.existing.is_none()
            && conn.opened.peer == **peer
            && conn.identity() == *identity
            // One in use has no stack yet.
            && process.open_place(conn).is_none_or(|opened_by| Some(&opened_by) == path.as_ref())
    };
    let place = || alive.iter().filter(same_place);
    // Where no place is known, code that is known to have used one says that it is of another.
    if place().any(|conn| conn.woke && (path.is_some() || conn.use_path().is_none())) {
        return;
    }
    // Where no place is known, one that was in use for long is of another pool, as far as is known.
    members.retain(|member| {
        let used_for = member.until.since(member.conn.opened.at);
        path.is_some() || member.returned != Returned::Unknown || used_for <= TOGETHER
    });
    members.sort_by_key(|member| (member.conn.opened.at, member.conn.id));
    let mut groups: Vec<Vec<Member>> = Vec::new();
    let mut until = MonoNanos(0);
    for member in members {
        let next = member.conn.opened.at > MonoNanos(until.0.saturating_add(MARGIN));
        until = until.max(member.until);
        match groups.last_mut().filter(|_| !next) {
            Some(group) => group.push(member),
            None => groups.push(vec![member]),
        }
    }
    let last_open = place().map(|conn| conn.opened.at).max().unwrap_or_default();
    let end = |group: &[Member]| group.iter().map(|member| member.until).max().unwrap_or_default();
    let mut closes: Vec<_> = process
        .past()
        .filter(|past| past.peer == **peer && past.identity == *identity)
        .filter(|past| {
            past.opened_at.is_none_or(|opened_at| past.closed_at.since(opened_at) >= KEPT_FOR)
        })
        .map(|past| past.closed_at)
        .collect();
    let (mut groups, reserve) = with_reserve(groups);
    groups.retain(|group| {
        let opened_at = group[0].conn.opened.at;
        let replaced = closes.iter().position(|closed_at| {
            *closed_at <= opened_at && opened_at.since(*closed_at) <= REPLACES_WITHIN
        });
        if let Some(index) = replaced {
            closes.remove(index);
            return false;
        }
        is_a_pools(group)
    });
    let given_up = groups.iter().filter(|group| last_open.since(end(group)) > MARGIN).count();
    let Some(first) = groups.first() else { return };
    let went_on = last_open.since(end(first));
    let threads: Vec<BTreeSet<u32>> = groups
        .iter()
        .map(|group| group.iter().filter_map(|member| member.conn.opened.tid).collect())
        .collect();
    let distinct: BTreeSet<u32> = threads.iter().flatten().copied().collect();
    let one_thread = matches!(process.runtime(), Some(Runtime::Go | Runtime::Node))
        || distinct.len() < threads.iter().map(BTreeSet::len).sum();
    let spares = groups.iter().all(|group| {
        group.iter().any(|member| member.returned == Returned::Spare) && group.len() > 1
    });
    if given_up < GROUPS_FROM || went_on < settings.threshold || !(one_thread || spares) {
        return;
    }
    let alike = groups.iter().all(|group| group.len() == first.len());
    for member in groups.iter().flatten().chain(&reserve) {
        abandoned.insert(
            member.conn.id,
            Abandoned {
                returned: member.returned,
                groups: given_up,
                went_on,
                spares,
                alike,
                identified: identity.is_some(),
                place: path.clone(),
                one_thread,
            },
        );
    }
}

/// Joins spare connections with those before them: a pool may open its reserve when one of it is in
/// use already. Where those have a reserve, the next pool was made meanwhile; then they are apart.
fn with_reserve(groups: Vec<Vec<Member>>) -> (Vec<Vec<Member>>, Vec<Member>) {
    let is_spare = |member: &Member| member.returned == Returned::Spare;
    let mut joined: Vec<Vec<Member>> = Vec::new();
    let mut reserve = Vec::new();
    for group in groups {
        let soon = |before: &&mut Vec<Member>| {
            let last = before.last().map(|member| member.conn.opened.at);
            last.is_some_and(|last| group[0].conn.opened.at.since(last) <= TOGETHER)
        };
        match joined.last_mut().filter(soon).filter(|_| group.iter().all(is_spare)) {
            Some(before) if before.iter().any(is_spare) => reserve.extend(group),
            Some(before) => before.extend(group),
            None => joined.push(group),
        }
    }
    (joined, reserve)
}

/// Somebody used the group, and it went back: each of it, or there are spares beside.
fn is_a_pools(group: &[Member]) -> bool {
    let is = |returned| move |member: &Member| member.returned == returned;
    let used = !group.iter().all(is(Returned::Spare));
    used && (group.iter().any(is(Returned::Spare)) || !group.iter().any(is(Returned::Unknown)))
}

/// The rule.
pub(super) struct AbandonedPool;

/// The evidence of a group; all of one place say the same but for how they went back.
fn grounds(group: &[Case]) -> impl Iterator<Item = &Abandoned> {
    group.iter().filter_map(|case| match &case.grounds {
        Grounds::Abandoned(abandoned) => Some(abandoned),
        _ => None,
    })
}

fn doubts(group: &[Case]) -> Vec<String> {
    let mut doubts = Vec::new();
    let mut doubt = |remains: bool, words: &str| {
        if remains {
            doubts.push(words.to_owned());
        }
    };
    doubt(
        !grounds(group).all(|place| place.identified),
        "User and database could not be read, so they may be pools of several databases.",
    );
    let by = |returned| grounds(group).any(|place| place.returned == returned);
    doubt(
        by(Returned::OwnQuery),
        "A client that was taken with a callback, or opened without a pool, and never released \
         looks the same; then it is to be released or ended.",
    );
    let shaped = || grounds(group).all(|place| place.spares && place.alike);
    let observed = !by(Returned::Reset) && !by(Returned::Spare) && !by(Returned::Unknown);
    doubt(
        !grounds(group).all(|place| place.one_thread),
        "Each was opened by threads of its own, so every thread may keep a pool.",
    );
    doubt(
        !observed && !grounds(group).all(|place| place.place.is_some()) && !shaped(),
        "No stack shows which code opened them, so they may belong to different pools that are \
         made once each.",
    );
    doubts
}

impl Rule for AbandonedPool {
    fn verdict(&self) -> Verdict {
        Verdict::AbandonedPool
    }

    fn check(&self, scene: &Scene, conn: &Connection) -> Option<Grounds> {
        scene.abandoned.get(&conn.id).cloned().map(Grounds::Abandoned)
    }

    fn held_since(&self, _conn: &Connection) -> Option<MonoNanos> {
        None
    }

    fn lost_since(&self, conn: &Connection) -> MonoNanos {
        conn.opened.at
    }

    fn stacks<'c>(&self, conn: &'c Connection) -> Vec<(StackEvent, &'c Stack)> {
        conn.stacks_of_opening()
    }

    fn certainty(&self, _settings: Settings, group: &[Case]) -> Certainty {
        if doubts(group).is_empty() { Certainty::Strong } else { Certainty::Suspected }
    }

    fn evidence(&self, _settings: Settings, group: &[Case]) -> Vec<String> {
        let groups = grounds(group).map(|place| place.groups).max().unwrap_or(0);
        let went_on = grounds(group).map(|place| place.went_on).max().unwrap_or(0);
        let mut evidence = vec![format!(
            "{groups} times connections were opened, given back and not used again, and new ones \
             were opened all the same; a pool takes an idle connection before it opens a new one, \
             so each time it was another pool.",
        )];
        evidence.push(format!(
            "It went on for {} after the first of them had been given up.",
            duration(went_on),
        ));
        let by = |returned| grounds(group).filter(|place| place.returned == returned).count();
        let spares = by(Returned::Spare);
        let mut why = |number: usize, words: &str| {
            if number > 0 {
                evidence.push(format!(
                    "{} {words}",
                    count(number, "connection was", "connections were"),
                ));
            }
        };
        why(by(Returned::Observed), "seen to go back to the pool.");
        why(by(Returned::Written), "last written to by the pool's own code that takes one back.");
        why(by(Returned::Reset), "last sent the statement with which pools take one back.");
        why(spares, "never used at all, as the reserve of a pool is.");
        why(
            by(Returned::OwnQuery),
            "used once, by the driver itself and with no code of the application that could hold \
             it, as the query functions of pools do.",
        );
        evidence.extend(doubts(group));
        evidence
    }

    fn hint(&self) -> &'static str {
        "Create the pool once, when the program starts, and share it; a pool for a short time is \
         to be ended (close, end, dispose) on every path."
    }
}
