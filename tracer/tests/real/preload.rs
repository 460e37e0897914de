//! Checkouts of pg-pool that the process marks itself, by the opt-in file that Node.js loads first. The
//! twins without it see what every other test of Node.js sees.

use std::process::Command;

use xtask::postgres::Config;
use xtask::workspace;

use crate::common::client::{Client, Kind, NODE, leak_line_in};
use crate::common::{process::output, server_with};
use crate::{FOUND, NOTHING_FOUND, Seen, watch, watch_client, watch_command};

const SOURCE: &str = "node/marked.js";
const MARKED: Kind = Kind::NodeAt(20, "marked");

/// The same command with the file loaded first.
fn with_preload(kind: Kind) -> Command {
    let file = workspace::root().join("preload/connleak-node.js");
    let mut command = kind.command();
    command.env("NODE_OPTIONS", format!("--require {}", file.display()));
    command
}

/// So many leaks of this shape are proven: taken by this function at the marked line.
fn is_proven(seen: &Seen, count: u64, function: &str, source: &str, shape: &str) {
    is_proven_at(seen, count, function, (source, leak_line_in(source, shape)));
}

fn is_proven_at(seen: &Seen, count: u64, function: &str, (source, line): (&str, u64)) {
    let whole = &seen.report.0;
    let finding = seen.report.only_accusation();
    let said = (finding.verdict(), finding.certainty(), finding.count());
    assert_eq!(said, ("leak", "proven", count), "{whole:#}");
    assert_eq!(finding.function(), Some(function), "{whole:#}");
    let file = finding.file().unwrap_or_default();
    assert!(file.ends_with(source), "{file} is not {source}: {whole:#}");
    assert_eq!(finding.line(), Some(line), "{whole:#}");
    assert_eq!(seen.exit, FOUND);
}

fn is_silent(seen: &Seen) {
    assert!(seen.report.accusations().is_empty(), "{:#}", seen.report.0);
    assert_eq!(seen.exit, NOTHING_FOUND);
}

#[test]
fn clients_taken_and_never_used_are_proven_by_their_marks() {
    // Without marks: `node::clients_taken_and_never_used_are_found`, by nobody.
    let seen = watch_command(&mut with_preload(NODE), &["leak_alone never_used 7", "healthy 1"]);
    is_proven(&seen, 7, "neverUsed", "node/leaks.js", "never_used");
}

#[test]
fn one_leak_that_nothing_follows_is_proven_by_its_mark() {
    let leak = &["leak_alone from_the_loop 1"];
    let seen = watch_command(&mut with_preload(MARKED), leak);
    is_proven(&seen, 1, "fromTheLoop", SOURCE, "from_the_loop");
    let pools = seen.report.0["processes"][0]["pools"].as_array().expect("a list of pools");
    let pool = pools.iter().find(|pool| pool["name"] == "pg-pool").expect("pg-pool");
    assert_eq!(pool["observed"], true, "{pool:#}");
    is_silent(&watch(MARKED, leak));
}

#[test]
fn a_leak_whose_client_is_used_from_the_event_loop_is_found_by_who_took_it() {
    let leak = &["leak from_the_loop 7"];
    let on_24 = Kind::NodeAt(24, "marked");
    let seen = watch_command(&mut with_preload(on_24), leak);
    is_proven(&seen, 7, "fromTheLoop", SOURCE, "from_the_loop");
    let seen = watch(on_24, leak);
    let finding = seen.report.only_accusation();
    assert_ne!(finding.certainty(), "proven", "{:#}", seen.report.0);
    assert_eq!(finding.function(), None, "{:#}", seen.report.0);
}

#[test]
fn a_client_that_was_waited_for_is_found_by_who_waited() {
    let seen = watch_command(&mut with_preload(MARKED), &["leak_alone waiting 5"]);
    is_proven(&seen, 5, "whenThereIsOne", SOURCE, "waiting");
}

#[test]
fn who_called_a_helper_across_a_pause_is_named_behind_it() {
    // Over a Unix socket, for once.
    let server = server_with(&Config { unix: true, ..Config::default() });
    let client = Client::spawn(with_preload(MARKED).envs(server.unix_environment()));
    let seen = watch_client(&server, client, &["leak_alone helper 3"]);
    is_proven(&seen, 3, "helper", SOURCE, "helper");
    let stacks = seen.report.only_accusation().0["stacks"].to_string();
    assert!(stacks.contains("throughHelper"), "{stacks}");
}

#[test]
fn a_mark_in_compiled_typescript_leads_to_its_source() {
    let compiled = Kind::TypeScript(20, "compiled/service.js");
    let seen = watch_command(&mut with_preload(compiled), &["leak_alone method 3"]);
    let source = "typescript/src/handlers.ts";
    // The client is taken on the line before the query.
    is_proven_at(&seen, 3, "total", (source, leak_line_in(source, "method") - 1));
    let runs_as = seen.report.only_accusation().generated_file().unwrap_or_default().to_owned();
    assert!(runs_as.ends_with("compiled/handlers.js"), "{runs_as}");
}

#[test]
fn a_worker_thread_marks_its_own_checkouts() {
    let kind = Kind::NodeAt(20, "frames");
    let seen = watch_command(&mut with_preload(kind), &["leak_alone worker 1"]);
    let source = "node/worker.js";
    let line = leak_line_in(source, "worker") - 1;
    is_proven_at(&seen, 1, "leakedByWorker", (source, line));
}

#[test]
fn a_pool_for_each_request_is_found_by_who_made_it() {
    // Without marks: `node::a_pool_for_each_request_is_suspected_...`, by nobody.
    let kind = Kind::Node(r#"{"idleTimeoutMillis":0}"#);
    let seen = watch_command(&mut with_preload(kind), &["new_pool 17"]);
    let whole = &seen.report.0;
    let finding = seen.report.only_accusation();
    assert_eq!((finding.verdict(), finding.count()), ("abandoned pool", 17), "{whole:#}");
    assert_eq!(finding.certainty(), "strong", "{whole:#}");
    assert_eq!(finding.function(), Some("newPool"), "{whole:#}");
}

#[test]
fn under_tls_marks_are_of_the_socket_below() {
    let server = server_with(&Config { tls: true, ..Config::default() });
    let options = r#"{"ssl":{"rejectUnauthorized":false}}"#;
    let start = |shape: &str| {
        let mut node = with_preload(Kind::NodeWith("marked", options));
        let client = Client::spawn(node.envs(server.environment()));
        watch_client(&server, client, &[shape])
    };
    is_proven(&start("leak_alone from_the_loop 3"), 3, "fromTheLoop", SOURCE, "from_the_loop");
    is_silent(&start("every_way"));
}

#[test]
fn clients_that_come_back_are_silent_however_they_come_back() {
    is_silent(&watch_command(&mut with_preload(MARKED), &["every_way", "healthy 3"]));
    let rounds = ["healthy 3", "transaction 3", "pool_query 3", "queued 3", "cursor 3", "burst 11"];
    // Held for ever on purpose.
    let held = ["listen", "advisory_lock 7", "copy"];
    let commands: Vec<&str> = rounds.into_iter().chain(held).collect();
    is_silent(&watch_command(&mut with_preload(NODE), &commands));
}

#[test]
fn a_program_runs_as_before_with_the_file_and_without_a_tracer() {
    let mut node = with_preload(MARKED);
    let server = server_with(&Config::default());
    let mut client = Client::spawn(node.envs(server.environment()));
    client.run("every_way");
    client.quit();
    // Nothing of it holds a program that has nothing to do, and what is no pool is left alone.
    let mut alone = Command::new("node");
    for (name, value) in node.get_envs() {
        alone.env(name, value.unwrap_or_default());
    }
    alone.args(["-e", "console.log(typeof require('pg-pool'), require('fs').existsSync('/'))"]);
    assert_eq!(output(&mut alone).trim(), "function true");
}
