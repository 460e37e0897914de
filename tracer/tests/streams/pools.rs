//! Golden streams about what goes back to pools: returns inside a transaction, pools that nothing
//! uses any more, and what was taken before a pool was observed; and their healthy twins.

use tracer::model::{Event, Existing, FrameKind, Runtime, Stack, StackEvent, TxStatus};

use super::scene::{Conn, Scene, frame, ms, seen};

const GO: u32 = 5_200;
const NODE: u32 = 4_100;
const PYTHON: u32 = 6_300;

const POOL: &str = "database/sql";
const OBSERVED: &[(&str, bool)] = &[(POOL, true)];
/// What asyncpg sends when a connection comes back.
const RESET: &str = "SELECT pg_advisory_unlock_all(); CLOSE ALL; UNLISTEN *; RESET ALL;";

fn go(scene: &mut Scene) {
    scene.process(0, GO, seen("billing", Runtime::Go, OBSERVED));
}

fn taken_by(function: &str, line: u32) -> Stack {
    let driver = "/go/src/database/sql/sql.go";
    Stack {
        frames: vec![
            frame("database/sql.(*DB).conn", driver, 1_415, FrameKind::Driver),
            frame(function, "/srv/billing/invoices.go", line, FrameKind::App),
        ],
        truncated: None,
    }
}

fn status(scene: &mut Scene, at: u64, conn: &mut Conn, status: TxStatus) {
    scene.tell(at, conn, |state| {
        state.status = Some(status);
        state.bytes_sent += 20;
    });
}

/// Taken, begun by hand, and given back 40 ms later.
fn begun(scene: &mut Scene, at: u64, conn: &mut Conn) {
    scene.acquire(at, conn, POOL);
    scene.query(at + 5, conn, "UPDATE stock SET left = left - $1");
    status(scene, at + 7, conn, TxStatus::InTransaction);
}

/// Three went back inside a transaction: one is silent, one has failed, and one was taken by
/// somebody else, who works in it all the time.
pub fn returned_in_transaction() -> Vec<Event> {
    let mut scene = Scene::default();
    go(&mut scene);
    let reserve = || taken_by("main.(*stock).reserve", 44);
    let [mut silent, mut failed, mut busy] = [1_000, 1_100, 1_200].map(|at| scene.open(at, GO));
    for (at, conn) in [(2_000, &mut silent), (2_100, &mut failed), (2_200, &mut busy)] {
        begun(&mut scene, at, conn);
        scene.release(at + 40, conn);
        scene.stack(at + 1_500, conn, StackEvent::Acquire, 1, reserve());
    }
    status(&mut scene, 2_139, &mut failed, TxStatus::Failed);
    scene.acquire(5_000, &mut busy, POOL);
    for at in (5_300..60_000).step_by(900) {
        scene.query(at, &mut busy, "SELECT amount FROM invoices WHERE customer = $1");
        scene.tell(at + 3, &mut busy, |state| state.bytes_sent += 50);
        if at == 30_500 {
            scene.release(at + 10, &mut busy);
            scene.acquire(at + 20, &mut busy, POOL);
        }
    }
    scene.tick(60_000);
    scene.sorted()
}

/// One that the pool rolls back after the return, one that it closes, one that the next user ends,
/// one that was used again before anybody looked, and one given back a moment ago.
pub fn healthy_returned() -> Vec<Event> {
    let mut scene = Scene::default();
    go(&mut scene);
    let mut conns = [1_000, 1_100, 1_200, 1_300, 1_400].map(|at| scene.open(at, GO));
    for (at, conn) in [2_000, 2_100, 2_200, 2_300, 40_000].into_iter().zip(&mut conns) {
        begun(&mut scene, at, conn);
        scene.release(at + 40, conn);
    }
    let [rolled_back, closed, ended, used, _] = &mut conns;
    scene.query(2_050, rolled_back, "ROLLBACK");
    status(&mut scene, 2_052, rolled_back, TxStatus::Idle);
    scene.close(2_150, closed);
    scene.acquire(3_000, ended, POOL);
    scene.query(3_010, ended, "ROLLBACK");
    status(&mut scene, 3_012, ended, TxStatus::Idle);
    scene.release(3_020, ended);
    // Between two looks it was rolled back, and a transaction of its next user was begun.
    scene.tell(2_500, used, |state| {
        state.bytes_sent += 90;
        if let Some(checkout) = &mut state.checkout {
            (checkout.held, checkout.acquired_at, checkout.count) = (true, Some(ms(2_499)), 2);
        }
    });
    for at in (2_501..45_000).step_by(900) {
        scene.query(at, used, "SELECT 1");
        scene.tell(at + 2, used, |state| state.bytes_sent += 90);
    }
    scene.tick(45_000);
    scene.sorted()
}

/// A pool for each request: each connection was given back and never used again.
pub fn abandoned_pool() -> Vec<Event> {
    let mut scene = Scene::default();
    go(&mut scene);
    own_pools(&mut scene, 8, 6_000);
    shared_pool(&mut scene);
    scene.tick(90_000);
    scene.sorted()
}

/// So many pools of their own, this far apart, from one line.
fn own_pools(scene: &mut Scene, pools: u64, apart: u64) -> Vec<Conn> {
    let request = |n: u64| {
        let at = 1_000 + n * apart;
        let mut conn = scene.open(at, GO);
        scene.acquire(at + 15, &mut conn, POOL);
        scene.query(at + 20, &mut conn, "SELECT rate FROM currencies WHERE name = $1");
        scene.release(at + 30, &mut conn);
        scene.stack(at + 1_500, &conn, StackEvent::Open, 0, taken_by("main.rate", 12));
        conn
    };
    (0..pools).map(request).collect()
}

/// The pool that the rest of the same program uses, with a connection that idles at its bottom.
fn shared_pool(scene: &mut Scene) {
    for (n, end) in [(0, 3_000), (1, 90_000)] {
        let mut conn = scene.open(500 + n, GO);
        for at in (600 + n..end).step_by(700) {
            scene.acquire(at, &mut conn, POOL);
            scene.query(at + 2, &mut conn, "SELECT 1");
            scene.release(at + 8, &mut conn);
        }
        scene.stack(2_000, &conn, StackEvent::Open, 0, taken_by("main.main", 90));
    }
}

/// A pool for each scrape that opens four and uses one, and says so when that comes back.
fn filled_pools(scene: &mut Scene, pools: u64, threads: u32) {
    scene.process(0, PYTHON, seen("python3", Runtime::Python, &[]));
    for n in 0..pools {
        let at = 1_000 + n * 9_000;
        let tid = Some(PYTHON + n as u32 % threads);
        let mut conns = [0, 15, 30, 45].map(|after| scene.open_by(at + after, PYTHON, tid));
        scene.query(at + 100, &mut conns[3], "SELECT count(*) FROM jobs");
        scene.query(at + 120, &mut conns[3], RESET);
    }
}

pub fn abandoned_pool_filled() -> Vec<Event> {
    let mut scene = Scene::default();
    filled_pools(&mut scene, 6, 1);
    scene.tick(90_000);
    scene.sorted()
}

/// Each by a thread of its own: every thread may keep one.
pub fn abandoned_pool_by_threads() -> Vec<Event> {
    let mut scene = Scene::default();
    filled_pools(&mut scene, 6, 100);
    scene.tick(90_000);
    scene.sorted()
}

/// `pool.query` of a new pool each time: the driver sends it when the connection is ready.
pub fn abandoned_pool_of_the_driver() -> Vec<Event> {
    let mut scene = Scene::default();
    scene.process(0, NODE, seen("node", Runtime::Node, &[]));
    let client = "/srv/shop/node_modules/pg/lib/client.js";
    for n in 0..9 {
        let at = 1_000 + n * 5_000;
        let mut conn = scene.open(at, NODE);
        scene.query(at + 12, &mut conn, "SELECT 1");
        let frames = vec![
            frame("_pulseQueryQueue", client, 616, FrameKind::Driver),
            frame("_handleReadyForQuery", client, 373, FrameKind::Driver),
            frame("readableAddChunk", "node:internal/streams/readable", 463, FrameKind::Runtime),
        ];
        let truncated = Some("only 4096 bytes of stack were copied".to_owned());
        scene.used_by(at + 1_100, &conn, Stack { frames, truncated });
    }
    scene.tick(90_000);
    scene.sorted()
}

/// Five pools that a program makes when it starts, each tried once.
pub fn healthy_pools_at_the_start() -> Vec<Event> {
    let mut scene = Scene::default();
    go(&mut scene);
    own_pools(&mut scene, 5, 4_000);
    shared_pool(&mut scene);
    scene.tick(90_000);
    scene.sorted()
}

/// A pool for each of eight databases, made when first asked for.
pub fn healthy_pool_for_each_database() -> Vec<Event> {
    let mut scene = Scene::default();
    go(&mut scene);
    for (n, conn) in own_pools(&mut scene, 8, 6_000).iter_mut().enumerate() {
        let at = 1_031 + n as u64 * 6_000;
        scene.tell(at, conn, |state| state.database = Some(format!("tenant_{n}")));
    }
    scene.tick(90_000);
    scene.sorted()
}

/// Pools with one data source that are each used, if rarely.
pub fn healthy_pools_used_rarely() -> Vec<Event> {
    let mut scene = Scene::default();
    go(&mut scene);
    let mut conns = own_pools(&mut scene, 8, 6_000);
    let conn = &mut conns[7];
    scene.acquire(75_000, conn, POOL);
    scene.query(75_002, conn, "SELECT rate FROM currencies WHERE name = $1");
    scene.release(75_010, conn);
    scene.tick(110_000);
    scene.sorted()
}

/// A pool made again each time the server restarts; the last ones were only closed by the server.
pub fn healthy_pool_made_again() -> Vec<Event> {
    let mut scene = Scene::default();
    go(&mut scene);
    for (n, mut conn) in (0..).zip(own_pools(&mut scene, 8, 10_000)) {
        if n < 5 {
            scene.close(1_000 + (n + 1) * 10_000 - 500, &conn);
        } else if n < 7 {
            scene.tell(1_000 + (n + 1) * 10_000 - 500, &mut conn, |state| state.peer_closed = true);
        }
    }
    scene.tick(120_000);
    scene.sorted()
}

/// Connections retired one by one, each replaced by a new one that idles.
pub fn healthy_pool_retires() -> Vec<Event> {
    let mut scene = Scene::default();
    go(&mut scene);
    let old: Vec<_> = (0..5).map(|n| scene.open(100 + n, GO)).collect();
    own_pools(&mut scene, 5, 12_000);
    for (n, conn) in (0..).zip(&old) {
        scene.close(1_000 + n * 12_000 - 900, conn);
    }
    scene.tick(95_000);
    scene.sorted()
}

/// Filled at the start and topped up whenever idle ones run short: some are never used.
pub fn healthy_pool_with_a_reserve() -> Vec<Event> {
    let mut scene = Scene::default();
    scene.process(0, PYTHON, seen("java", Runtime::Java, &[]));
    let mut out = Vec::new();
    for n in 0..6 {
        let at = 1_000 + n * 8_000;
        for after in [0, 15] {
            let conn = scene.open_by(at + after, PYTHON, Some(PYTHON + 9));
            out.push(conn);
        }
        // Load grows: all but the newest are out when more are opened.
        let busy = out.len() - 1;
        for conn in &mut out[..busy] {
            scene.query(at + 7_900, conn, "SELECT 1");
        }
    }
    scene.tick(95_000);
    scene.sorted()
}

/// A reserve that is filled one by one, for longer than the threshold, and never needed.
pub fn healthy_pool_fills_slowly() -> Vec<Event> {
    let mut scene = Scene::default();
    scene.process(0, PYTHON, seen("java", Runtime::Java, &[]));
    for n in 0..10 {
        scene.open_by(1_000 + n * 5_000, PYTHON, Some(PYTHON + 9));
    }
    scene.tick(95_000);
    scene.sorted()
}

/// A leak began between the start of the program and the probes: it is suspected; what the same
/// line took afterwards is proven, and a word about what existed before stands with it.
pub fn leak_before_the_probes() -> Vec<Event> {
    let mut scene = Scene::default();
    scene.process(0, GO, seen("billing", Runtime::Go, &[]));
    early_leaks(&mut scene);
    scene.process(9_000, GO, seen("billing", Runtime::Go, OBSERVED));
    scene.tick(60_000);
    scene.sorted()
}

fn early_leaks(scene: &mut Scene) {
    for n in 0..4 {
        let at = 1_000 + n * 2_500;
        let mut conn = scene.open(at, GO);
        if at > 8_000 {
            // The pool opens because the others are out.
            scene.acquire(at + 15, &mut conn, POOL);
        }
        scene.query(at + 20, &mut conn, "SELECT amount FROM invoices WHERE customer = $1");
        scene.used_by(at + 1_500, &conn, taken_by("main.(*billing).total", 31));
        if at > 8_000 {
            scene.release(at + 40, &mut conn);
        }
    }
}

/// The same early leaks beside proven ones.
pub fn leak_with_suspicions_from_before() -> Vec<Event> {
    let mut scene = Scene::default();
    scene.process(0, GO, seen("billing", Runtime::Go, &[]));
    for ago in [90_000_000_000, 300_000_000_000] {
        let existing = Existing { last_send_ago: Some(ago), last_recv_ago: Some(ago - 2_000_000) };
        scene.bare(0, GO, None, Some(existing));
    }
    early_leaks(&mut scene);
    scene.process(8_000, GO, seen("billing", Runtime::Go, OBSERVED));
    for n in 0..4 {
        let at = 12_000 + n * 4_000;
        let mut conn = scene.open(at, GO);
        scene.acquire(at + 20, &mut conn, POOL);
        scene.query(at + 25, &mut conn, "SELECT amount FROM invoices WHERE customer = $1");
        let total = taken_by("main.(*billing).total", 31);
        scene.stack(at + 1_500, &conn, StackEvent::Acquire, 1, total);
    }
    scene.tick(60_000);
    scene.sorted()
}

/// A pool that was filled before its probes were attached: some of it is used afterwards, the
/// bottom is not, and more is opened only while all of it is out.
pub fn healthy_before_the_probes() -> Vec<Event> {
    let mut scene = Scene::default();
    scene.process(0, GO, seen("billing", Runtime::Go, &[]));
    let mut conns: Vec<_> = (0..5).map(|n| scene.open(1_000 + n * 10, GO)).collect();
    for conn in &mut conns {
        scene.query(1_100, conn, "SELECT 1");
    }
    scene.process(2_000, GO, seen("billing", Runtime::Go, OBSERVED));
    for at in (3_000..80_000).step_by(900) {
        scene.acquire(at, &mut conns[4], POOL);
        scene.query(at + 2, &mut conns[4], "SELECT 1");
        scene.release(at + 8, &mut conns[4]);
    }
    scene.tick(80_000);
    scene.sorted()
}
