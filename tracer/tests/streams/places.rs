//! Places in the code that are known by their function only, because the runtime has dropped where
//! the call was: one path with the line of that function, where only one was seen.

use tracer::model::{Finding, Runtime, Stack};

use super::{
    scene::stack,
    traps::{APP, findings, scene_of},
};

const FILE: &str = "/srv/shop/handlers.js";

fn at_definition() -> Stack {
    let mut stack = stack("getUser", FILE, 3);
    stack.frames[1].symbol.as_mut().unwrap().definition = true;
    stack
}

/// One of `stacks` after the other keeps the only idle connection of the pool, and the next request
/// opens a new one.
fn lost_by(stacks: &[Stack]) -> Vec<Finding> {
    let mut scene = scene_of(Runtime::Node, &["pg-pool"]);
    for (n, stack) in stacks.iter().enumerate() {
        let at = 1_000 + 2_000 * n as u64;
        let mut conn = scene.open(at, APP);
        scene.query(at + 20, &mut conn, "SELECT id, name FROM users WHERE id = $1");
        scene.used_by(at + 1_100, &conn, stack.clone());
    }
    scene.tick(60_000);
    findings(scene)
}

fn blamed(finding: &Finding) -> (Option<u32>, usize) {
    let symbol = finding.blame.as_ref().and_then(|(_, frame)| frame.symbol.as_ref());
    (symbol.and_then(|symbol| symbol.line), finding.connections.len())
}

#[test]
fn a_leak_is_one_finding_though_the_place_of_its_first_calls_was_dropped() {
    let line = || stack("getUser", FILE, 9);
    let dropped = at_definition;
    let found = lost_by(&[dropped(), dropped(), dropped(), dropped(), line(), line(), line()]);
    let [leak] = found.as_slice() else { panic!("{found:#?}") };
    assert_eq!(blamed(leak), (Some(9), 7), "{leak:#?}");
    let why = "Of 4 of 7 only the function is known";
    assert!(leak.evidence.iter().any(|words| words.contains(why)), "{leak:#?}");
    let all_known = lost_by(&[line(), line(), line()]);
    assert!(!all_known[0].evidence.iter().any(|words| words.contains("only the function")));
}

#[test]
fn a_dropped_place_belongs_to_neither_of_two_lines_of_its_function() {
    let [first, second] = [9, 14].map(|line| stack("getUser", FILE, line));
    let dropped = at_definition;
    let twice = [first.clone(), first, dropped(), dropped(), second.clone(), second.clone()];
    let found = lost_by(&[&twice[..], &[second]].concat());
    let mut each: Vec<_> = found.iter().map(blamed).collect();
    each.sort_unstable();
    assert_eq!(each, [(Some(3), 2), (Some(9), 2), (Some(14), 3)], "{found:#?}");
}
