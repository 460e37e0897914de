//! What the tracker does with single events: holders, identities, stacks and bounds.
//!
//! May import the model only. Verdicts are tested on whole streams, in `tests/replay.rs`.

use super::*;

const SECOND: u64 = 1_000_000_000;

fn at(seconds: u64) -> MonoNanos {
    MonoNanos((1_000 + seconds) * SECOND)
}

fn tracker() -> Tracker {
    Tracker::new(Settings::new(30 * SECOND))
}

fn open(seconds: u64, conn: u64, pid: u32, fd: i32) -> Event {
    Event::Open {
        at: at(seconds),
        conn: ConnId(conn),
        pid: Pid(pid),
        fd: Fd(fd),
        tid: Some(pid),
        peer: Peer::Tcp { addr: "10.0.0.5".to_owned(), port: 5432 },
        existing: None,
    }
}

fn close(seconds: u64, conn: u64, pid: u32, fd: i32) -> Event {
    Event::Close { at: at(seconds), conn: ConnId(conn), pid: Pid(pid), fd: Fd(fd) }
}

fn state(seconds: u64, uses: u64) -> WireState {
    WireState {
        phase: WirePhase::Ready,
        last_send: Some(at(seconds)),
        last_recv: Some(at(seconds)),
        bytes_sent: 1,
        bytes_received: 1,
        statements: uses,
        active: Some(false),
        status: Some(TxStatus::Idle),
        uses,
        begun: None,
        last_statement: None,
        listening: false,
        advisory_lock: false,
        copy: false,
        replication: false,
        user: Some("u".to_owned()),
        database: None,
        application_name: None,
        backend_pid: None,
        peer_closed: false,
        checkout: None,
    }
}

fn wire(seconds: u64, conn: u64, state: WireState) -> Event {
    Event::Wire { at: at(seconds), conn: ConnId(conn), local_port: None, state }
}

fn held(seconds: u64, count: u64) -> Option<Checkout> {
    Some(Checkout {
        pool: "database/sql".to_owned(),
        instance: None,
        is_pool: true,
        held: true,
        acquired_at: Some(at(seconds)),
        released_at: None,
        count,
    })
}

fn stack(line: u32) -> Stack {
    let symbol = Symbol {
        function: "main.take".to_owned(),
        file: Some("main.go".to_owned()),
        line: Some(line),
        column: None,
        definition: false,
        generated: None,
    };
    let kind = FrameKind::App;
    Stack {
        frames: vec![Frame { symbol: Some(symbol), module: None, kind, inlined: false }],
        truncated: None,
    }
}

fn stacked(seconds: u64, conn: u64, of: StackEvent, uses: u64, line: u32) -> Event {
    Event::Stack { at: at(seconds), conn: ConnId(conn), of, uses, stack: stack(line) }
}

fn apply(events: &[Event]) -> Tracker {
    let mut tracker = tracker();
    for event in events {
        tracker.apply(event);
    }
    tracker
}

fn live(tracker: &Tracker) -> Vec<u64> {
    tracker.live().map(|conn| conn.id.0).collect()
}

fn anomalies(tracker: &Tracker) -> Vec<(Anomaly, u64)> {
    tracker.anomalies().iter().map(|(anomaly, count)| (*anomaly, *count)).collect()
}

#[test]
fn an_open_on_a_descriptor_in_use_ends_the_connection_that_had_it() {
    let tracker = apply(&[open(0, 1, 7, 3), open(1, 2, 7, 3)]);
    assert_eq!(live(&tracker), [2]);
    assert_eq!(anomalies(&tracker), [(Anomaly::MissedClose, 1)]);
}

#[test]
fn a_duplicate_over_another_connection_ends_that_one() {
    let over = Event::Duplicate { at: at(2), conn: ConnId(1), pid: Pid(7), fd: Fd(4) };
    let tracker = apply(&[open(0, 1, 7, 3), open(1, 2, 7, 4), over, close(3, 1, 7, 3)]);
    assert_eq!(live(&tracker), [1]);
}

#[test]
fn a_child_keeps_what_its_parent_closed_and_answers_for_it() {
    let fork = Event::Fork { at: at(1), parent: Pid(7), child: Pid(8) };
    let exit = Event::Exit { at: at(60), pid: Pid(7) };
    let mut state = state(2, 1);
    state.checkout = held(2, 1);
    let mut tracker = apply(&[open(0, 1, 7, 3), fork, wire(2, 1, state), exit]);
    assert_eq!(live(&tracker), [1]);
    let found = tracker.findings(at(61));
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!(tracker.process(found[0].process).map(|process| process.pid), Some(Pid(8)));
    tracker.apply(&Event::Exec { at: at(62), pid: Pid(8), kept: Vec::new() });
    assert_eq!(live(&tracker), [0; 0]);
}

#[test]
fn a_pid_that_forks_again_without_exit_is_a_new_process() {
    let fork =
        |seconds, parent| Event::Fork { at: at(seconds), parent: Pid(parent), child: Pid(9) };
    let tracker = apply(&[open(0, 1, 7, 3), fork(1, 7), close(2, 1, 7, 3), fork(3, 7)]);
    assert_eq!(live(&tracker), [0; 0]);
    assert_eq!(anomalies(&tracker), [(Anomaly::MissedExit, 1)]);
}

#[test]
fn another_start_time_is_another_process() {
    let seen = |start_time| ProcessSeen {
        start_time: Some(start_time),
        comm: "x".to_owned(),
        exe: None,
        runtime: None,
        container: None,
        ns_pid: None,
        pools: Vec::new(),
    };
    let process =
        |seconds, start| Event::Process { at: at(seconds), pid: Pid(7), process: seen(start) };
    let tracker = apply(&[process(0, 1), open(1, 1, 7, 3), process(2, 1), process(3, 2)]);
    assert_eq!(live(&tracker), [0; 0]);
    assert_eq!(anomalies(&tracker), [(Anomaly::MissedExit, 1)]);
}

#[test]
fn stacks_are_wanted_once_silence_is_past_the_soft_threshold_and_until_they_come() {
    let mut state = state(1, 3);
    state.checkout = held(1, 2);
    let mut tracker = apply(&[open(0, 1, 7, 3), wire(1, 1, state)]);
    assert_eq!(tracker.wanted_stacks(MonoNanos(at(2).0 - 1)), []);
    let conn = ConnId(1);
    assert_eq!(
        tracker.wanted_stacks(at(2)),
        [
            (conn, StackEvent::Acquire, 2),
            (conn, StackEvent::LastUse, 3),
            (conn, StackEvent::Open, 0)
        ]
    );
    tracker.apply(&stacked(2, 1, StackEvent::Acquire, 2, 1));
    tracker.apply(&stacked(2, 1, StackEvent::LastUse, 2, 1));
    assert_eq!(
        tracker.wanted_stacks(at(2)),
        [(conn, StackEvent::LastUse, 3), (conn, StackEvent::Open, 0)]
    );
}

#[test]
fn a_running_statement_wants_stacks_only_past_the_threshold_or_when_held() {
    let mut state = state(1, 1);
    state.active = Some(true);
    let tracker = apply(&[open(0, 1, 7, 3), wire(1, 1, state.clone())]);
    assert_eq!(tracker.wanted_stacks(at(20)), []);
    assert!(!tracker.wanted_stacks(at(31)).is_empty());
    state.checkout = held(1, 1);
    let tracker = apply(&[open(0, 1, 7, 3), wire(1, 1, state)]);
    assert!(!tracker.wanted_stacks(at(20)).is_empty());
}

#[test]
fn the_stack_of_an_earlier_checkout_is_not_blamed() {
    let mut first = state(1, 1);
    first.checkout = held(1, 1);
    let mut second = state(5, 2);
    second.checkout = held(5, 2);
    let tracker = apply(&[
        open(0, 1, 7, 3),
        wire(1, 1, first),
        stacked(3, 1, StackEvent::Acquire, 1, 11),
        stacked(3, 1, StackEvent::LastUse, 1, 12),
        wire(5, 1, second),
        Event::Tick { at: at(60) },
    ]);
    let found = tracker.findings(at(60));
    assert_eq!(found[0].blame, None, "{found:#?}");
}

#[test]
fn a_path_counts_its_uses_and_those_that_were_followed() {
    let tracker = apply(&[
        open(0, 1, 7, 3),
        wire(1, 1, state(1, 1)),
        stacked(3, 1, StackEvent::LastUse, 1, 11),
        stacked(3, 1, StackEvent::LastUse, 1, 11),
        wire(4, 1, state(4, 2)),
        wire(5, 1, state(5, 3)),
        stacked(7, 1, StackEvent::LastUse, 3, 11),
    ]);
    let process = tracker.processes().next().unwrap();
    assert_eq!(process.path(&path(11)), PathUse { sampled: 2, followed: 1, refuted: 0 });
}

fn path(line: u32) -> PathKey {
    PathKey {
        function: "main.take".to_owned(),
        file: Some("main.go".to_owned()),
        definition: false,
        line: Some(line),
    }
}

#[test]
fn a_use_at_a_line_that_was_dropped_counts_for_each_line_that_it_may_have_been() {
    let dropped = |seconds, uses| {
        let mut event = stacked(seconds, 1, StackEvent::LastUse, uses, 3);
        let Event::Stack { stack, .. } = &mut event else { unreachable!() };
        stack.frames[0].symbol.as_mut().unwrap().definition = true;
        event
    };
    let mut events = vec![
        open(0, 1, 7, 3),
        wire(1, 1, state(1, 1)),
        dropped(3, 1),
        wire(4, 1, state(4, 2)),
        stacked(6, 1, StackEvent::LastUse, 2, 11),
    ];
    let unknown = PathKey { definition: true, ..path(3) };
    let of = |events: &[Event], key: &PathKey| {
        let tracker = apply(events);
        let process = tracker.processes().next().unwrap();
        (process.path(key), process.place(&unknown).clone())
    };
    let both = PathUse { sampled: 2, followed: 1, refuted: 0 };
    assert_eq!(of(&events, &path(11)), (both, path(11)));
    assert_eq!(of(&events, &unknown), (both, path(11)));
    // Another line of the function, as a caller too: which of the two it was is not known.
    events.push(stacked(7, 1, StackEvent::Open, 0, 12));
    assert_eq!(of(&events, &path(11)), (both, unknown.clone()));
    let once = PathUse { sampled: 1, ..both };
    assert_eq!(of(&events, &path(12)), (once, unknown.clone()));
}

#[test]
fn what_is_kept_of_closed_connections_is_bounded_and_goes_when_nothing_needs_it() {
    let mut tracker = apply(&[open(0, 1, 7, 3), wire(0, 1, state(0, 1))]);
    for n in 0..1_000 {
        tracker.apply(&open(1, 10 + n, 7, 4));
        tracker.apply(&wire(1, 10 + n, state(1, 1)));
        tracker.apply(&close(2, 10 + n, 7, 4));
    }
    let kept = |tracker: &Tracker| tracker.processes().next().unwrap().past().count();
    assert_eq!(kept(&tracker), 256);
    assert_eq!(anomalies(&tracker), [(Anomaly::Forgotten, 744)]);
    tracker.apply(&wire(40, 1, state(40, 2)));
    tracker.apply(&Event::Tick { at: at(40) });
    assert_eq!(kept(&tracker), 0);
}

#[test]
fn a_process_without_connections_or_findings_is_forgotten_at_its_exit() {
    let exit = Event::Exit { at: at(2), pid: Pid(7) };
    let tracker = apply(&[open(0, 1, 7, 3), close(1, 1, 7, 3), exit]);
    assert_eq!(tracker.processes().count(), 0);
}

#[test]
fn losses_of_too_many_reasons_are_counted_together() {
    let mut tracker = tracker();
    for n in 0..100 {
        let reason = format!("reason {n}");
        tracker.apply(&Event::Lost { at: at(0), reason, total: 2 });
    }
    assert_eq!(tracker.lost().len(), 65);
    assert!(tracker.lost().contains_key("other"));
}

fn asked(seconds: u64, received: u64) -> WireState {
    WireState { active: Some(true), last_recv: Some(at(received)), ..state(seconds, 1) }
}

fn unread(seconds: u64, bytes: u64) -> Event {
    Event::Unread { at: at(seconds), conn: ConnId(1), bytes }
}

#[test]
fn what_waits_unread_waits_from_the_first_look_until_something_is_received() {
    let mut tracker = apply(&[open(0, 1, 7, 3), wire(1, 1, asked(1, 1))]);
    let known = |tracker: &Tracker| tracker.connection(ConnId(1)).unwrap().unread();
    assert_eq!(known(&tracker), None);
    tracker.apply(&unread(5, 100));
    tracker.apply(&unread(9, 300));
    assert_eq!(known(&tracker), Some(Unread { bytes: 300, since: at(5), seen: at(9) }));
    // Told late: read between the looks, so only the last one counts.
    tracker.apply(&wire(10, 1, asked(1, 7)));
    assert_eq!(known(&tracker), Some(Unread { bytes: 300, since: at(9), seen: at(9) }));
    tracker.apply(&wire(12, 1, asked(1, 11)));
    assert_eq!(known(&tracker), None);
    // Looked at just before that receive.
    tracker.apply(&unread(11, 50));
    assert_eq!(known(&tracker), None);
    // Read in a way that is not seen.
    tracker.apply(&unread(13, 50));
    tracker.apply(&unread(14, 0));
    assert_eq!(known(&tracker), None);
    // The answer is whole.
    tracker.apply(&unread(15, 50));
    tracker.apply(&wire(16, 1, state(16, 1)));
    assert_eq!(known(&tracker), None);
}

#[test]
fn only_silent_connections_that_await_an_answer_are_looked_at_and_no_more_than_needed() {
    let mut tracker = apply(&[
        open(0, 1, 7, 3),
        open(0, 2, 7, 4),
        open(0, 3, 7, 5),
        wire(1, 1, asked(1, 1)),
        wire(1, 2, state(1, 1)),
        wire(1, 3, WireState { copy: true, ..asked(1, 1) }),
    ]);
    assert_eq!(tracker.wanted_looks(at(1)), []);
    assert_eq!(tracker.wanted_looks(at(2)), [ConnId(1)]);
    tracker.apply(&unread(2, 10));
    assert_eq!(tracker.wanted_looks(at(31)), []);
    assert_eq!(tracker.wanted_looks(at(32)), [ConnId(1)]);
    tracker.apply(&unread(32, 10));
    assert_eq!(tracker.wanted_looks(at(90)), []);
    tracker.apply(&wire(91, 1, asked(1, 91)));
    assert_eq!(tracker.wanted_looks(at(92)), [ConnId(1)]);
}
