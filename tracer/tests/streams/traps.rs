//! Healthy habits of pools that look like leaks, one test each; and the leaks that the same evidence
//! tells, as their twins.
//!
//! Each stream is what the pool is documented to do, with its behaviour from the catalogue. Each
//! test fails when the guard that it names is taken away.

use tracer::{
    model::{
        Certainty, ConnId, Event, Fd, Finding, Pid, Presence, ProcessSeen, Runtime, Settings,
        Stack, Tracker, Verdict,
    },
    pools::Catalogue,
};

use super::scene::{Conn, Scene, THRESHOLD, installed, ms, seen, stack};

pub const APP: u32 = 7_400;

pub fn findings(scene: Scene) -> Vec<Finding> {
    let mut tracker = Tracker::new(Settings::new(THRESHOLD * 1_000_000));
    for event in &scene.sorted() {
        tracker.apply(event);
    }
    tracker.findings(tracker.now())
}

#[track_caller]
pub fn is_silent(scene: Scene) {
    let found = findings(scene);
    assert!(found.is_empty(), "{found:#?}");
}

#[track_caller]
pub fn is_leak(scene: Scene, certainty: Certainty, count: usize, word: &str) {
    let found = findings(scene);
    let [leak] = found.as_slice() else { panic!("{found:#?}") };
    assert_eq!((leak.verdict, leak.certainty), (Verdict::Leak, certainty), "{leak:#?}");
    assert_eq!(leak.connections.len(), count, "{leak:#?}");
    assert!(leak.evidence.iter().any(|why| why.contains(word)), "{leak:#?}");
}

fn app(runtime: Runtime, pools: &[&str]) -> ProcessSeen {
    let catalogue = Catalogue::embedded().unwrap();
    for pool in pools {
        assert!(catalogue.pool(pool).is_some_and(|pool| pool.behaviour.is_some()), "{pool}");
    }
    seen("app", runtime, &pools.iter().map(|pool| (*pool, false)).collect::<Vec<_>>())
}

pub fn scene_of(runtime: Runtime, pools: &[&str]) -> Scene {
    let mut scene = Scene::default();
    scene.process(0, APP, app(runtime, pools));
    scene
}

pub fn list() -> Stack {
    stack("listOrders", "/srv/shop/orders", 21)
}

fn audit() -> Stack {
    stack("writeAudit", "/srv/shop/audit", 8)
}

/// A statement by this code, and its stack sampled soon after.
pub fn used(scene: &mut Scene, at: u64, conn: &mut Conn, by: Stack) {
    scene.query(at, conn, "SELECT id FROM orders WHERE id = $1");
    scene.used_by(at + 300, conn, by);
}

/// Opened one after the other and used by `listOrders`.
fn opened(scene: &mut Scene, count: u64, at: u64) -> Vec<Conn> {
    (0..count)
        .map(|n| {
            let mut conn = scene.open(at + n * 20, APP);
            used(scene, at + 400 + n * 20, &mut conn, list());
            conn
        })
        .collect()
}

/// A pool that another thread fills at the start over a slow network; one is used.
fn prefill(runtime: Runtime, pool: &str) -> Scene {
    let mut scene = scene_of(runtime, &[pool]);
    let mut conns: Vec<_> =
        (0..10).map(|n| scene.open_by(1_000 + n * 900, APP, Some(APP + 1))).collect();
    for at in (9_200..60_000).step_by(800) {
        scene.query(at, &mut conns[9], "SELECT 1");
    }
    scene.tick(60_000);
    scene
}

/// Guard: the pool opens connections that nobody waits for.
#[test]
fn hikaricp_fills_its_pool_at_the_start() {
    is_silent(prefill(Runtime::Java, "HikariCP"));
}

/// Guard: the same.
#[test]
fn r2d2_fills_its_pool_at_the_start() {
    is_silent(prefill(Runtime::Native, "r2d2"));
}

/// Guard: the statement that asyncpg sends when a connection comes back.
#[test]
fn asyncpg_opens_although_others_idle() {
    let mut scene = scene_of(Runtime::Python, &["asyncpg"]);
    let reset = "SELECT pg_advisory_unlock_all(); CLOSE ALL; UNLISTEN *; RESET ALL;";
    for at in [1_000, 9_000, 17_000] {
        let mut conn = scene.open(at, APP);
        scene.query(at + 20, &mut conn, "SELECT 1");
        scene.query(at + 30, &mut conn, reset);
        scene.used_by(at + 1_300, &conn, list());
    }
    scene.tick(60_000);
    is_silent(scene);
}

/// Guard: where that statement cannot be read, opens say nothing of such a pool.
#[test]
fn asyncpg_opens_although_others_idle_under_tls() {
    let mut scene = scene_of(Runtime::Python, &["asyncpg"]);
    for at in [1_000, 9_000, 17_000] {
        let mut conn = scene.bare(at, APP, Some(APP), None);
        scene.encrypted_use(at + 20, &mut conn);
        scene.used_by(at + 1_300, &conn, list());
    }
    scene.tick(60_000);
    is_silent(scene);
}

/// Guard: what is opened unasked is used much later.
#[test]
fn a_minimum_is_filled_up_in_the_background() {
    for (runtime, pool) in [
        (Runtime::Java, "HikariCP"),
        (Runtime::Python, "psycopg_pool"),
        (Runtime::Native, "sqlx"),
        (Runtime::Native, "bb8"),
        (Runtime::Node, "sequelize-pool"),
    ] {
        let mut scene = scene_of(runtime, &[pool]);
        opened(&mut scene, 2, 1_000);
        for n in 0..2 {
            let mut conn = scene.open(20_000 + n * 20, APP);
            used(&mut scene, 30_000, &mut conn, list());
        }
        scene.tick(59_000);
        is_silent(scene);
    }
}

/// Guard: code that shares no connection with the code of the new ones uses another pool.
#[test]
fn two_pools_have_one_data_source() {
    let mut scene = scene_of(Runtime::Python, &["SQLAlchemy QueuePool"]);
    let mut quiet = scene.open(1_000, APP);
    used(&mut scene, 1_020, &mut quiet, audit());
    for at in [5_000, 9_000] {
        let mut conn = scene.open(at, APP);
        used(&mut scene, at + 20, &mut conn, list());
        for at in (at + 800..60_000).step_by(800) {
            scene.query(at, &mut conn, "SELECT 1");
        }
    }
    scene.tick(60_000);
    is_silent(scene);
}

/// Guard: what one process opens says nothing of another's connections.
#[test]
fn a_forking_server_opens_in_its_children() {
    let mut scene = scene_of(Runtime::Python, &["SQLAlchemy QueuePool"]);
    let mut before = scene.open(1_000, APP);
    used(&mut scene, 1_020, &mut before, list());
    for n in 1..4u32 {
        let child = APP + n;
        let at = 3_000 + u64::from(n) * 1_500;
        scene.events.push(Event::Fork { at: ms(2_000), parent: Pid(APP), child: Pid(child) });
        // Children close what they inherited, but for one.
        if n > 1 {
            let (conn, fd) = (ConnId(u64::from(before.id)), Fd(before.fd));
            scene.events.push(Event::Close { at: ms(2_100), conn, pid: Pid(child), fd });
        }
        // More than one for a thread, so that threads share.
        for at in [at, at + 50] {
            let mut conn = scene.open(at, child);
            used(&mut scene, at + 20, &mut conn, list());
            for at in (at + 800..60_000).step_by(800) {
                scene.query(at, &mut conn, "SELECT 1");
            }
        }
    }
    scene.tick(60_000);
    is_silent(scene);
}

/// Guard: an open right after a close replaces what was closed.
#[test]
fn pre_ping_replaces_a_connection_that_a_firewall_cut() {
    let mut scene = scene_of(Runtime::Python, &["SQLAlchemy QueuePool"]);
    let mut conns = opened(&mut scene, 4, 1_000);
    for (n, conn) in (0..).zip(&mut conns) {
        used(&mut scene, 18_000 + n * 700, conn, list());
    }
    scene.ask(40_000, &mut conns[0], "SELECT 1");
    scene.close(40_000, &conns[0]);
    let mut new = scene.open(40_020, APP);
    used(&mut scene, 40_060, &mut new, list());
    scene.tick(69_000);
    is_silent(scene);
}

/// Guard: the time that a return may take.
#[test]
fn sqlx_returns_a_connection_after_the_next_was_opened() {
    let mut scene = scene_of(Runtime::Native, &["sqlx"]);
    let mut first = scene.open(1_000, APP);
    used(&mut scene, 1_020, &mut first, list());
    // The spawned return did not run yet.
    let mut second = scene.open(1_420, APP);
    used(&mut scene, 1_440, &mut second, list());
    scene.tick(60_000);
    is_silent(scene);
}

/// Three of six in turn, by chance: three requests at a time.
fn calm_after_a_burst(pool: &str) -> Scene {
    let mut scene = scene_of(Runtime::Python, &[pool]);
    let mut conns = opened(&mut scene, 6, 1_000);
    in_turn(&mut scene, &mut conns[3..], 3_000, 18, &GAPS);
    scene.tick(60_000);
    scene
}

/// Guard: the pool takes what came back last.
#[test]
fn a_burst_is_followed_by_calm() {
    is_silent(calm_after_a_burst("psycopg2.pool"));
}

/// Guard: the server ended connections since.
#[test]
fn the_pool_connects_again_after_a_restart_of_the_server() {
    let mut scene = scene_of(Runtime::Python, &["psycopg_pool"]);
    let mut conns = opened(&mut scene, 4, 1_000);
    scene.tell(25_000, &mut conns[3], |state| state.peer_closed = true);
    scene.close(25_000, &conns[3]);
    // Until then the server refused.
    let mut new = scene.open(35_000, APP);
    used(&mut scene, 35_020, &mut new, list());
    scene.tick(64_000);
    is_silent(scene);
}

/// Guard: a pool that replaces in the background may take seconds for it.
#[test]
fn connections_are_replaced_at_the_end_of_their_lifetime() {
    let mut scene = scene_of(Runtime::Java, &["HikariCP"]);
    let conns = opened(&mut scene, 4, 1_000);
    for (n, old) in (0..).zip(&conns[..2]) {
        let at = 20_000 + n * 10_000;
        scene.close(at, old);
        let mut new = scene.open(at + 2_000, APP);
        used(&mut scene, at + 2_100, &mut new, list());
    }
    scene.tick(59_000);
    is_silent(scene);
}

// --- idle timeout ---

/// Guard: more must be over their time than the pool ever left.
#[test]
fn a_minimum_stays_idle() {
    let mut scene = scene_of(Runtime::Node, &["tarn"]);
    let conns = opened(&mut scene, 8, 1_000);
    for (n, conn) in (0..).zip(&conns[..3]) {
        scene.close(31_600 + n * 20, conn);
    }
    scene.tick(100_000);
    is_silent(scene);
}

/// Guard: the process was seen to close what idles.
#[test]
fn the_idle_timeout_is_off() {
    let mut scene = scene_of(Runtime::Node, &["pg-pool"]);
    opened(&mut scene, 8, 1_000);
    scene.tick(100_000);
    is_silent(scene);
}

/// A pool whose connections `listOrders` uses lets all of them go in the evening.
fn evening(scene: &mut Scene) {
    for conn in opened(scene, 3, 1_000) {
        let at = 11_500 + u64::from(conn.id) * 20;
        scene.close(at, &conn);
    }
}

/// Guard: those that were closed were used by the same code.
#[test]
fn another_pool_keeps_what_idles() {
    let mut scene = scene_of(Runtime::Node, &["pg-pool"]);
    evening(&mut scene);
    for at in [20_000, 20_020] {
        let mut conn = scene.open(at, APP);
        used(&mut scene, at + 200, &mut conn, audit());
    }
    scene.tick(90_000);
    is_silent(scene);
}

fn left_after_the_evening(process: ProcessSeen) -> Scene {
    let mut scene = Scene::default();
    scene.process(0, APP, process);
    evening(&mut scene);
    for at in [20_000, 20_010] {
        let mut conn = scene.open(at, APP);
        used(&mut scene, at + 20, &mut conn, list());
    }
    scene.tick(90_000);
    scene
}

#[test]
fn a_pool_of_an_older_recording_is_loaded_and_nothing_is_assumed_of_it() {
    let old = r#"{"name":"sqlx","observed":false,"note":null}"#;
    let mut process = app(Runtime::Node, &[]);
    process.pools = vec![serde_json::from_str(old).unwrap()];
    assert_eq!(process.pools[0].presence, Presence::Loaded);
    is_silent(left_after_the_evening(process));
}

#[test]
fn what_a_pool_would_have_closed_is_a_leak() {
    let process = || app(Runtime::Node, &["pg-pool"]);
    let word = "sat idle for 10.0 s";
    is_leak(left_after_the_evening(process()), Certainty::Strong, 2, word);
    is_leak(left_after_the_evening(installed(process())), Certainty::Suspected, 2, word);
    // Where another pool that never closes what idles may be used, nothing follows.
    is_silent(left_after_the_evening(app(Runtime::Node, &["pg-pool", "database/sql"])));
}

/// bb8 retires one at the age of half an hour; another one is older.
fn over_its_lifetime(retires: bool) -> Scene {
    let mut scene = scene_of(Runtime::Native, &["bb8"]);
    let mut conns = opened(&mut scene, 2, 1_000);
    let mut at = 300_000;
    while at < 1_700_000 {
        used(&mut scene, at, &mut conns[1], list());
        at += 300_000;
    }
    used(&mut scene, 1_750_000, &mut conns[0], list());
    used(&mut scene, 1_790_000, &mut conns[1], list());
    if retires {
        scene.close(1_815_000, &conns[1]);
    }
    scene.tick(1_900_000);
    scene
}

#[test]
fn what_a_pool_would_have_retired_is_a_leak() {
    is_leak(over_its_lifetime(true), Certainty::Strong, 1, "were open for 30 min 0 s");
    is_silent(over_its_lifetime(false));
}

// --- rotation ---

/// Requests do not come by the clock.
const GAPS: [u64; 7] = [1_200, 5_300, 1_100, 9_100, 1_700, 1_300, 2_000];

/// The connections in turn.
fn in_turn(scene: &mut Scene, conns: &mut [Conn], from: u64, turns: usize, gaps: &[u64]) {
    let mut at = from;
    for turn in 0..turns {
        let index = turn % conns.len();
        used(scene, at, &mut conns[index], list());
        at += gaps[turn % gaps.len()];
    }
}

/// Five connections of a FIFO pool, four of them used in such turns; the fifth silent since.
fn rotation(process: ProcessSeen, last_by: Stack, gaps: &[u64]) -> Scene {
    let mut scene = Scene::default();
    scene.process(0, APP, process);
    let mut conns = opened(&mut scene, 5, 1_000);
    used(&mut scene, 3_000, &mut conns[4], last_by);
    in_turn(&mut scene, &mut conns[..4], 5_000, 20, gaps);
    let end = 5_000 + (0..20).map(|turn| gaps[turn % gaps.len()]).sum::<u64>();
    scene.tick(end.max(40_000));
    scene
}

fn queue_pool() -> ProcessSeen {
    app(Runtime::Python, &["SQLAlchemy QueuePool"])
}

#[test]
fn what_a_fifo_pool_never_takes_is_a_leak() {
    let word = "the other 4 of the pool were used in turn 20 times";
    is_leak(rotation(queue_pool(), list(), &GAPS), Certainty::Strong, 1, word);
    is_leak(rotation(installed(queue_pool()), list(), &GAPS), Certainty::Suspected, 1, word);
    is_silent(rotation(app(Runtime::Python, &[]), list(), &GAPS));
    // A LIFO pool may be the one.
    let either = app(Runtime::Python, &["SQLAlchemy QueuePool", "psycopg2.pool"]);
    is_silent(rotation(either, list(), &GAPS));
}

/// Guard: rounds by the clock are no rotation.
#[test]
fn workers_keep_a_connection_each_and_work_by_the_clock() {
    is_silent(rotation(queue_pool(), list(), &[1_500, 2_300, 1_200, 4_100]));
}

/// Guard: after a pause not always the same one begins.
#[test]
fn workers_keep_a_connection_each_and_work_by_a_signal() {
    let signals = [100, 100, 100, 4_000, 100, 100, 100, 9_000];
    is_silent(rotation(queue_pool(), list(), &signals));
}

/// Guard: those in turn were used by the same code.
#[test]
fn the_connections_of_another_pool_are_used_in_turn() {
    let mut scene = Scene::default();
    scene.process(0, APP, queue_pool());
    let mut other = scene.open(1_000, APP);
    used(&mut scene, 1_020, &mut other, audit());
    let mut conns = opened(&mut scene, 4, 1_500);
    in_turn(&mut scene, &mut conns, 5_000, 20, &GAPS);
    scene.tick(70_000);
    is_silent(scene);
}

/// Guard: each in its turn.
#[test]
fn workers_keep_a_connection_each_and_work_as_it_comes() {
    let mut scene = Scene::default();
    scene.process(0, APP, queue_pool());
    let mut conns = opened(&mut scene, 5, 1_000);
    let order = [0, 1, 2, 3, 1, 0, 2, 3, 3, 2, 0, 1, 0, 3, 1, 2, 2, 0, 1, 3, 0, 2];
    let mut at = 5_000;
    for (turn, index) in order.into_iter().enumerate() {
        used(&mut scene, at, &mut conns[index], list());
        at += GAPS[turn % GAPS.len()];
    }
    scene.tick(80_000);
    is_silent(scene);
}
