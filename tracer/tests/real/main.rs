//! The whole path on a real kernel: real servers, real clients, the built tracer.
//!
//! Needs root, PostgreSQL and what `cargo xtask setup --test` installs; selected by the feature
//! `real`. Each leaky test has a healthy twin. Counts are primes, so that no sum or product of
//! others can pass for them.

#[path = "../common/mod.rs"]
mod common;

mod c;
mod choice;
mod circumstances;
mod clients;
mod descriptors;
mod go;
mod gone;
mod holder;
mod java_frames;
mod losses;
mod node;
mod node_frames;
mod node_sources;
mod pools;
mod preload;
mod preload_python;
mod python;
mod python_frames;
mod rust;
mod scripts;
mod server;
mod standby;
mod vm;
mod waits;

use std::process::Command;

use common::client::{Client, Kind};
use common::report::Report;
use common::server;
use common::tracer::Tracer;
use xtask::postgres::Server;

/// Exit codes of the command.
const NOTHING_FOUND: Option<i32> = Some(0);
const FOUND: Option<i32> = Some(1);
const COULD_NOT_RUN: Option<i32> = Some(2);

/// What was seen while one client did these things and then fell silent.
struct Seen {
    report: Report,
    exit: Option<i32>,
    pid: u32,
    /// Client sessions that the server has.
    sessions: usize,
}

fn watch(kind: Kind, commands: &[&str]) -> Seen {
    watch_command(&mut kind.command(), commands)
}

fn watch_command(command: &mut Command, commands: &[&str]) -> Seen {
    let server = server();
    // Before the tracer, which has probed what runs when it says that it watches. Other tests run
    // the same programs at the same time, and it is not asked about those.
    let client = Client::spawn(command.envs(server.environment()));
    watch_client(&server, client, commands)
}

/// The same with a client that runs.
fn watch_client(server: &Server, mut client: Client, commands: &[&str]) -> Seen {
    let pid = client.pid().to_string();
    let tracer = Tracer::watch_with(server, &["--format", "json", "--pid", &pid]);
    for command in commands {
        client.run(command);
    }
    let output = tracer.finish_after_silence();
    let report = output.report();
    assert_eq!(report.lost(), 0, "{output:#?}");
    let sessions = "select count(*) from pg_stat_activity
        where backend_type = 'client backend' and pid <> pg_backend_pid()";
    let sessions = server.psql(sessions).expect("the server answers");
    let sessions = sessions.parse().expect("a number");
    Seen { report, exit: output.exit, pid: client.pid(), sessions }
}

/// The client is healthy: nobody is accused, and exactly so many connections are listed.
fn stays_silent(kind: Kind, commands: &[&str], connections: usize) {
    let seen = watch(kind, commands);
    assert!(seen.report.accusations().is_empty(), "{:#}", seen.report.0);
    assert_eq!(seen.exit, NOTHING_FOUND);
    assert_eq!(seen.report.connections_of(seen.pid).len(), connections, "{:#}", seen.report.0);
}

/// A finding as a test expects it.
struct Expected<'a> {
    verdict: &'a str,
    certainty: &'a str,
    count: u64,
    /// `None`: not asserted for this runtime.
    function: Option<&'a str>,
    /// The end of the path, and the line where that is known exactly.
    file: Option<(&'a str, Option<u64>)>,
    /// All connections of the process, leaked or not.
    connections: usize,
}

/// The client leaks: this is found, and nothing else.
fn is_found(kind: Kind, commands: &[&str], expected: &Expected<'_>) {
    let seen = watch(kind, commands);
    let finding = seen.report.only_accusation();
    let whole = &seen.report.0;
    assert_eq!(finding.verdict(), expected.verdict, "{whole:#}");
    assert_eq!(finding.certainty(), expected.certainty, "{whole:#}");
    assert_eq!(finding.count(), expected.count, "{whole:#}");
    assert_eq!(finding.pid(), u64::from(seen.pid), "{whole:#}");
    if expected.function.is_some() {
        assert_eq!(finding.function(), expected.function, "{whole:#}");
    }
    if let Some((file, line)) = expected.file {
        let blamed = finding.file().unwrap_or_default();
        assert!(blamed.ends_with(file), "{blamed} is not {file}: {whole:#}");
        if line.is_some() {
            assert_eq!(finding.line(), line, "{whole:#}");
        }
    }
    assert_eq!(seen.exit, FOUND);
    assert_eq!(seen.report.connections_of(seen.pid).len(), expected.connections, "{whole:#}");
}
