//! Checkouts that a Python process marks itself, by the opt-in directory on its search path. The twins
//! without it see what every other test of Python sees.

use std::fs;
use std::process::Command;

use tempfile::TempDir;
use xtask::postgres::Config;
use xtask::{clients, workspace};

use crate::common::client::{Client, Kind, leak_line_in};
use crate::common::{process::output, server, server_with};
use crate::{FOUND, NOTHING_FOUND, Seen, watch, watch_client, watch_command};

const PSYCOPG: Kind = Kind::PythonWith("psycopg_pool", &[]);
const PSYCOPG_ASYNC: Kind = Kind::PythonWith("psycopg_async", &[]);
const SQLALCHEMY: Kind = Kind::PythonWith("sqlalchemy", &[]);
const SQLALCHEMY_ASYNC: Kind = Kind::PythonWith("sqlalchemy_asyncpg", &[]);
const ASYNCPG: Kind = Kind::PythonWith("asyncpg", &[]);

/// One that nothing follows.
const ALONE: &[&str] = &["leak_alone unused 1"];

/// The same command with the directory on its search path.
fn with_preload(kind: Kind) -> Command {
    let mut search = directory();
    let mut command = kind.command();
    if let Some((_, Some(more))) = command.get_envs().find(|(name, _)| *name == "PYTHONPATH") {
        search += &format!(":{}", more.display());
    }
    command.env("PYTHONPATH", search);
    command
}

fn directory() -> String {
    workspace::root().join("preload/connleak_python").display().to_string()
}

/// So many leaks are proven, of this pool: taken by this function at the marked line of its source.
fn is_proven(seen: &Seen, count: u64, pool: &str, function: &str, source: &str, shape: &str) {
    let whole = &seen.report.0;
    let finding = seen.report.only_accusation();
    let said = (finding.verdict(), finding.certainty(), finding.count());
    assert_eq!(said, ("leak", "proven", count), "{whole:#}");
    assert_eq!(finding.0["pool"], pool, "{whole:#}");
    assert_eq!(finding.function(), Some(function), "{whole:#}");
    let file = finding.file().unwrap_or_default();
    assert!(file.ends_with(source), "{file} is not {source}: {whole:#}");
    assert_eq!(finding.line(), Some(leak_line_in(source, shape)), "{whole:#}");
    assert_eq!(seen.exit, FOUND);
}

fn is_silent(seen: &Seen) {
    assert!(seen.report.accusations().is_empty(), "{:#}", seen.report.0);
    assert_eq!(seen.exit, NOTHING_FOUND);
}

/// With marks a leak that nothing follows is proven; without them it is not seen.
fn is_proven_alone(kind: Kind, pool: &str, source: &str) {
    let seen = watch_command(&mut with_preload(kind), ALONE);
    is_proven(&seen, 1, pool, "unused", source, "unused");
    let pools = seen.report.process(seen.pid)["pools"].as_array().expect("pools").clone();
    let seen_as = pools.iter().find(|it| it["name"] == pool).expect("the pool");
    assert_eq!(seen_as["observed"], true, "{seen_as:#}");
    is_silent(&watch(kind, ALONE));
}

#[test]
fn one_leak_of_psycopg_pool_that_nothing_follows_is_proven_by_its_mark() {
    is_proven_alone(PSYCOPG, "psycopg_pool", "python/with_psycopg_pool.py");
}

#[test]
fn one_leak_of_asynchronous_psycopg_is_proven_by_the_task_that_awaits_it() {
    is_proven_alone(PSYCOPG_ASYNC, "psycopg_pool", "python/with_psycopg_async.py");
}

#[test]
fn one_leak_of_sqlalchemy_that_nothing_follows_is_proven_by_its_mark() {
    is_proven_alone(SQLALCHEMY, "SQLAlchemy QueuePool", "python/with_sqlalchemy.py");
}

#[test]
fn one_leak_of_asynchronous_sqlalchemy_is_proven_by_the_task_that_awaits_it() {
    is_proven_alone(SQLALCHEMY_ASYNC, "SQLAlchemy QueuePool", "python/with_sqlalchemy_asyncpg.py");
}

#[test]
fn one_leak_of_asyncpg_that_nothing_follows_is_proven_by_its_mark() {
    is_proven_alone(ASYNCPG, "asyncpg", "python/with_asyncpg.py");
    let older = watch_command(&mut with_preload(Kind::OlderPythonWith("asyncpg")), ALONE);
    is_proven(&older, 1, "asyncpg", "unused", "python/with_asyncpg.py", "unused");
}

#[test]
fn one_leak_of_psycopg2_pool_that_nothing_follows_is_proven_by_its_mark() {
    let leak = &["leak_alone 1"];
    let seen = watch_command(&mut with_preload(Kind::Python), leak);
    let (function, source) = ("forgotten_putconn", "python/leaks.py");
    is_proven(&seen, 1, "psycopg2.pool", function, source, "getconn");
    is_silent(&watch(Kind::Python, leak));
}

#[test]
fn a_leak_that_another_thread_or_task_has_used_is_found_by_who_took_it() {
    for (kind, source) in
        [(PSYCOPG, "python/with_psycopg_pool.py"), (PSYCOPG_ASYNC, "python/with_psycopg_async.py")]
    {
        let leak = &["leak elsewhere 7"];
        let seen = watch_command(&mut with_preload(kind), leak);
        is_proven(&seen, 7, "psycopg_pool", "elsewhere", source, "elsewhere");
        let without = watch(kind, leak);
        let finding = without.report.only_accusation();
        assert_ne!(finding.function(), Some("elsewhere"), "{:#}", without.report.0);
    }
}

#[test]
fn under_tls_marks_are_of_the_socket_below() {
    let server = server_with(&Config { tls: true, ..Config::default() });
    for (kind, pool, source) in [
        (PSYCOPG, "psycopg_pool", "python/with_psycopg_pool.py"),
        (ASYNCPG, "asyncpg", "python/with_asyncpg.py"),
    ] {
        let start = |steps: &[&str]| {
            let client = Client::spawn(with_preload(kind).envs(server.environment()));
            watch_client(&server, client, steps)
        };
        let seen = start(&["request 3", "leak_alone unused 3"]);
        is_proven(&seen, 3, pool, "unused", source, "unused");
        is_silent(&start(&["request 5", "burst 5"]));
    }
}

#[test]
fn a_unix_socket_is_marked_as_well() {
    let server = server_with(&Config { unix: true, ..Config::default() });
    let client = Client::spawn(with_preload(SQLALCHEMY).envs(server.unix_environment()));
    let seen = watch_client(&server, client, ALONE);
    let source = "python/with_sqlalchemy.py";
    is_proven(&seen, 1, "SQLAlchemy QueuePool", "unused", source, "unused");
}

/// Of each of these no more than its own pool's is held at the end.
fn are_silent(kind: Kind, rounds: &[&[&str]]) {
    for commands in rounds {
        is_silent(&watch_command(&mut with_preload(kind), commands));
    }
}

#[test]
fn connections_of_psycopg_pool_that_come_back_are_silent() {
    let rounds = ["request 3", "request 2 rollback", "request 2 stream", "request 2 copy"];
    let more = ["request 2 pipeline", "request 2 begin", "burst 11", "overlap 5", "fork 2"];
    let held = ["keep listen", "keep lock", "keep copy_in", "keep copy_out"];
    let all: Vec<&str> = rounds.into_iter().chain(more).chain(held).collect();
    let checked =
        ["pool check=true max_idle=1.0 max_lifetime=2.0", "request 3", "burst 5", "later"];
    are_silent(PSYCOPG, &[&all, &checked]);
}

#[test]
fn connections_of_sqlalchemy_that_come_back_are_silent() {
    let rounds = ["request 3", "request 2 session", "request 2 rollback", "request 2 stream"];
    let more = ["request 2 autocommit", "request 3 thread", "request 2 invalidate", "overlap 5"];
    let held = ["keep listen", "keep lock"];
    let all: Vec<&str> = rounds.into_iter().chain(more).chain(held).collect();
    let overflow = ["pool pool_size=2 max_overflow=9", "burst 11", "request 3", "fork 2"];
    let recycled = ["pool pool_pre_ping=true pool_recycle=1", "request 3", "later", "request 3"];
    let ended = ["pool pool_pre_ping=true", "burst 3", "terminate", "request 3"];
    are_silent(SQLALCHEMY, &[&all, &overflow, &recycled, &ended, &["pool null=true", "request 7"]]);
}

#[test]
fn connections_of_asynchronous_pools_that_come_back_are_silent() {
    let rounds = ["request 3", "request 2 session", "request 2 rollback", "request 2 stream"];
    let more = ["request 2 autocommit", "request 3 cancelled", "burst 11", "overlap 5"];
    let all: Vec<&str> = rounds.into_iter().chain(more).collect();
    are_silent(SQLALCHEMY_ASYNC, &[&all]);
    let rounds = ["request 3", "request 2 rollback", "request 2 stream", "request 3 cancelled"];
    let more = ["burst 11", "overlap 5", "keep listen", "keep lock"];
    let all: Vec<&str> = rounds.into_iter().chain(more).collect();
    let checked =
        ["pool check=true max_idle=1.0 max_lifetime=2.0", "request 3", "burst 5", "later"];
    are_silent(PSYCOPG_ASYNC, &[&all, &checked]);
    let rounds = ["request 3", "request 2 transaction", "request 2 cursor", "request 2 copy"];
    let more = ["request 2 begin", "request 3 cancelled", "request 2 cancelled_query"];
    let held = ["request 2 closed", "burst 11", "overlap 5", "keep listen", "keep lock"];
    let all: Vec<&str> = rounds.into_iter().chain(more).chain(held).collect();
    are_silent(ASYNCPG, &[&all]);
}

#[test]
fn connections_of_psycopg2_pool_that_come_back_are_silent() {
    are_silent(Kind::Python, &[&["healthy 3", "overlap 5", "sqlalchemy 3", "sqlalchemy_burst 7"]]);
}

/// What an interpreter with this search path says to a program.
fn says(search: &str, program: &str) -> String {
    let mut python = Command::new(clients::python());
    python.env("PYTHONPATH", search).args(["-B", "-c", program]);
    output(&mut python).trim().to_owned()
}

#[test]
fn a_program_runs_as_before_with_the_directory_and_without_a_tracer() {
    let server = server();
    for kind in [PSYCOPG, SQLALCHEMY, SQLALCHEMY_ASYNC, ASYNCPG] {
        let mut client = Client::spawn(with_preload(kind).envs(server.environment()));
        for command in ["request 3", "burst 3", "leak unused 1"] {
            client.run(command);
        }
        client.quit();
    }
    let directory = directory();
    // Nothing is loaded that the program does not load itself.
    let modules =
        "import sys; print(*sorted(m for m in sys.modules if m in ('ctypes', 'psycopg2')))";
    assert_eq!(says(&directory, modules), "");
    let loaded = "import sys, psycopg2.pool; print('ctypes' in sys.modules)";
    assert_eq!(says(&directory, loaded), "True");
    let spec = "import sqlalchemy.pool as p; print(type(p.__loader__).__name__, vars(p.__loader__).keys())";
    assert_eq!(says(&directory, spec), says("", spec));
    // A `sitecustomize` of the program's own runs as before.
    let own = TempDir::new().expect("directory");
    fs::write(own.path().join("sitecustomize.py"), "own = 43").expect("written");
    let both = format!("{directory}:{}", own.path().display());
    let program = "import sitecustomize, sys; print(sitecustomize.own, sys.meta_path[0].__name__)";
    assert_eq!(says(&both, program), "43 _Finder");
}
