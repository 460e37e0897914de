//! Streams of native code's pools: what their probes tell is believed only once it was seen to work,
//! and the code that writes to a connection last may be the pool's own. Each test of silence fails
//! when the guard that it names is taken away.

use tracer::model::{Begun, Certainty, FrameKind, Runtime, Stack, StackEvent, TxStatus, Verdict};

use super::scene::{Conn, Scene, frame, ms, seen};
use super::traps::{APP, findings, is_leak, is_silent, list, scene_of, used};

/// sqlx's task that takes a connection back, as its symbol is written.
fn taken_back() -> Stack {
    let driver = "/registry/sqlx-core-0.8.6/src/pool/connection.rs";
    Stack {
        frames: vec![
            frame(
                "sqlx_core::pool::connection::PoolConnection<DB>::return_to_pool::{{closure}}",
                driver,
                200,
                FrameKind::Driver,
            ),
            frame("tokio::runtime::task::raw::poll", "/tokio/raw.rs", 1, FrameKind::Runtime),
        ],
        truncated: None,
    }
}

/// It comes back: the pool sends a Sync.
fn comes_back(scene: &mut Scene, at: u64, conn: &mut Conn) {
    scene.ask(at, conn, "SELECT id FROM orders WHERE id = $1");
    scene.tell(at + 1, conn, |state| {
        state.last_recv = state.last_send;
        state.active = Some(false);
    });
    scene.used_by(at + 300, conn, taken_back());
}

/// So many, each opened although those before were silent.
fn passed_over(scene: &mut Scene, count: u64, mut last: impl FnMut(&mut Scene, u64, &mut Conn)) {
    for at in (1_000..).step_by(8_000).take(count as usize) {
        let mut conn = scene.open(at, APP);
        used(scene, at + 20, &mut conn, list());
        last(scene, at + 400, &mut conn);
    }
    scene.tick(60_000);
}

#[test]
fn what_sqlx_did_not_take_back_is_a_leak() {
    let mut scene = scene_of(Runtime::Native, &["sqlx"]);
    passed_over(&mut scene, 4, |_, _, _| {});
    is_leak(scene, Certainty::Strong, 4, "a pool takes an idle connection");
}

/// Guard: the pool's own code that takes a connection back wrote to it last.
#[test]
fn what_sqlx_took_back_is_no_leak() {
    let mut scene = scene_of(Runtime::Native, &["sqlx"]);
    passed_over(&mut scene, 3, comes_back);
    is_silent(scene);
}

#[test]
fn pools_that_took_all_back_and_are_not_used_again_are_abandoned() {
    let mut scene = scene_of(Runtime::Native, &["sqlx"]);
    passed_over(&mut scene, 5, comes_back);
    let found = findings(scene);
    let [one] = found.as_slice() else { panic!("{found:#?}") };
    assert_eq!(one.verdict, Verdict::AbandonedPool, "{one:#?}");
    assert!(one.evidence.iter().any(|why| why.contains("the pool's own code")), "{one:#?}");
}

fn in_transaction(last: impl Fn(&mut Scene, u64, &mut Conn)) -> Scene {
    let mut scene = scene_of(Runtime::Native, &["sqlx"]);
    let mut conn = scene.open(1_000, APP);
    scene.stack(1_010, &conn, StackEvent::Open, 0, list());
    used(&mut scene, 1_020, &mut conn, list());
    scene.tell(1_030, &mut conn, |state| state.status = Some(TxStatus::InTransaction));
    last(&mut scene, 1_400, &mut conn);
    scene.tick(60_000);
    scene
}

#[test]
fn a_transaction_that_sqlx_took_back_was_returned() {
    let found = findings(in_transaction(comes_back));
    let [one] = found.as_slice() else { panic!("{found:#?}") };
    assert_eq!(
        (one.verdict, one.certainty),
        (Verdict::ReturnedInTransaction, Certainty::Strong),
        "{one:#?}"
    );
    // Whoever opened it did not leave it like that.
    assert!(one.blame.is_none(), "{one:#?}");
}

/// The pool's own code is the last to write; who began the transaction is known all the same.
#[test]
fn who_began_a_transaction_that_sqlx_took_back_is_blamed() {
    let found = findings(in_transaction(|scene, at, conn| {
        let number = conn.state.uses;
        scene.tell(at - 10, conn, |state| {
            state.begun = Some(Begun { at: ms(at - 380), number });
        });
        comes_back(scene, at, conn);
    }));
    let [one] = found.as_slice() else { panic!("{found:#?}") };
    assert_eq!(one.verdict, Verdict::ReturnedInTransaction, "{one:#?}");
    assert_eq!(one.blame.as_ref().map(|(of, _)| *of), Some(StackEvent::Begin), "{one:#?}");
}

/// Guard: the last to write is the application.
#[test]
fn a_transaction_that_sqlx_did_not_take_back_is_held() {
    let found = findings(in_transaction(|_, _, _| {}));
    let [one] = found.as_slice() else { panic!("{found:#?}") };
    assert_eq!(one.verdict, Verdict::IdleInTransaction, "{one:#?}");
}

/// A process whose pool has probes.
fn probed(pool: &str, runtime: Runtime) -> Scene {
    let mut scene = Scene::default();
    scene.process(0, APP, seen("app", runtime, &[(pool, true)]));
    scene
}

/// Nothing was ever given back, so the checkouts that probes saw are not believed.
#[test]
fn without_a_release_leaks_are_inferred() {
    let mut scene = probed("deadpool", Runtime::Native);
    passed_over(&mut scene, 4, |_, _, _| {});
    is_leak(scene, Certainty::Strong, 4, "a pool takes an idle connection");
}

/// Diesel's objects refer to libpq's, so nothing that r2d2's probes see is joined with a connection: no
/// matter when they were attached.
#[test]
fn probes_that_join_nothing_explain_nothing_that_was_before_them() {
    let mut scene = scene_of(Runtime::Native, &["r2d2"]);
    passed_over(&mut scene, 4, |_, _, _| {});
    scene.process(40_000, APP, seen("app", Runtime::Native, &[("r2d2", true)]));
    is_leak(scene, Certainty::Strong, 4, "a pool takes an idle connection");
}

/// Guard: once checkouts are seen, a connection without one is not the pool's.
#[test]
fn a_connection_beside_an_observed_pool_is_kept_on_purpose() {
    let mut scene = probed("deadpool", Runtime::Native);
    let mut pooled = scene.open(500, APP);
    scene.acquire(600, &mut pooled, "deadpool");
    scene.release(700, &mut pooled);
    passed_over(&mut scene, 4, |_, _, _| {});
    is_silent(scene);
}

/// Guard: Go's compiler leaves no release unseen, so no checkout means that the pool was not used.
#[test]
fn a_connection_beside_an_unused_pool_of_go_is_kept_on_purpose() {
    let mut scene = probed("database/sql", Runtime::Go);
    passed_over(&mut scene, 4, |_, _, _| {});
    is_silent(scene);
}

/// Guard: what was believed is not any more, when a release turns out to have been missed.
#[test]
fn checkouts_that_are_not_believed_any_more_are_no_leaks() {
    let mut scene = probed("deadpool", Runtime::Native);
    let mut conns = [1_000, 1_100].map(|at| scene.open(at, APP));
    for (at, conn) in [2_000, 2_100].into_iter().zip(&mut conns) {
        scene.acquire(at, conn, "deadpool");
        scene.query(at + 10, conn, "SELECT 1");
    }
    for (at, conn) in [3_000, 3_001].into_iter().zip(&mut conns) {
        scene.tell(at, conn, |state| state.checkout = None);
    }
    scene.tick(60_000);
    is_silent(scene);
}

/// Whose stacks show nobody, because the driver sends from a task of its own.
fn sent_by_driver(statements: u64) -> Scene {
    let driver = "/registry/tokio-postgres-0.7.18/src/connection.rs";
    let task = || Stack {
        frames: vec![frame("tokio_postgres::Connection::poll", driver, 1, FrameKind::Driver)],
        truncated: None,
    };
    let mut scene = scene_of(Runtime::Native, &["deadpool"]);
    for at in [1_000, 9_000, 17_000, 25_000] {
        let mut conn = scene.open(at, APP);
        scene.stack(at + 100, &conn, StackEvent::Open, 0, list());
        for n in 0..statements {
            scene.query(at + 10 + n * 5, &mut conn, "SELECT 1");
        }
        scene.used_by(at + 400, &conn, task());
    }
    scene.tick(60_000);
    scene
}

/// Guard: a connection that ran more than one statement may have been somebody else's since.
#[test]
fn who_opened_a_pooled_connection_is_not_blamed_for_its_leak() {
    let blamed = |statements| {
        let found = findings(sent_by_driver(statements));
        let [leak] = found.as_slice() else { panic!("{found:#?}") };
        assert_eq!(leak.verdict, Verdict::Leak, "{leak:#?}");
        leak.blame.is_some()
    };
    assert!(blamed(1) && !blamed(2));
}
