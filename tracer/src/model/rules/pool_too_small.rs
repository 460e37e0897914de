//! `pool too small`: callers wait for a connection while all of the pool's keep changing hands.
//!
//! May import the model only. Information, never a fault, and the opposite remedy of a leak: so it
//! is only said where nothing of the pool can be a leak. What else makes callers wait is excluded
//! here:
//!
//! - a leak, proven or not yet: a connection that is out and silent for half of the threshold is
//!   not moving, and one that was never seen to come from the pool may be out since before the
//!   watch began;
//! - a long query: where half of the pool works on one, that is what the callers wait for;
//! - a server that does not let in: who opens a connection waits for the server;
//! - a moment: the callers must have waited for half of the time that is looked at, in a number
//!   that counts beside that of the connections.

use std::collections::BTreeMap;

use super::{Case, RULES, group::lowering, is_silent_on_purpose};
use crate::model::{
    connection::Connection,
    event::MonoNanos,
    finding::{Certainty, Finding, Span, Verdict},
    process::Process,
    settings::Settings,
    waits::{Sample, WaitTotals, Waits},
    words::{count, duration},
};

/// Callers that wait, on average, for each connection: of the time from asking to giving back, a
/// fifth is then spent waiting.
const WAITING_PER_CONNECTION: f64 = 0.25;

/// What the samples of a pool say.
struct Load {
    /// Time looked at, in nanoseconds.
    over: u64,
    /// Connections open at the same time, at most.
    size: u64,
    /// Callers that waited, on average.
    waiting: f64,
    /// Checkouts.
    taken: u64,
    /// Waits that ended with a connection, and their mean in nanoseconds.
    served: u64,
    mean: u64,
}

impl Load {
    /// `None` where callers did not wait for long, or not because all connections were out.
    fn of(settings: Settings, waits: &Waits) -> Option<Self> {
        let samples = waits.samples();
        let (first, last) = (samples.front()?, samples.back()?);
        let over = last.at.since(first.at);
        let size = samples.iter().map(|sample| sample.open).max()?;
        let waited = || samples.iter().filter(|sample| sample.waiting > 0);
        let all_out = waited().filter(|sample| sample.out >= sample.open).count();
        let sum = samples.iter().fold(0_u64, |sum, sample| sum.saturating_add(sample.waiting));
        let waiting = sum as f64 / samples.len() as f64;
        let since = |of: fn(&Sample) -> u64| of(last).saturating_sub(of(first));
        let served = since(|sample| sample.served);
        // Those of connections that were closed meanwhile are not known, but each wait ended with one.
        let taken = since(|sample| sample.taken).max(served);
        let is_sustained = over >= settings.threshold / 2 && waited().count() * 2 >= samples.len();
        let is_exhausted = all_out * 2 >= waited().count();
        let counts = size > 0 && waiting >= size as f64 * WAITING_PER_CONNECTION;
        // On average, each connection was taken anew. By whom does not count: in a pool that does not
        // serve in turn, who gives back may take again before any of those that wait.
        let moves = taken >= size;
        (is_sustained && is_exhausted && counts && moves).then(|| Self {
            over,
            size,
            waiting,
            taken,
            served,
            mean: since(|sample| sample.nanos) / served.max(1),
        })
    }
}

/// The pools of a process that are too small; `cases` are what other rules found in it.
pub(in crate::model) fn too_small(
    settings: Settings,
    now: MonoNanos,
    process: &Process,
    alive: &[&Connection],
    cases: &[Case],
    lost: &BTreeMap<String, u64>,
) -> Vec<Finding> {
    let lost = lowering(lost);
    let of = |waits: &&Waits| {
        let load = Load::of(settings, waits)?;
        finding(settings, now, process, alive, cases, waits, &load, lost)
    };
    process.waits.iter().filter_map(|waits| of(&waits)).collect()
}

/// Whether a connection speaks against it: it does not move, or is not known to.
fn is_stuck(settings: Settings, now: MonoNanos, waits: &Waits, conn: &Connection) -> bool {
    let limit = settings.threshold / 2;
    let server_works = conn.awaits_answer() && conn.unread().is_none();
    match conn.pool_checkout() {
        Some(checkout) if !waits.may_be_of(checkout) => false,
        Some(checkout) => {
            let taken = checkout.acquired_at.map_or(u64::MAX, |at| now.since(at));
            checkout.held && !server_works && conn.silence(now).min(taken) >= limit
        }
        // Not seen to come from a pool: it may be of this one, and out since before the watch began.
        None => {
            conn.is_session()
                && !conn.peer_closed()
                && !is_silent_on_purpose(conn)
                && conn.silence(now) >= limit
        }
    }
}

#[expect(clippy::too_many_arguments, reason = "all that is known about one pool")]
fn finding(
    settings: Settings,
    now: MonoNanos,
    process: &Process,
    alive: &[&Connection],
    cases: &[Case],
    waits: &Waits,
    load: &Load,
    lost: u64,
) -> Option<Finding> {
    let is_member =
        |conn: &Connection| conn.pool_checkout().is_some_and(|checkout| waits.may_be_of(checkout));
    let found = || cases.iter().filter(|case| is_member(&case.conn));
    let is_fault = |case: &Case| RULES[case.rule].verdict().is_fault();
    if found().any(is_fault) || alive.iter().any(|conn| is_stuck(settings, now, waits, conn)) {
        return None;
    }
    let long = found().filter(|case| RULES[case.rule].verdict() == Verdict::LongQuery).count();
    if long as u64 * 2 >= load.size {
        return None;
    }
    let mut members: Vec<&&Connection> = alive.iter().filter(|conn| is_member(conn)).collect();
    members.sort_by_key(|conn| (conn.last_byte(), conn.id));
    let totals = WaitTotals::of([waits], now)?;
    let mut certainty = Certainty::Strong;
    let mut evidence = evidence(settings, load, &totals, long);
    if lost > 0 {
        certainty = certainty.lowered();
        evidence.push(format!("{lost} events were lost: certainty is one step lower."));
    }
    let held = members.iter().filter_map(|conn| {
        let checkout = conn.pool_checkout().filter(|checkout| checkout.held)?;
        Some(now.since(checkout.acquired_at?))
    });
    Some(Finding {
        verdict: Verdict::PoolTooSmall,
        certainty,
        process: process.id,
        pool: Some(waits.told.pool.clone()),
        blame: None,
        stacks: Vec::new(),
        held: Span::of(held),
        silent: Span::of(members.iter().map(|conn| conn.silence(now)))?,
        connections: members.iter().map(|conn| conn.id).collect(),
        growth_per_minute: None,
        pool_max: None,
        exhausted_in: None,
        ended_by_exit: 0,
        from_before: 0,
        holders: Vec::new(),
        waits: Some(totals),
        evidence,
        hint: "Give the pool more connections, if the server has room for them (max_connections), \
               or hold each for a shorter time: no work between taking and giving back that needs \
               no database."
            .to_owned(),
    })
}

fn evidence(settings: Settings, load: &Load, totals: &WaitTotals, long: usize) -> Vec<String> {
    let all = match load.size {
        1 => "The pool's only connection was".to_owned(),
        n => format!("All {n} connections of the pool were"),
    };
    let mut evidence = vec![
        format!(
            "{all} out, and over the last {} there were {:.1} callers waiting on average: of {}, {}.",
            duration(load.over),
            load.waiting,
            count(load.taken as usize, "checkout", "checkouts"),
            match load.served {
                0 => "none came after a wait, so whoever gives one back takes it again before \
                 those that wait"
                    .to_owned(),
                1 => format!("1 came after a wait of {}", duration(load.mean)),
                n => format!("{n} came after a wait of {} on average", duration(load.mean)),
            },
        ),
        format!(
            "None of them was out and silent for more than half of the threshold of {}: they keep \
             changing hands, so this is no leak.",
            duration(settings.threshold),
        ),
    ];
    evidence.extend(failed(totals));
    if long > 0 {
        evidence.push(format!(
            "{} of the {} {} out in long queries, which are told apart.",
            long,
            load.size,
            if long == 1 { "is" } else { "are" },
        ));
    }
    evidence
}

fn failed(totals: &WaitTotals) -> Option<String> {
    let failed = totals.failed.filter(|failed| *failed > 0)?;
    Some(format!(
        "{} an error instead of a connection; the longest wait so far was {}.",
        count(failed as usize, "caller got", "callers got"),
        duration(totals.longest),
    ))
}

/// What a group of checkouts that do not come back means for others: the waits for their pools,
/// and a sentence where there are any.
pub(super) fn consequence(
    process: &Process,
    group: &[Case],
    now: MonoNanos,
) -> Option<(WaitTotals, Option<String>)> {
    let held = || {
        group
            .iter()
            .filter(|case| !case.ended)
            .filter_map(|case| case.conn.pool_checkout())
            .filter(|checkout| checkout.held)
    };
    let pools = process.waits.iter().filter(|waits| {
        let alone = process.waits.iter().filter(|other| other.told.pool == waits.told.pool);
        let alone = alone.count() == 1;
        held().any(|checkout| waits.is_of(checkout) || (alone && waits.may_be_of(checkout)))
    });
    let totals = WaitTotals::of(pools, now)?;
    let holds = format!(
        "{} of the {} that were out at most.",
        held().count(),
        count(totals.most_out as usize, "connection", "connections")
    );
    let words = match totals.longest_waiting {
        Some(longest) => Some(format!(
            "{} for a connection of this pool, the longest for {}; these are {holds}",
            count(totals.waiting as usize, "caller waits", "callers wait"),
            duration(longest),
        )),
        None => failed(&totals),
    };
    Some((totals, words))
}
