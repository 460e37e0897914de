//! Rust: deadpool, whose connections are found by what their server told them. Both ends of a
//! checkout are observed, and the line that took a connection is exact, although the driver sends
//! from a task of its own.

use std::process::Command;

use serde_json::Value;

use crate::common::client::{Client, Kind, Profile, leak_line_in, rust_client};
use crate::common::server;
use crate::common::tracer::Tracer;
use crate::{Expected, is_found, stays_silent};

const DEADPOOL: Kind = Kind::Rust("deadpool", Profile::Release);

fn found(shape: &str, function: &str) {
    is_found(
        DEADPOOL,
        &["healthy 3", &format!("leak {shape} 5")],
        &Expected {
            verdict: "leak",
            certainty: "proven",
            count: 5,
            function: Some(function),
            file: Some((
                "deadpool/src/main.rs",
                Some(leak_line_in("rust/deadpool/src/main.rs", shape)),
            )),
            connections: 6,
        },
    );
}

/// What `connleak probes` says of the only pool in a file.
fn probes(file: &std::path::Path) -> Value {
    let mut connleak = Command::new(env!("CARGO_BIN_EXE_connleak"));
    connleak.args(["probes", "--format", "json", "--file"]).arg(file);
    let output = connleak.output().expect("connleak runs");
    let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let pools = said["files"][0]["pools"].as_array().expect("pools").clone();
    let [pool] = &pools[..] else { panic!("{said:#}") };
    pool.clone()
}

#[test]
fn a_forgotten_connection_is_found_by_line() {
    found("forgotten", "deadpool_client::forgotten::{{closure}}");
}

#[test]
fn a_task_that_never_ends_is_found_by_line() {
    found("task", "deadpool_client::task_never_ends::{{closure}}::{{closure}}");
}

#[test]
fn dropped_connections_are_not_reported() {
    stays_silent(DEADPOOL, &["healthy 5", "early_return 5", "transactions 4", "cancelled 3"], 1);
}

#[test]
fn idle_connections_after_a_burst_are_not_reported() {
    stays_silent(DEADPOOL, &["healthy 3", "burst 11", "healthy 3"], 11);
}

/// Acquires whose releases are not seen, as where the compiler has inlined them: a connection comes
/// out again that was out, and that is no leak.
#[test]
fn missed_releases_are_no_leaks() {
    let pool = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/pools/deadpool.toml"));
    // One that never runs after the first.
    let pool =
        pool.expect("the catalogue").replace("::Object as core::ops::drop::Drop>", "::Gone>");
    let pool = pool.replace("drop_in_place<deadpool", "drop_in_place<gone");
    let pool = pool.replace("PoolInner::return_object", "PoolInner::gone");
    let pool = pool.replace("action = \"forget\"", "action = \"release\"");
    let file = tempfile::NamedTempFile::new().expect("file");
    std::fs::write(file.path(), pool).expect("written");
    let server = server();
    let mut client = Client::start(DEADPOOL, &server);
    let (pid, file) = (client.pid().to_string(), file.path().display().to_string());
    let options = ["--format", "json", "--pid", &pid, "--pool", &file];
    let tracer = Tracer::watch_with(&server, &options);
    // `taken` is the release that is seen.
    for command in ["healthy 3", "taken", "burst 5", "healthy 7"] {
        client.run(command);
    }
    let report = tracer.finish_after_silence().report();
    assert!(report.accusations().is_empty(), "{:#}", report.0);
    // Else the probes saw nothing that could be doubted.
    assert_eq!(report.0["processes"][0]["pools"][0]["observed"], true, "{:#}", report.0);
    let coverage = report.0["capture"]["coverage"].to_string();
    assert!(coverage.contains("some releases are not seen"), "{:#}", report.0);
}

#[test]
fn every_copy_of_a_generic_function_is_probed() {
    let pool = probes(&rust_client("deadpool", Profile::Release));
    assert_eq!((&pool["name"], &pool["observed"]), (&"deadpool".into(), &true.into()), "{pool:#}");
    let points = pool["points"].as_array().expect("points");
    let copies = |symbol: &str| points.iter().filter(|point| point["symbol"] == symbol).count();
    assert!(copies("deadpool::managed::pool::UnreadyObject::ready") >= 1, "{pool:#}");
    assert!(copies("drop_in_place<deadpool::managed::object::Object>") >= 2, "{pool:#}");
}

#[test]
fn a_program_without_symbols_is_recognised_and_said_to_be_inferred() {
    let dir = tempfile::TempDir::new().expect("directory");
    let stripped = dir.path().join("client");
    let mut strip = Command::new("strip");
    strip.arg("-o").arg(&stripped).arg(rust_client("deadpool", Profile::Release));
    assert!(strip.status().expect("strip runs").success());
    let pool = probes(&stripped);
    assert_eq!((&pool["name"], &pool["observed"]), (&"deadpool".into(), &false.into()), "{pool:#}");
    let note = "symbols stripped: pool recognised by panic paths; checkouts are inferred";
    assert_eq!(pool["note"], note, "{pool:#}");
}
