//! Where the thread or goroutine is now that took a connection: still there, gone on, or ended.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::common::client::{Build, Client, GO, Kind, Profile, leak_line_in};
use crate::common::report::Finding;
use crate::common::tracer::Tracer;
use crate::{NOTHING_FOUND, Seen, common, watch};

const PYTHON: &str = "python/with_outside.py";

/// The threads that a finding tells of.
fn holders(finding: Finding<'_>) -> &[Value] {
    finding.0["holders"].as_array().map_or(&[], Vec::as_slice)
}

/// The application's frames of a thread: function, file and line, innermost first.
fn own(holder: &Value) -> Vec<(&str, &str, u64)> {
    let frames = holder["stack"]["frames"].as_array().expect("it is blocked").iter();
    let own = frames.filter(|frame| frame["kind"] == "app");
    own.map(|frame| {
        let text = |name: &str| frame[name].as_str().expect("a text");
        (text("function"), text("file"), frame["line"].as_u64().expect("a line"))
    })
    .collect()
}

/// The one finding, which names this function and line; and its threads.
#[track_caller]
fn found<'a>(seen: &'a Seen, source: &str, function: &str, shape: &str) -> &'a [Value] {
    let finding = seen.report.only_accusation();
    let whole = &seen.report.0;
    let said = (finding.verdict(), finding.certainty(), finding.function(), finding.line());
    let line = Some(leak_line_in(source, shape));
    assert_eq!(said, ("idle in transaction", "proven", Some(function), line), "{whole:#}");
    holders(finding)
}

/// The innermost frames of the application's are in these functions, at the lines of these shapes.
#[track_caller]
fn is_at(seen: &Seen, holder: &Value, source: &str, wanted: &[(&str, &str)]) {
    let own = own(holder);
    let own: Vec<_> = own
        .iter()
        .take(wanted.len())
        .map(|(function, file, line)| (*function, file.ends_with(source), *line))
        .collect();
    let wanted: Vec<_> = wanted
        .iter()
        .map(|(function, shape)| (*function, true, leak_line_in(source, shape)))
        .collect();
    assert_eq!(own, wanted, "{:#}", seen.report.0);
}

/// Of a thread that is stuck outside, the line is told that it is stuck at.
fn stuck(python: Kind) {
    let seen = watch(python, &["keep charge"]);
    let whole = &seen.report.0;
    let [holder] = found(&seen, PYTHON, "charge", "charge") else { panic!("{whole:#}") };
    assert_eq!((&holder["place"], &holder["call"]), (&"here".into(), &"recvfrom".into()));
    is_at(&seen, holder, PYTHON, &[("rate", "rate"), ("charge", "stuck")]);
    assert_eq!(holder["stack"]["truncated"], Value::Null, "{whole:#}");
    assert_ne!(holder["tid"], seen.pid, "it is a thread of its own: {whole:#}");
}

#[test]
fn where_a_thread_is_stuck_is_told_in_3_9() {
    stuck(Kind::PythonAt(9, "outside"));
}

#[test]
fn where_a_thread_is_stuck_is_told_in_3_14() {
    stuck(Kind::PythonAt(14, "outside"));
}

#[test]
fn a_thread_that_has_gone_on_has_left() {
    let seen = watch(Kind::PythonWith("outside", &[]), &["leak_alone forgotten 3"]);
    let whole = &seen.report.0;
    let threads = found(&seen, PYTHON, "forgotten", "forgotten");
    assert_eq!(threads.len(), 3, "{whole:#}");
    for thread in threads {
        assert_eq!(thread["place"], "left", "{whole:#}");
        assert_eq!((&thread["tid"], &thread["call"]), (&seen.pid.into(), &"read".into()));
        let waits = own(thread);
        assert_eq!(waits[0].0, "main", "{whole:#}");
        assert!(waits.iter().all(|(function, ..)| *function != "forgotten"), "{whole:#}");
    }
}

#[test]
fn a_thread_that_has_ended_is_said_to_have() {
    let seen = watch(Kind::PythonWith("outside", &[]), &["leak_alone thread 3"]);
    let whole = &seen.report.0;
    let threads = found(&seen, PYTHON, "forgotten", "forgotten");
    assert_eq!(threads.len(), 3, "{whole:#}");
    for thread in threads {
        assert_eq!((&thread["place"], &thread["stack"]), (&"ended".into(), &Value::Null));
    }
}

#[test]
fn of_a_task_nothing_is_said() {
    let seen = watch(Kind::PythonWith("outside", &[]), &["leak_alone task 3"]);
    let threads = found(&seen, PYTHON, "forgotten", "forgotten");
    assert!(threads.is_empty(), "{:#}", seen.report.0);
}

#[test]
fn who_gave_back_before_it_was_stuck_is_not_accused() {
    let seen = watch(Kind::PythonWith("outside", &[]), &["keep gave_back_first"]);
    assert!(seen.report.accusations().is_empty(), "{:#}", seen.report.0);
    assert_eq!(seen.exit, NOTHING_FOUND);
}

#[test]
fn where_a_thread_of_a_c_program_is_stuck_is_told() {
    const SOURCE: &str = "c/main.c";
    let seen = watch(Kind::C, &["charge"]);
    let whole = &seen.report.0;
    let [holder] = found(&seen, SOURCE, "charge_order", "charge") else { panic!("{whole:#}") };
    assert_eq!((&holder["place"], &holder["call"]), (&"here".into(), &"read".into()), "{whole:#}");
    is_at(&seen, holder, SOURCE, &[("ask_outside", "ask"), ("charge_order", "stuck")]);
}

#[test]
fn a_c_program_that_has_gone_on_has_left() {
    let seen = watch(Kind::C, &["leak transaction 3"]);
    let whole = &seen.report.0;
    let threads = found(&seen, "c/main.c", "forget_transaction", "transaction");
    assert_eq!(threads.len(), 3, "{whole:#}");
    for thread in threads {
        let said = (&thread["place"], &thread["tid"], &thread["call"]);
        assert_eq!(said, (&"left".into(), &seen.pid.into(), &"read".into()), "{whole:#}");
        let innermost = own(thread).first().map(|(function, ..)| *function);
        assert_eq!(innermost, Some("main"), "{whole:#}");
    }
}

/// Its pool is used by tasks, which wait on no thread.
#[test]
fn of_a_task_of_rust_nothing_is_said() {
    let seen = watch(Kind::Rust("deadpool", Profile::Release), &["leak forgotten 3"]);
    let finding = seen.report.only_accusation();
    let whole = &seen.report.0;
    assert_eq!((finding.verdict(), &finding.0["blame"]["event"]), ("leak", &"acquire".into()));
    assert!(holders(finding).is_empty(), "{whole:#}");
}

#[test]
fn a_php_program_that_has_gone_on_has_left() {
    let seen = watch(Kind::Php, &["leak transaction 3"]);
    let whole = &seen.report.0;
    let finding = seen.report.only_accusation();
    assert_eq!(finding.function(), Some("transaction_not_ended"), "{whole:#}");
    assert_eq!(holders(finding).len(), 3, "{whole:#}");
    for thread in holders(finding) {
        let said = (&thread["place"], &thread["tid"], &thread["call"]);
        assert_eq!(said, (&"left".into(), &seen.pid.into(), &"read".into()), "{whole:#}");
        let own = own(thread);
        let [(function, file, _)] = own[..] else { panic!("{whole:#}") };
        assert!(function == "{main}" && file.ends_with("php/main.php"), "{whole:#}");
    }
}

const JAVA: Kind = Kind::Java(&["minimumIdle=0", "maximumPoolSize=30"]);

fn stuck_in_java(commands: &[&str], call: &str) {
    let seen = watch(JAVA, commands);
    let whole = &seen.report.0;
    let finding = seen.report.only_accusation();
    let said = (finding.verdict(), finding.count(), finding.function());
    assert_eq!(said, ("leak", 7, Some("Leaks.outsideCall")), "{whole:#}");
    let threads = holders(finding);
    assert_eq!(threads.len(), 4, "so many of a finding are looked at: {whole:#}");
    for holder in threads {
        assert_eq!((&holder["place"], &holder["call"]), (&"here".into(), &call.into()));
        assert_eq!(holder["stack"]["truncated"], Value::Null, "{whole:#}");
        let own = own(holder);
        let blamed = own.iter().find(|(function, ..)| *function == "Leaks.outsideCall");
        let line = leak_line_in("java/Leaks.java", "stuck");
        assert_eq!(blamed, Some(&("Leaks.outsideCall", "Leaks.java", line)), "{whole:#}");
    }
}

#[test]
fn where_a_thread_of_java_is_stuck_is_told() {
    stuck_in_java(&["healthy 3", "outside 3", "later", "outside 4", "overlap 2"], "futex");
}

/// Where the innermost functions keep a frame pointer that no register tells.
#[test]
fn where_a_thread_of_java_is_stuck_in_the_network_is_told() {
    stuck_in_java(&["healthy 3", "unanswered 3", "later", "unanswered 4", "overlap 2"], "read");
}

#[test]
fn a_thread_of_java_that_has_gone_on_has_left() {
    let seen = watch(JAVA, &["leak transaction 3"]);
    let whole = &seen.report.0;
    let finding = seen.report.only_accusation();
    assert_eq!(finding.function(), Some("Leaks.transactionNotEnded"), "{whole:#}");
    assert_eq!(holders(finding).len(), 3, "{whole:#}");
    for thread in holders(finding) {
        assert_eq!((&thread["place"], &thread["call"]), (&"left".into(), &"read".into()));
        let innermost = own(thread).first().map(|(function, ..)| *function);
        assert_eq!(innermost, Some("Main.main"), "{whole:#}");
    }
}

const GO_SOURCE: &str = "go/goroutines.go";

/// The one finding is a leak of this function and line; and its goroutines.
#[track_caller]
fn goroutines<'a>(seen: &'a Seen, source: &str, function: &str, shape: &str) -> &'a [Value] {
    let finding = seen.report.only_accusation();
    let whole = &seen.report.0;
    let said = (finding.verdict(), finding.certainty(), finding.function(), finding.line());
    let line = Some(leak_line_in(source, shape));
    assert_eq!(said, ("leak", "proven", Some(function), line), "{whole:#}");
    let told = holders(finding);
    assert_eq!(told.len() as u64, finding.count(), "{whole:#}");
    assert!(told.iter().all(|told| told["goroutine"].as_u64() > Some(0)), "{whole:#}");
    told
}

/// Goroutines wait in different ways for somebody outside: in a channel, for a socket and an
/// answer by HTTP in the runtime, and in a system call.
fn stuck_in_go(build: Build) {
    let ways = [
        ("channel", "chan receive", "main.askChannel"),
        ("socket", "IO wait", "main.askSocket"),
        ("http", "select", "main.askHTTP"),
        ("pipe", "syscall", "main.askPipe"),
    ];
    let commands = ways.map(|(way, ..)| format!("charge {way}"));
    let commands = commands.each_ref().map(String::as_str);
    let seen = watch(Kind::Go(build, &[]), &commands);
    let whole = &seen.report.0;
    let told = goroutines(&seen, GO_SOURCE, "main.charge", "charge");
    let numbers: BTreeSet<_> = told.iter().map(|told| told["goroutine"].as_u64()).collect();
    for (way, call, ask) in ways {
        let holder = told.iter().find(|holder| holder["call"] == call);
        let holder = holder.unwrap_or_else(|| panic!("nobody waits in {call}: {whole:#}"));
        assert_eq!(holder["place"], "here", "{whole:#}");
        let shapes = [(ask, &*format!("ask_{way}")), ("main.charge", "charge_stuck")];
        is_at(&seen, holder, GO_SOURCE, &shapes);
        assert_eq!(holder["stack"]["truncated"], Value::Null, "{whole:#}");
        let frames = holder["stack"]["frames"].as_array().expect("frames");
        let root = frames.last().map(|frame| &frame["function"]);
        assert_eq!(root, Some(&"runtime.goexit".into()), "{whole:#}");
    }
    assert_eq!(numbers.len(), ways.len(), "each is another one: {whole:#}");
}

#[test]
fn where_a_goroutine_is_stuck_is_told() {
    stuck_in_go(Build::Plain);
}

#[test]
fn where_a_goroutine_is_stuck_is_told_in_a_stripped_binary() {
    stuck_in_go(Build::Stripped);
}

#[test]
fn where_a_goroutine_is_stuck_is_told_of_the_newest_go() {
    stuck_in_go(Build::Newest);
}

/// The one that took them all now waits for its next command.
fn gone_on_in_go(build: Build) {
    let seen = watch(Kind::Go(build, &[]), &["leak conn 3"]);
    let whole = &seen.report.0;
    for holder in goroutines(&seen, "go/leaks.go", "main.leakConn", "conn") {
        let said = (&holder["place"], &holder["goroutine"], &holder["call"]);
        assert_eq!(said, (&"left".into(), &1.into(), &"syscall".into()), "{whole:#}");
        let own: Vec<_> = own(holder).into_iter().map(|(function, ..)| function).collect();
        assert_eq!(own, ["main.main"], "{whole:#}");
    }
}

#[test]
fn a_goroutine_that_has_gone_on_has_left() {
    gone_on_in_go(Build::Pie);
}

#[test]
fn a_goroutine_of_the_newest_go_that_has_gone_on_has_left() {
    gone_on_in_go(Build::Newest);
}

#[test]
fn a_goroutine_that_has_ended_is_said_to_have() {
    for build in [Build::Plain, Build::Newest] {
        let seen = watch(Kind::Go(build, &[]), &["detached", "detached", "detached"]);
        let whole = &seen.report.0;
        for holder in goroutines(&seen, "go/leaks.go", "main.leakConn", "conn") {
            let said = (&holder["place"], &holder["call"], &holder["stack"]);
            assert_eq!(said, (&"ended".into(), &Value::Null, &Value::Null), "{whole:#}");
        }
    }
}

#[test]
fn a_goroutine_that_gave_back_before_it_was_stuck_is_not_accused() {
    let seen = watch(GO, &["charge_first channel", "charge_first socket", "charge_first pipe"]);
    assert!(seen.report.accusations().is_empty(), "{:#}", seen.report.0);
    assert_eq!(seen.exit, NOTHING_FOUND);
}

/// The text names the place, and a recording gives the same report.
#[test]
fn the_text_says_where_it_is_and_so_does_a_replay() {
    let line = leak_line_in(PYTHON, "stuck");
    let place = format!("with_outside.py:{line}");
    let wanted = ["is in this function, blocked in recvfrom\n", &place];
    text_and_replay(Kind::PythonWith("outside", &[]), "keep charge", &wanted);
}

#[test]
fn the_text_says_where_a_goroutine_is_and_so_does_a_replay() {
    let line = leak_line_in(GO_SOURCE, "charge_stuck");
    let place = format!("go/goroutines.go:{line}");
    let wanted = ["  now          goroutine ", " is in this function, blocked: IO wait\n", &place];
    text_and_replay(GO, "charge socket", &wanted);
}

fn text_and_replay(kind: Kind, command: &str, wanted: &[&str]) {
    let server = common::server();
    let mut client = Client::start(kind, &server);
    let pid = client.pid().to_string();
    let recording = std::env::temp_dir().join(format!("connleak-holder-{pid}.jsonl"));
    let path = recording.display().to_string();
    let tracer = Tracer::watch_with(&server, &["--pid", &pid, "--record", &path]);
    client.run(command);
    let text = tracer.finish_after_silence().stdout;
    for wanted in wanted {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
    let replayed = common::tracer::run(common::tracer::connleak().args(["report", &path]));
    std::fs::remove_file(recording).expect("it was written");
    assert_eq!(replayed.stdout, text);
}
