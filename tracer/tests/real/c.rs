//! C on libpq: no pool, the line of the application's own code.

use std::fs;
use std::path::{Path, PathBuf};

use tracer::binary::elf::Elf;

use crate::common::client::{Client, Kind, leak_line_in, uretprobes};
use crate::common::server;
use crate::common::tracer::Tracer;
use crate::{Expected, is_found, stays_silent};

const SOURCE: &str = "c/main.c";

fn leak(
    verdict: &'static str,
    certainty: &'static str,
    shape: &str,
    function: &'static str,
) -> Expected<'static> {
    let place = Some((SOURCE, Some(leak_line_in(SOURCE, shape))));
    Expected { verdict, certainty, count: 7, function: Some(function), file: place, connections: 7 }
}

#[test]
fn a_forgotten_finish_is_found() {
    is_found(
        Kind::C,
        &["leak forgotten 3", "later", "leak forgotten 4"],
        &leak("leak", "strong", "forgotten", "forget_connection"),
    );
}

#[test]
fn a_transaction_left_open_is_found() {
    is_found(
        Kind::C,
        &["leak transaction 7"],
        &leak("idle in transaction", "proven", "transaction", "forget_transaction"),
    );
}

#[test]
fn connections_finished_are_not_reported() {
    stays_silent(Kind::C, &["healthy 7"], 0);
}

#[test]
fn a_connection_kept_and_used_is_not_reported() {
    stays_silent(Kind::C, &["keep", "healthy 3", "later", "keep", "healthy 3"], 1);
}

#[test]
fn functions_whose_returns_another_tracer_probes_are_named_all_the_same() {
    let server = server();
    let (mut leaky, mut healthy) =
        (Client::start(Kind::C, &server), Client::start(Kind::C, &server));
    let tracer = Tracer::watch(&server);
    // Their return addresses are not on the stack while they run: the kernel keeps them.
    let libpq = library_of(leaky.pid(), "libpq");
    let libpq = ["PQconnectdb", "PQexec"].map(|name| function(&libpq, name));
    let probe = |client: &Client, own: &[&str]| {
        let program = PathBuf::from(Kind::C.command().get_program());
        let own = own.iter().map(|name| function(&program, name));
        uretprobes(client.pid(), &libpq.iter().cloned().chain(own).collect::<Vec<_>>())
    };
    let callers = ["forget_transaction", "handle_order", "carry_out"];
    let mut of_leaky = probe(&leaky, &callers);
    let mut of_healthy = probe(&healthy, &["connect_finish", "carry_out"]);
    leaky.run("leak transaction 3");
    healthy.run("healthy 3");
    healthy.run("keep");
    of_leaky.run("returned");
    of_healthy.run("returned");
    let output = tracer.finish_after_silence();
    let report = output.report();
    let finding = report.only_accusation();
    assert_eq!(finding.pid(), u64::from(leaky.pid()), "{:#}", report.0);
    assert_eq!((finding.verdict(), finding.count()), ("idle in transaction", 3), "{:#}", report.0);
    assert_eq!(finding.function(), Some("forget_transaction"), "{:#}", report.0);
    let line = leak_line_in(SOURCE, "transaction");
    assert_eq!(finding.line(), Some(line), "{:#}", report.0);
    // The whole way: each of the return addresses was put back.
    let stacks = finding.0["stacks"].as_array().expect("a list");
    assert!(!stacks.is_empty(), "{:#}", report.0);
    for stack in stacks {
        let frames = stack["frames"].as_array().expect("a list").iter();
        let names: Vec<_> = frames.filter_map(|frame| frame["function"].as_str()).collect();
        let way: Vec<_> = names.iter().filter(|name| callers.contains(name)).collect();
        assert_eq!(way, callers.iter().collect::<Vec<_>>(), "{stack:#}");
        assert!(names.contains(&"main"), "{stack:#}");
        assert!(names.iter().any(|name| name.starts_with("PQ")), "{stack:#}");
    }
    assert_eq!(report.connections_of(healthy.pid()).len(), 1, "{:#}", report.0);
}

/// The file of a mapped library whose name begins so.
fn library_of(pid: u32, name: &str) -> PathBuf {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("running");
    let mut paths = maps.lines().filter_map(|line| line.split_whitespace().nth(5)).map(Path::new);
    let is_it = |path: &&Path| {
        path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(name))
    };
    paths.find(is_it).expect("mapped").to_owned()
}

/// Where a function begins in a file.
fn function(path: &Path, name: &str) -> (PathBuf, u64) {
    let bytes = fs::read(path).expect("readable");
    let elf = Elf::parse(&bytes).expect("an ELF file");
    let symbol = elf.functions().find(|symbol| symbol.name == name.as_bytes());
    let symbol = symbol.unwrap_or_else(|| panic!("{} has no {name}", path.display()));
    (path.to_owned(), elf.file_offset(symbol.vaddr).expect("code comes from the file"))
}
