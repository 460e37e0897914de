//! From cases to findings: one for each process, rule, pool and blame frame, worst first.
//!
//! May import the model only. Invariant: losses lower the certainty here and nowhere else, after
//! the rule has weighed its own evidence.

use std::collections::BTreeMap;

use super::{Case, RULES, Rule, lowers_certainty};
use crate::model::{
    event::{MonoNanos, StackEvent},
    finding::{Certainty, Finding, Span},
    process::{PathKey, ProcId, Process},
    tracker::Settings,
};

/// Fewer than this are no growth.
const GROWTH_FROM: usize = 3;
/// Growth over a shorter time is noise, in nanoseconds.
const GROWTH_OVER: u64 = 10_000_000_000;

/// What makes cases one finding.
type Key = (ProcId, usize, Option<String>, Option<PathKey>);

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
        let pool = pool_of(&case, processes.get(&process));
        let blame = case.conn.blame().and_then(|(_, frame)| PathKey::of(frame));
        groups.entry((process, case.rule, pool, blame)).or_default().push(case);
    }
    let lost: u64 = lost
        .iter()
        .filter(|(reason, _)| lowers_certainty(reason))
        .fold(0, |sum, (_, total)| sum.saturating_add(*total));
    let mut findings: Vec<_> = groups
        .into_iter()
        .map(|((process, rule, pool, _), group)| Finding {
            pool,
            ..finding(settings, now, process, RULES[rule], group, lost)
        })
        .collect();
    // Stable: equal ones stay in order of process, rule, pool and frame.
    findings.sort_by_key(|finding| {
        let fault = finding.verdict.is_fault();
        std::cmp::Reverse((fault, finding.certainty, finding.connections.len()))
    });
    findings
}

/// The pool of a case: observed, or the only one recognised in the process.
fn pool_of(case: &Case, process: Option<&Process>) -> Option<String> {
    if let Some(checkout) = case.conn.pool_checkout() {
        return Some(checkout.pool.clone());
    }
    match process?.seen.as_ref()?.pools.as_slice() {
        [pool] => Some(pool.name.clone()),
        _ => None,
    }
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
    let before = group.iter().filter(|case| case.conn.opened.existing.is_some()).count();
    if before > 0 {
        evidence.push(format!(
            "{before} of {} existed before the watch began, so what happened then was not seen.",
            group.len()
        ));
    }
    let blamed = group.iter().find_map(|case| {
        case.conn.blame().map(|(of, frame)| (of, frame.clone(), case.conn.stacks()))
    });
    let stacks = blamed.as_ref().map_or_else(
        || {
            let longest = group.iter().map(|case| case.conn.stacks());
            longest.max_by_key(Vec::len).unwrap_or_default()
        },
        |(_, _, stacks)| stacks.clone(),
    );
    let stacks: Vec<_> = stacks.into_iter().map(|(of, stack)| (of, stack.clone())).collect();
    let blame = blamed.map(|(of, frame, _)| (of, frame));
    match &blame {
        None if stacks.iter().any(|(_, stack)| !stack.frames.is_empty()) => evidence.push(
            "Application frames are not on the stack: it was taken where a runtime, a driver or \
             an event loop wrote, so no line is blamed."
                .to_owned(),
        ),
        None => evidence.push("No stack was taken for it, so no line can be blamed.".to_owned()),
        Some((StackEvent::Open, _)) => evidence.push(
            "The line is where the connection was opened; who used it last is not on a stack."
                .to_owned(),
        ),
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
        ended_by_exit,
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
