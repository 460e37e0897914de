//! The clients do to the server what their README says, with nobody watching: what the other tests
//! expect of the tracer is first true of the world.

use xtask::postgres::Server;

use crate::common::client::{Build, Client, GO, Kind, NODE};
use crate::common::{server, until_sessions};

/// After the command the server has so many sessions in this state.
fn leaves(server: &Server, kind: Kind, command: &str, state: &str, sessions: u64) {
    let mut client = Client::start(kind, server);
    client.run(command);
    until_sessions(server, &format!("state = '{state}'"), sessions);
    client.quit();
    until_sessions(server, "true", 0);
}

#[test]
fn node_clients_hold_what_they_should() {
    let server = server();
    for (command, state, sessions) in [
        ("leak forgotten 7", "idle", 8),
        ("leak early_return 5", "idle", 6),
        ("leak throw 7", "idle", 8),
        ("leak idle_in_transaction 7", "idle in transaction", 7),
        ("leak_alone never_used 7", "idle", 7),
        ("burst 11", "idle", 11),
        ("two_pools 3", "idle", 2),
        ("copy", "active", 1),
    ] {
        leaves(&server, NODE, command, state, sessions);
    }
}

#[test]
fn go_clients_hold_what_they_should() {
    let server = server();
    for build in [Build::Plain, Build::Stripped, Build::Pie] {
        let go = Kind::Go(build, &[]);
        leaves(&server, go, "leak rows 7", "idle", 7);
        leaves(&server, go, "healthy rows 7", "idle", 1);
    }
    leaves(&server, GO, "leak rows_unread 3", "active", 3);
    leaves(&server, GO, "leak tx 7", "idle in transaction", 7);
    leaves(&server, GO, "leak conn 7", "idle", 7);
    leaves(&server, GO, "leak pgxpool 7", "idle", 7);
    leaves(&server, GO, "leak pgxpool_rows 7", "idle", 7);
    leaves(&server, Kind::Go(Build::Plain, &["-max-idle", "13"]), "burst 17", "idle", 13);
}

#[test]
fn python_clients_hold_what_they_should() {
    let server = server();
    for (command, state, sessions) in [
        ("leak forgotten 7", "idle", 8),
        ("leak raise 7", "idle", 8),
        ("leak idle_in_transaction 7", "idle in transaction", 7),
        ("leak never_used 7", "idle", 7),
        ("prefill 7", "idle", 7),
        ("threads 7", "idle", 7),
        ("sqlalchemy_burst 7", "idle", 7),
        ("connect_close 7", "idle", 0),
    ] {
        leaves(&server, Kind::Python, command, state, sessions);
    }
    leaves(&server, Kind::LatePython, "bare 7", "idle in transaction", 0);
    leaves(&server, Kind::LatePython, "prefill 7", "idle", 7);
}

#[test]
fn c_clients_hold_what_they_should() {
    let server = server();
    leaves(&server, Kind::C, "leak forgotten 7", "idle", 7);
    leaves(&server, Kind::C, "leak transaction 7", "idle in transaction", 7);
    leaves(&server, Kind::C, "healthy 7", "idle", 0);
    leaves(&server, Kind::C, "keep", "idle", 1);
}

#[test]
fn bare_sockets_hold_what_they_should() {
    let server = server();
    let kept = ["dup_close", "dup2_over", "fcntl_dup", "fork_keep", "fork_exit", "exec_keep"];
    for command in kept {
        leaves(&server, Kind::Descriptors, command, "idle in transaction", 1);
    }
    for command in ["exec_cloexec", "reuse_number", "cancel", "close_all"] {
        leaves(&server, Kind::Descriptors, command, "idle in transaction", 0);
    }
}

#[test]
#[should_panic(expected = "no shape imaginary")]
fn a_command_that_fails_fails_the_test() {
    let server = server();
    Client::start(GO, &server).run("leak imaginary 3");
}
