//! From cases to findings: one for each process, rule, pool and blame frame, worst first.
//!
//! May import the model only. Invariant: losses lower the certainty here and nowhere else, after
//! the rule has weighed its own evidence.

use std::collections::BTreeMap;

use super::{Case, Grounds, RULES, Rule, lowers_certainty, pool_too_small::consequence};
use crate::model::{
    behaviour::Presence,
    connection::{blamed, own_frames},
    event::{Frame, MonoNanos, PoolSeen, Stack, StackEvent},
    finding::{Certainty, Finding, Span, Verdict},
    process::{PathKey, ProcId, Process},
    settings::Settings,
};

/// Fewer than this are no growth.
const GROWTH_FROM: usize = 3;
/// Growth over a shorter time is noise, in nanoseconds.
const GROWTH_OVER: u64 = 10_000_000_000;

/// What makes cases one finding; the last are the frames that say whose it is, none where nobody's is
/// known.
type Key = (ProcId, usize, Option<String>, Vec<PathKey>);

/// Groups cases into findings, worst first.
pub(in crate::model) fn findings(
    settings: Settings,
    now: MonoNanos,
    cases: Vec<Case>,
    processes: &BTreeMap<ProcId, Process>,
    lost: &BTreeMap<String, u64>,
) -> Vec<Finding> {
    let mut groups: BTreeMap<Key, Vec<Case>> = BTreeMap::new();
    for case in cases {
        let process = case.conn.owner;
        let known = processes.get(&process);
        let pool = pool_of(&case, known);
        let stacks = RULES[case.rule].stacks(&case.conn);
        let place = match &case.grounds {
            Grounds::Abandoned(abandoned) => abandoned.place.clone(),
            _ => None,
        };
        let blame = place.map_or_else(|| whose(known, &stacks), |place| vec![place]);
        groups.entry((process, case.rule, pool, blame)).or_default().push(case);
    }
    join_reserves(&mut groups);
    let lost = lowering(lost);
    let mut findings: Vec<_> = groups
        .into_iter()
        .map(|((process, rule, pool, _), group)| {
            let known = processes.get(&process);
            let waits = known.and_then(|known| consequence(known, &group, now));
            let mut found = finding(settings, now, process, RULES[rule], group, lost);
            if let Some((totals, words)) = waits {
                found.waits = Some(totals);
                found.evidence.extend(words);
            }
            Finding { pool, ..found }
        })
        .collect();
    exhaust(&mut findings, processes);
    // Stable: equal ones stay in order of process, rule, pool and frame.
    findings.sort_by_key(|finding| {
        let fault = finding.verdict.is_fault();
        std::cmp::Reverse((fault, finding.certainty, finding.connections.len()))
    });
    findings
}

/// The frame to blame. Many programs begin their transactions in one helper: what follows is its
/// caller's.
fn whose(process: Option<&Process>, stacks: &[(StackEvent, &Stack)]) -> Vec<PathKey> {
    let Some((of, _)) = blamed(stacks) else { return Vec::new() };
    let frames = if of == StackEvent::Begin { 2 } else { 1 };
    let stack = stacks.iter().find(|(event, _)| *event == of).map(|(_, stack)| *stack);
    let own = stack.into_iter().flat_map(own_frames);
    let paths = own.filter_map(PathKey::of).take(frames);
    let place = |path| process.map_or(&path, |process| process.place(&path)).clone();
    paths.map(place).collect()
}

/// The line of a frame is that of the call.
fn is_exact(frame: &Frame) -> bool {
    frame.symbol.as_ref().is_some_and(|symbol| !symbol.definition)
}

/// What abandoned pools keep in reserve was used by nobody; it belongs to what was, where that is one
/// finding.
fn join_reserves(groups: &mut BTreeMap<Key, Vec<Case>>) {
    let is_abandoned =
        |group: &[Case]| group.iter().all(|case| matches!(&case.grounds, Grounds::Abandoned(_)));
    let nameless: Vec<Key> = groups
        .iter()
        .filter(|((.., blame), group)| blame.is_empty() && is_abandoned(group))
        .map(|(key, _)| key.clone())
        .collect();
    for key in nameless {
        let mut named = groups.keys().filter(|(process, rule, pool, blame)| {
            (process, rule, pool) == (&key.0, &key.1, &key.2) && !blame.is_empty()
        });
        if let (Some(one), None) = (named.next().cloned(), named.next()) {
            let reserve = groups.remove(&key).unwrap_or_default();
            groups.entry(one).or_default().extend(reserve);
        }
    }
}

/// Events lost that lower certainty.
pub(super) fn lowering(lost: &BTreeMap<String, u64>) -> u64 {
    lost.iter()
        .filter(|(reason, _)| lowers_certainty(reason))
        .fold(0, |sum, (_, total)| sum.saturating_add(*total))
}

/// The pool of a case: observed, or the only one in the process; else the only driver.
fn pool_of(case: &Case, process: Option<&Process>) -> Option<String> {
    if let Some(checkout) = case.conn.pool_checkout() {
        return Some(checkout.pool.clone());
    }
    let pools = &process?.seen.as_ref()?.pools;
    let loaded = |pool: &PoolSeen| pool.presence == Presence::Loaded;
    let mut known: Vec<&PoolSeen> =
        pools.iter().filter(|pool| loaded(pool) && pool.behaviour.is_some()).collect();
    if known.is_empty() {
        known = pools.iter().filter(|pool| loaded(pool)).collect();
    }
    if known.is_empty() {
        known = pools.iter().collect();
    }
    match *known {
        [pool] => Some(pool.name.clone()),
        _ => None,
    }
}

/// Fills in when a pool of known size has no connection left. All findings that keep connections
/// out of a pool empty it together.
fn exhaust(findings: &mut [Finding], processes: &BTreeMap<ProcId, Process>) {
    let takes = |finding: &Finding| {
        matches!(finding.verdict, Verdict::Leak | Verdict::IdleInTransaction | Verdict::NeverUsed)
    };
    let mut pools: BTreeMap<(ProcId, String), (usize, f64)> = BTreeMap::new();
    for finding in findings.iter().filter(|finding| takes(finding)) {
        let Some(pool) = finding.pool.clone() else { continue };
        let (gone, pace) = pools.entry((finding.process, pool)).or_default();
        *gone += finding.connections.len() - finding.ended_by_exit;
        *pace += finding.growth_per_minute.unwrap_or(0.0);
    }
    for finding in findings.iter_mut().filter(|finding| takes(finding)) {
        let Some(pool) = finding.pool.clone() else { continue };
        finding.pool_max =
            processes.get(&finding.process).and_then(|process| process.max_open(&pool));
        finding.exhausted_in = finding
            .pool_max
            .zip(pools.get(&(finding.process, pool)))
            .and_then(|(max, (gone, pace))| exhausted_in(max, *gone, *pace));
    }
}

/// Time until a pool of `max`, of which `gone` are out for good, is empty at so many a minute.
fn exhausted_in(max: u32, gone: usize, per_minute: f64) -> Option<u64> {
    let left = u64::from(max).saturating_sub(gone as u64);
    (per_minute > 0.0).then(|| (left as f64 * 60e9 / per_minute) as u64)
}

fn finding(
    settings: Settings,
    now: MonoNanos,
    process: ProcId,
    rule: &dyn Rule,
    mut group: Vec<Case>,
    lost: u64,
) -> Finding {
    group.sort_by_key(|case| (case.conn.last_byte(), case.conn.id));
    let mut certainty = rule.certainty(settings, &group);
    let mut evidence = rule.evidence(settings, &group);
    let ended_by_exit = group.iter().filter(|case| case.ended).count();
    if ended_by_exit > 0 {
        evidence.push(format!(
            "{ended_by_exit} of {} ended with the process; the state is the one just before.",
            group.len()
        ));
    }
    let existing = group.iter().filter(|case| case.conn.opened.existing.is_some()).count();
    if existing > 0 {
        evidence.push(format!(
            "{existing} of {} existed before the watch began, so what happened then was not seen.",
            group.len()
        ));
    }
    // One whose first stack shows the line, before one that has only another stack of it or another
    // line of the function.
    let shown: Vec<_> = group
        .iter()
        .filter_map(|case| {
            let stacks = rule.stacks(&case.conn);
            let (of, frame) = blamed(&stacks)?;
            let first = stacks.first().is_some_and(|(first, _)| *first == of);
            Some(((is_exact(frame), first), (of, frame.clone(), stacks)))
        })
        .collect();
    let by_function = shown.iter().filter(|((exact, _), _)| !exact).count();
    let blamed = shown
        .into_iter()
        .reduce(|best, other| if other.0 > best.0 { other } else { best })
        .map(|(_, blamed)| blamed);
    let stacks = blamed.as_ref().map_or_else(
        || {
            let longest = group.iter().map(|case| rule.stacks(&case.conn));
            longest.max_by_key(Vec::len).unwrap_or_default()
        },
        |(_, _, stacks)| stacks.clone(),
    );
    let stacks: Vec<_> = stacks.into_iter().map(|(of, stack)| (of, stack.clone())).collect();
    let blame = blamed.map(|(of, frame, _)| (of, frame));
    let missing = stacks.iter().find_map(|(_, stack)| stack.truncated.as_deref());
    match &blame {
        None if let Some(reason) = missing => evidence.push(format!(
            "Application frames are not on the stack as far as it is known, so no line is blamed: \
             {reason}."
        )),
        None if stacks.iter().any(|(_, stack)| !stack.frames.is_empty()) => evidence.push(
            "Application frames are not on the stack: it was taken where a runtime, a driver or \
             an event loop wrote, so no line is blamed."
                .to_owned(),
        ),
        None => evidence.push("No stack was taken for it, so no line can be blamed.".to_owned()),
        Some((StackEvent::Open, _)) if rule.verdict() != Verdict::AbandonedPool => evidence.push(
            "The line is where the connection was opened; who used it last is not on a stack."
                .to_owned(),
        ),
        Some((_, frame)) if is_exact(frame) && by_function > 0 => evidence.push(format!(
            "Of {by_function} of {} only the function is known: its runtime had dropped the place of \
             the call. No other line of it was seen with a connection.",
            group.len()
        )),
        Some(_) => {}
    }
    if lost > 0 && certainty > Certainty::Suspected {
        certainty = certainty.lowered();
        evidence.push(format!(
            "{lost} events were lost, and a close, release or byte among them could explain this: \
             certainty is one step lower."
        ));
    }
    let held =
        Span::of(group.iter().filter_map(|case| Some(case.at.since(rule.held_since(&case.conn)?))));
    let silent = Span::of(group.iter().map(|case| case.conn.silence(case.at)))
        .unwrap_or(Span { min: 0, max: 0 });
    let lost_since: Vec<_> = group
        .iter()
        .filter(|case| case.conn.opened.existing.is_none())
        .map(|case| rule.lost_since(&case.conn))
        .collect();
    Finding {
        verdict: rule.verdict(),
        certainty,
        process,
        pool: None,
        blame,
        stacks,
        connections: group.iter().map(|case| case.conn.id).collect(),
        held,
        silent,
        growth_per_minute: growth(&lost_since, now),
        pool_max: None,
        exhausted_in: None,
        ended_by_exit,
        from_before: group.iter().filter(|case| case.before).count(),
        holders: Vec::new(),
        waits: None,
        evidence,
        hint: rule.hint().to_owned(),
    }
}

/// New ones per minute since the first, to one decimal.
fn growth(lost_since: &[MonoNanos], now: MonoNanos) -> Option<f64> {
    let over = now.since(lost_since.iter().copied().min()?);
    if lost_since.len() < GROWTH_FROM || over < GROWTH_OVER {
        return None;
    }
    let per_minute = lost_since.len() as f64 * 60e9 / over as f64;
    Some((per_minute * 10.0).round() / 10.0)
}

#[cfg(test)]
mod tests {
    use super::exhausted_in;

    #[test]
    fn a_pool_is_empty_when_what_is_left_is_gone() {
        assert_eq!(exhausted_in(20, 5, 5.0), Some(180_000_000_000));
        assert_eq!(exhausted_in(20, 20, 5.0), Some(0));
        assert_eq!(exhausted_in(20, 23, 5.0), Some(0));
        assert_eq!(exhausted_in(20, 5, 0.0), None);
    }
}
