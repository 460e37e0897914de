//! The golden streams: each verdict and its healthy twins.
//!
//! Each function writes one stream; its name is the file's.

use tracer::model::{
    Costs, Event, Existing, Frame, FrameKind, NamingCosts, ProgramCosts, Runtime, Stack,
    StackEvent, Statement, TxStatus, WirePhase,
};

use super::scene::{Conn, Scene, frame, ms, seen, stack};
use super::{holders, pools};

const NODE: u32 = 4_100;
const GO: u32 = 5_200;
const PYTHON: u32 = 6_300;

/// Name, what it is, and the stream.
pub type Scenario = (&'static str, fn() -> Vec<Event>);

pub const SCENARIOS: &[Scenario] = &[
    ("leak_observed", leak_observed),
    ("leak_observed_lost", leak_observed_lost),
    ("leak_observed_exit", leak_observed_exit),
    ("leak_inferred", leak_inferred),
    ("leak_inferred_burst", leak_inferred_burst),
    ("leak_inferred_costs", leak_inferred_costs),
    ("leak_inferred_once", leak_inferred_once),
    ("leak_or_another_pool", leak_or_another_pool),
    ("healthy_another_pool_takes_over", healthy_another_pool_takes_over),
    ("leak_inferred_tls", leak_inferred_tls),
    ("leak_unread", leak_unread),
    ("leak_unread_and_read", leak_unread_and_read),
    ("leak_unread_inferred", leak_unread_inferred),
    ("leak_before_the_watch", leak_before_the_watch),
    ("leak_without_names", leak_without_names),
    ("idle_in_transaction", idle_in_transaction),
    ("leak_in_transaction", leak_in_transaction),
    ("leak_in_a_pool_of_known_size", leak_in_a_pool_of_known_size),
    ("held_by_threads", holders::held_by_threads),
    ("held_by_deep_threads", holders::held_by_deep_threads),
    ("held_by_goroutines", holders::held_by_goroutines),
    ("never_used", never_used),
    ("long_query", long_query),
    ("long_query_with_notices", long_query_with_notices),
    ("pool_too_small", pool_too_small),
    ("leak_with_waiters", leak_with_waiters),
    ("leak_in_a_small_pool", leak_in_a_small_pool),
    ("leak_beside_a_small_pool", leak_beside_a_small_pool),
    ("pool_too_small_out_of_turn", pool_too_small_out_of_turn),
    ("pool_too_small_short_lived", pool_too_small_short_lived),
    ("long_query_with_waiters", long_query_with_waiters),
    ("leak_before_a_small_pool", leak_before_a_small_pool),
    ("hostile_names", hostile_names),
    ("nothing", nothing),
    ("healthy_observed", healthy_observed),
    ("healthy_slow_consumer", healthy_slow_consumer),
    ("healthy_late_answer", healthy_late_answer),
    ("healthy_lifo_after_burst", healthy_lifo_after_burst),
    ("healthy_pause", healthy_pause),
    ("healthy_prefill", healthy_prefill),
    ("healthy_prefill_slow", healthy_prefill_slow),
    ("healthy_thread_local", healthy_thread_local),
    ("healthy_replaced", healthy_replaced),
    ("healthy_two_databases", healthy_two_databases),
    ("healthy_two_databases_each", healthy_two_databases_each),
    ("healthy_two_pools", healthy_two_pools),
    ("healthy_rare_speaker", healthy_rare_speaker),
    ("healthy_asyncpg", healthy_asyncpg),
    ("healthy_on_purpose", healthy_on_purpose),
    ("healthy_pooler", healthy_pooler),
    ("healthy_existing", healthy_existing),
    ("healthy_existing_unix", healthy_existing_unix),
    ("healthy_refill", healthy_refill),
    ("healthy_prefill_jdbc", healthy_prefill_jdbc),
    ("healthy_refill_jdbc", healthy_refill_jdbc),
    ("healthy_two_kept", healthy_two_kept),
    ("healthy_settings_last", healthy_settings_last),
    ("never_used_jdbc", never_used_jdbc),
    ("healthy_short_lived", healthy_short_lived),
    ("healthy_cancel_request", healthy_cancel_request),
    ("returned_in_transaction", pools::returned_in_transaction),
    ("abandoned_pool", pools::abandoned_pool),
    ("abandoned_pool_filled", pools::abandoned_pool_filled),
    ("abandoned_pool_by_threads", pools::abandoned_pool_by_threads),
    ("abandoned_pool_of_the_driver", pools::abandoned_pool_of_the_driver),
    ("leak_before_the_probes", pools::leak_before_the_probes),
    ("leak_with_suspicions_from_before", pools::leak_with_suspicions_from_before),
    ("healthy_returned", pools::healthy_returned),
    ("healthy_pools_at_the_start", pools::healthy_pools_at_the_start),
    ("healthy_pool_for_each_database", pools::healthy_pool_for_each_database),
    ("healthy_pools_used_rarely", pools::healthy_pools_used_rarely),
    ("healthy_pool_made_again", pools::healthy_pool_made_again),
    ("healthy_pool_retires", pools::healthy_pool_retires),
    ("healthy_pool_with_a_reserve", pools::healthy_pool_with_a_reserve),
    ("healthy_pool_fills_slowly", pools::healthy_pool_fills_slowly),
    ("healthy_before_the_probes", pools::healthy_before_the_probes),
    ("healthy_waits", healthy_waits),
    ("healthy_server_full", healthy_server_full),
    ("healthy_waits_undecided", healthy_waits_undecided),
    ("healthy_waits_for_jobs", healthy_waits_for_jobs),
];

fn node(scene: &mut Scene) {
    scene.process(0, NODE, seen("node", Runtime::Node, &[("pg-pool", false)]));
}

fn python(scene: &mut Scene) {
    scene.process(0, PYTHON, seen("python3", Runtime::Python, &[]));
}

fn get_user() -> Stack {
    stack("getUser", "/srv/shop/handlers.js", 9)
}

fn list_orders() -> Stack {
    stack("listOrders", "/srv/shop/handlers.js", 21)
}

/// A connection in steady use until `end`.
fn busy(scene: &mut Scene, conn: &mut Conn, from: u64, end: u64) {
    for at in (from..end).step_by(800) {
        scene.query(at, conn, "SELECT id, total FROM orders WHERE user_id = $1");
    }
}

/// Seven checkouts of `database/sql`, five not given back.
fn leak_observed() -> Vec<Event> {
    let mut scene = Scene::default();
    go(&mut scene);
    scene.tick(60_000);
    scene.sorted()
}

/// The same in a pool whose maximum was read.
fn leak_in_a_pool_of_known_size() -> Vec<Event> {
    let mut scene = Scene::default();
    go(&mut scene);
    scene.pool_size(40_000, GO, ("database/sql", 1), Some(30));
    scene.tick(60_000);
    scene.sorted()
}

fn go(scene: &mut Scene) {
    scene.process(0, GO, seen("billing", Runtime::Go, &[("database/sql", true)]));
    for n in 0..7u64 {
        let at = 1_000 + n * 2_500;
        let mut conn = scene.open(at, GO);
        scene.acquire(at + 20, &mut conn, "database/sql");
        scene.query(
            at + 25,
            &mut conn,
            "SELECT amount, currency FROM invoices WHERE customer = $1",
        );
        let taken = Stack {
            frames: vec![
                frame(
                    "database/sql.(*DB).conn",
                    "/go/src/database/sql/sql.go",
                    1_415,
                    FrameKind::Driver,
                ),
                frame(
                    "main.(*billing).invoiceTotal",
                    "/srv/billing/invoices.go",
                    31,
                    FrameKind::App,
                ),
                frame("main.main.func1", "/srv/billing/main.go", 71, FrameKind::App),
            ],
            truncated: None,
        };
        if n < 5 {
            scene.stack(at + 1_500, &conn, StackEvent::Acquire, 1, taken);
        } else {
            scene.release(at + 40, &mut conn);
        }
    }
}

fn leak_observed_lost() -> Vec<Event> {
    let mut scene = Scene::default();
    go(&mut scene);
    scene.lost(20_000, "ring_full", 3);
    scene.lost(20_000, "no_stack_slot", 1);
    scene.tick(60_000);
    scene.sorted()
}

/// The process ends while it leaks.
fn leak_observed_exit() -> Vec<Event> {
    let mut scene = Scene::default();
    go(&mut scene);
    scene.exit(50_000, GO);
    scene.tick(60_000);
    scene.sorted()
}

/// Every 4 s an early return of `getUser` keeps the pool's only idle connection, and the next
/// request opens a new one. The last one left belongs to the finding by its path.
fn leak(scene: &mut Scene, times: u64) {
    let mut conn = scene.open(1_000, NODE);
    for n in 0..times {
        let lost_at = 4_000 + n * 4_000;
        let from = if n == 0 { 1_020 } else { lost_at - 4_000 + 50 };
        busy(scene, &mut conn, from, lost_at - 50);
        scene.query(lost_at, &mut conn, "SELECT id, name FROM users WHERE id = $1");
        scene.used_by(lost_at + 1_100, &conn, get_user());
        conn = scene.open(lost_at + 35, NODE);
    }
    let last = 4_000 + (times - 1) * 4_000;
    busy(scene, &mut conn, last + 50, 60_000);
}

fn leak_inferred() -> Vec<Event> {
    let mut scene = Scene::default();
    node(&mut scene);
    leak(&mut scene, 5);
    scene.tick(60_000);
    scene.sorted()
}

/// The same, and what watching has cost.
fn leak_inferred_costs() -> Vec<Event> {
    let mut events = leak_inferred();
    let mut node = NamingCosts::none(Some(Runtime::Node));
    for (is_first, nanos) in [(true, 24_150_000), (false, 480_000), (false, 620_000)] {
        node.count(is_first, nanos);
    }
    let mut java = NamingCosts::none(Some(Runtime::Java));
    java.count(true, 61_000_000);
    events.push(Event::Costs {
        at: ms(60_001),
        costs: Costs {
            processor_nanos: 412_000_000,
            resident_bytes: Some(39_321_600),
            programs: Some(ProgramCosts { runs: 1_250_000, nanos: 431_000_000 }),
            naming: vec![node, java],
        },
    });
    events
}

/// Seven in less than half a second, then calm: nothing opens a connection after the last.
fn leak_inferred_burst() -> Vec<Event> {
    let mut scene = Scene::default();
    node(&mut scene);
    for n in 0..7 {
        let at = 1_000 + n * 60;
        let mut conn = scene.open(at, NODE);
        scene.query(at + 12, &mut conn, "SELECT id, name FROM users WHERE id = $1");
        scene.used_by(2_600, &conn, get_user());
    }
    scene.tick(60_000);
    scene.sorted()
}

/// A line that others call uses a pool, and from some time on another one with the same user and
/// database.
fn healthy_another_pool_takes_over() -> Vec<Event> {
    all_at_once(false)
}

/// The same, but one of those that were there before is used on: by whom is not known yet.
fn leak_or_another_pool() -> Vec<Event> {
    all_at_once(true)
}

fn all_at_once(one_goes_on: bool) -> Vec<Event> {
    let mut scene = Scene::default();
    python(&mut scene);
    let view = || stack("view", "/srv/app/views.py", 40);
    if one_goes_on {
        let mut conn = scene.open(900, PYTHON);
        busy(&mut scene, &mut conn, 1_000, 60_000);
    }
    for start in [1_000, 20_000] {
        for n in 0..3 {
            let mut conn = scene.open(start + n * 10, PYTHON);
            scene.query(start + 100, &mut conn, "SELECT 1");
            scene.used_by(start + 1_200, &conn, view());
            if start > 1_000 {
                scene.query(55_000, &mut conn, "SELECT 1");
                scene.used_by(56_200, &conn, view());
            }
        }
    }
    scene.tick(60_000);
    scene.sorted()
}

/// One connection, passed over by two opens of other code: a suspect.
fn leak_inferred_once() -> Vec<Event> {
    let mut scene = Scene::default();
    node(&mut scene);
    let mut lost = scene.open(1_000, NODE);
    scene.query(1_020, &mut lost, "SELECT id, name FROM users WHERE id = $1");
    scene.used_by(2_200, &lost, get_user());
    let mut conn = scene.open(3_000, NODE);
    busy(&mut scene, &mut conn, 3_020, 60_000);
    scene.tick(60_000);
    scene.sorted()
}

fn leak_inferred_tls() -> Vec<Event> {
    let mut scene = Scene::default();
    node(&mut scene);
    for n in 0..3 {
        let at = 1_000 + n * 8_000;
        let mut conn = scene.bare(at, NODE, Some(NODE), None);
        scene.encrypted_use(at + 20, &mut conn);
        scene.used_by(at + 1_200, &conn, get_user());
    }
    scene.tick(60_000);
    scene.sorted()
}

/// Two connections were silent before the watch began; then the process opens another.
fn leak_before_the_watch() -> Vec<Event> {
    let mut scene = Scene::default();
    node(&mut scene);
    for ago in [90_000_000_000, 300_000_000_000] {
        let existing = Existing { last_send_ago: Some(ago), last_recv_ago: Some(ago - 2_000_000) };
        scene.bare(0, NODE, None, Some(existing));
    }
    let mut conn = scene.open(10_000, NODE);
    busy(&mut scene, &mut conn, 10_020, 40_000);
    scene.tick(40_000);
    scene.sorted()
}

/// Each connection is taken because the one before is out; frames have no names here.
fn leak_without_names() -> Vec<Event> {
    let mut scene = Scene::default();
    node(&mut scene);
    for n in 0..5 {
        let at = 1_000 + n * 8_000;
        let mut conn = scene.open(at, NODE);
        scene.query(at + 20, &mut conn, "SELECT 1");
        let nameless =
            Frame { symbol: None, module: None, kind: FrameKind::Unknown, inlined: false };
        let frames =
            vec![frame("uv_write2", "src/unix/stream.c", 1_385, FrameKind::Runtime), nameless];
        let truncated = Some("the stack copy ends here".to_owned());
        scene.used_by(at + 1_200, &conn, Stack { frames, truncated });
    }
    scene.tick(60_000);
    scene.sorted()
}

fn in_transaction(scene: &mut Scene, at: u64, conn: &mut Conn, status: TxStatus) {
    scene.query(at, conn, "UPDATE stock SET left = left - $1 WHERE id = $2");
    scene.tell(at + 3, conn, |state| state.status = Some(status));
    scene.used_by(at + 1_200, conn, stack("reserve", "/srv/shop/stock.js", 77));
}

fn idle_in_transaction() -> Vec<Event> {
    let mut scene = Scene::default();
    node(&mut scene);
    let mut one = scene.open(1_000, NODE);
    let mut two = scene.open(1_200, NODE);
    in_transaction(&mut scene, 2_000, &mut one, TxStatus::InTransaction);
    in_transaction(&mut scene, 2_100, &mut two, TxStatus::Failed);
    // Moves on before the threshold: no finding.
    let mut slow = scene.open(1_300, NODE);
    in_transaction(&mut scene, 2_200, &mut slow, TxStatus::InTransaction);
    scene.query(25_000, &mut slow, "COMMIT");
    scene.tell(25_003, &mut slow, |state| state.status = Some(TxStatus::InTransaction));
    scene.tick(45_000);
    scene.sorted()
}

/// Held, observed, and in a transaction: the leak is the cause.
fn leak_in_transaction() -> Vec<Event> {
    let mut scene = Scene::default();
    scene.process(0, GO, seen("billing", Runtime::Go, &[("database/sql", true)]));
    let mut conn = scene.open(1_000, GO);
    scene.acquire(1_020, &mut conn, "database/sql");
    in_transaction(&mut scene, 1_030, &mut conn, TxStatus::InTransaction);
    scene.tick(45_000);
    scene.sorted()
}

fn never_used() -> Vec<Event> {
    let mut scene = Scene::default();
    node(&mut scene);
    for at in [1_000, 9_000] {
        let conn = scene.open(at, NODE);
        scene.stack(at + 1_200, &conn, StackEvent::Open, 0, stack("warmUp", "/srv/shop/db.js", 14));
    }
    let mut conn = scene.open(17_000, NODE);
    busy(&mut scene, &mut conn, 17_020, 60_000);
    scene.tick(60_000);
    scene.sorted()
}

fn long_query() -> Vec<Event> {
    let mut scene = Scene::default();
    scene.process(0, GO, seen("billing", Runtime::Go, &[("database/sql", true)]));
    let mut conn = scene.open(1_000, GO);
    scene.acquire(1_020, &mut conn, "database/sql");
    scene.tell(1_030, &mut conn, |state| {
        state.last_send = Some(ms(1_030));
        state.active = Some(true);
        state.uses = 1;
        state.statements = 1;
        let text = "SELECT report($1, $2)".to_owned();
        state.last_statement = Some(Statement::Sql { text, cut: false });
    });
    scene.tick(45_000);
    scene.sorted()
}

/// A function that raises notices while it works: each waits until the client reads it.
fn long_query_with_notices() -> Vec<Event> {
    let mut scene = Scene::default();
    let mut conn = export(&mut scene, GO, 1_000);
    for at in [12_000, 43_000] {
        scene.unread(at, &conn, 96);
        scene.read(at + 1, &mut conn, 96);
    }
    scene.tick(75_000);
    scene.sorted()
}

/// A checkout of `database/sql` that asks for more than fits a socket, and its line.
fn export(scene: &mut Scene, pid: u32, at: u64) -> Conn {
    scene.process(0, pid, seen("billing", Runtime::Go, &[("database/sql", true)]));
    let mut conn = scene.open(at, pid);
    scene.acquire(at + 20, &mut conn, "database/sql");
    scene.ask(at + 25, &mut conn, "SELECT line FROM ledger ORDER BY id");
    scene.stack(at + 1_500, &conn, StackEvent::Acquire, 1, export_line());
    conn
}

fn export_line() -> Stack {
    let driver = "/go/src/database/sql/sql.go";
    Stack {
        frames: vec![
            frame("database/sql.(*DB).conn", driver, 1_415, FrameKind::Driver),
            frame("main.(*billing).export", "/srv/billing/export.go", 22, FrameKind::App),
        ],
        truncated: None,
    }
}

/// Three that read the first rows and went away; the server has sent what the sockets take.
fn leak_unread() -> Vec<Event> {
    let mut scene = Scene::default();
    for (n, bytes) in [(0, 148_480), (1, 130_001), (2, 65_536)] {
        let at = 1_000 + n * 2_500;
        let mut conn = export(&mut scene, GO, at);
        scene.read(at + 30, &mut conn, 4_096);
        // The first rows are there at the first look, the rest at the next.
        scene.unread(at + 1_250, &conn, 8_192);
        scene.unread(at + 31_500, &conn, bytes);
    }
    scene.tick(60_000);
    scene.sorted()
}

/// The same line, with results of both kinds: two were whole in the first receive.
fn leak_unread_and_read() -> Vec<Event> {
    let mut scene = Scene::default();
    for n in 0..5u64 {
        let at = 1_000 + n * 2_500;
        let mut conn = export(&mut scene, GO, at);
        scene.read(at + 30, &mut conn, 4_096);
        if n < 2 {
            scene.tell(at + 30, &mut conn, |state| state.active = Some(false));
        } else {
            scene.unread(at + 1_250, &conn, 70_000);
            scene.unread(at + 31_500, &conn, 70_000);
        }
    }
    scene.tick(60_000);
    scene.sorted()
}

/// No pool is known: it may be a client that is still busy with the rows it has.
fn leak_unread_inferred() -> Vec<Event> {
    let mut scene = Scene::default();
    scene.process(0, PYTHON, seen("loader", Runtime::Native, &[]));
    let mut conn = scene.open(1_000, PYTHON);
    scene.ask(1_020, &mut conn, "SELECT line FROM ledger ORDER BY id");
    scene.read(1_040, &mut conn, 16_384);
    scene.unread(2_250, &conn, 148_480);
    scene.used_by(31_500, &conn, stack("load", "/srv/loader/load.c", 48));
    scene.unread(32_500, &conn, 148_480);
    scene.tick(60_000);
    scene.sorted()
}

/// A row every 20 s: bytes wait unread at every look, and are read in their turn.
fn healthy_slow_consumer() -> Vec<Event> {
    let mut scene = Scene::default();
    for pid in [GO, NODE] {
        let mut conn = export(&mut scene, pid, 1_000);
        for n in 0..6 {
            let at = 1_040 + n * 20_000;
            scene.read(at, &mut conn, 4_096);
            scene.unread(at + 1_250, &conn, 148_480);
            // Just before it reads on.
            scene.unread(at + 19_900, &conn, 148_480);
        }
    }
    scene.tick(125_000);
    scene.sorted()
}

/// The answer of a long query is there, and the client was not given the processor yet.
fn healthy_late_answer() -> Vec<Event> {
    let mut scene = Scene::default();
    let conn = export(&mut scene, GO, 1_000);
    scene.unread(44_000, &conn, 2_048);
    scene.tick(45_000);
    scene.sorted()
}

/// Names and statements that try to steer the terminal, the page and the log.
fn hostile_names() -> Vec<Event> {
    let mut scene = Scene::default();
    let comm = "no\x1b]0;x\x07de\n::error::";
    scene.process(0, GO, seen(comm, Runtime::Go, &[("<b>\u{202e}pool", true)]));
    let mut conn = scene.open(1_000, GO);
    scene.acquire(1_020, &mut conn, "<script>\u{202e}pool");
    let sql = "SELECT \"\x1b[2J\u{2066}\" FROM t";
    scene.query(1_030, &mut conn, sql);
    let function = format!("{}\x1b[31m{}", "f".repeat(100), "g".repeat(100));
    let file = format!("/srv/{}\r\n/x.js", "\u{202e}d".repeat(60));
    scene.stack(2_200, &conn, StackEvent::Acquire, 1, stack(&function, &file, 1));
    scene.tick(45_000);
    scene.sorted()
}

fn nothing() -> Vec<Event> {
    let mut scene = Scene::default();
    scene.tick(60_000);
    scene.sorted()
}

fn healthy_observed() -> Vec<Event> {
    let mut scene = Scene::default();
    scene.process(0, GO, seen("billing", Runtime::Go, &[("database/sql", true)]));
    for n in 0..5 {
        let mut conn = scene.open(1_000 + n, GO);
        scene.acquire(1_020 + n, &mut conn, "database/sql");
        scene.query(1_030 + n, &mut conn, "SELECT 1");
        scene.release(1_040 + n, &mut conn);
    }
    // Taken again just now, and silent on the wire for long.
    let mut conn = scene.open(2_000, GO);
    scene.acquire(59_000, &mut conn, "database/sql");
    scene.tick(60_000);
    scene.sorted()
}

/// Eleven at once, then one at a time: the bottom ones stay silent.
fn healthy_lifo_after_burst() -> Vec<Event> {
    let mut scene = Scene::default();
    node(&mut scene);
    let mut conns: Vec<_> = (0..11).map(|n| scene.open(1_000 + n * 20, NODE)).collect();
    for (n, conn) in (0..).zip(&mut conns) {
        scene.query(1_400 + n * 3, conn, "SELECT 1");
        scene.used_by(2_600 + n, conn, list_orders());
    }
    busy(&mut scene, &mut conns[10], 1_500, 60_000);
    scene.tick(60_000);
    scene.sorted()
}

/// Three requests at once pause after their query, give the connection back without a byte, and
/// then it is calm.
fn healthy_pause() -> Vec<Event> {
    let mut scene = Scene::default();
    node(&mut scene);
    for n in 0..3 {
        let at = 1_000 + n * 60;
        let mut conn = scene.open(at, NODE);
        scene.query(at + 12, &mut conn, "SELECT 1");
        scene.used_by(2_600, &conn, list_orders());
    }
    scene.tick(60_000);
    scene.sorted()
}

/// Ten opened at the start by a worker thread; the last is used, later one more is opened.
fn healthy_prefill() -> Vec<Event> {
    let mut scene = Scene::default();
    python(&mut scene);
    let mut conns: Vec<_> =
        (0..10).map(|n| scene.open_by(1_000 + n * 50, PYTHON, Some(PYTHON + 1))).collect();
    busy(&mut scene, &mut conns[9], 2_000, 60_000);
    scene.tick(60_000);
    scene.sorted()
}

/// The same over a slow network: the pre-fill takes nine seconds.
fn healthy_prefill_slow() -> Vec<Event> {
    let mut scene = Scene::default();
    python(&mut scene);
    let mut conns: Vec<_> =
        (0..10).map(|n| scene.open_by(1_000 + n * 900, PYTHON, Some(PYTHON + 1))).collect();
    busy(&mut scene, &mut conns[9], 9_200, 60_000);
    scene.tick(60_000);
    scene.sorted()
}

/// Each thread keeps a connection of its own.
fn healthy_thread_local() -> Vec<Event> {
    let mut scene = Scene::default();
    python(&mut scene);
    for n in 0..5u32 {
        let at = 1_000 + 4_000 * u64::from(n);
        let tid = PYTHON + 1 + n;
        let mut conn = scene.open_by(at, PYTHON, Some(tid));
        scene.query(at + 20, &mut conn, "SELECT 1");
        scene.used_by(at + 1_200, &conn, stack("view", "/srv/app/views.py", 40));
    }
    scene.tick(60_000);
    scene.sorted()
}

/// A pool retires one connection after the other and replaces it while others idle.
fn healthy_replaced() -> Vec<Event> {
    let mut scene = Scene::default();
    scene.process(0, PYTHON, seen("java", Runtime::Java, &[]));
    let mut conns: Vec<_> = (0..4).map(|n| scene.open(1_000 + n * 20, PYTHON)).collect();
    for conn in &mut conns {
        scene.query(1_500, conn, "SELECT 1");
        scene.used_by(2_600, conn, stack("Orders.list", "Orders.java", 40));
    }
    for (n, old) in (0..).zip(&conns[..2]) {
        let at = 20_000 + n * 10_000;
        scene.close(at, old);
        let mut new = scene.open(at + 100, PYTHON);
        scene.query(at + 200, &mut new, "SELECT 1");
        scene.used_by(at + 1_400, &new, stack("Orders.list", "Orders.java", 40));
    }
    scene.tick(59_000);
    scene.sorted()
}

/// Two pools of one process on two databases.
fn healthy_two_databases() -> Vec<Event> {
    let mut scene = Scene::default();
    node(&mut scene);
    let mut quiet = scene.open(1_000, NODE);
    scene.tell(1_015, &mut quiet, |state| state.database = Some("audit".to_owned()));
    scene.query(1_020, &mut quiet, "SELECT 1");
    scene.used_by(2_200, &quiet, get_user());
    for n in 0..3 {
        let mut conn = scene.open(5_000 + n * 4_000, NODE);
        busy(&mut scene, &mut conn, 5_020 + n * 4_000, 60_000);
    }
    scene.tick(60_000);
    scene.sorted()
}

/// Threads with one connection each to each of two databases, of which more come later.
fn healthy_two_databases_each() -> Vec<Event> {
    let mut scene = Scene::default();
    python(&mut scene);
    for n in 0..4u32 {
        let at = 1_000 + 4_000 * u64::from(n);
        for (database, at) in [("orders", at), ("audit", at + 100)] {
            let mut conn = scene.open_by(at, PYTHON, Some(PYTHON + 1 + n));
            scene.tell(at + 15, &mut conn, |state| state.database = Some(database.to_owned()));
            scene.query(at + 20, &mut conn, "SELECT 1");
        }
    }
    scene.tick(60_000);
    scene.sorted()
}

/// Two pools of one database, and no stack tells who uses them: one had a burst and is idle, the
/// other grows.
fn healthy_two_pools() -> Vec<Event> {
    let mut scene = Scene::default();
    python(&mut scene);
    for n in 0..4 {
        let mut conn = scene.open(1_000 + n * 100, PYTHON);
        scene.query(1_020 + n * 100, &mut conn, "SELECT 1");
    }
    let mut first = scene.open(6_000, PYTHON);
    scene.query(6_020, &mut first, "SELECT 1");
    scene.query(20_000, &mut first, "SELECT 1");
    let mut second = scene.open(20_010, PYTHON);
    scene.query(20_030, &mut second, "SELECT 1");
    scene.tick(60_000);
    scene.sorted()
}

/// A client of its own that polls every 40 s: the first silence already had an explanation.
fn healthy_rare_speaker() -> Vec<Event> {
    let mut scene = Scene::default();
    node(&mut scene);
    let mut poller = scene.open(1_000, NODE);
    scene.query(1_020, &mut poller, "SELECT id FROM jobs");
    let poll = || stack("poll", "/srv/shop/jobs.js", 8);
    scene.used_by(2_200, &poller, poll());
    let mut conn = scene.open(5_000, NODE);
    busy(&mut scene, &mut conn, 5_020, 80_000);
    scene.query(41_000, &mut poller, "SELECT id FROM jobs");
    scene.used_by(42_200, &poller, poll());
    let mut conn = scene.open(45_000, NODE);
    busy(&mut scene, &mut conn, 45_020, 80_000);
    scene.tick(80_000);
    scene.sorted()
}

/// Given back to asyncpg's pool, whose older versions open although others idle.
fn healthy_asyncpg() -> Vec<Event> {
    let mut scene = Scene::default();
    python(&mut scene);
    let reset = "SELECT pg_advisory_unlock_all(); CLOSE ALL; UNLISTEN *; RESET ALL;";
    for n in 0..3 {
        let mut conn = scene.open(1_000 + n * 8_000, PYTHON);
        scene.query(1_020 + n * 8_000, &mut conn, "SELECT 1");
        scene.query(1_030 + n * 8_000, &mut conn, reset);
        scene.used_by(2_300 + n * 8_000, &conn, stack("view", "/srv/app/views.py", 40));
    }
    scene.tick(60_000);
    scene.sorted()
}

/// LISTEN, a session lock, a replication stream and a COPY, all held by an observed pool, and the
/// same by clients of their own while a pool grows.
fn healthy_on_purpose() -> Vec<Event> {
    let mut scene = Scene::default();
    scene.process(0, GO, seen("billing", Runtime::Go, &[("database/sql", true)]));
    node(&mut scene);
    for pid in [GO, NODE] {
        for n in 0..5 {
            let mut conn = scene.open(1_000 + n, pid);
            if pid == GO {
                scene.acquire(1_012 + n, &mut conn, "database/sql");
            }
            let sql = [
                "LISTEN jobs",
                "SELECT pg_advisory_lock($1)",
                "START_REPLICATION",
                "COPY t TO STDOUT",
                "DO $x$ SELECT pg_try_advisory_lock(?)",
            ];
            scene.query(1_020 + n, &mut conn, sql[n as usize]);
            scene.tell(1_023 + n, &mut conn, |state| match n {
                0 => state.listening = true,
                1 => state.advisory_lock = true,
                2 => state.replication = true,
                3 => state.copy = true,
                _ => {}
            });
            scene.used_by(2_300, &conn, get_user());
        }
    }
    for n in 0..2 {
        let mut conn = scene.open(5_000 + n * 4_000, NODE);
        busy(&mut scene, &mut conn, 5_020 + n * 4_000, 60_000);
    }
    scene.tick(60_000);
    scene.sorted()
}

/// PgBouncer's server connections are silent when its clients are.
fn healthy_pooler() -> Vec<Event> {
    let mut scene = Scene::default();
    scene.process(0, GO, seen("pgbouncer", Runtime::Native, &[("PgBouncer", false)]));
    for n in 0..4 {
        let mut conn = scene.open(1_000 + n * 6_000, GO);
        scene.query(1_020 + n * 6_000, &mut conn, "SELECT 1");
        scene.used_by(2_400 + n * 6_000, &conn, stack("main_loop", "main.c", 900));
    }
    scene.tick(60_000);
    scene.sorted()
}

/// Found at the start, silent for hours, and nothing speaks against them.
fn healthy_existing() -> Vec<Event> {
    let mut scene = Scene::default();
    node(&mut scene);
    for _ in 0..3 {
        let ago = Some(700_000_000_000);
        let existing = Existing { last_send_ago: ago, last_recv_ago: ago };
        scene.bare(0, NODE, None, Some(existing));
    }
    // A Unix socket: nothing is known, not even which side spoke last.
    scene.bare(0, NODE, None, Some(Existing { last_send_ago: None, last_recv_ago: None }));
    scene.tick(60_000);
    scene.sorted()
}

/// Over a Unix socket the kernel keeps no times: it may run a statement since before the start.
fn healthy_existing_unix() -> Vec<Event> {
    let mut scene = Scene::default();
    node(&mut scene);
    scene.bare(0, NODE, None, Some(Existing { last_send_ago: None, last_recv_ago: None }));
    let mut conn = scene.open(10_000, NODE);
    busy(&mut scene, &mut conn, 10_020, 60_000);
    scene.tick(60_000);
    scene.sorted()
}

/// A housekeeper fills the pool up while others idle; what it opened is used much later.
fn healthy_refill() -> Vec<Event> {
    let mut scene = Scene::default();
    scene.process(0, PYTHON, seen("java", Runtime::Java, &[]));
    let list = || stack("Orders.list", "Orders.java", 40);
    for n in 0..2 {
        let mut conn = scene.open(1_000 + n * 20, PYTHON);
        scene.query(1_500, &mut conn, "SELECT 1");
        scene.used_by(2_600, &conn, list());
    }
    for n in 0..2 {
        let mut conn = scene.open(20_000 + n * 20, PYTHON);
        scene.query(30_000, &mut conn, "SELECT 1");
        scene.used_by(31_200, &conn, list());
    }
    scene.tick(59_000);
    scene.sorted()
}

/// What pgjdbc sends whenever it opens, whoever asked.
fn pgjdbc_settings(scene: &mut Scene, at: u64, conn: &mut Conn) {
    scene.query(at, conn, "SET extra_float_digits = 3");
    scene.query(at + 5, conn, "SET application_name = 'PostgreSQL JDBC Driver'");
}

/// HikariCP's ten, opened one after the other on a machine that is busy.
fn healthy_prefill_jdbc() -> Vec<Event> {
    let mut scene = Scene::default();
    scene.process(0, PYTHON, seen("java", Runtime::Java, &[]));
    let mut conns: Vec<_> = (0..10)
        .map(|n| {
            let at = 1_000 + n * 900;
            let mut conn = scene.open_by(at, PYTHON, Some(PYTHON + 1));
            pgjdbc_settings(&mut scene, at + 20, &mut conn);
            conn
        })
        .collect();
    busy(&mut scene, &mut conns[0], 9_200, 60_000);
    scene.tick(60_000);
    scene.sorted()
}

/// HikariCP's housekeeper fills up what is lent for long, while the others idle after use; what it
/// opened is tested much later.
fn healthy_refill_jdbc() -> Vec<Event> {
    let mut scene = Scene::default();
    scene.process(0, PYTHON, seen("java", Runtime::Java, &[]));
    let mut conns: Vec<_> = (0..3)
        .map(|n| {
            let mut conn = scene.open_by(1_000 + n * 40, PYTHON, Some(PYTHON + 1));
            pgjdbc_settings(&mut scene, 1_020 + n * 40, &mut conn);
            scene.query(1_500 + n, &mut conn, "SELECT 1");
            conn
        })
        .collect();
    busy(&mut scene, &mut conns[0], 4_000, 60_000);
    for n in 0..2 {
        let mut conn = scene.open_by(20_000 + n * 40, PYTHON, Some(PYTHON + 1));
        pgjdbc_settings(&mut scene, 20_020 + n * 40, &mut conn);
        scene.query(55_000 + n, &mut conn, "");
    }
    scene.tick(59_000);
    scene.sorted()
}

/// A worker's own connection and, opened some time later, one for another purpose.
fn healthy_two_kept() -> Vec<Event> {
    let mut scene = Scene::default();
    scene.process(0, PYTHON, seen("php", Runtime::Php, &[]));
    for at in [1_000, 5_000] {
        let mut conn = scene.open(at, PYTHON);
        scene.query(at + 20, &mut conn, "SELECT 1");
    }
    scene.tick(60_000);
    scene.sorted()
}

/// Three at once in a Node pool that takes its user's name back at the end of each request; what was
/// asked before that fell between two looks. Then one at a time.
fn healthy_settings_last() -> Vec<Event> {
    let mut scene = Scene::default();
    node(&mut scene);
    let mut conns: Vec<_> = (0..3).map(|n| scene.open(1_000 + n * 20, NODE)).collect();
    for conn in &mut conns {
        scene.query(1_100, conn, "SET app.customer = ''");
    }
    busy(&mut scene, &mut conns[2], 2_000, 60_000);
    scene.tick(60_000);
    scene.sorted()
}

/// Taken from HikariCP three times and not used; a request later finds the pool empty.
fn never_used_jdbc() -> Vec<Event> {
    let mut scene = Scene::default();
    scene.process(0, PYTHON, seen("java", Runtime::Java, &[]));
    for n in 0..4 {
        let at = if n < 3 { 1_000 + n * 100 } else { 5_000 };
        let mut conn = scene.open_by(at, PYTHON, Some(PYTHON + 1));
        pgjdbc_settings(&mut scene, at + 20, &mut conn);
        if n == 3 {
            scene.query(at + 40, &mut conn, "SELECT 1");
        }
    }
    scene.tick(60_000);
    scene.sorted()
}

/// A connection for each request beside one that is kept: nothing is pooled.
fn healthy_short_lived() -> Vec<Event> {
    let mut scene = Scene::default();
    node(&mut scene);
    let mut kept = scene.open(1_000, NODE);
    scene.query(1_020, &mut kept, "SELECT 1");
    scene.used_by(2_200, &kept, get_user());
    for n in 0..20 {
        let at = 5_000 + n * 2_000;
        let mut conn = scene.open(at, NODE);
        scene.query(at + 20, &mut conn, "SELECT 1");
        scene.close(at + 40, &conn);
    }
    scene.tick(60_000);
    scene.sorted()
}

/// What is opened beside the idle connection is a cancel request and a refused login.
fn healthy_cancel_request() -> Vec<Event> {
    let mut scene = Scene::default();
    node(&mut scene);
    let mut idle = scene.open(1_000, NODE);
    scene.query(1_020, &mut idle, "SELECT 1");
    scene.used_by(2_200, &idle, get_user());
    for (at, phase) in
        [(5_000, WirePhase::Cancel), (6_000, WirePhase::Connecting), (7_000, WirePhase::Foreign)]
    {
        let mut other = scene.bare(at, NODE, Some(NODE), None);
        scene.tell(at + 5, &mut other, |state| {
            state.phase = phase;
            state.uses = 1;
        });
    }
    scene.tick(60_000);
    scene.sorted()
}

/// A pool of `database/sql` under load, each caller with one request after the other.
#[derive(Clone, Copy)]
pub struct Pool {
    pub pid: u32,
    pub instance: u32,
    /// Connections at most, and callers that want one at a time.
    pub size: usize,
    pub callers: usize,
    /// For how long each is out, in milliseconds.
    pub hold: u64,
    /// Connections that do not come back, from this time on.
    pub leaks: usize,
    pub leak_at: u64,
    /// Callers come and go until then.
    pub end: u64,
}

impl Default for Pool {
    fn default() -> Self {
        let (size, callers, hold, leaks, leak_at, end) = (2, 7, 1_700, 0, 0, 60_000);
        Self { pid: GO, instance: 1, size, callers, hold, leaks, leak_at, end }
    }
}

fn invoice(scene: &mut Scene, at: u64, conn: &mut Conn, instance: u32) {
    scene.acquire_from(at, conn, "database/sql", instance);
    scene.query(at + 5, conn, "SELECT amount, currency FROM invoices WHERE customer = $1");
}

/// Writes the pool's events, with a tick a second until its end.
pub fn drive(scene: &mut Scene, pool: &Pool) {
    let Pool { pid, instance, size, callers, hold, leaks, leak_at, end } = *pool;
    // What leaks is opened anew, up to the limit.
    let opened = if leaks > 0 { size } else { callers.min(size) };
    let mut conns: Vec<_> = (0..opened as u64).map(|n| scene.open(1_000 + n * 40, pid)).collect();
    let mut next = vec![0; opened];
    for (n, next) in next.iter_mut().enumerate() {
        *next = 1_300 + n as u64 * hold / opened as u64;
    }
    // A pool that leaks gives the connections out that it has.
    let mut left = leaks.min(opened);
    let (mut served, mut lost) = (0, vec![false; opened]);
    for at in (2_000..=end).step_by(1_000) {
        for (n, conn) in conns.iter_mut().enumerate() {
            while next[n] < at && !lost[n] {
                let again = conn.state.checkout.is_some();
                if again {
                    scene.release(next[n], conn);
                }
                invoice(scene, next[n] + 1, conn, instance);
                served += u64::from(again && callers > opened - (leaks - left));
                if left > 0 && next[n] >= leak_at {
                    left -= 1;
                    lost[n] = true;
                    let taken =
                        stack("main.(*billing).invoiceTotal", "/srv/billing/invoices.go", 31);
                    let count = conn.state.checkout.as_ref().map_or(0, |checkout| checkout.count);
                    scene.stack(next[n] + 900, conn, StackEvent::Acquire, count, taken);
                }
                next[n] += hold;
            }
        }
        let waiting = callers - (opened - lost.iter().filter(|lost| **lost).count()).min(callers);
        let since: Vec<u64> = (0..waiting as u64).map(|n| at - 40 * (waiting as u64 - n)).collect();
        scene.waits(at, pid, ("database/sql", instance), &since, (served, 450));
        scene.tick(at);
    }
}

/// The stream of one such pool.
pub fn pool(pool: &Pool) -> Vec<Event> {
    let mut scene = Scene::default();
    scene.process(0, pool.pid, seen("billing", Runtime::Go, &[("database/sql", true)]));
    drive(&mut scene, pool);
    scene.sorted()
}

/// Seven callers for two connections, of which each is given back.
fn pool_too_small() -> Vec<Event> {
    pool(&Pool { end: 40_000, ..Pool::default() })
}

/// The same in a pool that does not serve in turn: who gives back takes again before those that wait.
fn pool_too_small_out_of_turn() -> Vec<Event> {
    let mut events = pool_too_small();
    for event in &mut events {
        if let Event::Waits { waits, .. } = event {
            (waits.served, waits.nanos, waits.longest) = (0, 0, 0);
        }
    }
    events
}

/// The same where connections live for five seconds, and their checkouts are forgotten with them.
fn pool_too_small_short_lived() -> Vec<Event> {
    let mut scene = Scene::default();
    scene.process(0, GO, seen("billing", Runtime::Go, &[("database/sql", true)]));
    let mut conns: Vec<_> = (0..2).map(|n| scene.open(1_000 + n * 10, GO)).collect();
    for at in (2_000..=40_000).step_by(1_000) {
        for (n, conn) in conns.iter_mut().enumerate() {
            let begin = at - 900 + n as u64 * 40;
            if conn.state.checkout.is_some() {
                scene.release(begin, conn);
            }
            if at % 5_000 == 0 {
                scene.close(begin + 1, conn);
                *conn = scene.open(begin + 2, GO);
            }
            invoice(&mut scene, begin + 10, conn, 1);
        }
        let since = [at - 200, at - 160, at - 120, at - 80, at - 40];
        scene.waits(at, GO, ("database/sql", 1), &since, (at / 500, 450));
        scene.tick(at);
    }
    scene.sorted()
}

/// Callers wait while two jobs work with the only connections, one statement after the other, and
/// give none back: it does not change hands, and whether it should nobody knows.
fn healthy_waits_for_jobs() -> Vec<Event> {
    let mut scene = Scene::default();
    scene.process(0, GO, seen("billing", Runtime::Go, &[("database/sql", true)]));
    let mut conns: Vec<_> = (0..2).map(|n| scene.open(1_000 + n * 40, GO)).collect();
    for (n, conn) in conns.iter_mut().enumerate() {
        scene.acquire_from(1_100 + n as u64 * 40, conn, "database/sql", 1);
    }
    for at in (2_000..=45_000).step_by(1_000) {
        for (n, conn) in conns.iter_mut().enumerate() {
            scene.query(at - 900 + n as u64 * 40, conn, "UPDATE stock SET left = $1 WHERE id = $2");
        }
        scene.waits(at, GO, ("database/sql", 1), &[1_500, 1_800, 1_900], (0, 0));
        scene.tick(at);
    }
    scene.sorted()
}

/// All three connections leak, and everybody waits.
fn leak_with_waiters() -> Vec<Event> {
    pool(&Pool { size: 3, leaks: 3, leak_at: 6_000, ..Pool::default() })
}

/// One of three connections leaks, and for the callers even three are not enough.
fn leak_in_a_small_pool() -> Vec<Event> {
    pool(&Pool { size: 3, leaks: 1, leak_at: 6_000, ..Pool::default() })
}

/// Two pools of one kind: one leaks, for the other's callers it is too small.
fn leak_beside_a_small_pool() -> Vec<Event> {
    let mut scene = Scene::default();
    scene.process(0, GO, seen("billing", Runtime::Go, &[("database/sql", true)]));
    drive(&mut scene, &Pool { size: 4, callers: 2, leaks: 2, leak_at: 6_000, ..Pool::default() });
    drive(&mut scene, &Pool { instance: 2, ..Pool::default() });
    scene.sorted()
}

/// The only two connections are out for reports that take long.
fn long_query_with_waiters() -> Vec<Event> {
    let mut scene = Scene::default();
    scene.process(0, GO, seen("billing", Runtime::Go, &[("database/sql", true)]));
    for n in 0..2 {
        let mut conn = scene.open(1_000 + n * 40, GO);
        scene.acquire_from(1_100 + n * 40, &mut conn, "database/sql", 1);
        scene.ask(1_110 + n * 40, &mut conn, "SELECT * FROM yearly_report($1)");
    }
    for at in (2_000..=45_000).step_by(1_000) {
        scene.waits(at, GO, ("database/sql", 1), &[1_500, 1_800, 1_900], (0, 0));
        scene.tick(at);
    }
    scene.sorted()
}

/// Callers wait for some seconds, and once for longer, and then there is room again.
fn healthy_waits() -> Vec<Event> {
    let mut scene = Scene::default();
    scene.process(0, GO, seen("billing", Runtime::Go, &[("database/sql", true)]));
    drive(&mut scene, &Pool { end: 9_000, ..Pool::default() });
    for at in (10_000..=24_000).step_by(1_000) {
        scene.waits(at, GO, ("database/sql", 1), &[], (30, 450));
        scene.tick(at);
    }
    // Everything was given back.
    let events = scene.sorted();
    let mut scene = Scene::default();
    scene.events = events;
    for event in scene.events.clone().iter().rev() {
        let Event::Wire { conn, state, .. } = event else { continue };
        let told = |event: &Event| match event {
            Event::Wire { at, conn: known, .. } => *known == *conn && *at >= ms(9_100),
            _ => false,
        };
        if !scene.events.iter().any(told) {
            let id = u16::try_from(conn.0).expect("small");
            let mut conn = Conn { id, pid: GO, fd: 0, state: state.clone() };
            scene.release(9_100, &mut conn);
        }
    }
    scene.sorted()
}

/// The server lets nobody in: callers wait for it, not for the pool.
fn healthy_server_full() -> Vec<Event> {
    let mut scene = Scene::default();
    scene.process(0, GO, seen("billing", Runtime::Go, &[("database/sql", true)]));
    drive(&mut scene, &Pool { callers: 2, end: 40_000, ..Pool::default() });
    scene.events.retain(|event| !matches!(event, Event::Waits { .. }));
    for n in 0..5 {
        scene.bare(1_200 + n * 10, GO, None, None);
    }
    for at in (1_990..=40_000).step_by(1_000) {
        let since = [1_200, 1_210, 1_220, 1_230, 1_240];
        scene.waits(at, GO, ("database/sql", 1), &since, (at / 400, 20));
    }
    scene.sorted()
}

/// Of six connections four were out and silent before the watch began: nothing is known of them,
/// and the callers wait for the two others.
fn leak_before_a_small_pool() -> Vec<Event> {
    let mut scene = Scene::default();
    scene.process(0, GO, seen("billing", Runtime::Go, &[("database/sql", true)]));
    for ago in 1..5 {
        let ago = Some(ago * 90_000_000_000);
        scene.bare(0, GO, None, Some(Existing { last_send_ago: ago, last_recv_ago: ago }));
    }
    drive(&mut scene, &Pool { end: 40_000, ..Pool::default() });
    scene.sorted()
}

/// One of two connections is out and silent, though not for long enough to be a leak.
fn healthy_waits_undecided() -> Vec<Event> {
    pool(&Pool { leaks: 1, leak_at: 20_000, end: 44_000, ..Pool::default() })
}
