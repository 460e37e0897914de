//! Who is blamed for a transaction that is not ended: whoever began it, where that was seen.

use tracer::model::{Finding, FrameKind, Runtime, Stack, StackEvent, TxStatus, Verdict};

use super::scene::{Conn, Scene, frame, seen};
use super::traps::{APP, findings};

fn stack(frames: &[(&str, u32, FrameKind)]) -> Stack {
    let frames =
        frames.iter().map(|(name, line, kind)| frame(name, "/srv/shop/app.py", *line, *kind));
    Stack { frames: frames.collect(), truncated: None }
}

fn app(function: &str, line: u32) -> Stack {
    stack(&[("send", 1, FrameKind::Runtime), (function, line, FrameKind::App)])
}

fn open() -> (Scene, Conn) {
    let mut scene = Scene::default();
    scene.process(0, APP, seen("app", Runtime::Python, &[]));
    let conn = scene.open(1_000, APP);
    (scene, conn)
}

fn one(mut scene: Scene) -> Finding {
    scene.tick(60_000);
    let mut found = findings(scene);
    assert_eq!(found.len(), 1, "{found:#?}");
    let one = found.remove(0);
    assert_eq!(one.verdict, Verdict::IdleInTransaction, "{one:#?}");
    one
}

fn blame(finding: &Finding) -> (StackEvent, &str, Option<u32>) {
    let (of, frame) = finding.blame.as_ref().expect("a line");
    let symbol = frame.symbol.as_ref().expect("a name");
    (*of, &symbol.function, symbol.line)
}

/// Given back inside it, and used by somebody who knows nothing of it.
#[test]
fn who_began_it_is_blamed_and_not_who_came_after() {
    let (mut scene, mut conn) = open();
    scene.begin(2_000, &mut conn);
    let number = conn.state.uses;
    scene.query(5_000, &mut conn, "SELECT 1");
    scene.used_by(6_200, &conn, app("innocent", 40));
    scene.stack(6_201, &conn, StackEvent::Begin, number, app("reserve", 12));
    let found = one(scene);
    assert_eq!(blame(&found), (StackEvent::Begin, "reserve", Some(12)), "{found:#?}");
    assert_eq!(found.held.map(|held| held.max / 1_000_000), Some(58_000), "{found:#?}");
    assert!(found.stacks.iter().any(|(of, _)| *of == StackEvent::LastUse), "{found:#?}");
}

/// What was read of its first use as its last one is not forgotten when others follow.
#[test]
fn the_stack_of_the_beginning_stays_known_when_its_slot_went_to_another() {
    let (mut scene, mut conn) = open();
    scene.begin(2_000, &mut conn);
    scene.used_by(3_200, &conn, app("reserve", 12));
    scene.query(5_000, &mut conn, "SELECT 1");
    scene.used_by(6_200, &conn, app("innocent", 40));
    assert_eq!(blame(&one(scene)), (StackEvent::Begin, "reserve", Some(12)));
}

/// Guard: a stack belongs to one transaction.
#[test]
fn the_beginning_of_an_earlier_transaction_is_not_blamed() {
    let (mut scene, mut conn) = open();
    scene.begin(2_000, &mut conn);
    scene.used_by(3_200, &conn, app("reserve", 12));
    scene.query(3_500, &mut conn, "UPDATE stock SET left = $1");
    scene.query(4_000, &mut conn, "ROLLBACK");
    scene.tell(4_003, &mut conn, |state| {
        state.status = Some(TxStatus::Idle);
        state.begun = None;
    });
    scene.begin(5_000, &mut conn);
    scene.query(6_000, &mut conn, "SELECT 1");
    scene.used_by(7_200, &conn, app("report", 40));
    assert_eq!(blame(&one(scene)), (StackEvent::LastUse, "report", Some(40)));
}

/// A caller that both uses share tells nothing: the deeper one does.
#[test]
fn a_caller_of_both_gives_way_to_the_last_use() {
    let caller = ("application", 16, FrameKind::App);
    let middleware = ("begin", 5, FrameKind::Library);
    let (mut scene, mut conn) = open();
    scene.begin(2_000, &mut conn);
    scene.used_by(3_200, &conn, stack(&[middleware, caller]));
    scene.query(5_000, &mut conn, "SELECT 1");
    scene.used_by(6_200, &conn, stack(&[("view", 88, FrameKind::App), middleware, caller]));
    assert_eq!(blame(&one(scene)), (StackEvent::LastUse, "view", Some(88)));
}

/// A helper that all use says little, so its callers are told apart.
#[test]
fn those_who_begin_by_the_same_helper_are_told_apart() {
    let mut scene = Scene::default();
    scene.process(0, APP, seen("app", Runtime::Python, &[]));
    for (n, caller) in ["reserve", "refund", "reserve"].into_iter().enumerate() {
        let at = 1_000 + n as u64 * 3_000;
        let mut conn = scene.open(at, APP);
        scene.begin(at + 100, &mut conn);
        let helper = ("in_transaction", 5, FrameKind::App);
        scene.used_by(at + 1_300, &conn, stack(&[helper, (caller, 30, FrameKind::App)]));
        scene.query(at + 1_400, &mut conn, "UPDATE stock SET left = $1");
        scene.used_by(at + 2_600, &conn, app(caller, 31));
    }
    scene.tick(60_000);
    let found = findings(scene);
    let counts: Vec<_> = found.iter().map(|finding| finding.connections.len()).collect();
    assert_eq!(counts, [2, 1], "{found:#?}");
    assert!(found.iter().all(|finding| blame(finding).1 == "in_transaction"), "{found:#?}");
}
