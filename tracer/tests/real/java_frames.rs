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

fn interpreted(major: u8) {
    is_found(major, &["leak fetch 7", "overlap 2"], "fetchInvoice", "fetch");
}

/// The method with the call was inlined into what was compiled, and nothing is lost above it.
fn compiled(major: u8) {
    let commands = ["warm hot 20000", "leak hot 7", "overlap 2"];
    let seen = is_found(major, &commands, "send", "hot");
    let [frame] = frames_of(&seen, "send")[..] else { panic!("{:#}", seen.report.0) };
    assert_eq!(frame["inlined"], true, "{:#}", seen.report.0);
    let [caller] = frames_of(&seen, "handle")[..] else { panic!("{:#}", seen.report.0) };
    assert_eq!(caller["line"], leak_line_in(SOURCE, "handle"), "{:#}", seen.report.0);
}

#[test]
fn an_interpreted_method_is_found() {
    interpreted(17);
}

#[test]
fn i11() {
    interpreted(11);
}
#[test]
fn i21() {
    interpreted(21);
}
#[test]
fn i25() {
    interpreted(25);
}
#[test]
fn c17() {
    compiled(17);
}
#[test]
fn c11() {
    compiled(11);
}
#[test]
fn c21() {
    compiled(21);
}
#[test]
fn c25() {
    compiled(25);
}
#[test]
fn v21() {
    is_found(21, &["leak virtual 7", "overlap 2"], "fetchInvoice", "fetch");
}
#[test]
fn r17() {
    is_found(17, &["leak recursive 7", "overlap 2"], "descend", "recursive");
}
#[test]
fn l17() {
    is_found(17, &["leak lambda 7", "overlap 2"], "task (lambda)", "lambda");
}
#[test]
fn u17() {
    is_found(17, &["leak letters 7", "overlap 2"], "получить𝒳", "letters");
}
#[test]
fn t17() {
    let seen = watch(Kind::JavaFrames(17), &["leak two 7", "overlap 2"]);
    println!(
        "{:?}",
        seen.report
            .accusations()
            .iter()
            .map(|f| (f.function(), f.line(), f.count()))
            .collect::<Vec<_>>()
    );
    assert_eq!(seen.report.accusations().len(), 2);
}
