//! The same leaks under other circumstances, and the command's own manners.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::Instant;

use tempfile::TempDir;
use xtask::postgres::Config;

use crate::common::client::{Client, GO, Kind, NODE, leak_line, through};
use crate::common::report::Finding;
use crate::common::tracer::{Tracer, connleak, run};
use crate::common::{deadline, process, server, server_with};
use crate::{COULD_NOT_RUN, FOUND, NOTHING_FOUND};

/// Idle connections stay for good, however long the tracer takes to start.
const KEEPS_IDLE: Kind = Kind::Node(r#"{"idleTimeoutMillis":0}"#);

#[test]
fn connections_from_before_the_start_are_listed_and_later_leaks_found() {
    let server = server();
    let mut client = Client::start(GO, &server);
    client.run("leak conn 5");
    let tracer = Tracer::watch(&server);
    client.run("leak rows 3");
    let output = tracer.finish_after_silence();
    let report = output.report();

    let connections = report.connections_of(client.pid());
    assert_eq!(connections.len(), 8, "{:#}", report.0);
    let threshold = u64::try_from(Tracer::THRESHOLD.as_millis()).expect("small");
    for connection in connections {
        let silent = connection["silent_ms"].as_u64();
        assert!(silent.is_some_and(|silent| silent >= threshold), "{connection:#}");
    }
    let blamed = report.with_verdict("leak");
    let rows: Vec<_> =
        blamed.iter().filter(|finding| finding.function() == Some("main.leakRows")).collect();
    assert_eq!(rows.len(), 1, "{:#}", report.0);
    assert_eq!((rows[0].count(), rows[0].certainty()), (3, "proven"), "{:#}", report.0);
    // Nothing is known of the checkouts of the other five.
    for finding in report.accusations() {
        if finding.function() != Some("main.leakRows") {
            assert_ne!(finding.certainty(), "proven", "{:#}", report.0);
        }
    }
}

#[test]
fn idle_connections_from_before_the_start_are_not_reported() {
    let server = server();
    let mut client = Client::start(KEEPS_IDLE, &server);
    client.run("burst 7");
    let tracer = Tracer::watch(&server);
    client.run("healthy 3");
    let output = tracer.finish_after_silence();
    let report = output.report();
    assert!(report.accusations().is_empty(), "{:#}", report.0);
    assert_eq!(output.exit, NOTHING_FOUND);
    assert_eq!(report.connections_of(client.pid()).len(), 7, "{:#}", report.0);
}

/// Nothing is known of how the ten were taken. The eleventh is told with its line.
#[test]
fn after_ten_leaks_from_before_the_start_the_eleventh_has_its_stack() {
    let server = server();
    let mut client = Client::start(KEEPS_IDLE, &server);
    client.run("leak forgotten 10");
    let tracer = Tracer::watch(&server);
    // More than a pause later somebody needs more connections than are left.
    for command in ["leak forgotten 1", "healthy 5", "burst 3"] {
        client.run(command);
    }
    let output = tracer.finish_after_silence();
    let report = output.report();
    let accusations = report.accusations();
    let is_line = |finding: &&Finding<'_>| finding.function() == Some("forgottenRelease");
    let [eleventh] = accusations.iter().filter(is_line).collect::<Vec<_>>()[..] else {
        panic!("{:#}", report.0)
    };
    assert_eq!((eleventh.verdict(), eleventh.count()), ("leak", 1), "{:#}", report.0);
    let [ten] = accusations.iter().filter(|finding| !is_line(finding)).collect::<Vec<_>>()[..]
    else {
        panic!("{:#}", report.0)
    };
    assert_eq!((ten.verdict(), ten.count()), ("leak", 10), "{:#}", report.0);
    assert_eq!((ten.certainty(), ten.function()), ("suspected", None), "{:#}", report.0);
    let why = ten.0["evidence"].to_string();
    assert!(why.contains("10 of 10 existed before the watch began"), "{:#}", report.0);
    // Who listed them sees for how long.
    let before = report.connections_of(client.pid());
    let taken = before.iter().filter(|connection| connection["opened_at"].is_null()).count();
    assert!(taken >= 10, "{:#}", report.0);
}

#[test]
fn pools_of_several_databases_and_users_do_not_speak_against_each_other() {
    let server = server();
    server.psql("create role shop login").expect("a role");
    let mut client = Client::start(KEEPS_IDLE, &server);
    let tracer = Tracer::watch(&server);
    let grows = ["burst 1", "later", "database_burst template1 3", "later", "user_burst shop 5"];
    for command in grows {
        client.run(command);
    }
    let output = tracer.finish_after_silence();
    assert!(output.report().accusations().is_empty(), "{:#}", output.report().0);
    assert_eq!(output.exit, NOTHING_FOUND);
}

#[test]
fn a_leak_beside_pools_of_other_databases_and_users_is_of_its_own() {
    let server = server();
    server.psql("create role shop login").expect("a role");
    let mut client = Client::start(KEEPS_IDLE, &server);
    let tracer = Tracer::watch(&server);
    let leaks = ["burst 4", "database_burst template1 5", "user_leak shop 7"];
    // The same pool goes on, and later opens one more beside those that it uses: all that sat silent
    // meanwhile, the last leak too, was passed over.
    let later = ["user_burst shop 2", "later", "user_burst shop 3", "burst 6"];
    for command in leaks.iter().chain(&later) {
        client.run(command);
    }
    let output = tracer.finish_after_silence();
    let report = output.report();
    // Where V8 has dropped the place of the first calls by the time they are read, they are of the
    // same line all the same.
    let leak = report.only_accusation();
    assert_eq!((leak.verdict(), leak.count()), ("leak", 7), "{:#}", report.0);
    assert_eq!(leak.function(), Some("forgottenRelease"), "{:#}", report.0);
    assert_eq!((&leak.0["user"], &leak.0["database"]), (&"shop".into(), &"postgres".into()));
}

#[test]
fn a_chosen_process_is_watched_and_no_other() {
    let server = server();
    let (mut chosen, mut other) = (Client::start(GO, &server), Client::start(GO, &server));
    let pid = chosen.pid().to_string();
    let tracer = Tracer::watch_with(&server, &["--format", "json", "--pid", &pid]);
    chosen.run("leak rows 3");
    other.run("leak rows 5");
    let output = tracer.finish_after_silence();
    let report = output.report();
    assert_eq!(report.only_accusation().count(), 3, "{:#}", report.0);
    assert_eq!(report.connections_of(other.pid()).len(), 0, "{:#}", report.0);
}

#[test]
fn two_processes_with_the_same_bug_are_two_findings() {
    let server = server();
    let (mut one, mut two) = (Client::start(GO, &server), Client::start(GO, &server));
    let tracer = Tracer::watch(&server);
    one.run("leak rows 3");
    two.run("leak rows 5");
    let output = tracer.finish_after_silence();
    let report = output.report();
    let found: BTreeSet<_> =
        report.accusations().iter().map(|finding| (finding.pid(), finding.count())).collect();
    let expected = BTreeSet::from([(u64::from(one.pid()), 3), (u64::from(two.pid()), 5)]);
    assert_eq!(found, expected, "{:#}", report.0);
}

#[test]
fn a_process_that_starts_later_is_picked_up() {
    let server = server();
    let tracer = Tracer::watch(&server);
    let mut client = Client::start(GO, &server);
    // Its program is probed while it works; what it took before that was not observed.
    for _ in 0..20 {
        client.run("burst 2");
    }
    client.run("leak rows 3");
    let output = tracer.finish_after_silence();
    let report = output.report();
    let finding = report.only_accusation();
    assert_eq!((finding.count(), finding.certainty()), (3, "proven"), "{:#}", report.0);
    assert_eq!(finding.line(), Some(leak_line("rows")), "{:#}", report.0);
}

#[test]
fn a_process_that_exits_takes_its_connections_with_it() {
    let server = server();
    let mut client = Client::start(GO, &server);
    let tracer = Tracer::watch(&server);
    client.run("leak rows 3");
    client.quit();
    let output = tracer.finish_after_silence();
    assert!(output.report().accusations().is_empty(), "{output:#?}");
    assert_eq!(output.exit, NOTHING_FOUND);
}

#[test]
fn connections_over_a_unix_socket_are_watched_too() {
    let server = server_with(&Config { unix: true, ..Config::default() });
    let mut client = Client::spawn(GO.command().envs(server.unix_environment()));
    let tracer = Tracer::watch(&server);
    client.run("leak rows 3");
    client.run("leak rows_unread 2");
    client.run("hold_query 60");
    let output = tracer.finish_after_silence();
    let report = output.report();
    let mut found: Vec<_> =
        report.accusations().iter().map(|finding| (finding.count(), finding.line())).collect();
    found.sort_unstable();
    let expected = [("rows_unread", 2), ("rows", 3)];
    let expected = expected.map(|(shape, count)| (count, Some(leak_line(shape))));
    assert_eq!(found, expected, "{:#}", report.0);
    assert_eq!(report.with_verdict("long query").len(), 1, "{:#}", report.0);
}

#[test]
fn under_tls_the_checkouts_of_go_are_still_observed() {
    let server = server_with(&Config { tls: true, ..Config::default() });
    let mut client = Client::start(GO, &server);
    let tracer = Tracer::watch(&server);
    client.run("healthy rows 3");
    client.run("leak rows 5");
    let output = tracer.finish_after_silence();
    let report = output.report();
    let finding = report.only_accusation();
    assert_eq!((finding.count(), finding.certainty()), (5, "proven"), "{:#}", report.0);
    assert_eq!(finding.line(), Some(leak_line("rows")), "{:#}", report.0);
    for connection in report.connections_of(client.pid()) {
        assert_eq!(connection["tls"], true, "{connection:#}");
        assert!(connection["last_statement"].is_null(), "{connection:#}");
    }
}

#[test]
fn under_tls_a_healthy_client_is_not_reported() {
    let server = server_with(&Config { tls: true, ..Config::default() });
    let mut client = Client::start(GO, &server);
    let tracer = Tracer::watch(&server);
    client.run("healthy rows 7");
    client.run("healthy tx 7");
    let output = tracer.finish_after_silence();
    assert!(output.report().accusations().is_empty(), "{output:#?}");
    assert_eq!(output.exit, NOTHING_FOUND);
}

#[test]
fn a_process_in_its_own_namespaces_is_named_by_the_hosts_pid() {
    let server = server_with(&Config { own_network: true, ..Config::default() });
    let network = format!("--net=/proc/{}/ns/net", server.pid());
    let contained =
        ["nsenter", &network, "unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
    let mut command = through(&contained, &GO.command());
    let mut client = Client::spawn(command.envs(server.environment()));
    assert_eq!(client.pid(), 1, "it sees itself as the first of its namespace");
    let tracer = Tracer::watch(&server);
    client.run("leak rows 3");

    let pid = process::only_child(client.started_pid());
    let output = tracer.finish_after_silence();
    let report = output.report();
    let finding = report.only_accusation();
    assert_eq!((finding.pid(), finding.count()), (u64::from(pid), 3), "{:#}", report.0);
    let process = report.process(pid);
    assert_eq!(process["comm"], "client", "{process:#}");
    assert_eq!(finding.line(), Some(leak_line("rows")), "{:#}", report.0);
}

#[test]
fn connections_from_before_the_start_are_found_in_other_network_namespaces() {
    let server = server_with(&Config { own_network: true, ..Config::default() });
    let network = format!("--net=/proc/{}/ns/net", server.pid());
    let mut command = through(&["nsenter", &network], &GO.command());
    let mut client = Client::spawn(command.envs(server.environment()));
    client.run("leak conn 5");
    let tracer = Tracer::watch(&server);
    let output = tracer.finish_after_silence();
    assert_eq!(output.report().connections_of(client.pid()).len(), 5, "{output:#?}");
}

#[test]
fn a_hostile_process_name_is_escaped_in_every_format() {
    let server = server();
    let directory = TempDir::new().expect("a temporary directory");
    // The kernel takes the first 15 bytes of the file's name.
    let path = directory.path().join("\u{1b}[31m<b>\n\"a\u{7}");
    symlink(GO.command().get_program(), &path).expect("ours");
    let mut client = Client::spawn(Command::new(&path).envs(server.environment()));
    let text = Tracer::watch_with(&server, &["--format", "text"]);
    let json = Tracer::watch_with(&server, &["--format", "json"]);
    client.run("leak rows 3");
    let (json, text) = (json.finish_after_silence(), text.finish_after_silence());
    for output in [&text, &json] {
        assert_eq!(output.exit, FOUND, "{output:#?}");
        let raw = output.stdout.chars().find(|c| c.is_control() && *c != '\n');
        assert_eq!(raw, None, "{output:#?}");
    }
    assert!(text.stdout.contains("[31m<b>"), "named at all: {}", text.stdout);
    let lines = text.stdout.lines();
    assert_eq!(lines.filter(|line| line.starts_with("\"a")).count(), 0, "{}", text.stdout);
    assert_eq!(json.report().only_accusation().count(), 3);
}

#[test]
fn the_text_names_function_and_line_on_its_first_screen() {
    let server = server();
    let mut client = Client::start(GO, &server);
    let tracer = Tracer::watch_with(&server, &[]);
    client.run("leak rows 7");
    let output = tracer.finish_after_silence();
    assert_eq!(output.exit, FOUND, "{output:#?}");
    let screen: Vec<_> = output.stdout.lines().take(24).collect();
    let place = format!("leaks.go:{}", leak_line("rows"));
    assert!(screen.iter().any(|line| line.contains(&place)), "{}", output.stdout);
    assert!(screen.iter().any(|line| line.contains("main.leakRows")), "{}", output.stdout);
}

#[test]
fn the_report_comes_by_itself_when_the_duration_is_over() {
    let server = server();
    let mut client = Client::start(GO, &server);
    let begun = Instant::now();
    let tracer =
        Tracer::start(connleak().args(["capture", "--port", &server.port().to_string()]).args([
            "--threshold",
            "1s",
            "--duration",
            "4s",
            "--format",
            "json",
        ]));
    client.run("leak rows 3");
    let output = tracer.finish();
    assert!(begun.elapsed().as_secs() >= 4);
    assert_eq!(output.report().only_accusation().count(), 3, "{output:#?}");
    assert_eq!(output.exit, FOUND);
}

#[test]
fn the_report_can_be_written_to_a_file() {
    let server = server();
    let directory = TempDir::new().expect("a temporary directory");
    let path = directory.path().join("report.json");
    let file = path.to_str().expect("plain");
    let mut client = Client::start(GO, &server);
    let tracer = Tracer::watch_with(&server, &["--format", "json", "-o", file]);
    client.run("leak rows 3");
    let mut output = tracer.finish_after_silence();
    assert_eq!((output.exit, output.stdout.as_str()), (FOUND, ""), "{output:#?}");
    output.stdout = fs::read_to_string(&path).expect("written");
    assert_eq!(output.report().only_accusation().count(), 3);
}

#[test]
fn a_recording_gives_the_same_report() {
    let server = server();
    let directory = TempDir::new().expect("a temporary directory");
    let path = directory.path().join("recording");
    let file = path.to_str().expect("plain");
    let mut client = Client::start(NODE, &server);
    let tracer = Tracer::watch_with(&server, &["--format", "json", "--record", file]);
    client.run("leak forgotten 5");
    let live = tracer.finish_after_silence();
    let replayed = run(connleak().args(["report", "--format", "json", file]));
    assert_eq!((replayed.exit, &replayed.stdout), (live.exit, &live.stdout), "{replayed:#?}");
}

#[test]
fn a_killed_tracer_leaves_nothing_in_the_kernel() {
    let server = server();
    let mut client = Client::start(GO, &server);
    let tracer = Tracer::watch(&server);
    client.run("leak rows 3");
    let held = tracer.kernel_objects();
    assert!(held.iter().any(|(kind, _)| *kind == "prog"), "{held:?}");
    assert!(held.iter().any(|(kind, _)| *kind == "map"), "{held:?}");
    tracer.kill();
    assert_gone(&held);
    client.run("healthy rows 3");
}

#[test]
fn an_interrupted_tracer_leaves_nothing_in_the_kernel() {
    let server = server();
    let mut client = Client::start(GO, &server);
    let tracer = Tracer::watch(&server);
    client.run("leak rows 3");
    let held = tracer.kernel_objects();
    tracer.interrupt();
    let output = tracer.finish();
    assert!(matches!(output.exit, Some(0 | 1)), "{output:#?}");
    assert_eq!(output.report().connections_of(client.pid()).len(), 3);
    assert_gone(&held);
}

#[test]
fn a_terminated_tracer_reports_and_leaves_nothing_in_the_kernel() {
    let server = server();
    let (mut leaky, mut healthy) = (Client::start(GO, &server), Client::start(GO, &server));
    let watch = |client: &Client| {
        let pid = client.pid().to_string();
        Tracer::watch_with(&server, &["--format", "json", "--pid", &pid])
    };
    let (of_leaky, of_healthy) = (watch(&leaky), watch(&healthy));
    leaky.run("leak rows 3");
    healthy.run("healthy rows 3");
    let held = of_leaky.kernel_objects();
    Tracer::silence();
    for tracer in [&of_leaky, &of_healthy] {
        tracer.terminate();
    }
    let (of_leaky, of_healthy) = (of_leaky.finish(), of_healthy.finish());
    let report = of_leaky.report();
    let finding = report.only_accusation();
    assert_eq!((finding.count(), finding.line()), (3, Some(leak_line("rows"))), "{:#}", report.0);
    assert_eq!(of_leaky.exit, FOUND);
    let report = of_healthy.report();
    assert!(report.accusations().is_empty(), "{:#}", report.0);
    assert_eq!(report.connections_of(healthy.pid()).len(), 1, "{:#}", report.0);
    assert_eq!(of_healthy.exit, NOTHING_FOUND);
    assert_gone(&held);
}

#[test]
fn a_pid_that_does_not_exist_is_refused_in_one_sentence() {
    let absent = absent_pid().to_string();
    refused(connleak().args(["capture", "--pid", &absent, "--duration", "1s"]), &absent);
}

#[test]
fn without_root_the_capture_is_refused_in_one_sentence() {
    // Where anyone may run it: the build directory may be closed to others.
    let directory = TempDir::new().expect("a temporary directory");
    process::output(Command::new("chmod").arg("755").arg(directory.path()));
    let copy = directory.path().join("connleak");
    process::copy_program(connleak().get_program(), &copy);
    let nobody = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"];
    let mut capture = Command::new(&copy);
    capture.args(["capture", "--duration", "1s"]);
    refused(&mut through(&nobody, &capture), "root");
}

/// Exit code 2, and one line that says why.
fn refused(command: &mut Command, said: &str) {
    let output = run(command);
    assert_eq!(output.exit, COULD_NOT_RUN, "{output:#?}");
    assert_eq!(output.stdout, "", "{output:#?}");
    assert_eq!(output.stderr.lines().count(), 1, "{output:#?}");
    assert!(output.stderr.contains(said), "{output:#?}");
}

/// The highest possible process id, or the next below that is free.
fn absent_pid() -> u32 {
    let limit = fs::read_to_string("/proc/sys/kernel/pid_max").expect("proc is mounted");
    let limit: u32 = limit.trim().parse().expect("a number");
    let free = (1..limit).rev().find(|pid| fs::metadata(format!("/proc/{pid}")).is_err());
    free.expect("not all are taken")
}

/// The kernel frees these some time after their last holder ended, in the background, which a busy
/// machine puts off: asks until it has.
fn assert_gone(objects: &BTreeSet<(&'static str, u32)>) {
    let end = Instant::now() + 3 * deadline();
    for &(kind, id) in objects {
        while is_in_kernel(kind, id) {
            assert!(Instant::now() < end, "{kind} {id} is still in the kernel");
            std::thread::yield_now();
        }
    }
}

/// Whether the kernel still has this object: it is asked which one follows that before. To open it, as
/// bpftool does, can keep it for good: a map of programs that was opened and closed again while it was
/// being emptied stayed without a holder (seen on Linux 6.18, whose `prog_array_map_clear` in
/// `kernel/bpf/arraymap.c` takes a reference for work that may be queued already).
#[expect(unsafe_code, reason = "the bpf system call has no safe interface that opens nothing")]
fn is_in_kernel(kind: &str, id: u32) -> bool {
    // `enum bpf_cmd` of Linux `include/uapi/linux/bpf.h`: `BPF_PROG_GET_NEXT_ID` and those like it.
    let command = match kind {
        "prog" => 11,
        "map" => 12,
        "link" => 31,
        other => panic!("what is a {other}?"),
    };
    // `start_id`, `next_id` and `open_flags` of `union bpf_attr`.
    let mut attributes = [id - 1, 0, 0];
    // SAFETY: the kernel reads and writes the attributes only, of which it is told the size.
    let failed = unsafe {
        let size = size_of_val(&attributes);
        libc::syscall(libc::SYS_bpf, command, &raw mut attributes, size)
    };
    if failed != 0 {
        let error = std::io::Error::last_os_error();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT), "{kind} {id}: {error}");
        return false;
    }
    attributes[1] == id
}
