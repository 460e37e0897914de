//! Pools that are recognised by what a process has loaded or could load: the report and
//! `connleak probes` say the same of a real one.

use serde_json::Value;

use crate::common::client::{Client, Kind, NODE};
use crate::common::server;
use crate::common::tracer::{Tracer, connleak, run};
use crate::watch;

/// Name, presence and what told it, of the pools of a process.
fn pools(process: &Value) -> Vec<[&str; 3]> {
    let all = process["pools"].as_array().expect("pools").iter();
    all.map(|pool| ["name", "presence", "how"].map(|key| pool[key].as_str().unwrap_or_default()))
        .collect()
}

/// Each is a pool's name, its presence and a part of what told it.
#[track_caller]
fn are(found: &[[&str; 3]], expected: &[[&str; 3]]) {
    let same = found.len() == expected.len()
        && found
            .iter()
            .zip(expected)
            .all(|(found, expected)| found[..2] == expected[..2] && found[2].contains(expected[2]));
    assert!(same, "{found:#?}");
}

/// What a capture and `probes` say of a client after these commands.
fn are_recognised(kind: Kind, commands: &[&str], reported: &[[&str; 3]], probed: &[[&str; 3]]) {
    let server = server();
    let mut client = Client::start(kind, &server);
    let pid = client.pid().to_string();
    let tracer = Tracer::watch_with(&server, &["--format", "json", "--pid", &pid]);
    for command in commands {
        client.run(command);
    }
    let output = run(connleak().args(["probes", "--format", "json", "--pid", &pid]));
    let probes: Value = serde_json::from_str(&output.stdout).expect("JSON");
    are(&pools(&probes["processes"][0]), probed);
    let output = tracer.finish_after_silence();
    let report = output.report();
    are(&pools(report.process(client.pid())), reported);
    assert!(report.accusations().is_empty(), "{:#}", report.0);
}

#[test]
fn pg_pool_is_loaded_where_the_perf_map_names_it() {
    let reported = ["pg-pool", "loaded", "scripts of it are loaded"];
    let probed = ["pg-pool", "loaded", "functions of it are in the perf map"];
    are_recognised(Kind::NodeWithPerfMap, &["healthy 3"], &[reported], &[probed]);
}

#[test]
fn pg_pool_is_loaded_where_a_stack_led_to_its_scripts() {
    let seen = watch(NODE, &["healthy 3"]);
    let found = pools(seen.report.process(seen.pid));
    are(&found, &[["pg-pool", "loaded", "scripts of it are loaded"]]);
}

#[test]
fn sqlalchemy_is_loaded_and_the_pool_of_psycopg2_possible() {
    let sqlalchemy = ["SQLAlchemy QueuePool", "loaded", "(sqlalchemy 2."];
    let psycopg2 = ["psycopg2.pool", "installed", "psycopg2/pool.py comes with a package"];
    let psycopg3 = ["psycopg_pool", "installed", "it is Python only"];
    // libpq is a file's, which `probes` lists apart.
    let libpq = ["libpq", "loaded", ""];
    are_recognised(
        Kind::Python,
        &["sqlalchemy 3"],
        &[sqlalchemy, libpq, psycopg2, psycopg3],
        &[sqlalchemy, psycopg2, psycopg3],
    );
}

#[test]
fn sqlalchemy_that_is_installed_and_not_imported_is_not_used() {
    let psycopg2 = ["psycopg2.pool", "installed", ""];
    let psycopg3 = ["psycopg_pool", "installed", ""];
    let libpq = ["libpq", "loaded", ""];
    let probed = [psycopg2, psycopg3];
    are_recognised(Kind::Python, &["healthy 3"], &[libpq, psycopg2, psycopg3], &probed);
}
