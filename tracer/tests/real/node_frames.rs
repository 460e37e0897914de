//! Stacks of Node.js that are harder to tell: which function, which file and which line, in the
//! versions of Node.js that are installed here. No flags, no restart.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tracer::binary::elf::Elf;
use xtask::clients;

use crate::common::client::{Kind, leak_line_in};
use crate::common::report::Report;
use crate::{FOUND, NOTHING_FOUND, watch, watch_command};

const NODE_20: Kind = Kind::NodeAt(20, "frames");
const NODE_24: Kind = Kind::NodeAt(24, "frames");
const SOURCE: &str = "node/frames.js";

/// Seven leaks of this shape are found: by this function at the marked line.
fn is_found(node: Kind, commands: &[&str], function: &str, source: &str, shape: &str) {
    let seen = watch(node, commands);
    let whole = &seen.report.0;
    let finding = seen.report.only_accusation();
    let said = (finding.verdict(), finding.certainty(), finding.count());
    assert_eq!(said, ("leak", "strong", 7), "{whole:#}");
    assert_eq!(finding.function(), Some(function), "{whole:#}");
    let file = finding.file().unwrap_or_default();
    assert!(file.ends_with(source), "{file} is not {source}: {whole:#}");
    assert_eq!(finding.line(), Some(leak_line_in(source, shape)), "{whole:#}");
    assert_eq!(seen.exit, FOUND);
}

fn stays_silent(node: Kind, commands: &[&str]) {
    let seen = watch(node, commands);
    assert!(seen.report.accusations().is_empty(), "{:#}", seen.report.0);
    assert_eq!(seen.exit, NOTHING_FOUND);
}

fn recursive(node: Kind) {
    is_found(node, &["leak recursive 7"], "descend", SOURCE, "recursive");
}

#[test]
fn a_function_that_calls_itself_is_found() {
    recursive(NODE_20);
}

#[test]
fn a_function_that_calls_itself_is_found_on_another_version() {
    recursive(NODE_24);
}

fn compiled(node: Kind) {
    is_found(node, &["warm 5000", "leak hot 7"], "send", SOURCE, "hot");
}

#[test]
fn a_function_that_was_compiled_is_found_at_the_line_of_its_call() {
    compiled(NODE_20);
}

#[test]
fn a_function_that_was_compiled_is_found_at_the_line_of_its_call_on_another_version() {
    compiled(NODE_24);
}

#[test]
fn a_function_that_is_made_for_one_request_is_found_after_collections() {
    let commands = ["leak closures 7", "collect 3"];
    is_found(NODE_20, &commands, "now", SOURCE, "closures");
}

#[test]
fn names_that_are_not_ascii_are_shown_as_they_are_written() {
    is_found(NODE_24, &["leak named 7"], "läckt", "node/größe/läck.js", "named");
}

#[test]
fn a_function_of_a_module_is_found_by_its_path() {
    is_found(NODE_20, &["leak module 7"], "leakedByModule", "node/module.mjs", "module");
}

#[test]
fn a_function_of_a_worker_thread_is_found() {
    is_found(NODE_20, &["leak worker 7"], "leakedByWorker", "node/worker.js", "worker");
}

#[test]
fn two_leaks_at_the_same_time_are_two_findings() {
    for node in [NODE_20, NODE_24] {
        let seen = watch(node, &["leak both 7"]);
        are_both_found(&seen.report);
    }
}

fn are_both_found(report: &Report) {
    let accusations = report.accusations();
    let mut found: Vec<_> = accusations
        .iter()
        .map(|finding| (finding.function(), finding.line(), finding.count()))
        .collect();
    found.sort_unstable();
    let at = |shape| Some(leak_line_in(SOURCE, shape));
    let wanted = [(Some("first"), at("first"), 7), (Some("second"), at("second"), 7)];
    assert_eq!(found, wanted, "{:#}", report.0);
}

#[test]
fn compiled_functions_that_release_are_not_reported() {
    stays_silent(NODE_20, &["warm 5000", "hot 7"]);
    stays_silent(NODE_24, &["warm 5000", "hot 7"]);
}

#[test]
fn a_worker_that_releases_is_not_reported() {
    stays_silent(NODE_24, &["worker 7"]);
}

#[test]
fn what_the_event_loop_sends_is_nobodys() {
    let report = watch(Kind::NodeAt(24, "postgres"), &["leak forgotten 7"]).report;
    let finding = report.only_accusation();
    assert_eq!((finding.verdict(), finding.count()), ("leak", 7), "{:#}", report.0);
    assert_eq!(finding.function(), None, "{:#}", report.0);
}

#[test]
fn a_perf_map_changes_nothing() {
    let (function, source) = ("forgottenRelease", "node/leaks.js");
    is_found(Kind::NodeWithPerfMap, &["leak forgotten 7"], function, source, "forgotten");
}

#[test]
fn what_v8_moves_before_the_threshold_is_named_in_time() {
    is_found(NODE_20, &["moved 7 20"], "first", SOURCE, "first");
}

/// A copy of Node.js whose V8 says that it is of a later major version: the number, and the text of
/// the whole that its snapshot of memory has, too.
fn of_a_later_version(directory: &Path) -> PathBuf {
    const MAJOR: &[u8] = b"_ZN2v88internal7Version6major_E";
    let known = clients::node(24);
    let said = Command::new(&known).args(["-p", "process.versions.v8"]).output();
    let said = said.expect("Node.js runs").stdout.trim_ascii().to_vec();
    let mut bytes = fs::read(&known).expect("Node.js is installed");
    let at = {
        let elf = Elf::parse(&bytes).expect("a program");
        let symbol = elf.exports().find(|symbol| symbol.name == MAJOR).expect("V8 is in it");
        elf.file_offset(symbol.vaddr).expect("it has a value")
    };
    let at = usize::try_from(at).expect("an offset");
    bytes[at..at + 4].copy_from_slice(&99_u32.to_le_bytes());
    let texts: Vec<usize> = memchr::memmem::find_iter(&bytes, &said).collect();
    for at in texts {
        bytes[at..at + 2].copy_from_slice(b"99");
    }
    let program = directory.join("node");
    fs::write(&program, bytes).expect("there is room");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("it is ours");
    program
}

#[test]
fn of_a_version_of_v8_that_is_not_known_native_frames_remain_and_the_report_says_why() {
    let directory = tempfile::tempdir().expect("a directory");
    let usual = NODE_24.command();
    let mut command = Command::new(of_a_later_version(directory.path()));
    command.args(usual.get_args());
    command.envs(usual.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let seen = watch_command(&mut command, &["leak first 7"]);
    let whole = &seen.report.0;
    let finding = seen.report.only_accusation();
    assert_eq!((finding.verdict(), finding.count()), ("leak", 7), "{whole:#}");
    assert_eq!(finding.function(), None, "{whole:#}");
    let reason = "no JavaScript frames: V8 99.6 is not known";
    let stack = &finding.0["stacks"][0];
    assert_eq!(stack["truncated"], reason, "{whole:#}");
    let frames = stack["frames"].as_array().expect("a list");
    let functions = frames.iter().filter_map(|frame| frame["function"].as_str());
    assert!(functions.clone().any(|name| name.contains("RunMicrotasks")), "{whole:#}");
    let evidence = finding.0["evidence"].as_array().expect("a list");
    let says = |sentence: &Value| sentence.as_str().is_some_and(|text| text.contains(reason));
    assert!(evidence.iter().any(says), "{whole:#}");
}
