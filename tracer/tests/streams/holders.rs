//! Threads and goroutines that took connections, as they are when the report is written.

use tracer::model::{
    Event, FrameKind, Runtime, Settings, Stack, StackEvent, ThreadNow, Tracker, Whereabouts,
    wanted_holders,
};

use super::scene::{Scene, THRESHOLD, frame, ms, seen};

const PYTHON: u32 = 7_400;
const SHOP: &str = "/srv/shop/orders.py";
const LIBRARY: &str = "/usr/lib/python3.11/urllib/request.py";
const THREADING: &str = "/usr/lib/python3.11/threading.py";

/// A thread's stack: the application's frames by function and line, below others.
pub fn stack(below: (&str, &str, u32), own: &[(&str, u32)]) -> Stack {
    let (function, file, line) = below;
    let mut frames = vec![frame(function, file, line, FrameKind::Library)];
    frames.extend(own.iter().map(|(name, line)| frame(name, SHOP, *line, FrameKind::App)));
    frames.push(frame("Thread._bootstrap", THREADING, 995, FrameKind::Runtime));
    Stack { frames, truncated: None }
}

/// The use that begins the transaction.
pub fn took() -> Stack {
    stack(("Cursor.execute", "/srv/venv/psycopg/cursor.py", 97), &[("charge", 41), ("handle", 12)])
}

/// Blocked in a call to somebody outside, below these functions.
pub fn outside(own: &[(&str, u32)]) -> ThreadNow {
    let stack = stack(("urlopen", LIBRARY, 216), own);
    ThreadNow::Waiting { call: "recvfrom".to_owned(), stack }
}

/// Waits for the next request.
pub fn waiting() -> ThreadNow {
    let stack = stack(("Queue.get", "/usr/lib/python3.11/queue.py", 171), &[("serve", 7)]);
    ThreadNow::Waiting { call: "futex".to_owned(), stack }
}

/// So many transactions left open by the same code, each by a thread of its own, and what the threads
/// do then.
pub fn transactions(threads: &[ThreadNow]) -> Vec<Event> {
    let mut scene = Scene::default();
    scene.process(0, PYTHON, seen("python3", Runtime::Python, &[]));
    for (n, now) in (0..).zip(threads) {
        let at = 1_000 + n * 500;
        let mut conn = scene.open(at, PYTHON);
        scene.begin(at + 20, &mut conn);
        scene.used_by(at + 1_100, &conn, took());
        let tid = PYTHON + 1 + u32::try_from(n).unwrap();
        scene.holder(60_000, &conn, tid, now.clone());
    }
    scene.tick(60_000);
    scene.sorted()
}

/// One is stuck in that function, one has gone on, in one a caller is stuck that may have the
/// connection still, and one has ended.
pub fn held_by_threads() -> Vec<Event> {
    let rate = outside(&[("rate", 58), ("charge", 44), ("handle", 12), ("serve", 9)]);
    let mail = outside(&[("mail", 63), ("handle", 13), ("serve", 9)]);
    transactions(&[rate, waiting(), mail, ThreadNow::Ended])
}

/// Two are stuck at one place, and another is below so many functions that not all are shown.
pub fn held_by_deep_threads() -> Vec<Event> {
    let rate = outside(&[("rate", 58), ("charge", 44), ("handle", 12)]);
    let deep = outside(&[("a", 1), ("b", 2), ("c", 3), ("d", 4), ("e", 5), ("charge", 44)]);
    transactions(&[rate.clone(), deep, rate, ThreadNow::Running])
}

const GO: u32 = 5_200;
const BILLING: &str = "/srv/billing/invoices.go";

/// A goroutine's stack: the application's frames by function and line, below others.
fn of_go(below: (&str, &str, u32, FrameKind), own: &[(&str, u32)]) -> Stack {
    let (function, file, line, kind) = below;
    let mut frames = vec![frame(function, file, line, kind)];
    frames.extend(own.iter().map(|(name, line)| frame(name, BILLING, *line, FrameKind::App)));
    frames.push(frame("runtime.goexit", "/go/src/runtime/asm_amd64.s", 1_594, FrameKind::Runtime));
    Stack { frames, truncated: None }
}

/// A goroutine that receives from a channel, below these functions.
pub fn receiving(own: &[(&str, u32)]) -> ThreadNow {
    let below = ("runtime.chanrecv1", "/go/src/runtime/chan.go", 442, FrameKind::Runtime);
    ThreadNow::Waiting { call: "chan receive".to_owned(), stack: of_go(below, own) }
}

/// So many checkouts that did not come back, each by a goroutine of its own, and what they do then.
pub fn checkouts(goroutines: &[ThreadNow]) -> Vec<Event> {
    let mut scene = Scene::default();
    scene.process(0, GO, seen("billing", Runtime::Go, &[("database/sql", true)]));
    for (n, now) in (0..).zip(goroutines) {
        let at = 1_000 + n * 500;
        let mut conn = scene.open(at, GO);
        scene.acquire(at + 20, &mut conn, "database/sql");
        scene.query(at + 25, &mut conn, "SELECT amount FROM invoices WHERE customer = $1");
        let sql = "/go/src/database/sql/sql.go";
        let below = ("database/sql.(*DB).conn", sql, 1_415, FrameKind::Driver);
        let mut took = of_go(below, &[("main.total", 31), ("main.serve", 12)]);
        // As copies of stacks may end.
        took.frames.pop();
        took.truncated = Some("only 4096 bytes of stack were copied".to_owned());
        scene.stack(at + 1_100, &conn, StackEvent::Acquire, 1, took);
        scene.goroutine(60_000, &conn, 41 + n, now.clone());
    }
    scene.tick(60_000);
    scene.sorted()
}

/// Two are stuck in that function, one serves the next request, and one has ended.
pub fn held_by_goroutines() -> Vec<Event> {
    let stuck = receiving(&[("main.rate", 58), ("main.total", 36), ("main.serve", 12)]);
    let poll = ("internal/poll.(*FD).Read", "/go/src/internal/poll/fd_unix.go", 167);
    let next = of_go((poll.0, poll.1, poll.2, FrameKind::Runtime), &[("main.serve", 9)]);
    let next = ThreadNow::Waiting { call: "IO wait".to_owned(), stack: next };
    checkouts(&[stuck.clone(), next, stuck, ThreadNow::Ended])
}

fn track(events: &[Event]) -> Tracker {
    let mut tracker = Tracker::new(Settings::new(THRESHOLD * 1_000_000));
    events.iter().for_each(|event| tracker.apply(event));
    tracker
}

fn told(events: &[Event]) -> Vec<Whereabouts> {
    let tracker = track(events);
    let findings = tracker.findings(ms(60_000));
    let [finding] = &findings[..] else { panic!("{findings:#?}") };
    finding.holders.iter().map(|holder| holder.place).collect()
}

/// The events with other stacks of the uses, or another process.
fn changed(mut events: Vec<Event>, change: impl Fn(&mut Event)) -> Vec<Event> {
    events.iter_mut().for_each(change);
    events
}

fn took_by(stack: &Stack, threads: &[ThreadNow]) -> Vec<Event> {
    changed(transactions(threads), |event| {
        if let Event::Stack { stack: took, .. } = event {
            took.clone_from(stack);
        }
    })
}

const STUCK: [(&str, u32); 1] = [("charge", 44)];

#[test]
fn where_each_thread_is_is_told() {
    let threads = [outside(&STUCK), waiting(), ThreadNow::Running, ThreadNow::Ended];
    let wanted = [Whereabouts::Here, Whereabouts::Left, Whereabouts::Running, Whereabouts::Ended];
    assert_eq!(told(&transactions(&threads)), wanted);
}

#[test]
fn of_an_event_loop_nothing_is_told() {
    let base = "/usr/lib/python3.11/asyncio/base_events.py";
    let mut looped = took();
    looped.frames.insert(2, frame("BaseEventLoop._run_once", base, 1922, FrameKind::Runtime));
    for now in [outside(&STUCK), waiting(), ThreadNow::Ended] {
        assert_eq!(told(&took_by(&looped, &[now])), []);
    }
    let asleep = stack(("BaseEventLoop._run_once", base, 1884), &[]);
    let asleep = ThreadNow::Waiting { call: "epoll_wait".to_owned(), stack: asleep };
    assert_eq!(told(&transactions(&[asleep])), []);
}

#[test]
fn of_tasks_and_of_virtual_threads_nothing_is_told() {
    let loops = [
        (Runtime::Native, "tokio::runtime::context::runtime::enter_runtime", "/build/runtime.rs"),
        (Runtime::Native, "run", "/cargo/registry/tokio-1.54.1/src/runtime/task/mod.rs"),
        (Runtime::Java, "java.lang.VirtualThread.run", "VirtualThread.java"),
    ];
    for (runtime, function, file) in loops {
        for now in [outside(&STUCK), waiting(), ThreadNow::Ended] {
            let events = |took: &Stack| {
                changed(took_by(took, std::slice::from_ref(&now)), |event| {
                    if let Event::Process { process, .. } = event {
                        process.runtime = Some(runtime);
                    }
                })
            };
            let mut looped = took();
            assert_eq!(told(&events(&looped)).len(), 1);
            looped.frames.insert(3, frame(function, file, 9, FrameKind::Library));
            assert_eq!(told(&events(&looped)), [], "{function}");
        }
    }
}

#[test]
fn that_nobody_is_there_is_not_told_of_a_greenlet() {
    let mut greenlet = took();
    greenlet.frames.pop();
    for now in [waiting(), ThreadNow::Ended, ThreadNow::Running] {
        assert_eq!(told(&took_by(&greenlet, &[now])), []);
    }
    let ThreadNow::Waiting { call, mut stack } = waiting() else { unreachable!() };
    stack.frames.pop();
    assert_eq!(told(&transactions(&[ThreadNow::Waiting { call, stack }])), []);
}

#[test]
fn that_nobody_is_there_is_not_told_of_a_stack_that_was_cut() {
    let mut cut = took();
    cut.truncated = Some("more than 64 Python frames".to_owned());
    assert_eq!(told(&took_by(&cut, &[waiting()])), []);
    // The function is seen all the same.
    assert_eq!(told(&took_by(&cut, &[outside(&STUCK)])), [Whereabouts::Here]);
}

#[test]
fn where_a_thread_serves_many_nothing_is_told() {
    for runtime in [Runtime::Node, Runtime::Dotnet] {
        let events = changed(transactions(&[waiting(), outside(&STUCK)]), |event| {
            if let Event::Process { process, .. } = event {
                process.runtime = Some(runtime);
            }
        });
        assert_eq!(told(&events), [], "{runtime:?}");
        assert_eq!(wanted_holders(&track(&events), ms(60_000)), []);
    }
}

/// Which goroutine it was is known, so it matters only where it is now.
#[test]
fn where_each_goroutine_is_is_told() {
    let stuck = receiving(&[("main.total", 36), ("main.serve", 12)]);
    let next = receiving(&[("main.serve", 9)]);
    let all = [stuck.clone(), next.clone(), ThreadNow::Running, ThreadNow::Ended];
    let wanted = [Whereabouts::Here, Whereabouts::Left, Whereabouts::Running, Whereabouts::Ended];
    assert_eq!(told(&checkouts(&all)), wanted);
    let cut = |now: &ThreadNow| {
        let ThreadNow::Waiting { call, mut stack } = now.clone() else { unreachable!() };
        stack.truncated = Some("the next frame is not on the stack".to_owned());
        ThreadNow::Waiting { call, stack }
    };
    // What is not seen may be below what is missing.
    assert_eq!(told(&checkouts(&[cut(&stuck), cut(&next)])), [Whereabouts::Here]);
    let tracker = track(&checkouts(&all));
    let findings = tracker.findings(ms(60_000));
    let numbers: Vec<_> = findings[0].holders.iter().map(|holder| holder.goroutine).collect();
    assert_eq!(numbers, [41, 42, 43, 44].map(Some));
    assert_eq!(wanted_holders(&tracker, ms(60_000)).len(), 4);
}

#[test]
fn of_a_thread_of_go_nothing_is_told_and_of_a_goroutine_elsewhere_neither() {
    let stuck = receiving(&[("main.total", 36), ("main.serve", 12)]);
    let without = changed(checkouts(&[stuck, ThreadNow::Ended]), |event| {
        if let Event::Holder { goroutine, .. } = event {
            *goroutine = None;
        }
    });
    assert_eq!(told(&without), []);
    let elsewhere = changed(transactions(&[outside(&STUCK), ThreadNow::Ended]), |event| {
        if let Event::Holder { goroutine, .. } = event {
            *goroutine = Some(41);
        }
    });
    assert_eq!(told(&elsewhere), []);
}

#[test]
fn a_look_before_the_last_use_says_nothing() {
    let mut scene = Scene::default();
    scene.process(0, PYTHON, seen("python3", Runtime::Python, &[]));
    let mut conn = scene.open(1_000, PYTHON);
    scene.begin(1_020, &mut conn);
    scene.used_by(1_100, &conn, took());
    scene.holder(1_200, &conn, PYTHON, waiting());
    // An answer that came late: the same use.
    scene.read(1_300, &mut conn, 8);
    scene.tick(60_000);
    assert_eq!(told(&scene.sorted()), []);
}

#[test]
fn few_threads_are_looked_at_and_none_where_nobody_is_accused() {
    let ended = [const { ThreadNow::Ended }; 9];
    let tracker = track(&transactions(&ended));
    assert_eq!(wanted_holders(&tracker, ms(60_000)).len(), 4);
    assert_eq!(wanted_holders(&tracker, ms(20_000)), []);
}

#[test]
fn what_threads_do_changes_nothing_else() {
    let with = held_by_threads();
    let is_holder = |event: &Event| matches!(event, Event::Holder { .. });
    let without: Vec<_> = with.iter().filter(|event| !is_holder(event)).cloned().collect();
    let findings = |events: &[Event]| track(events).findings(ms(60_000));
    let mut told = findings(&with);
    assert_ne!(told, findings(&without));
    told.iter_mut().for_each(|finding| finding.holders.clear());
    assert_eq!(told, findings(&without));
}
