//! Stacks of Python that are harder to tell: which function, which file and which line, in the
//! versions of Python that are installed here. No flags, no restart.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

use tracer::binary::elf::Elf;
use xtask::clients;

use crate::common::client::{Client, Kind, leak_line_in, python_at};
use crate::common::server;
use crate::{FOUND, NOTHING_FOUND, Seen, watch, watch_client};

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

/// A task that awaits its driver is found by its own line.
fn an_awaiting_task_is_found(python: Kind, source: &str) {
    let seen = watch(python, &["leak_alone transaction 3"]);
    let whole = &seen.report.0;
    let finding = seen.report.only_accusation();
    let said = (finding.verdict(), finding.certainty(), finding.count(), finding.function());
    let wanted = ("idle in transaction", "proven", 3, Some("transaction"));
    assert_eq!(said, wanted, "{whole:#}");
    assert!(finding.file().is_some_and(|file| file.ends_with(source)), "{whole:#}");
    assert_eq!(finding.line(), Some(leak_line_in(source, "transaction")), "{whole:#}");
}

#[test]
fn a_task_on_asyncpg_is_found() {
    for minor in [9, 14] {
        an_awaiting_task_is_found(Kind::PythonAt(minor, "asyncpg"), "python/with_asyncpg.py");
    }
}

#[test]
fn a_task_whose_driver_runs_in_a_greenlet_is_found() {
    let python = Kind::PythonWith("sqlalchemy_asyncpg", &[]);
    an_awaiting_task_is_found(python, "python/with_sqlalchemy_asyncpg.py");
}

/// A copy of Python 3.15's program beside it, changed.
struct Changed(PathBuf);

impl Changed {
    const MINOR: u8 = 15;

    /// `name` is its own; behind what this name refers to, bytes become these.
    fn new(name: &str, symbol: &str, skipped: u64, new: &[u8]) -> Self {
        let directory = clients::python_root(Self::MINOR).join("usr/bin");
        let mut program = fs::read(directory.join("python3.15")).expect("it is installed");
        let elf = Elf::parse(&program).expect("a program");
        let at = elf.exported(symbol).expect("it is exported") + skipped;
        let offset = elf.file_offset(at).expect("it is in the file");
        let place = usize::try_from(offset).expect("it is in memory");
        program[place..place + new.len()].copy_from_slice(new);
        let path = directory.join(name);
        fs::write(&path, program).expect("written");
        let executable = Permissions::from_mode(0o755);
        fs::set_permissions(&path, executable).expect("it is ours");
        Self(path)
    }

    fn command(&self) -> Command {
        let name = self.0.file_name().expect("it has one").to_string_lossy();
        python_at(Self::MINOR, &format!("/usr/bin/{name}"), "frames")
    }
}

impl Drop for Changed {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.0));
    }
}

/// The leak is found without a function, and every stack says why.
fn is_found_without_a_function(python: &Changed, why: &str) {
    let server = server();
    let client = Client::spawn(python.command().envs(server.environment()));
    let seen = watch_client(&server, client, &["leak_alone method 3"]);
    let whole = &seen.report.0;
    let finding = seen.report.only_accusation();
    let said = (finding.verdict(), finding.certainty(), finding.count(), finding.function());
    assert_eq!(said, ("idle in transaction", "proven", 3, None), "{whole:#}");
    let why = format!("no Python frames: {why}; the script is /clients/python/main.py");
    for stack in finding.0["stacks"].as_array().expect("a list") {
        assert_eq!(stack["truncated"], why, "{whole:#}");
    }
}

#[test]
fn an_unknown_version_is_said_to_be_one() {
    let python = Changed::new("python3.99", "Py_Version", 2, &[99]);
    is_found_without_a_function(&python, "Python 3.99 is not known yet");
}

#[test]
fn a_free_threaded_build_is_said_to_be_one() {
    // `_Py_DebugOffsets.free_threaded`
    let python = Changed::new("python3.15t", "_PyRuntime", 16, &[1]);
    let why = "a free-threaded build of Python 3.15 is not understood";
    is_found_without_a_function(&python, why);
}
