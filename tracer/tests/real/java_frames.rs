//! Stacks of Java: which method, which file and which line, interpreted and compiled, in the versions
//! that are installed here. No flags, no agent, no restart.

use serde_json::Value;

use crate::common::client::{Kind, leak_line_in};
use crate::common::report::Finding;
use crate::{FOUND, NOTHING_FOUND, Seen, watch};

const SOURCE: &str = "java-frames/shop/LeakyService.java";

/// A method of the class under test.
fn method(name: &str) -> String {
    format!("shop.LeakyService.{name}")
}

fn is_blamed(seen: &Seen, finding: Finding<'_>, function: &str, shape: &str, count: u64) {
    let whole = &seen.report.0;
    let said = (finding.verdict(), finding.certainty(), finding.count());
    assert_eq!(said, ("leak", "strong", count), "{whole:#}");
    assert_eq!(finding.function(), Some(method(function).as_str()), "{whole:#}");
    assert_eq!(finding.file(), Some("LeakyService.java"), "{whole:#}");
    assert_eq!(finding.line(), Some(leak_line_in(SOURCE, shape)), "{whole:#}");
    assert_eq!(finding.pid(), u64::from(seen.pid), "{whole:#}");
}

/// Seven leaks of this shape are found: by this method at the marked line.
fn is_found(major: u8, commands: &[&str], function: &str, shape: &str) -> Seen {
    let seen = watch(Kind::JavaFrames(major), commands);
    is_blamed(&seen, seen.report.only_accusation(), function, shape, 7);
    assert_eq!(seen.exit, FOUND);
    seen
}

fn stays_silent(major: u8, commands: &[&str]) {
    let seen = watch(Kind::JavaFrames(major), commands);
    assert!(seen.report.accusations().is_empty(), "{:#}", seen.report.0);
    assert_eq!(seen.exit, NOTHING_FOUND);
}

/// The frames of this method on the first stack of the only finding.
fn frames_of<'a>(seen: &'a Seen, function: &str) -> Vec<&'a Value> {
    let frames = seen.report.only_accusation().0["stacks"][0]["frames"].as_array();
    let frames = frames.unwrap_or_else(|| panic!("no frames in {:#}", seen.report.0));
    let name = method(function);
    frames.iter().filter(|frame| frame["function"] == name.as_str()).collect()
}

/// The method with the call was inlined into what was compiled, and nothing is lost above it.
fn compiled(major: u8) {
    let commands = ["warm hot 15000", "leak hot 7", "overlap 2"];
    let seen = is_found(major, &commands, "send", "hot");
    let whole = &seen.report.0;
    let [frame] = frames_of(&seen, "send")[..] else { panic!("{whole:#}") };
    assert_eq!(frame["inlined"], true, "{whole:#}");
    let [caller] = frames_of(&seen, "handle")[..] else { panic!("{whole:#}") };
    assert_eq!(caller["line"], leak_line_in(SOURCE, "handle"), "{whole:#}");
    let stacks = seen.report.only_accusation().0["stacks"].as_array().expect("stacks");
    assert!(stacks.iter().all(|stack| stack["truncated"].is_null()), "{whole:#}");
}

/// Interpreted and compiled, in a lambda and in a recursion, and everything is given back.
fn healthy(major: u8) {
    let commands = [
        "healthy fetch 3",
        "healthy lambda 3",
        "healthy recursive 3",
        "healthy letters 3",
        "healthy two 3",
        "warm hot 5000",
        "healthy hot 3",
        "overlap 2",
    ];
    stays_silent(major, &commands);
}

#[test]
fn an_interpreted_method_is_found() {
    is_found(17, &["leak fetch 7", "overlap 2"], "fetchInvoice", "fetch");
}

#[test]
fn an_inlined_method_is_found_at_the_line_of_its_call() {
    compiled(17);
}

#[test]
fn an_inlined_method_is_found_at_the_line_of_its_call_on_an_old_version() {
    compiled(11);
}

#[test]
fn an_inlined_method_is_found_at_the_line_of_its_call_on_a_newer_version() {
    compiled(21);
}

#[test]
fn an_inlined_method_is_found_at_the_line_of_its_call_on_the_newest_version() {
    compiled(25);
}

#[test]
fn a_deep_recursion_is_found() {
    // Before 13 what is written is on the stack, too, below all of this.
    let seen = is_found(11, &["leak recursive 7", "overlap 2"], "descend", "recursive");
    assert_eq!(frames_of(&seen, "descend").len(), 51, "{:#}", seen.report.0);
}

#[test]
fn a_lambda_is_found_by_the_method_that_it_is_written_in() {
    is_found(21, &["leak lambda 7", "overlap 2"], "task (lambda)", "lambda");
}

#[test]
fn a_method_is_found_whatever_letters_its_name_has() {
    is_found(11, &["leak letters 7", "overlap 2"], "получить𝒳", "letters");
}

#[test]
fn leaks_at_the_same_time_are_found_each_by_its_own_method() {
    let seen = watch(Kind::JavaFrames(17), &["leak two 7", "overlap 2"]);
    let mut found = seen.report.accusations();
    found.sort_by_key(|finding| finding.line());
    let [first, second] = found[..] else { panic!("{:#}", seen.report.0) };
    is_blamed(&seen, first, "first", "first", 7);
    is_blamed(&seen, second, "second", "second", 7);
}

/// Of the stack of a virtual thread only what runs now is on a real one.
fn virtual_thread(major: u8) {
    let seen = is_found(major, &["leak virtual 7", "overlap 2"], "fetchInvoice", "fetch");
    let reason = "the outer frames of a virtual thread are not on the stack";
    let whole = &seen.report.0;
    assert_eq!(seen.report.only_accusation().0["stacks"][0]["truncated"], reason, "{whole:#}");
}

#[test]
fn a_method_in_a_virtual_thread_is_found() {
    virtual_thread(21);
}

#[test]
fn a_method_in_a_virtual_thread_is_found_on_the_newest_version() {
    virtual_thread(25);
}

#[test]
fn who_gives_back_stays_silent() {
    healthy(17);
}

#[test]
fn who_gives_back_stays_silent_on_an_old_version() {
    healthy(11);
}

#[test]
fn who_gives_back_stays_silent_on_a_newer_version() {
    healthy(21);
}

#[test]
fn who_gives_back_stays_silent_on_the_newest_version() {
    healthy(25);
}
