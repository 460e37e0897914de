//! What the stacks of each runtime cost: program time where they are copied, the tracer's where they
//! are named, and its memory with processes of all of them.
//!
//! May import its neighbours.

use std::process::Command;
use std::thread;

use anyhow::{Context as _, Result};
use xtask::{clients, workspace};

use super::Bench;
use super::child::Talking;
use super::programs::{self, hooks_since};
use super::statistics::Counting;
use super::table::{Median, Table, Target, Unit};
use super::tracer::{self, Tracer};

/// Queries in one measurement: enough for code to be compiled.
const QUERIES: u64 = 20_000;

/// Processes of each runtime for the memory; ten and a little in all.
const EACH: usize = 3;

/// A runtime, its client, and what copying a stack of it may cost in nanoseconds.
struct Runtime {
    name: &'static str,
    /// As in the report.
    key: &'static str,
    client: fn() -> Command,
    most: Option<f64>,
}

const RUNTIMES: [Runtime; 4] = [
    Runtime { name: "Go", key: "go", client: go, most: Some(1_000.0) },
    Runtime { name: "Python", key: "python", client: python, most: Some(3_000.0) },
    Runtime { name: "Node.js", key: "node", client: node, most: Some(5_000.0) },
    Runtime { name: "Java", key: "java", client: java, most: None },
];

fn source(name: &str) -> std::path::PathBuf {
    workspace::root().join("xtask/src/bench").join(name)
}

fn go() -> Command {
    Command::new(clients::go_dir().join("client"))
}

fn python() -> Command {
    let mut python = Command::new(clients::python());
    python.arg(source("checkouts.py"));
    python
}

fn node() -> Command {
    let mut node = Command::new("node");
    node.arg(source("checkouts.js")).env("NODE_PATH", clients::node_modules());
    node
}

fn java() -> Command {
    let mut java = Command::new("java");
    java.arg("-cp").arg(clients::java_class_path(source(""))).arg(source("Checkouts.java"));
    java
}

impl Runtime {
    fn start(&self, bench: &Bench) -> Result<Talking> {
        Talking::start((self.client)().envs(bench.server.environment()))
    }

    /// How the client is told to do so many.
    fn command(&self, count: u64) -> String {
        if self.key == "go" { format!("hammer 1 {count} conn") } else { format!("count {count}") }
    }
}

/// Adds its rows.
pub fn measure(bench: &Bench, table: &mut Table) -> Result<()> {
    for runtime in &RUNTIMES {
        copied(bench, table, runtime)?;
    }
    named(bench, table)
}

/// Program time of a copy: what the hook took for the same queries in a tracer with stacks, and in one
/// that has no room for any. Of the latter each attempt is counted, which takes some tens of
/// nanoseconds; the former is told as much cheaper than it is.
fn copied(bench: &Bench, table: &mut Table, runtime: &Runtime) -> Result<()> {
    let _counting = Counting::on()?;
    let mut client = runtime.start(bench)?;
    // What the process has loaded is looked at when the capture begins.
    let port = [bench.server.port()];
    let tracer = Tracer::watch(bench, &port, &[])?;
    let without = Tracer::watch(bench, &port, &["--bound", "stacks=0"])?;
    client.tell(&runtime.command(QUERIES))?;
    let (mut stacks, mut countings) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds {
        bench.check()?;
        countings.push(programs::counting(bench)?);
        let before = (tracer.programs()?, without.programs()?);
        client.tell(&runtime.command(QUERIES))?;
        let (with, without) = (hooks_since(&tracer, &before.0)?, hooks_since(&without, &before.1)?);
        stacks.push(with.nanos.saturating_sub(without.nanos) as f64 / QUERIES as f64);
    }
    drop(client);
    tracer.finish()?;
    without.finish()?;
    let name = format!("the stack of a query, {}", runtime.name);
    programs::add(table, &name, &stacks, &countings, runtime.most);
    Ok(())
}

/// The time that names take, and the memory, with processes of all kinds that are silent.
fn named(bench: &Bench, table: &mut Table) -> Result<()> {
    bench.check()?;
    let tracer = Tracer::watch(bench, &[bench.server.port()], &[])?;
    let mut clients = Vec::new();
    for runtime in &RUNTIMES {
        for _ in 0..EACH {
            let mut client = runtime.start(bench)?;
            // Not all at once: the stacks of those in use are named a few at each look.
            for _ in 0..bench.rounds {
                client.tell(&runtime.command(QUERIES / 100))?;
            }
            clients.push(client);
        }
    }
    thread::sleep(tracer::THRESHOLD / 4);
    let resident = tracer.resident()?;
    let report = tracer.finish()?.report;
    let name = format!("resident memory, {} processes of four runtimes", clients.len());
    let most = Target::AtMost(f64::from(64 << 20));
    table.add(&name, resident.all as f64, Unit::Mebibytes, most);
    let rows = report["capture"]["costs"]["stacks_named"].as_array().context("costs")?;
    for runtime in &RUNTIMES {
        let row = rows.iter().find(|row| row["runtime"] == runtime.key);
        let Some(row) = row else { continue };
        let of = |key: &str| row[key].as_f64().map(|micros| micros / 1e6);
        for (what, key, most) in [
            ("first of a process, the slowest", "first_us", 0.1),
            ("others, the mean", "mean_us", 0.005),
        ] {
            if let Some(seconds) = of(key) {
                let name = format!("naming a stack, {}: {what}", runtime.name);
                table.add(&name, Median::from(seconds), Unit::Milliseconds, Target::AtMost(most));
            }
        }
    }
    Ok(())
}
