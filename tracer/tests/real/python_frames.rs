//! Stacks of Python that are harder to tell: which function, which file and which line, in the
//! versions of Python that are installed here. No flags, no restart.

use crate::common::client::{Kind, leak_line_in};
use crate::{FOUND, NOTHING_FOUND, Seen, watch};

const SOURCE: &str = "python/with_frames.py";
const NAMED: &str = "python/größe/läck.py";

/// The shapes of `with_frames.py`, with the function of each and where that is. From 3.11 on a
/// function knows its full name.
const SHAPES: [(&str, &str, &str); 7] = [
    ("method", "Orders.read", SOURCE),
    ("recursive", "descend", SOURCE),
    ("named", "läckt_漏れ", NAMED),
    ("thread", "thread.<locals>.leaked_by_thread", SOURCE),
    ("first", "both.<locals>.first", SOURCE),
    ("second", "both.<locals>.second", SOURCE),
    ("task", "resumed", SOURCE),
];

/// Of each shape three transactions are left open, all by one process: each is named by its
/// function, file and line.
fn each_is_found(minor: u8, python: Kind) {
    let shapes = ["method", "recursive", "named", "thread", "both", "task"];
    let commands = shapes.map(|shape| format!("leak_alone {shape} 3"));
    let seen = watch(python, &commands.each_ref().map(String::as_str));
    let whole = &seen.report.0;
    let mut found: Vec<_> = seen
        .report
        .accusations()
        .iter()
        .map(|finding| {
            let said = [finding.verdict(), finding.certainty(), finding.function().unwrap_or("?")];
            let file = finding.file().unwrap_or_default();
            let file = [NAMED, SOURCE].into_iter().find(|source| file.ends_with(source));
            (said.map(str::to_owned), file, finding.line(), finding.count())
        })
        .collect();
    found.sort_unstable();
    let mut wanted: Vec<_> = SHAPES
        .iter()
        .map(|&(shape, function, file)| {
            let last = function.rsplit('.').next().unwrap_or(function);
            let function = if minor < 11 { last } else { function };
            let said = ["idle in transaction", "proven", function].map(str::to_owned);
            (said, Some(file), Some(leak_line_in(file, shape)), 3)
        })
        .collect();
    wanted.sort_unstable();
    assert_eq!(found, wanted, "{whole:#}");
    assert_eq!(seen.exit, FOUND);
}

fn none_is_reported(python: Kind) {
    let Seen { report, exit, .. } = watch(python, &SHAPES_DONE_RIGHT);
    assert!(report.accusations().is_empty(), "{:#}", report.0);
    assert_eq!(exit, NOTHING_FOUND);
}

const SHAPES_DONE_RIGHT: [&str; 6] = [
    "request 3 method",
    "request 3 recursive",
    "request 3 named",
    "request 3 thread",
    "request 3 both",
    "request 3 task",
];

#[test]
fn each_is_found_in_3_9() {
    each_is_found(9, Kind::PythonAt(9, "frames"));
}

#[test]
fn each_is_found_in_3_11() {
    each_is_found(11, Kind::PythonWith("frames", &[]));
}

#[test]
fn each_is_found_in_3_13() {
    each_is_found(13, Kind::PythonAt(13, "frames"));
}

#[test]
fn each_is_found_in_3_14() {
    each_is_found(14, Kind::PythonAt(14, "frames"));
}

#[test]
fn each_is_found_in_3_15() {
    each_is_found(15, Kind::PythonAt(15, "frames"));
}

#[test]
fn what_is_done_right_is_not_reported_in_3_9() {
    none_is_reported(Kind::PythonAt(9, "frames"));
}

#[test]
fn what_is_done_right_is_not_reported_in_3_14() {
    none_is_reported(Kind::PythonAt(14, "frames"));
}
